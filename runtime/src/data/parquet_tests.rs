//! A Parquet file written by pyarrow (`tests/golden/huggingface.py`), and damaged copies of it.

use std::path::PathBuf;

use super::*;

const ROWS: usize = 30;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/huggingface.parquet")
}

/// The bytes of a row.
fn bytes(row: usize) -> Vec<u8> {
    format!("{row}/").bytes().cycle().take(500 + 100 * row).collect()
}

#[test]
fn rows_are_read_in_any_order_with_names_and_labels() {
    let dataset = Dataset::open(&[golden()]).expect("data set");
    assert_eq!((dataset.len(), dataset.class_names()), (ROWS, &["goldfish", "shark", "tench"].map(String::from)[..]));
    let orders: [Vec<usize>; 3] = [(0..ROWS).collect(), (0..ROWS).rev().collect(), (0..ROWS).map(|row| row * 13 % ROWS).collect()];
    for row in orders.concat() {
        // The order of the file's own numbers: tench, goldfish, shark.
        let label = (row != 11).then_some([2, 0, 1][row % 3]);
        assert_eq!(dataset.label(row), label, "row {row}");
        if row != 7 {
            assert!(dataset.read(row).expect("row") == bytes(row), "row {row}");
        }
    }
    assert!(dataset.name(3).ends_with("huggingface.parquet:huggingface/000003-n003.JPEG"), "{}", dataset.name(3));
    assert_eq!(dataset.inner_name(9), "huggingface/000009");
    let error = dataset.read(7).expect_err("no bytes").to_string();
    assert!(error.contains("000007-n007.JPEG") && error.contains("row 7 has no bytes"), "{error}");
}

#[test]
fn threads_read_at_their_own_places() {
    let dataset = Dataset::open(&[golden()]).expect("data set");
    std::thread::scope(|scope| {
        for start in 0..4 {
            let dataset = &dataset;
            scope.spawn(move || {
                for row in (0..400).map(|step| (start * 7 + step * 11) % ROWS).filter(|&row| row != 7) {
                    assert!(dataset.read(row).expect("row") == bytes(row), "row {row}");
                }
            });
        }
    });
}

#[test]
fn a_folder_of_files_is_one_data_set() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for name in ["train-00001.parquet", "train-00000.parquet"] {
        std::fs::copy(golden(), folder.path().join(name)).expect("copy");
    }
    let dataset = Dataset::open(&[folder.path().into()]).expect("data set");
    assert_eq!((dataset.len(), dataset.inner_name(ROWS)), (2 * ROWS, "train-00001/000000-n000.JPEG"));
    assert_eq!(dataset.read(2 * ROWS - 1).expect("row"), bytes(ROWS - 1));
    assert_eq!(dataset.fingerprint(), Dataset::open(&[folder.path().into()]).expect("data set").fingerprint());
}

#[test]
fn damaged_files_are_errors() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("damaged.parquet");
    let whole = std::fs::read(golden()).expect("golden");
    for len in (0..whole.len()).step_by(97) {
        std::fs::write(&path, &whole[..len]).expect("write");
        let error = Dataset::open(std::slice::from_ref(&path)).expect_err("truncated").to_string();
        assert!(error.contains("damaged.parquet"), "{error}");
    }
    for place in (0..whole.len()).step_by(11) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x5a;
        std::fs::write(&path, &damaged).expect("write");
        // Some damage goes unnoticed; none may panic.
        if let Ok(dataset) = Dataset::open(std::slice::from_ref(&path)) {
            (0..dataset.len().min(ROWS)).for_each(|row| drop(dataset.read(row)));
        }
    }
    std::fs::write(&path, b"PAR1 no Parquet PAR1").expect("write");
    assert!(Dataset::open(&[path]).is_err());
}
