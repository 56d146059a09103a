//! Evaluation preprocessing and batches.

use std::sync::Arc;

use super::synth::{self, SynthConfig};
use super::*;

fn gradient(width: usize, height: usize) -> RgbImage {
    let rgb: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x * 255 / width, y * 255 / height, 7])).map(|v| v as u8).collect();
    RgbImage::from_rgb(width, height, &rgb)
}

#[test]
fn small_images_are_used_as_they_are() {
    let image = RgbImage::from_rgb(2, 1, &[1, 2, 3, 4, 5, 6]);
    let made = EvalTransform::default().apply(&image).expect("preprocessed");
    assert_eq!(made, EvalImage { height: 1, width: 2, data: vec![1, 4, 2, 5, 3, 6] });
    assert_eq!(EvalTransform::default().apply(&gradient(64, 64)).expect("preprocessed").width, 64);
    assert_eq!(EvalTransform::default().apply(&gradient(65, 20)).expect("preprocessed").width, 224);
}

#[test]
fn large_images_are_resized_and_cropped_around_their_centre() {
    for (width, height) in [(500, 375), (375, 500), (100, 100), (30, 400)] {
        let made = EvalTransform::default().apply(&gradient(width, height)).expect("preprocessed");
        assert_eq!((made.height, made.width, made.data.len()), (224, 224, 3 * 224 * 224));
        let centre = made.data[112 * 224 + 112];
        // The middle of a gradient, within two pixels of a small image blown up.
        assert!(centre.abs_diff(127) <= 10, "{width}x{height}: {centre}");
    }
    let transform = EvalTransform { resize_px: 16, crop_px: 16, as_is_up_to_px: 0, ..EvalTransform::default() };
    assert_eq!(transform.apply(&gradient(32, 32)).expect("preprocessed").width, 16);
}

#[test]
fn a_crop_larger_than_the_image_is_refused() {
    let transform = EvalTransform { resize_px: 64, crop_px: 224, as_is_up_to_px: 64, ..EvalTransform::default() };
    let error = transform.apply(&gradient(100, 100)).expect_err("too large").to_string();
    assert!(error.contains("224") && error.contains("64"), "{error}");
}

#[test]
fn batches_come_in_order_on_any_number_of_threads() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("images");
    synth::write(&path, &SynthConfig { images: 23, classes: 4, size_px: 16, seed: 3 }, |_| {}).expect("synthetic images");
    let dataset = Arc::new(Dataset::open(&[path]).expect("data set"));
    let load = |workers| {
        let batches = load_eval_batches(Arc::clone(&dataset), EvalTransform::default(), 5, workers).expect("threads");
        batches.collect::<Result<Vec<_>, _>>().expect("batches")
    };
    let batches = load(1);
    assert_eq!(batches, load(2));
    assert_eq!(batches, load(9));
    assert_eq!(batches.iter().map(|batch| batch.indices.len()).collect::<Vec<_>>(), [5, 5, 5, 5, 3]);
    let indices: Vec<usize> = batches.iter().flat_map(|batch| batch.indices.clone()).collect();
    assert_eq!(indices, (0..23).collect::<Vec<_>>());
    for batch in &batches {
        assert_eq!(batch.data.len(), batch.indices.len() * 3 * 16 * 16);
        for (&index, &label) in batch.indices.iter().zip(&batch.labels) {
            assert_eq!(label, dataset.label(index));
        }
    }
    // Leaving early ends the threads.
    drop(load_eval_batches(dataset, EvalTransform::default(), 1, 3).expect("threads").next());
}

#[test]
fn images_of_different_sizes_and_broken_ones_are_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for (name, size_px) in [("a", 16), ("b", 17)] {
        synth::write(&folder.path().join(name), &SynthConfig { images: 2, classes: 1, size_px, seed: 3 }, |_| {}).expect("synthetic images");
    }
    let dataset = Arc::new(Dataset::open(&[folder.path().join("a"), folder.path().join("b")]).expect("data set"));
    for batch_size in [1, 4] {
        let batches = load_eval_batches(Arc::clone(&dataset), EvalTransform::default(), batch_size, 2).expect("threads");
        let error = batches.collect::<Result<Vec<_>, _>>().expect_err("two sizes").to_string();
        assert!(error.contains("17x17") && error.contains("16x16") && error.contains("000000.jpg"), "{error}");
    }
    let broken = folder.path().join("b").join(synth::class_name(0)).join("000001.jpg");
    std::fs::write(&broken, b"nothing").expect("write");
    let transform = EvalTransform { resize_px: 16, crop_px: 16, as_is_up_to_px: 0, ..EvalTransform::default() };
    let results: Vec<_> = load_eval_batches(dataset, transform, 1, 2).expect("threads").collect();
    assert_eq!(results.len(), 4);
    assert!(results[3].as_ref().expect_err("broken").to_string().contains("000001.jpg"));
}

#[test]
fn photos_are_turned_only_when_asked_for() {
    let folder = tempfile::tempdir().expect("temporary folder");
    // Dark on the left; orientation 6 turns the left side up.
    let rgb: Vec<u8> = (0..16 * 16).flat_map(|i| [if i % 16 < 8 { 0 } else { 255 }; 3]).collect();
    let mut jpeg = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 95);
    let exif = [&b"Exif\0\0II*\0\x08\0\0\0\x01\0"[..], &[0x12, 0x01, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0], &[0; 4]].concat();
    encoder.add_app_segment(1, exif).expect("segment");
    encoder.encode(&rgb, 16, 16, jpeg_encoder::ColorType::Rgb).expect("JPEG");
    std::fs::write(folder.path().join("photo.jpg"), jpeg).expect("write");
    let dataset = Arc::new(Dataset::open(&[folder.path().into()]).expect("data set"));
    for exif_orientation in [false, true] {
        let transform = EvalTransform { exif_orientation, ..EvalTransform::default() };
        let batch = load_eval_batches(Arc::clone(&dataset), transform, 1, 1).expect("threads").next().expect("a batch").expect("batch");
        // The upper right corner is bright only where the dark side lies on the left.
        assert_eq!(batch.data[15] < 128, exif_orientation);
    }
}
