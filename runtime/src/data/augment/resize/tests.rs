use super::*;
use crate::data::random::{Purpose, Random};

fn noise(random: &mut Random, width: usize, height: usize) -> RgbImage {
    let rgb: Vec<u8> = (0..3 * width * height).map(|_| random.below(256) as u8).collect();
    RgbImage::from_rgb(width, height, &rgb)
}

/// Windows of images of many sizes, with the sizes that they get.
fn cases(random: &mut Random) -> Vec<(RgbImage, Window, usize, usize)> {
    let edges = [(1, 1, 8, 8), (3, 200, 10, 9), (200, 3, 9, 10), (5, 5, 5, 5), (64, 64, 1, 1), (40, 30, 17, 96), (400, 300, 8, 24)];
    let edges = edges.map(|(width, height, new_width, new_height)| (noise(random, width, height), Window { x: 0, y: 0, width, height }, new_width, new_height));
    let windows = (0..60).map(|_| {
        let (width, height) = (1 + random.below(150), 1 + random.below(150));
        let image = noise(random, width, height);
        let (w, h) = (1 + random.below(width), 1 + random.below(height));
        let window = Window { x: random.below(width - w + 1), y: random.below(height - h + 1), width: w, height: h };
        (image, window, 1 + random.below(70), 1 + random.below(70))
    });
    edges.into_iter().chain(windows).collect()
}

#[test]
fn vector_code_gives_the_portable_codes_bytes() {
    let mut resizer = Resizer::default();
    for (image, window, width, height) in cases(&mut Random::new(1, Purpose::Augment, 0, 0)) {
        for flip in [false, true] {
            let mut out = vec![0; 3 * width * height];
            resizer.resize(&image, window, width, height, flip, &mut out);
            let mut expected = vec![0; 3 * width * height];
            let source = Source { pixels: image.rgbx().as_chunks().0, stride: image.width(), top: window.y };
            portable::resize(&source, &resizer.across, &resizer.down, &mut vec![[0; 4]; window.height * width], planes(&mut expected));
            assert!(out == expected, "{window:?} of {}x{} to {width}x{height}, flip {flip}", image.width(), image.height());
        }
    }
}

#[test]
fn a_resized_window_equals_its_copy_resized() {
    let mut resizer = Resizer::default();
    for (image, window, width, height) in cases(&mut Random::new(2, Purpose::Augment, 0, 0)) {
        let Window { x, y, width: w, height: h } = window;
        let rgb = image.to_rgb();
        let copy: Vec<u8> = (y..y + h).flat_map(|row| rgb[3 * (row * image.width() + x)..][..3 * w].to_vec()).collect();
        let mut parts = vec![vec![0; 3 * width * height]; 2];
        resizer.resize(&image, window, width, height, false, &mut parts[0]);
        resizer.resize(&RgbImage::from_rgb(w, h, &copy), Window { x: 0, y: 0, ..window }, width, height, false, &mut parts[1]);
        assert!(parts[0] == parts[1], "{window:?} of {}x{} to {width}x{height}", image.width(), image.height());
    }
}

#[test]
fn a_flip_mirrors_every_plane() {
    let mut random = Random::new(3, Purpose::Augment, 0, 0);
    for (image, window, width, height) in cases(&mut random) {
        let mut straight = vec![0; 3 * width * height];
        let mut mirrored = straight.clone();
        Resizer::default().resize(&image, window, width, height, false, &mut straight);
        Resizer::default().resize(&image, window, width, height, true, &mut mirrored);
        straight.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        assert!(straight == mirrored, "{window:?} to {width}x{height}");
    }
}

#[test]
fn weights_are_whole_and_an_even_area_keeps_its_level() {
    let mut taps = Taps::default();
    for (old, new, first, len) in [(1, 1, 0, 1), (500, 224, 0, 500), (96, 224, 7, 200), (3000, 96, 10, 3010), (2, 9, 1, 3), (7, 7, 0, 7)] {
        taps.set(old, new, first, len, 4);
        for place in 0..new {
            let (start, weights) = taps.of(place);
            assert!(start + weights.len() <= len, "{old} to {new}");
            assert_eq!(weights.iter().map(|&weight| i32::from(weight)).sum::<i32>(), 1 << taps::BITS, "{old} to {new}, place {place}");
            assert!(weights.iter().all(|&weight| weight >= 0), "{old} to {new}, place {place}");
        }
    }
}
