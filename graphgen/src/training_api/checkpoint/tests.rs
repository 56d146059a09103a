use super::*;

fn tensor(shape: &[usize], start: f32) -> WeightTensor {
    WeightTensor { shape: shape.to_vec(), data: (0..shape.iter().product::<usize>()).map(|index| start + index as f32).collect() }
}

fn checkpoint() -> TrainingCheckpoint {
    let parameters = Weights::from([("conv1.weight".into(), tensor(&[2, 3, 1, 1], -2.5)), ("bn1.bias".into(), tensor(&[2], 0.25))]);
    let moments = parameters.iter().map(|(name, weight)| (name.clone(), [tensor(&weight.shape, 7.0), tensor(&weight.shape, 0.0)])).collect();
    TrainingCheckpoint {
        parameters,
        frozen: Weights::from([("bn1.running_mean".into(), tensor(&[2], 1.0))]),
        optimizer: Some(OptimizerGroup { step: 41, learning_rate: 0.3, moments }),
    }
}

#[test]
fn what_is_written_is_read() {
    for checkpoint in [checkpoint(), TrainingCheckpoint { optimizer: None, ..checkpoint() }, TrainingCheckpoint::default()] {
        let files = checkpoint.to_files().expect("small");
        assert_eq!((&files.checkpoint[4..8], &files.data), (&b"ODTC"[..], &None));
        assert_eq!(TrainingCheckpoint::read(&files.checkpoint, None).expect("whole"), checkpoint);
    }
}

#[test]
fn large_weights_stand_in_a_file_of_their_own() {
    let files = checkpoint().files(8).expect("small");
    let data = files.data.as_deref().expect("external data");
    assert_eq!(data.len(), 64 + 64 + 8, "three tensors at multiples of 64 bytes");
    assert_eq!(TrainingCheckpoint::read(&files.checkpoint, Some(data)).expect("whole"), checkpoint());
    assert!(TrainingCheckpoint::read(&files.checkpoint, None).expect_err("no data").to_string().contains(".data"));
    assert!(TrainingCheckpoint::read(&files.checkpoint, Some(&data[..130])).expect_err("cut").to_string().contains("ends too early"));
}

#[test]
fn damaged_bytes_are_refused_without_a_panic() {
    let whole = checkpoint().to_files().expect("small").checkpoint;
    assert!(TrainingCheckpoint::read(b"PK\x03\x04 something else", None).expect_err("no checkpoint").to_string().contains("ODTC"));
    for length in 0..whole.len() {
        // A cut that takes padding only may pass.
        if let Ok(read) = TrainingCheckpoint::read(&whole[..length], None) {
            assert_eq!(read, checkpoint());
        }
    }
    for place in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut damaged = whole.clone();
            damaged[place] = value;
            let _ = TrainingCheckpoint::read(&damaged, None);
        }
    }
}
