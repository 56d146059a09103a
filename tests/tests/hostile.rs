//! The parsers on every case in `tests/corpus`, on every start of one, and with bytes changed: no panic, no huge allocation.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tests::hostile;

/// Feeds the cases of a parser, and what is near them, to it.
fn feed(name: &str, parse: fn(&[u8]), variations: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut cases: Vec<_> = std::fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("entry").path()).collect();
    cases.sort();
    assert!(cases.len() >= 5, "{} holds {} cases", folder.display(), cases.len());
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for case in cases {
        let bytes = std::fs::read(&case).expect("read");
        parse(&bytes);
        for _ in 0..variations {
            let mut varied = bytes[..random.random_range(0..=bytes.len())].to_vec();
            if random.random_bool(0.5) {
                varied = bytes.clone();
                for _ in 0..random.random_range(1..4) {
                    if let Some(place) = varied.len().checked_sub(1) {
                        varied[random.random_range(0..=place)] = random.random();
                    }
                }
            }
            parse(&varied);
        }
    }
}

#[test]
fn onnx_files() {
    feed("onnx", hostile::onnx, 50);
}

#[test]
fn safetensors_files() {
    feed("safetensors", hostile::safetensors, 50);
}

#[test]
fn pytorch_files() {
    feed("pth", hostile::pth, 50);
}

#[test]
fn tar_files() {
    feed("tar", hostile::tar, 5);
}

#[test]
fn presets() {
    feed("preset", hostile::preset, 50);
}
