//! Checkpoints that PyTorch wrote (`tests/golden/weights.py`), whole and damaged.

use std::io::{Cursor, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zip::write::SimpleFileOptions;

use super::super::{ElementType, WeightsError, WeightsFile};

const KINDS: [&str; 3] = ["kinds.zip.pt", "kinds.legacy.pt", "kinds.protocol4.pt"];
const OFFICIAL: [&str; 2] = ["official.zip.pth.tar", "official.legacy.pth.tar"];

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/weights").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn open(bytes: Vec<u8>) -> Result<WeightsFile<Cursor<Vec<u8>>>, WeightsError> {
    WeightsFile::from_reader(Path::new("checkpoint"), Cursor::new(bytes))
}

fn message(bytes: Vec<u8>) -> String {
    open(bytes).err().expect("refused").to_string()
}

/// The values of the generator's formula.
fn formula(number: usize, count: usize) -> Vec<f32> {
    (0..count).map(|index| (((31 * number + 7 * index) % 101) as f32 - 50.0) / 16.0).collect()
}

#[test]
fn every_float_type_and_view_is_read() {
    for name in KINDS {
        let mut file = open(golden(name)).expect("readable");
        let mut read = |tensor: &str| {
            let tensor = file.read(tensor).unwrap_or_else(|error| panic!("{name}: {error}"));
            (tensor.shape, tensor.data)
        };
        for (number, tensor) in ["f64", "f32", "f16", "bf16"].into_iter().enumerate() {
            assert_eq!(read(tensor), (vec![2, 3], formula(number, 6)), "{name} {tensor}");
        }
        assert_eq!(read("scalar"), (vec![], formula(10, 1)));
        assert_eq!(read("empty"), (vec![3, 0], vec![]));
        assert_eq!(read("parameter"), (vec![4], formula(13, 4)));
        let (matrix, flat) = (formula(11, 12), formula(20, 40));
        let transposed = (0..4).flat_map(|row| (0..3).map(move |column| 4 * column + row));
        assert_eq!(read("transposed"), (vec![4, 3], transposed.map(|index| matrix[index]).collect()));
        let slice = (1..4).flat_map(|row| (0..6).step_by(2).map(move |column| 5 + 6 * row + column));
        assert_eq!(read("slice"), (vec![3, 3], slice.map(|index| flat[index]).collect()));
        assert_eq!(read("shared"), (vec![2], flat[38..].to_vec()));
        assert_eq!(read("channels_last"), (vec![2, 3, 2, 2], formula(21, 24)));
    }
}

#[test]
fn what_is_no_float_tensor_is_described_and_not_read() {
    for name in KINDS {
        let mut file = open(golden(name)).expect("readable");
        for (tensor, element) in [
            ("i64", ElementType::I64),
            ("i32", ElementType::I32),
            ("i16", ElementType::I16),
            ("i8", ElementType::I8),
            ("u8", ElementType::U8),
            ("bool", ElementType::Bool),
        ] {
            assert_eq!(file.tensors()[tensor].element, element);
            let error = file.read(tensor).expect_err("an integer").to_string();
            assert!(error.contains(&format!("tensor {tensor} has type {element}")), "{error}");
        }
        assert_eq!(file.others(), ["size", "device", "dtype", "plain", "best"]);
        let error = file.read("expanded").expect_err("repeated elements").to_string();
        assert!(error.contains("expanded") && error.contains(".contiguous()"), "{error}");
        assert!(file.read("absent").expect_err("none").to_string().contains("no tensor absent"));
    }
}

#[test]
fn both_containers_of_the_official_layout_hold_the_state_dict() {
    for name in OFFICIAL {
        let mut file = open(golden(name)).expect("readable");
        assert_eq!(file.tensors().len(), 82, "{name}");
        assert_eq!(file.others(), [""; 0]);
        assert_eq!(file.tensors()["module.bn1.num_batches_tracked"].element, ElementType::I64);
        let first = file.read("module.conv1.weight").expect("read");
        assert_eq!((first.shape, first.data), (vec![1, 3, 3, 3], formula(0, 27)));
        // The last in the file's order.
        let last = file.read("module.prototypes.weight").expect("read");
        assert_eq!((last.shape, last.data), (vec![5, 3], formula(81, 15)));
    }
}

#[test]
fn an_object_of_a_class_is_refused_by_name() {
    let error = message(golden("namespace.pt"));
    assert!(error.contains("argparse.Namespace") && error.contains("torch.save(model.state_dict(), FILE)"), "{error}");
}

/// Three pickles in front of the object of a legacy file.
const LEGACY_START: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.";

#[test]
fn other_contents_are_named() {
    for bytes in [&b""[..], b"PK", b"\x1f\x8b\x08\x00", b"BM some picture, perhaps", b"\x80\x00"] {
        assert!(message(bytes.to_vec()).contains("neither a safetensors file nor a PyTorch checkpoint"), "{bytes:?}");
    }
    assert!(message(b"\x80\x02K\x01.".to_vec()).contains("not of torch.save"));
    assert!(message([LEGACY_START, b"\x80\x02K\x01.\x80\x02]."].concat()).contains("expected a state dict"));
    let error = message([LEGACY_START, b"\x80\x02}X\x05\x00\x00\x00modelK\x01s.\x80\x02]."].concat());
    assert!(error.contains("under state_dict, found model"), "{error}");
    assert!(message([LEGACY_START, b"\x80\x02}.\x80\x02]."].concat()).contains("an empty dictionary"));
    assert!(message([LEGACY_START, b"\x80\x02cos\nsystem\n."].concat()).contains("os.system"));
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        archive.start_file(*name, options).expect("start");
        archive.write_all(bytes).expect("write");
    }
    archive.finish().expect("finish").into_inner()
}

#[test]
fn other_zip_archives_are_named() {
    assert!(message(archive(&[("notes.txt", b"text")])).contains("without data.pkl"));
    assert!(message(archive(&[("m/data.pkl", b"\x80\x02}."), ("m/constants.pkl", b"")])).contains("TorchScript"));
    assert!(message(archive(&[("m/data.pkl", b"\x80\x02}."), ("m/byteorder", b"big")])).contains("byte order little, got big"));
}

/// Opens a file and reads all its float tensors; errors do not matter.
fn read_all(bytes: Vec<u8>) {
    if let Ok(mut file) = open(bytes) {
        let names: Vec<String> = file.tensors().keys().cloned().collect();
        for name in names {
            let _ = file.read(&name);
        }
    }
}

/// Neither panics nor takes long. The bound is for a slow, busy machine: one of these loops takes a few seconds.
fn bounded(test: impl FnOnce()) {
    let started = Instant::now();
    test();
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
}

#[test]
fn truncated_files_are_refused() {
    bounded(|| {
        for name in ["kinds.zip.pt", "kinds.legacy.pt"] {
            let whole = golden(name);
            for length in 0..whole.len() {
                let opened = open(whole[..length].to_vec());
                assert!(opened.is_err(), "{name} cut at {length} of {} bytes", whole.len());
            }
        }
    });
}

#[test]
fn a_changed_byte_of_a_tensor_is_found_in_the_zip_format() {
    let whole = golden("official.zip.pth.tar");
    let value: Vec<u8> = formula(0, 27).iter().flat_map(|value| value.to_le_bytes()).collect();
    let position = whole.windows(value.len()).position(|window| window == value).expect("conv1.weight is in the file");
    let mut changed = whole;
    changed[position + 40] ^= 1;
    let mut file = open(changed).expect("the description is undamaged");
    let error = file.read("module.conv1.weight").expect_err("damaged").to_string();
    assert!(error.to_lowercase().contains("checksum"), "{error}");
    file.read("module.bn1.weight").expect("other tensors are undamaged");
}

#[test]
fn changed_bytes_never_panic() {
    bounded(|| {
        for name in KINDS {
            let whole = golden(name);
            for position in 0..whole.len() {
                for change in [0x01, 0x80, 0xff] {
                    let mut changed = whole.clone();
                    changed[position] ^= change;
                    read_all(changed);
                }
            }
        }
    });
}

#[test]
fn random_bytes_never_panic() {
    bounded(|| {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let whole = golden("kinds.legacy.pt");
        for _ in 0..20_000 {
            // Random bytes behind what makes a file one of the formats, and random bytes within a good file.
            let random: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
            for start in [LEGACY_START, b"PK\x03\x04", b"\x80\x02", b"\x40\x00\x00\x00\x00\x00\x00\x00{", b""] {
                read_all([start, &random].concat());
            }
            let mut changed = whole.clone();
            for _ in 0..8 {
                let position = rng.random_range(0..changed.len());
                changed[position] = rng.random();
            }
            read_all(changed);
        }
    });
}
