use super::*;

const IN_PLACE: &[(u32, u32)] = &[(1, 0), (0, 3)];

#[test]
fn outputs_lie_apart_or_exactly_where_the_kernel_expects_them() {
    let inputs = [0..40, 40..80, 100..140];
    let overlapped = |own: Range<usize>, index| overlapped(&inputs, &own, index, IN_PLACE);
    assert_eq!(overlapped(140..180, 0), Ok(vec![]));
    assert_eq!(overlapped(80..100, 1), Ok(vec![]));
    assert_eq!(overlapped(60..60, 1), Ok(vec![]), "an empty output overwrites nothing");
    assert_eq!(overlapped(40..80, 0), Ok(vec![1]));
    assert_eq!(overlapped(0..40, 3), Ok(vec![0]));
    for (own, index) in [(0..40, 0), (40..80, 3), (40..80, 1), (44..84, 0), (40..60, 0), (20..60, 0), (130..170, 2)] {
        let message = overlapped(own.clone(), index).expect_err("an input would be overwritten before it is read");
        assert!(message.contains(&format!("output {index} lies in the memory of input")), "{own:?}: {message}");
    }
}

#[test]
fn outputs_have_memory_of_their_own() {
    let written = apart(vec![(0, 0..40)], 40..80, 2).expect("side by side");
    assert_eq!(written, [(0, 0..40), (2, 40..80)]);
    let message = apart(written, 76..90, 3).expect_err("one output would overwrite the other");
    assert!(message.starts_with("outputs 2 and 3 lie in the same memory"), "{message}");
}

#[test]
fn a_panic_is_an_error() {
    crate::session::environment::environment().expect("ONNX Runtime is set up, and makes errors");
    let error = guarded("Convolution", || panic!("no such tile")).expect_err("it must not unwind");
    assert!(error.to_string().contains("Convolution: the kernel panicked"), "{error}");
    assert!(guarded("Convolution", || Ok(())).is_ok());
}
