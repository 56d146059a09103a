//! What the tests of the kernels share.

use super::Resources;
use super::operator::{Dense, Elements, ElementsMut, Input, Output};
use super::parallel::{KernelError, Parallel};
use super::scratch::ScratchPool;

/// Numbers from −1 to 1 by a formula.
pub(super) fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Relative L2 distance.
pub(super) fn distance(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let norm = expected.iter().map(|value| value * value).sum::<f64>().sqrt();
    let difference = actual.iter().zip(expected).map(|(&actual, expected)| (f64::from(actual) - expected).powi(2)).sum::<f64>().sqrt();
    difference / norm.max(1e-9)
}

/// One task after the other.
struct Serial;

impl Parallel for Serial {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        (0..tasks).for_each(task);
        Ok(())
    }
}

/// Three threads that take the tasks from the last to the first.
struct Threads;

impl Parallel for Threads {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        std::thread::scope(|scope| {
            for thread in 0..3 {
                scope.spawn(move || (0..tasks).rev().filter(|index| index % 3 == thread).for_each(task));
            }
        });
        Ok(())
    }
}

/// Runs a kernel of f32 tensors, with one thread, with several, on slices that no vector is aligned to, and in place: all give the
/// same bits.
pub(super) fn run<K: Dense>(kernel: &K, inputs: &[(&[usize], &[f32])]) -> Vec<Vec<f32>> {
    let inputs: Vec<Input> = inputs.iter().map(|&(shape, elements)| Input { shape, elements: Elements::F32(elements) }).collect();
    run_tensors(kernel, &inputs).into_iter().map(|(floats, _)| floats).collect()
}

/// The same of tensors of any type. Every output has its elements in the vector of its type, and the other one empty.
pub(super) fn run_tensors<K: Dense>(kernel: &K, inputs: &[Input]) -> Vec<(Vec<f32>, Vec<u8>)> {
    let serial = compute(kernel, inputs, (&Serial, 1), 0);
    assert!(bits(&serial) == bits(&compute(kernel, inputs, (&Threads, 3), 0)), "{} depends on the threads", K::NAME);
    assert!(bits(&serial) == bits(&run_unaligned(kernel, inputs)), "{} depends on the alignment", K::NAME);
    for pairs in K::IN_PLACE.iter().map(std::slice::from_ref).chain([K::IN_PLACE]) {
        assert!(bits(&serial) == bits(&compute_in(kernel, inputs, (&Threads, 3), 0, pairs)), "{} depends on whether {pairs:?} share memory", K::NAME);
    }
    serial
}

/// Elements to tell apart what compares equal, and NaNs.
fn bits(outputs: &[(Vec<f32>, Vec<u8>)]) -> (Vec<u32>, Vec<u8>) {
    let floats = outputs.iter().flat_map(|(floats, _)| floats).map(|value| value.to_bits());
    (floats.collect(), outputs.iter().flat_map(|(_, bytes)| bytes).copied().collect())
}

/// Runs a kernel whose inputs and outputs all begin at the second element of their memory, and end with it.
fn run_unaligned<K: Dense>(kernel: &K, inputs: &[Input]) -> Vec<(Vec<f32>, Vec<u8>)> {
    let behind_one: Vec<(Vec<f32>, Vec<u8>)> = inputs
        .iter()
        .map(|input| match input.elements {
            Elements::F32(elements) => ([&[f32::NAN], elements].concat(), vec![]),
            Elements::U8(elements) => (vec![], [&[u8::MAX], elements].concat()),
            Elements::InOutput => (vec![], vec![]),
        })
        .collect();
    let moved = inputs.iter().zip(&behind_one).map(|(input, (floats, bytes))| Input {
        elements: match input.elements {
            Elements::F32(_) => Elements::F32(&floats[1..]),
            Elements::U8(_) => Elements::U8(&bytes[1..]),
            Elements::InOutput => Elements::InOutput,
        },
        ..*input
    });
    let mut outputs = compute(kernel, &moved.collect::<Vec<_>>(), (&Serial, 1), 1);
    for (floats, bytes) in &mut outputs {
        if let Some(first) = floats.first() {
            assert!(first.is_nan(), "{} writes in front of its output", K::NAME);
            floats.remove(0);
        } else {
            assert!(bytes.remove(0) == u8::MAX, "{} writes in front of its output", K::NAME);
        }
    }
    outputs
}

/// The outputs, each behind `skipped` elements that the kernel does not see.
fn compute<K: Dense>(kernel: &K, inputs: &[Input], threads: (&dyn Parallel, usize), skipped: usize) -> Vec<(Vec<f32>, Vec<u8>)> {
    compute_in(kernel, inputs, threads, skipped, &[])
}

/// As [`compute`], where those pairs of an input and an output that there are share memory.
fn compute_in<K: Dense>(
    kernel: &K,
    inputs: &[Input],
    (parallel, threads): (&dyn Parallel, usize),
    skipped: usize,
    in_place: &[(u32, u32)],
) -> Vec<(Vec<f32>, Vec<u8>)> {
    let shapes: Vec<Vec<usize>> = inputs.iter().map(|input| input.shape.to_vec()).collect();
    let sizes = kernel.infer(&shapes).expect("fitting shapes");
    let pool = ScratchPool::default();
    // Scratch that is not zero shows what relies on it.
    pool.take(1 << 20).fill(f32::NAN);
    let with = Resources { parallel, threads, pool: &pool, arch: pulp::Arch::new() };
    let mut outputs: Vec<(Vec<f32>, Vec<u8>)> = Vec::new();
    for (index, shape) in sizes.iter().enumerate() {
        let len = skipped + shape.iter().product::<usize>();
        outputs.push(if K::BYTES.1.contains(&index) { (vec![], vec![u8::MAX; len]) } else { (vec![f32::NAN; len], vec![]) });
    }
    let mut inputs = inputs.to_vec();
    for &(input, output) in in_place {
        if let (Some((floats, _)), Elements::F32(elements)) = (outputs.get_mut(output as usize), inputs[input as usize].elements) {
            floats[skipped..].copy_from_slice(elements);
            inputs[input as usize].elements = Elements::InOutput;
        }
    }
    let tensors = outputs.iter_mut().zip(&sizes).enumerate().map(|(index, ((floats, bytes), shape))| {
        let elements = if K::BYTES.1.contains(&index) { ElementsMut::U8(&mut bytes[skipped..]) } else { ElementsMut::F32(&mut floats[skipped..]) };
        Output { shape, elements }
    });
    kernel.compute(&with, &inputs, tensors.collect()).expect("runs");
    outputs
}
