//! The fast way beside the general decoder.

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use libjpeg_turbo_rs::PixelFormat;

use super::{Buffers, Window, decode, parse};
use crate::data::random::{Purpose, Random};

/// Noise on a slope: large coefficients beside runs of zeros.
fn picture(width: usize, height: usize, noise: f64, random: &mut Random) -> Vec<u8> {
    let mut pixel = |x: usize, y: usize, c: usize| {
        let slope = [x * 255 / width, y * 255 / height, (x / 9 + y / 7) % 2 * 200][c] as f64;
        (slope + random.uniform(-noise, noise)).clamp(0.0, 255.0) as u8
    };
    (0..width * height * 3).map(|i| pixel(i / 3 % width, i / 3 / width, i % 3)).collect()
}

fn general(jpeg: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = libjpeg_turbo_rs::Decoder::new(jpeg).ok()?;
    decoder.set_output_format(PixelFormat::Rgbx);
    let mut pixels = vec![0; 4 * usize::from(decoder.header().width) * usize::from(decoder.header().height)];
    decoder.decode_image_into(&mut pixels).ok()?;
    Some(pixels)
}

fn fast(jpeg: &[u8], buffers: &mut Buffers) -> Option<Vec<u8>> {
    let header = parse(jpeg)?;
    let mut pixels = vec![[0; 4]; header.width * header.height];
    decode(&header, buffers, None, &mut pixels).then(|| pixels.into_flattened())
}

fn assert_same(fast: &[u8], general: &[u8], what: &str) {
    let colours = |pixels: &[u8]| pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect::<Vec<u8>>();
    assert!(colours(fast) == colours(general), "{what}");
}

#[test]
fn usual_jpegs_have_the_general_decoders_pixels() {
    if pulp::x86::V3::try_new().is_none() {
        return;
    }
    let mut random = Random::new(1, Purpose::Augment, 0, 0);
    let mut buffers = Buffers::default();
    for (width, height) in [(1, 1), (5, 3), (8, 8), (16, 16), (17, 15), (33, 70), (100, 41), (97, 130)] {
        for (quality, noise) in [(100, 128.0), (95, 20.0), (75, 3.0), (30, 0.0), (3, 60.0)] {
            for (kind, sampling) in [("4:4:4", SamplingFactor::F_1_1), ("4:2:2", SamplingFactor::F_2_1), ("4:2:0", SamplingFactor::F_2_2)] {
                for restarts in [None, Some(1), Some(3)] {
                    let rgb = picture(width, height, noise, &mut random);
                    let mut jpeg = Vec::new();
                    let mut encoder = Encoder::new(&mut jpeg, quality);
                    encoder.set_sampling_factor(sampling);
                    restarts.into_iter().for_each(|interval| encoder.set_restart_interval(interval));
                    let (w, h) = (width as u16, height as u16);
                    let what = format!("{width}x{height}, quality {quality}, {kind}, restarts {restarts:?}");
                    if quality == 30 {
                        // Tables of its own, which the encoder does not make right for restarts.
                        encoder.set_optimized_huffman_tables(restarts.is_none());
                        let grey: Vec<u8> = rgb.iter().step_by(3).copied().collect();
                        encoder.encode(&grey, w, h, ColorType::Luma).expect("JPEG");
                    } else {
                        encoder.encode(&rgb, w, h, ColorType::Rgb).expect("JPEG");
                    }
                    match fast(&jpeg, &mut buffers) {
                        Some(pixels) => assert_same(&pixels, &general(&jpeg).expect("JPEG"), &what),
                        // Chroma of one or two samples is not filtered.
                        None => assert!(width <= 4 && kind != "4:4:4", "{what} is left to the general decoder"),
                    }
                }
            }
        }
    }
}

#[test]
fn windows_show_the_pixels_of_the_whole_image() {
    let mut random = Random::new(3, Purpose::Augment, 0, 0);
    let (width, height) = (130, 97);
    for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_2_2] {
        let mut jpeg = Vec::new();
        let mut encoder = Encoder::new(&mut jpeg, 90);
        encoder.set_sampling_factor(sampling);
        encoder.encode(&picture(width, height, 60.0, &mut random), width as u16, height as u16, ColorType::Rgb).expect("JPEG");
        let Some(whole) = fast(&jpeg, &mut Buffers::default()) else { return };
        let header = parse(&jpeg).expect("header");
        for count in [0, 1, 1, 1, 1, 2, 3, 8] {
            let windows: Vec<Window> = (0..count)
                .map(|_| {
                    let (width, height) = (1 + random.below(width / 2), 1 + random.below(height / 2));
                    Window { x: random.below(130 - width + 1), y: random.below(97 - height + 1), width, height }
                })
                .collect();
            let mut pixels = vec![[0; 4]; width * height];
            assert!(decode(&header, &mut Buffers::default(), Some(&windows), &mut pixels));
            for window in &windows {
                for y in window.y..window.y + window.height {
                    let row = y * width + window.x..y * width + window.x + window.width;
                    assert!(pixels[row.clone()].as_flattened() == &whole[4 * row.start..4 * row.end], "row {y} of {window:?}");
                }
            }
        }
    }
}

#[test]
fn a_broken_jpeg_is_left_alone_or_decoded_alike() {
    let mut random = Random::new(2, Purpose::Augment, 0, 0);
    let mut buffers = Buffers::default();
    let mut decoded = 0;
    for (round, sampling) in (0..).zip([SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_2_2]) {
        let rgb = picture(64, 48, 30.0, &mut random);
        let mut whole = Vec::new();
        let mut encoder = Encoder::new(&mut whole, 90);
        encoder.set_sampling_factor(sampling);
        encoder.set_restart_interval(4);
        encoder.encode(&rgb, 64, 48, ColorType::Rgb).expect("JPEG");
        for len in (0..whole.len()).step_by(7) {
            assert!(fast(&whole[..len], &mut buffers).is_none(), "{len} of {} bytes", whole.len());
        }
        for number in 0..400 {
            let mut jpeg = whole.clone();
            let place = random.below(jpeg.len());
            jpeg[place] ^= 1 << random.below(8);
            if let (Some(fast), Some(general)) = (fast(&jpeg, &mut buffers), general(&jpeg)) {
                assert_same(&fast, &general, &format!("round {round}, flip {number} in byte {place}"));
                decoded += 1;
            }
        }
    }
    assert!(decoded > 50 || pulp::x86::V3::try_new().is_none(), "only {decoded} of 1200 were decoded");
}
