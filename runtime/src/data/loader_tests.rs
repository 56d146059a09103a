//! Properties of the loader: determinism, order, layout, broken images.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use graphgen::preset::Crops;
use sha2::{Digest, Sha256};

use super::decode::decode_rgb;
use super::multi_crop::{MultiCrop, Scratch, crop_bytes};
use super::random::{Purpose, Random};
use super::stages::StageTimes;
use super::synth::{self, SynthConfig};
use super::*;

/// A data set of small images; the folder goes when the value does.
fn small_dataset(images: usize) -> (tempfile::TempDir, Arc<Dataset>) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("images");
    synth::write(&path, &SynthConfig { images, classes: 3, size_px: 24, seed: 1 }, |_| {}).expect("synthetic images");
    let dataset = Dataset::open(&[path]).expect("data set");
    (folder, Arc::new(dataset))
}

fn small_crops() -> Crops {
    Crops { size_crops: vec![16, 8], nmb_crops: vec![2, 3], min_scale_crops: vec![0.3, 0.1], max_scale_crops: vec![1.0, 0.3], ..Crops::default() }
}

fn config(batch_size: usize, workers: usize) -> LoaderConfig {
    LoaderConfig {
        crops: small_crops(),
        batch_size,
        micro_batches: 1,
        seed: 9,
        workers,
        batches_ahead: 2,
        batches_held: 1,
        decode: DecodeOptions::default(),
        broken: BrokenPolicy::default(),
    }
}

fn hash(batch: &Batch) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{} {} {:?}", batch.epoch(), batch.index(), batch.indices()));
    hash.update(batch.crops(0));
    hash.update(batch.crops(1));
    format!("{:x?}", hash.finalize())
}

fn hashes(dataset: &Arc<Dataset>, config: LoaderConfig, start: (usize, usize), batches: usize) -> Vec<String> {
    let mut stream = Loader::new(Arc::clone(dataset), config).expect("loader").stream(start.0, start.1);
    (0..batches).map(|_| hash(&stream.next().expect("batch"))).collect()
}

/// Test data outside of the repository, where there is any.
fn test_data(name: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os("SWAV_TEST_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
    };
    let path = folder.join(name);
    if !path.exists() {
        eprintln!("skipped: {name} not found; set SWAV_TEST_DATA to the folder it is in");
        return None;
    }
    Some(path)
}

#[test]
fn batches_do_not_depend_on_the_number_of_threads() {
    let (_folder, dataset) = small_dataset(50);
    let one = hashes(&dataset, config(8, 1), (0, 0), 13);
    for workers in [2, 3, 8] {
        assert_eq!(one, hashes(&dataset, config(8, workers), (0, 0), 13), "{workers} threads");
        assert_eq!(one[3..], hashes(&dataset, config(8, workers), (0, 3), 10), "{workers} threads from the middle of an epoch");
    }
    let unique: HashSet<&String> = one.iter().collect();
    assert_eq!(unique.len(), one.len(), "batches repeat");
    assert_ne!(one, hashes(&dataset, LoaderConfig { seed: 10, ..config(8, 2) }, (0, 0), 13), "the seed has no influence");
}

#[test]
fn a_resumed_stream_continues_the_uninterrupted_one() {
    let (_folder, dataset) = small_dataset(50);
    // Six batches an epoch: the last two are the first of epoch 2.
    let all = hashes(&dataset, config(8, 2), (0, 0), 14);
    assert_eq!(all[4..], hashes(&dataset, config(8, 2), (0, 4), 10));
    assert_eq!(all[9..], hashes(&dataset, config(8, 2), (1, 3), 5));
    assert_eq!(all[6..], hashes(&dataset, config(8, 2), (0, 6), 8), "a batch past the epoch's end is the next epoch's first");
}

#[test]
fn an_epoch_shows_every_image_once() {
    let (_folder, dataset) = small_dataset(48);
    let loader = Loader::new(dataset, config(8, 2)).expect("loader");
    assert_eq!(loader.batches_per_epoch(), 6);
    let mut stream = loader.stream(0, 0);
    let mut orders = Vec::new();
    for epoch in 0..2 {
        let mut order = Vec::new();
        for index in 0..6 {
            let batch = stream.next().expect("batch");
            assert_eq!((batch.epoch(), batch.index()), (epoch, index));
            order.extend_from_slice(batch.indices());
        }
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..48).collect::<Vec<_>>());
        orders.push(order);
    }
    assert_ne!(orders[0], orders[1], "epochs have the same order");
}

#[test]
fn crops_lie_crop_major_in_their_groups() {
    let (_folder, dataset) = small_dataset(12);
    let batch = Loader::new(Arc::clone(&dataset), config(4, 2)).expect("loader").stream(3, 1).next().expect("batch");
    let multi_crop = MultiCrop::new(&small_crops());
    let mut expected = [vec![0; 2 * 4 * crop_bytes(16)], vec![0; 3 * 4 * crop_bytes(8)]];
    for (place, &index) in batch.indices().iter().enumerate() {
        let image = decode_rgb(&dataset.read(index).expect("file")).expect("image");
        let mut crops = vec![0; multi_crop.bytes_per_image()];
        let mut random = Random::new(9, Purpose::Augment, 3, index as u64);
        multi_crop.apply(&image, &mut random, &mut Scratch::default(), &mut crops, &mut StageTimes::default());
        let (large, small) = crops.split_at(2 * crop_bytes(16));
        for (number, crop) in large.chunks_exact(crop_bytes(16)).enumerate() {
            expected[0][(number * 4 + place) * crop_bytes(16)..][..crop_bytes(16)].copy_from_slice(crop);
        }
        for (number, crop) in small.chunks_exact(crop_bytes(8)).enumerate() {
            expected[1][(number * 4 + place) * crop_bytes(8)..][..crop_bytes(8)].copy_from_slice(crop);
        }
    }
    assert!(batch.crops(0) == expected[0] && batch.crops(1) == expected[1]);
}

#[test]
fn micro_batches_are_slices_of_the_batch() {
    let (_folder, dataset) = small_dataset(30);
    let batch = |micro_batches| {
        let config = LoaderConfig { micro_batches, ..config(12, 3) };
        Loader::new(Arc::clone(&dataset), config).expect("loader").stream(1, 1).next().expect("batch")
    };
    let (whole, parts) = (batch(1), batch(3));
    assert_eq!(whole.indices(), parts.indices());
    for (group, (count, bytes)) in [(2, crop_bytes(16)), (3, crop_bytes(8))].into_iter().enumerate() {
        assert_eq!(whole.crops(group).len(), parts.crops(group).len());
        for (crop, place) in (0..count).flat_map(|crop| (0..12).map(move |place| (crop, place))) {
            let (micro, row) = (place / 4, place % 4);
            let there = &parts.crops(group)[((micro * count + crop) * 4 + row) * bytes..][..bytes];
            assert!(whole.crops(group)[(crop * 12 + place) * bytes..][..bytes] == *there, "crop {crop} of image {place}");
        }
    }
    let refused = |micro_batches| Loader::new(Arc::clone(&dataset), LoaderConfig { micro_batches, ..config(12, 1) }).expect_err("refused").to_string();
    assert!(refused(5).contains("12 images") && refused(5).contains("5 equal"), "{}", refused(5));
    assert!(refused(0).contains("micro_batches"));
}

#[test]
fn a_broken_image_is_substituted_and_counted() {
    let (folder, dataset) = small_dataset(120);
    let intact = hashes(&dataset, config(10, 2), (0, 0), 12);
    let broken = folder.path().join("images").join("circle-stripes").join("000003.jpg");
    let bytes = std::fs::read(&broken).expect("file");
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).expect("write");

    let run = |workers| {
        let mut stream = Loader::new(Arc::clone(&dataset), config(10, workers)).expect("loader").stream(0, 0);
        let batches: Vec<(String, usize)> = (0..24).map(|_| stream.next().expect("batch")).map(|batch| (hash(&batch), batch.substitutes())).collect();
        batches
    };
    let batches = run(1);
    assert_eq!(batches, run(3), "substitutes depend on the threads");
    assert_eq!(batches[..12].iter().map(|(_, substitutes)| substitutes).sum::<usize>(), 1);
    assert_eq!(batches.iter().map(|(_, substitutes)| substitutes).sum::<usize>(), 2, "once an epoch");
    for ((hash, substitutes), intact) in batches.iter().zip(&intact) {
        assert_eq!(hash == intact, *substitutes == 0);
    }
}

#[test]
fn broken_images_are_listed_once_in_a_file() {
    let (folder, dataset) = small_dataset(120);
    let broken = folder.path().join("images").join("circle-stripes").join("000003.jpg");
    std::fs::write(&broken, b"nothing").expect("write");
    let list = folder.path().join("broken.txt");
    let lines = || std::fs::read_to_string(&list).map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).unwrap_or_default();
    for _run in 0..2 {
        let broken = BrokenPolicy { list: Some(list.clone()), ..BrokenPolicy::default() };
        let mut stream = Loader::new(Arc::clone(&dataset), LoaderConfig { broken, ..config(10, 2) }).expect("loader").stream(0, 0);
        (0..24).for_each(|_| drop(stream.next().expect("batch")));
        assert_eq!(lines().len(), 1, "two epochs, {:?}", lines());
    }
    assert!(lines()[0].contains("000003.jpg") && lines()[0].contains("cannot decode"), "{:?}", lines());
}

#[test]
fn the_share_of_broken_images_is_a_setting() {
    let (folder, dataset) = small_dataset(120);
    for name in ["000003.jpg", "000007.jpg"] {
        std::fs::write(folder.path().join("images/circle-stripes").join(name), b"not an image").expect("write");
    }
    let run = |max_share| {
        let broken = BrokenPolicy { max_share, list: None };
        let mut stream = Loader::new(Arc::clone(&dataset), LoaderConfig { broken, ..config(10, 2) }).expect("loader").stream(0, 0);
        (0..12).try_fold(0, |sum, _| stream.next().map(|batch| sum + batch.substitutes()))
    };
    assert_eq!(run(0.02).expect("2 of 120 are allowed"), 2);
    assert!(matches!(run(0.0), Err(DataError::TooManyBroken { percent: 0.0, .. })));
}

#[test]
fn more_than_one_percent_of_broken_images_is_an_error() {
    let (folder, dataset) = small_dataset(120);
    let class = folder.path().join("images").join("circle-stripes");
    for name in ["000003.jpg", "000007.jpg"] {
        std::fs::write(class.join(name), b"not an image").expect("write");
    }
    let mut stream = Loader::new(dataset, config(10, 2)).expect("loader").stream(0, 0);
    let error = (0..12).find_map(|_| stream.next().err()).expect("two of 120 are more than 1 %");
    let message = error.to_string();
    assert!(message.contains("2 broken images") && message.contains("120") && message.contains("000003.jpg") && message.contains("000007.jpg"), "{message}");
    assert!(matches!(stream.next(), Err(DataError::StreamEnded)));
}

#[test]
fn a_data_set_of_broken_images_ends_with_an_error() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for number in 0..4 {
        std::fs::write(folder.path().join(format!("{number}.png")), b"nothing").expect("write");
    }
    let dataset = Arc::new(Dataset::open(&[folder.path().into()]).expect("data set"));
    let error = Loader::new(dataset, config(2, 2)).expect("loader").stream(0, 0).next().expect_err("no image can be read");
    assert!(matches!(error, DataError::NoSubstitute { .. }), "{error}");
}

#[test]
fn a_batch_larger_than_the_data_set_is_refused() {
    let (_folder, dataset) = small_dataset(6);
    let error = Loader::new(Arc::clone(&dataset), config(7, 1)).expect_err("too large").to_string();
    assert!(error.contains('7') && error.contains('6') && error.contains("batch_size"), "{error}");
    assert!(Loader::new(Arc::clone(&dataset), config(0, 1)).is_err());
    assert_eq!(Loader::new(dataset, config(6, 1)).expect("exactly one batch").batches_per_epoch(), 1);
}

/// The next batch once it is there, without waiting for it.
fn look_for_next(stream: &mut BatchStream, tries: usize) -> Option<Batch> {
    (0..tries).find_map(|_| {
        let batch = stream.next_if_ready();
        assert_eq!(stream.waiting(), Duration::ZERO);
        std::thread::sleep(Duration::from_millis(if batch.is_some() { 0 } else { 10 }));
        batch
    })
}

#[test]
fn looking_for_a_batch_is_no_waiting_and_leaves_the_order_alone() {
    let (_folder, dataset) = small_dataset(50);
    let loader = Loader::new(Arc::clone(&dataset), config(8, 2)).expect("loader");
    let mut stream = loader.stream(0, 0);
    let (mut seen, mut numbers) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let batch = stream.next().expect("batch");
        let ahead = look_for_next(&mut stream, 3000).expect("batch");
        assert_eq!(ahead.waited(), Duration::ZERO);
        numbers.extend([batch.number(), ahead.number()]);
        seen.extend([hash(&batch), hash(&ahead)]);
    }
    assert_eq!(seen, hashes(&dataset, config(8, 2), (0, 0), 12));
    numbers.push(loader.stream(0, 0).next().expect("batch").number());
    assert_eq!(numbers, (0..13).collect::<Vec<u64>>(), "no number comes twice, whatever the stream");
}

#[test]
fn as_many_batches_are_made_ahead_as_without_a_second_one_in_use() {
    let (_folder, dataset) = small_dataset(48);
    for batches_held in [1, 2] {
        let config = LoaderConfig { batches_held, ..config(4, 2) };
        let mut stream = Loader::new(Arc::clone(&dataset), config).expect("loader").stream(0, 0);
        let mut held: Vec<Batch> = (0..batches_held).map(|_| stream.next().expect("batch")).collect();
        held.extend((0..2).map(|_| look_for_next(&mut stream, 3000).expect("a buffer for it")));
        assert!(look_for_next(&mut stream, 30).is_none(), "looking makes no buffers");
        assert_eq!(held.len(), batches_held + 2);
    }
}

#[test]
fn an_error_that_is_met_ahead_comes_when_the_batch_is_due() {
    let (folder, dataset) = small_dataset(24);
    for file in std::fs::read_dir(folder.path().join("images/circle-stripes")).expect("a class") {
        std::fs::write(file.expect("file").path(), b"not an image").expect("write");
    }
    let stream = || Loader::new(Arc::clone(&dataset), config(4, 2)).expect("loader").stream(0, 0);
    let mut waiting = stream();
    let expected = (0..6).find_map(|_| waiting.next().err()).expect("a broken image is too many").to_string();
    let mut looking = stream();
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(100));
        drop(looking.next_if_ready());
    }
    // The batches after it have more broken images.
    let error = (0..6).find_map(|_| looking.next().err()).expect("as before");
    assert_eq!(error.to_string(), expected);
    assert!(looking.next_if_ready().is_none());
    assert!(matches!(looking.next(), Err(DataError::StreamEnded)));
}

#[test]
fn holding_many_batches_does_not_block_the_stream() {
    let (_folder, dataset) = small_dataset(12);
    let mut stream = Loader::new(dataset, config(2, 2)).expect("loader").stream(0, 0);
    let held: Vec<Batch> = (0..10).map(|_| stream.next().expect("batch")).collect();
    assert_eq!(held.len(), 10);
    drop(stream);
    assert_eq!(held[9].crops(1).len(), 3 * 2 * crop_bytes(8), "a batch outlives its stream");
}

#[test]
fn stage_times_count_every_image() {
    let (_folder, dataset) = small_dataset(12);
    let batch = Loader::new(dataset, config(4, 2)).expect("loader").stream(0, 0).next().expect("batch");
    let times = batch.stage_times();
    assert_eq!(times.images, 4);
    assert!(times.encoded_bytes > 4 * 500 && times.decode > std::time::Duration::ZERO);
}

#[test]
fn photographs_give_the_same_batches_on_any_number_of_threads() {
    let Some(path) = test_data("imagenet-sample") else { return };
    let dataset = Arc::new(Dataset::open(&[path]).expect("data set").subset(24, 1));
    let photographs = |workers| LoaderConfig { crops: Crops::default(), batch_size: 8, seed: 31, batches_ahead: 1, ..config(8, workers) };
    assert_eq!(hashes(&dataset, photographs(1), (0, 0), 3), hashes(&dataset, photographs(3), (0, 0), 3));
}

#[test]
fn an_archive_of_photographs_has_classes() {
    let Some(path) = test_data("cifar10-test.tar") else { return };
    let dataset = Dataset::open(&[path]).expect("data set");
    assert_eq!(dataset.len(), 10_000);
    assert_eq!(dataset.class_names().len(), 10);
    let image = decode_rgb(&dataset.read(1234).expect("member")).expect("image");
    assert_eq!((image.width(), image.height()), (32, 32));
}
