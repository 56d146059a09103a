//! Shards give back what went in, and their index belongs to them.

use std::path::{Path, PathBuf};

use super::pack::{PackOptions, Packed, Reencode, pack};
use super::synth::{self, SynthConfig};
use super::*;

const VERBATIM: PackOptions = PackOptions { shard_bytes: 20_000, reencode: None, leave_out_broken: false, workers: 2 };

fn photos(folder: &Path) -> PathBuf {
    let path = folder.join("photos");
    synth::write(&path, &SynthConfig { images: 40, classes: 3, size_px: 48, seed: 1 }, |_| {}).expect("synthetic images");
    let long = path.join("circle-stripes").join(format!("{}.jpg", "x".repeat(130)));
    std::fs::copy(path.join("circle-stripes/000001.jpg"), long).expect("copy");
    path
}

fn open(path: &Path) -> Dataset {
    Dataset::open(&[path.into()]).expect("data set")
}

fn contents(dataset: &Dataset) -> Vec<(String, String, Vec<u8>)> {
    let class = |index| dataset.class_names()[dataset.label(index).expect("class")].clone();
    (0..dataset.len()).map(|index| (dataset.inner_name(index).into(), class(index), dataset.read(index).expect("image"))).collect()
}

#[test]
fn shards_hold_the_same_images_with_and_without_their_index() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dataset = open(&photos(folder.path()));
    let out = folder.path().join("shards");
    let Packed { images, shards, bytes, left_out } = pack(&dataset, &out, &VERBATIM, |_| {}).expect("packed");
    assert_eq!((images, left_out.len()), (41, 0));
    assert!(shards > 2 && bytes > 40_000, "{shards} shards of {bytes} bytes");
    let packed = open(&out);
    assert_eq!(contents(&packed), contents(&dataset));
    assert_eq!(packed.fingerprint(), dataset.fingerprint(), "a run goes on with packed data");
    // Places in the index are those that a scan finds.
    std::fs::remove_file(out.join("index.jsonl")).expect("index");
    assert_eq!(contents(&open(&out)), contents(&dataset));
}

#[test]
fn packing_twice_gives_the_same_bytes_and_a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dataset = open(&photos(folder.path()));
    for out in ["a", "b"] {
        pack(&dataset, &folder.path().join(out), &VERBATIM, |_| {}).expect("packed");
    }
    for file in ["index.jsonl", "shard-000000.tar", "shard-000001.tar"] {
        let read = |out: &str| std::fs::read(folder.path().join(out).join(file)).expect("file");
        assert!(read("a") == read("b"), "{file}");
    }
    assert!(matches!(pack(&dataset, &folder.path().join("a"), &VERBATIM, |_| {}), Err(DataError::NotEmpty { .. })));
}

#[test]
fn reencoding_scales_large_images_and_keeps_small_ones() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("photos");
    std::fs::create_dir_all(&path).expect("folder");
    let texture = image::RgbImage::from_fn(200, 100, |x, y| image::Rgb([x as u8, y as u8, 128]));
    texture.save(path.join("wide.png")).expect("PNG");
    let mut small = Vec::new();
    jpeg_encoder::Encoder::new(&mut small, 95).encode(&[90; 3 * 50 * 40], 50, 40, jpeg_encoder::ColorType::Rgb).expect("JPEG");
    std::fs::write(path.join("small.jpg"), &small).expect("write");
    let reencode = Some(Reencode { max_side_px: 80, quality: 90, decode: DecodeOptions::default() });
    let out = folder.path().join("shards");
    pack(&open(&path), &out, &PackOptions { reencode, ..VERBATIM }, |_| {}).expect("packed");
    let packed = open(&out);
    assert_eq!((packed.inner_name(0), packed.inner_name(1)), ("small.jpg", "wide.png.jpg"));
    assert_eq!(packed.read(0).expect("image"), small);
    let wide = decode_rgb(&packed.read(1).expect("image")).expect("JPEG");
    assert_eq!((wide.width(), wide.height()), (80, 40));
    let middle = &wide.to_rgb()[3 * (20 * 80 + 40)..][..3];
    assert!(middle.iter().zip([100, 50, 128]).all(|(&got, want): (&u8, u8)| got.abs_diff(want) < 6), "{middle:?}");
}

#[test]
fn broken_images_are_an_error_or_left_out_by_name() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = photos(folder.path());
    std::fs::write(path.join("circle-stripes/000002.jpg"), b"nothing").expect("write");
    let dataset = open(&path);
    let reencode = Some(Reencode { max_side_px: 32, quality: 90, decode: DecodeOptions::default() });
    let options = PackOptions { reencode, ..VERBATIM };
    let error = pack(&dataset, &folder.path().join("a"), &options, |_| {}).expect_err("broken").to_string();
    assert!(error.contains("000002.jpg") && error.contains("--leave-out-broken"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path().join("a")).expect("folder").count(), 0, "half of the shards would pass for a data set");
    let packed = pack(&dataset, &folder.path().join("b"), &PackOptions { leave_out_broken: true, ..options }, |_| {}).expect("packed");
    assert_eq!((packed.images, packed.left_out.len()), (40, 1));
    assert!(packed.left_out[0].contains("000002.jpg"));
}

#[test]
fn an_index_of_other_shards_is_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("shards");
    pack(&open(&photos(folder.path())), &out, &VERBATIM, |_| {}).expect("packed");
    let index = std::fs::read_to_string(out.join("index.jsonl")).expect("index");
    let refuse = |text: String, word: &str| {
        std::fs::write(out.join("index.jsonl"), text).expect("write");
        let error = Dataset::open(std::slice::from_ref(&out)).expect_err("refused").to_string();
        assert!(error.contains(word) && error.contains("index.jsonl"), "{error}");
    };
    refuse(index.replace("\"version\":1", "\"version\":2"), "version 2");
    refuse(index.replacen("shard-000001.tar", "../shard-000001.tar", 1), "without folders");
    refuse(index.replacen("[0,", "[99,", 1), "outside of its shard");
    refuse(index.replacen(",512,", ",99999999,", 1), "outside of its shard");
    refuse(index[..index.len() - 20].to_owned(), "line 42");
    std::fs::OpenOptions::new().append(true).open(out.join("shard-000000.tar")).and_then(|file| file.set_len(100)).expect("cut");
    refuse(index, "expected");
}

#[test]
fn two_images_of_one_name_are_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = photos(folder.path());
    let dataset = Dataset::open(&[path.clone(), path]).expect("data set");
    assert!(matches!(pack(&dataset, &folder.path().join("shards"), &VERBATIM, |_| {}), Err(DataError::NameTwice { .. })));
}
