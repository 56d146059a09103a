//! What is done to bytes from anywhere: by the fuzz targets, and by the tests to all cases in `tests/corpus`.
//!
//! A parser may refuse the bytes. It must not panic, allocate by a length that it has not checked, write, or run anything.

use std::io::Cursor;
use std::path::Path;

use graphgen::onnx::{inspect, read_model};
use graphgen::preset::Preset;
use graphgen::weights::{WeightsFile, from_safetensors};
use runtime::data::Dataset;

/// `graphgen inspect` on an ONNX file.
pub fn onnx(bytes: &[u8]) {
    if let Ok(model) = read_model(bytes) {
        inspect(&model);
    }
}

/// A safetensors file, as a checkpoint's and as one from outside.
pub fn safetensors(bytes: &[u8]) {
    let _ = from_safetensors(bytes, Path::new("fuzzed.safetensors"));
    weights(bytes);
}

/// A checkpoint of PyTorch, zip or legacy.
pub fn pth(bytes: &[u8]) {
    weights(bytes);
}

/// Opens a weights file of any format and reads every tensor.
fn weights(bytes: &[u8]) {
    let Ok(mut file) = WeightsFile::from_reader(Path::new("fuzzed"), Cursor::new(bytes)) else { return };
    let names: Vec<String> = file.tensors().keys().cloned().collect();
    for name in names {
        let _ = file.read(&name);
    }
}

/// A tar of images as a data set; every member is read.
///
/// # Panics
/// If no temporary file can be written.
pub fn tar(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = folder.path().join("fuzzed.tar");
    std::fs::write(&archive, bytes).expect("a temporary file");
    if let Ok(dataset) = Dataset::open(&[archive]) {
        for index in 0..dataset.len() {
            let _ = dataset.read(index);
        }
        dataset.fingerprint();
    }
    let left = std::fs::read_dir(folder.path()).expect("the folder is still there").count();
    assert_eq!(left, 1, "opening an archive writes nothing");
}

/// A preset; what stands before a NUL is an override.
pub fn preset(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (overrides, text) = match text.split_once('\0') {
        Some((first, rest)) => (vec![first.to_owned()], rest),
        None => (Vec::new(), text.as_ref()),
    };
    if let Ok(preset) = Preset::from_toml(text, &overrides) {
        let again = Preset::from_toml(&preset.to_toml(), &[]).expect("a preset that was written reads back");
        assert_eq!(preset, again);
    }
}
