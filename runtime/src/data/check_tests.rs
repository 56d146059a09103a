//! A corpus of bad files: each is named, none stops anything.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use graphgen::preset::Crops;
use image::{DynamicImage, ImageFormat};

use super::check::{CheckOptions, CheckReport, check};
use super::*;

const OPTIONS: CheckOptions = CheckOptions { min_side_px: 16, workers: 3, decode: DecodeOptions { pixel_limit: DEFAULT_PIXEL_LIMIT, exif_orientation: false } };

fn texture(width: u32, height: u32) -> DynamicImage {
    image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8])).into()
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("encoded");
    bytes.into_inner()
}

fn jpeg(width: u16, height: u16, colour: jpeg_encoder::ColorType, progressive: bool) -> Vec<u8> {
    let channels = if colour == jpeg_encoder::ColorType::Cmyk { 4 } else { 3 };
    let pixels: Vec<u8> = (0..usize::from(width) * usize::from(height) * channels).map(|i| (i * i / 97 % 251) as u8).collect();
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder.set_progressive(progressive);
    encoder.encode(&pixels, width, height, colour).expect("JPEG");
    bytes
}

/// Writes good files under `good-…` and bad ones under `bad-…` names.
fn corpus(folder: &Path) {
    let write = |name: String, bytes: &[u8]| std::fs::write(folder.join(name), bytes).expect("write");
    let rgb = jpeg_encoder::ColorType::Rgb;
    let plain = jpeg(64, 48, rgb, false);
    let progressive = jpeg(64, 48, rgb, true);
    let image = texture(40, 30);
    let formats = [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff, ImageFormat::WebP];
    let mut wholes: Vec<(&str, Vec<u8>)> = vec![("jpg", plain.clone()), ("progressive.jpg", progressive)];
    wholes.extend(formats.map(|format| (format.extensions_str()[0], encode(&image, format))));
    for (ending, bytes) in &wholes {
        write(format!("good-whole.{ending}"), bytes);
        for tenth in 1..10 {
            write(format!("bad-cut-{tenth}0-percent.{ending}"), &bytes[..bytes.len() * tenth / 10]);
        }
    }
    write("bad-empty.jpg".into(), b"");
    write("bad-text.jpg".into(), b"<html>not found</html>");
    // 60000x60000: the size of the JPEG's frame and of the PNG's header, with its checksum.
    let mut huge = plain.clone();
    let frame = huge.windows(2).position(|marker| marker == [0xff, 0xc0]).expect("frame");
    huge[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    write("bad-60000x60000.jpg".into(), &huge);
    let mut huge = encode(&image, ImageFormat::Png);
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let sum = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&sum.to_be_bytes());
    write("bad-60000x60000.png".into(), &huge);

    write("good-plain.jpg".into(), &plain);
    write("good-misnamed.png".into(), &jpeg(65, 48, rgb, false));
    write("good-cmyk.jpg".into(), &jpeg(40, 30, jpeg_encoder::ColorType::Cmyk, false));
    write("good-1x1.png".into(), &encode(&texture(1, 1), ImageFormat::Png));
    write("good-1x10000.png".into(), &encode(&texture(1, 10_000), ImageFormat::Png));
    let deep = image::ImageBuffer::from_fn(40, 30, |x, y| image::Rgb([(x * 1000) as u16, (y * 999) as u16, 7]));
    write("good-16-bit.png".into(), &encode(&DynamicImage::ImageRgb16(deep), ImageFormat::Png));
    let mut animated = Vec::new();
    let frames = [image::Frame::new(texture(20, 20).into_rgba8()), image::Frame::new(texture(20, 20).into_rgba8())];
    image::codecs::gif::GifEncoder::new(&mut animated).encode_frames(frames).expect("GIF");
    write("good-animated.gif".into(), &animated);
}

/// The checksum of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }))
}

fn report(folder: &Path) -> CheckReport {
    check(&Dataset::open(&[folder.into()]).expect("data set"), &OPTIONS, |_| {}).expect("report")
}

#[test]
fn every_bad_file_is_named_and_no_good_one() {
    let folder = tempfile::tempdir().expect("temporary folder");
    corpus(folder.path());
    let report = report(folder.path());
    let names: Vec<String> =
        std::fs::read_dir(folder.path()).expect("folder").map(|entry| entry.expect("entry").file_name().to_string_lossy().into()).collect();
    let named = |name: &str| report.broken.iter().filter(|line| line.contains(&format!("/{name}:"))).count();
    for name in &names {
        assert_eq!(named(name), usize::from(name.starts_with("bad-")), "{name}: {:#?}", report.broken);
    }
    assert!(report.broken.iter().filter(|line| line.contains("60000x60000 px are more than the limit")).count() == 2, "{:#?}", report.broken);
    let small: Vec<(usize, usize)> = report.small.iter().map(|&(_, width, height)| (width, height)).collect();
    assert_eq!(small, [(1, 1), (1, 10_000)]);
    assert_eq!(report.misnamed.len(), 1);
    assert!(report.misnamed[0].0.ends_with("good-misnamed.png") && report.misnamed[0].1 == "jpg");
    assert_eq!(report.images - report.broken.len(), report.sides.iter().sum::<usize>());
}

#[test]
fn the_corpus_does_not_stop_the_loader() {
    let folder = tempfile::tempdir().expect("temporary folder");
    corpus(folder.path());
    // More than half are good, so that sixteen tries find a substitute.
    for number in 0..100 {
        std::fs::copy(folder.path().join("good-plain.jpg"), folder.path().join(format!("good-copy-{number}.jpg"))).expect("copy");
    }
    let dataset = Arc::new(Dataset::open(&[folder.path().into()]).expect("data set"));
    let crops = Crops { size_crops: vec![16], nmb_crops: vec![2], min_scale_crops: vec![0.3], max_scale_crops: vec![1.0], ..Crops::default() };
    let broken = BrokenPolicy { max_share: 1.0, list: None };
    let config = LoaderConfig {
        crops,
        batch_size: 4,
        micro_batches: 1,
        seed: 1,
        workers: 3,
        batches_ahead: 2,
        batches_held: 1,
        decode: DecodeOptions::default(),
        broken,
    };
    let loader = Loader::new(dataset, config).expect("loader");
    let mut stream = loader.stream(0, 0);
    let substitutes: usize = (0..loader.batches_per_epoch()).map(|_| stream.next().expect("batch").substitutes()).sum();
    assert!(substitutes > 40, "{substitutes}");
}

#[test]
fn copies_are_grouped_whatever_their_names() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (name, side) in [("a.png", 20), ("b.png", 21), ("c.png", 20), ("d.png", 22), ("e.png", 21)] {
        std::fs::write(folder.path().join(name), encode(&texture(side, side), ImageFormat::Png)).expect("write");
    }
    let groups = report(folder.path()).duplicates;
    let groups: Vec<Vec<&str>> = groups.iter().map(|group| group.iter().map(|name| &name[name.len() - 5..]).collect()).collect();
    assert_eq!(groups, [["a.png", "c.png"], ["b.png", "e.png"]]);
}

/// Where the tests run as root everything can be read, and there is nothing to see.
#[cfg(unix)]
#[test]
fn files_and_folders_that_may_not_be_read_are_named() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("temporary folder");
    let good = encode(&texture(20, 20), ImageFormat::Png);
    std::fs::create_dir_all(folder.path().join("class/closed")).expect("folder");
    for name in ["class/good.png", "class/forbidden.png", "class/closed/inside.png"] {
        std::fs::write(folder.path().join(name), &good).expect("write");
    }
    let allow = |name: &str, mode| std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(mode)).expect("mode");
    allow("class/forbidden.png", 0o000);
    allow("class/closed", 0o000);
    let readable = std::fs::File::open(folder.path().join("class/forbidden.png")).is_ok();
    let opened = Dataset::open_with_problems(&[folder.path().into()]);
    let lines = opened.map(|(dataset, problems)| {
        let report = check(&dataset, &OPTIONS, |_| {}).expect("report");
        problems.iter().map(ToString::to_string).chain(report.broken).collect::<Vec<String>>()
    });
    // The temporary folder can only be removed again if it can be listed.
    allow("class/closed", 0o700);
    let lines = lines.expect("data set");
    for name in ["class/forbidden.png", "class/closed"] {
        assert_eq!(lines.iter().filter(|line| line.contains(name)).count(), usize::from(!readable), "{name}: {lines:#?}");
    }
}

#[cfg(unix)]
#[test]
fn folders_links_and_pipes_under_names_of_images_are_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path().join("data");
    std::fs::create_dir_all(root.join("class/folder.jpg")).expect("folder");
    std::fs::write(root.join("class/folder.jpg/inside.png"), encode(&texture(20, 20), ImageFormat::Png)).expect("write");
    std::os::unix::fs::symlink("nowhere", root.join("class/dangling.jpg")).expect("link");
    std::os::unix::fs::symlink("itself.jpg", root.join("class/itself.jpg")).expect("link");
    std::os::unix::fs::symlink("..", root.join("class/back")).expect("link");
    let _socket = std::os::unix::net::UnixListener::bind(root.join("class/socket.jpg")).expect("socket");
    let (dataset, problems) = Dataset::open_with_problems(&[PathBuf::from(&root)]).expect("data set");
    let report = check(&dataset, &OPTIONS, |_| {}).expect("report");
    let lines: Vec<String> = problems.iter().map(ToString::to_string).chain(report.broken).collect();
    for name in ["dangling.jpg", "itself.jpg", "back", "socket.jpg"] {
        assert_eq!(lines.iter().filter(|line| line.contains(&format!("class/{name}"))).count(), 1, "{name}: {lines:#?}");
    }
    assert_eq!((lines.len(), report.images), (4, 3), "the image inside of folder.jpg is one");
}
