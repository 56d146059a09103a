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
fn a_list_of_paths_gives_its_files_in_order() {
    let folder = tempfile::tempdir().expect("temporary folder");
    write(folder.path(), "photos/b.jpg", b"b");
    write(folder.path(), "photos/no-ending", b"a");
    let absolute = folder.path().join("photos/b.jpg");
    write(folder.path(), "list.txt", format!("photos/no-ending\tcat\r\n\n{}\nphotos/gone.jpg\n", absolute.display()).as_bytes());
    let dataset = open(&[&folder.path().join("list.txt")]).expect("list");
    assert_eq!((dataset.len(), dataset.label(0), dataset.label(1)), (3, Some(0), None));
    assert_eq!((dataset.read(0).expect("file"), dataset.read(1).expect("file")), (b"a".to_vec(), b"b".to_vec()));
    assert!(dataset.read(2).expect_err("gone").to_string().contains("gone.jpg"));
}

#[test]
fn a_folder_of_shards_is_one_data_set_with_webdataset_classes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    archive(&folder.path().join("b.tar"), &[("000.v1.jpg", b"third"), ("000.cls", b"dog\n")]);
    archive(&folder.path().join("a.tar"), &[("001.cls", b"cat"), ("001.jpg", b"second"), ("000.jpg", b"first"), ("000.cls", b"dog"), ("000.json", b"{}")]);
    let dataset = open(&[folder.path()]).expect("shards");
    let images: Vec<_> = (0..dataset.len()).map(|index| (dataset.read(index).expect("member"), dataset.label(index))).collect();
    assert_eq!(images, [(b"first".to_vec(), Some(1)), (b"second".to_vec(), Some(0)), (b"third".to_vec(), Some(1))]);
}

#[test]
fn a_truncated_archive_names_the_member_it_lacks() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let tar = folder.path().join("cut.tar");
    archive(&tar, &[("a/1.jpg", &[1; 600]), ("a/2.jpg", &[2; 5000])]);
    let bytes = std::fs::read(&tar).expect("archive");
    std::fs::write(&tar, &bytes[..3000]).expect("write");
    let dataset = open(&[&tar]).expect("the headers are there");
    assert_eq!(dataset.read(0).expect("whole"), [1; 600]);
    let error = dataset.read(1).expect_err("cut off").to_string();
    assert!(error.contains("a/2.jpg") && error.contains("cut.tar"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_that_lead_back_are_named_and_other_links_are_followed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    write(folder.path(), "data/cat/1.jpg", b"1");
    write(folder.path(), "elsewhere/2.jpg", b"2");
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, folder.path().join(name)).expect("link");
    link(&folder.path().join("elsewhere"), "data/dog");
    assert_eq!(open(&[&folder.path().join("data")]).expect("data set").len(), 2);
    link(&folder.path().join("data"), "data/cat/back");
    let error = open(&[&folder.path().join("data")]).expect_err("loop");
    assert!(matches!(&error, DataError::LinkLoop { path } if path.ends_with("cat/back")), "{error}");
    let (dataset, problems) = Dataset::open_with_problems(&[folder.path().join("data")]).expect("the rest");
    assert_eq!((dataset.len(), problems.len()), (2, 1));
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
