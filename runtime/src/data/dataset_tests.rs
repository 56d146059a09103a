//! Folders and archives: what is found, in which order, with which labels, and what is refused.

use std::path::{Path, PathBuf};

use super::*;

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder above")).expect("folder");
    std::fs::write(path, bytes).expect("file");
}

fn archive(path: &Path, members: &[(&str, &[u8])]) {
    let mut builder = ::tar::Builder::new(std::fs::File::create(path).expect("archive"));
    for (name, bytes) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).expect("member");
    }
    builder.finish().expect("archive");
}

fn open(paths: &[&Path]) -> Result<Dataset, DataError> {
    Dataset::open(&paths.iter().map(PathBuf::from).collect::<Vec<_>>())
}

#[test]
fn class_folders_give_sorted_images_and_labels() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for name in ["dog/2.jpg", "dog/deep/1.PNG", "cat/9.jpeg", "cat/.hidden.jpg", "cat/notes.txt", ".git/x.png"] {
        write(folder.path(), name, name.as_bytes());
    }
    let dataset = open(&[folder.path()]).expect("data set");
    assert_eq!(dataset.class_names(), ["cat", "dog"]);
    let images: Vec<_> = (0..dataset.len()).map(|i| (String::from_utf8(dataset.read(i).expect("file")).expect("text"), dataset.label(i))).collect();
    assert_eq!(images, [("cat/9.jpeg".into(), Some(0)), ("dog/2.jpg".into(), Some(1)), ("dog/deep/1.PNG".into(), Some(1))]);
    assert!(dataset.name(0).ends_with("cat/9.jpeg"));
}

#[test]
fn flat_folders_have_no_labels() {
    let folder = tempfile::tempdir().expect("temporary folder");
    write(folder.path(), "b.jpg", b"b");
    write(folder.path(), "a.webp", b"a");
    let dataset = open(&[folder.path()]).expect("data set");
    assert_eq!((dataset.len(), dataset.label(0), dataset.class_names().len()), (2, None, 0));
    assert_eq!(dataset.read(0).expect("file"), b"a");
}

#[test]
fn archives_give_the_same_as_folders() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let long = format!("data/dog/{}.jpg", "x".repeat(120));
    let members: [(&str, &[u8]); 4] =
        [("data/dog/2.jpg", b"two"), ("data/cat/1.jpg", b"one, a longer one"), ("data/readme.txt", b"no image"), (&long, b"long name")];
    let tar = folder.path().join("images.tar");
    archive(&tar, &members);
    for (name, bytes) in members {
        write(&folder.path().join("unpacked"), name, bytes);
    }
    let packed = open(&[&tar]).expect("archive");
    let unpacked = open(&[&folder.path().join("unpacked/data")]).expect("folder");
    assert_eq!(packed.class_names(), ["cat", "dog"]);
    assert_eq!(packed.len(), unpacked.len());
    for index in 0..packed.len() {
        assert_eq!(packed.read(index).expect("member"), unpacked.read(index).expect("file"));
        assert_eq!(packed.label(index), unpacked.label(index));
    }
    assert!(packed.name(0).ends_with("images.tar:data/cat/1.jpg"), "{}", packed.name(0));
}

#[test]
fn several_paths_share_their_classes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    write(folder.path(), "a/dog/1.jpg", b"1");
    write(folder.path(), "b/cat/2.jpg", b"2");
    write(folder.path(), "b/dog/3.jpg", b"3");
    let dataset = open(&[&folder.path().join("a"), &folder.path().join("b")]).expect("data set");
    assert_eq!(dataset.class_names(), ["cat", "dog"]);
    assert_eq!([0, 1, 2].map(|index| dataset.label(index)), [Some(1), Some(0), Some(1)]);
}

#[test]
fn a_subset_is_a_function_of_its_seed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for number in 0..50 {
        write(folder.path(), &format!("{number:02}.jpg"), b"x");
    }
    let names = |limit, seed| {
        let dataset = open(&[folder.path()]).expect("data set").subset(limit, seed);
        (0..dataset.len()).map(|index| dataset.name(index)).collect::<Vec<_>>()
    };
    assert_eq!(names(0, 1).len(), 50);
    assert_eq!(names(99, 1).len(), 50);
    let ten = names(10, 1);
    assert_eq!(ten.len(), 10);
    assert!(ten.is_sorted_by(|a, b| a < b), "sorted, no image twice");
    assert_eq!(ten, names(10, 1));
    assert_ne!(ten, names(10, 2));
}

#[test]
fn the_fingerprint_follows_names_and_sizes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for copy in ["first", "second"] {
        write(folder.path(), &format!("{copy}/cat/1.jpg"), b"one");
        write(folder.path(), &format!("{copy}/cat/2.jpg"), b"two");
    }
    let fingerprint = |copy: &str| open(&[&folder.path().join(copy)]).expect("data set").fingerprint();
    let first = fingerprint("first");
    assert_eq!(first.len(), 64);
    assert_eq!(first, fingerprint("second"));
    write(folder.path(), "second/cat/2.jpg", b"other");
    assert_ne!(first, fingerprint("second"), "another size");
    write(folder.path(), "first/cat/3.jpg", b"three");
    assert_ne!(first, fingerprint("first"), "another image");
}

#[test]
fn paths_that_cannot_work_are_refused_with_advice() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let message = |path: &Path| open(&[path]).expect_err("refused").to_string();

    let missing = message(&folder.path().join("nowhere"));
    assert!(missing.contains("nowhere") && missing.contains("no such file or folder") && missing.contains(".tar"), "{missing}");
    let empty = message(folder.path());
    assert!(empty.contains("no images found") && empty.contains("jpg"), "{empty}");
    write(folder.path(), "photos.zip", b"PK");
    let other = message(&folder.path().join("photos.zip"));
    assert!(other.contains("photos.zip") && other.contains(".tar"), "{other}");
    write(folder.path(), "garbage.tar", &[7; 2000]);
    assert!(matches!(open(&[&folder.path().join("garbage.tar")]), Err(DataError::Tar { .. })));
    archive(&folder.path().join("texts.tar"), &[("a.txt", b"text")]);
    assert!(matches!(open(&[&folder.path().join("texts.tar")]), Err(DataError::Empty { .. })));
    write(folder.path(), "mixed/1.jpg", b"x");
    write(folder.path(), "mixed/cat/2.jpg", b"x");
    assert!(matches!(open(&[&folder.path().join("mixed")]), Err(DataError::Mixed { flat: 1, nested: 1, .. })));
    assert!(matches!(Dataset::open(&[]), Err(DataError::NoPaths)));
}
