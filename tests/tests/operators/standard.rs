//! Operators of `ai.onnx` and `com.microsoft`.

use graphgen::ir::DType;
use graphgen::ops::conv::Window;
use graphgen::ops::plane_conv::Planes;
use graphgen::ops::{
    Add, BatchNormalization, BatchNormalizationTraining, Cast, ChannelAffine, Concat, Conv, ConvTranspose, Div, Equal, Exp, Flatten, FusedMatMul, Gather, Gemm,
    GlobalAveragePool, Greater, HardSigmoid, Identity, IntegerDiv, Log, LogSoftmax, MatMul, Max, MaxPool, Mul, Neg, Pad, PlaneConv, Reciprocal, ReduceMax,
    ReduceMean, ReduceSum, ReduceSumSquare, Relu, Reshape, ScatterElements, Slice, Softmax, Sqrt, Sub, Tanh, Transpose, Where,
};
use graphgen::preset::Target;

use super::harness::{Case, EPS, FEW_ROUNDINGS, Random, case, check_on_onnx_runtime, sum_of};

/// Standard operators are written alike for every target; the CPU's is the one that has `com.microsoft`.
fn check(cases: Vec<Case>) {
    check_on_onnx_runtime(&cases, &[Target::Cpu]);
}

#[test]
fn elementwise_operators_agree() {
    let r = &mut Random::new(1);
    let shapes: [(&[usize], &[usize]); 4] = [(&[3, 5], &[3, 5]), (&[2, 3, 4, 4], &[1, 3, 1, 1]), (&[4, 1], &[3]), (&[7], &[1])];
    let mut cases = Vec::new();
    for (a, b) in shapes {
        cases.push(case(Add, [r.normal(a), r.normal(b)], EPS));
        cases.push(case(Sub, [r.normal(a), r.normal(b)], EPS));
        cases.push(case(Mul, [r.normal(a), r.normal(b)], EPS));
        cases.push(case(Div, [r.normal(a), r.positive(b)], EPS));
        cases.push(case(IntegerDiv, [r.uniform(DType::I64, a, -20.0, 20.0), r.uniform(DType::I64, b, 1.0, 5.0)], 0.0));
        cases.push(case(Max, [r.normal(a), r.normal(b)], 0.0));
        cases.push(case(Greater, [r.normal(a), r.normal(b)], 0.0));
        cases.push(case(Equal, [r.uniform(DType::I64, a, 0.0, 3.0), r.uniform(DType::I64, b, 0.0, 3.0)], 0.0));
        cases.push(case(Where, [r.bools(a), r.normal(a), r.normal(b)], 0.0));
        cases.push(case(Where, [r.bools(b), r.normal(a), r.normal(b)], 0.0));
    }
    for shape in [&[3, 5][..], &[2, 3, 4, 4], &[1], &[]] {
        cases.push(case(Neg, [r.normal(shape)], 0.0));
        cases.push(case(Relu, [r.normal(shape)], 0.0));
        cases.push(case(Sqrt, [r.positive(shape)], EPS));
        cases.push(case(Reciprocal, [r.positive(shape)], EPS));
        cases.push(case(Exp, [r.normal(shape)], FEW_ROUNDINGS));
        // Logarithms of numbers near 1 cancel: relative to the largest, the error stays one of ln 2.
        cases.push(case(Log, [r.positive(shape)], FEW_ROUNDINGS));
        cases.push(case(Tanh, [r.normal(shape)], FEW_ROUNDINGS));
        cases.push(case(Identity, [r.normal(shape)], 0.0));
        cases.push(case(HardSigmoid { alpha: 0.25, beta: 0.5 }, [r.normal(shape)], FEW_ROUNDINGS));
        cases.push(case(HardSigmoid { alpha: 1e30, beta: 0.0 }, [r.normal(shape)], 0.0));
    }
    check(cases);
}

#[test]
fn casts_agree() {
    let r = &mut Random::new(2);
    let inputs = [r.uniform(DType::U8, &[4, 3], 0.0, 256.0), r.uniform(DType::I64, &[4, 3], -5.0, 5.0).map(|x| x.max(0.0)), r.bools(&[4, 3])];
    let mut cases: Vec<Case> =
        inputs.iter().flat_map(|input| [DType::F32, DType::I64, DType::Bool, DType::U8].map(|to| case(Cast { to }, [input.clone()], 0.0))).collect();
    cases.push(case(Cast { to: DType::I64 }, [r.normal(&[4, 3])], 0.0));
    check(cases);
}

#[test]
fn convolutions_agree() {
    let r = &mut Random::new(3);
    let mut cases = Vec::new();
    for (kernel, padding) in [(1, 0), (3, 1), (3, 0), (7, 3)] {
        for stride in [1, 2] {
            for [height, width] in [[8, 8], [9, 7], [11, 12]] {
                let window = Window { kernel, stride, padding };
                let (x, w) = (r.normal(&[2, 3, height, width]), r.normal(&[5, 3, kernel, kernel]));
                cases.push(case(Conv { window }, [x.clone(), w.clone()], sum_of(3 * kernel * kernel)));
                cases.push(case(Conv { window }, [x, w.clone(), r.normal(&[5])], sum_of(3 * kernel * kernel)));
                let dy = r.normal(&[2, 5, window.output(height).unwrap(), window.output(width).unwrap()]);
                cases.push(case(ConvTranspose { window, input_size: [height, width] }, [dy, w], sum_of(5 * kernel * kernel)));
            }
        }
    }
    let windows = [
        ([6, 6], [4, 4], [1, 1], [1, 3]),
        ([4, 4], [4, 4], [0, 0], [0, 2]),
        ([3, 3], [1, 1], [1, 1], [1, 1]),
        ([1, 5], [1, 2], [0, 2], [0, 1]),
        ([5, 2], [3, 1], [2, 1], [1, 0]),
    ];
    for (kernel, stride, before, after) in windows {
        let [k, l] = kernel;
        for (planes, x, w) in [(Planes::First, [2, 1, 3, 8, 6], [4, 1, 1, k, l]), (Planes::Last, [2, 1, 8, 6, 3], [4, 1, k, l, 1])] {
            cases.push(case(PlaneConv { planes, kernel, stride, before, after }, [r.normal(&x), r.normal(&w)], sum_of(k * l)));
        }
    }
    check(cases);
}

#[test]
fn matrix_products_agree() {
    let r = &mut Random::new(4);
    let (m, k, n) = (5, 33, 7);
    let shape = |rows, columns, transposed: bool| if transposed { [columns, rows] } else { [rows, columns] };
    let mut cases = vec![
        case(MatMul, [r.normal(&[m, k]), r.normal(&[k, n])], sum_of(k)),
        case(MatMul, [r.normal(&[4, m, k]), r.normal(&[4, k, n])], sum_of(k)),
        case(FusedMatMul { trans_a: false, trans_b: true }, [r.normal(&[4, m, k]), r.normal(&[4, n, k])], sum_of(k)),
        case(FusedMatMul { trans_a: false, trans_b: true }, [r.normal(&[12, 1, 100]), r.normal(&[12, 1, 100])], sum_of(100)),
        case(FusedMatMul { trans_a: true, trans_b: false }, [r.normal(&[4, k, m]), r.normal(&[4, k, n])], sum_of(k)),
    ];
    for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
        let (a, b) = (r.normal(&shape(m, k, trans_a)), r.normal(&shape(k, n, trans_b)));
        cases.push(case(FusedMatMul { trans_a, trans_b }, [a.clone(), b.clone()], sum_of(k)));
        cases.push(case(Gemm { trans_a, trans_b }, [a.clone(), b.clone()], sum_of(k)));
        cases.push(case(Gemm { trans_a, trans_b }, [a, b, r.normal(&[n])], sum_of(k)));
    }
    check(cases);
}

#[test]
fn normalizations_agree() {
    let r = &mut Random::new(5);
    let mut cases = Vec::new();
    for shape in [&[16, 3][..], &[4, 3, 5, 5]] {
        let inputs = [r.normal(shape), r.normal(&[3]), r.normal(&[3]), r.normal(&[3]), r.positive(&[3])];
        cases.push(case(BatchNormalization { epsilon: 1e-5 }, inputs.clone(), 2.0 * FEW_ROUNDINGS));
        cases.push(case(BatchNormalization { epsilon: 0.0 }, inputs.clone(), 2.0 * FEW_ROUNDINGS));
        cases.push(case(BatchNormalizationTraining { epsilon: 1e-5 }, inputs, sum_of(100)));
    }
    let maps = [4, 3, 5, 6];
    cases.push(case(ChannelAffine { channels: 3 }, [r.normal(&maps), r.normal(&[3, 1, 1, 1]), r.normal(&[3]), r.normal(&maps)], 2.0 * FEW_ROUNDINGS));
    check(cases);
}

#[test]
fn pooling_agrees() {
    let r = &mut Random::new(6);
    let mut cases = Vec::new();
    for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1)] {
        for [height, width] in [[8, 8], [9, 7]] {
            let window = Window { kernel, stride, padding };
            let x = r.normal(&[2, 3, height, width]);
            // Behind a ReLU many windows hold equal maxima: the index must be the first's.
            cases.push(case(MaxPool { window }, [x.map(|x| x.max(0.0))], 0.0));
            cases.push(case(MaxPool { window }, [x], 0.0));
        }
    }
    cases.push(case(GlobalAveragePool, [r.normal(&[2, 3, 7, 7])], sum_of(49)));
    let (data, indices) = (r.normal(&[10]), r.uniform(DType::I64, &[24], 0.0, 10.0));
    cases.push(case(ScatterElements, [data, indices, r.normal(&[24])], FEW_ROUNDINGS));
    check(cases);
}

#[test]
fn reductions_agree() {
    let r = &mut Random::new(7);
    let mut cases = Vec::new();
    for (shape, axes) in [(&[6, 5][..], &[0][..]), (&[6, 5], &[1]), (&[6, 5], &[0, 1]), (&[2, 3, 4, 5], &[0, 2, 3]), (&[2, 3, 4, 5], &[1]), (&[9], &[0])] {
        for keepdims in [false, true] {
            let axes = axes.to_vec();
            // Terms of both signs might sum up to nearly zero, and rounding errors would be large beside that.
            cases.push(case(ReduceSum { axes: axes.clone(), keepdims }, [r.positive(shape)], sum_of(40)));
            cases.push(case(ReduceSumSquare { axes: axes.clone(), keepdims }, [r.positive(shape)], sum_of(40)));
            cases.push(case(ReduceMean { axes: axes.clone(), keepdims }, [r.positive(shape)], sum_of(40)));
            cases.push(case(ReduceMax { axes, keepdims }, [r.normal(shape)], 0.0));
        }
    }
    check(cases);
}

#[test]
fn softmaxes_agree() {
    let r = &mut Random::new(8);
    let mut cases = Vec::new();
    // 10 is a score at temperature 0.1.
    for scale in [1.0, 10.0] {
        for shape in [&[4, 3][..], &[6, 300], &[2, 3, 5]] {
            let x = r.normal(shape).map(|x| scale * x);
            cases.push(case(Softmax, [x.clone()], scale * 4.0 * FEW_ROUNDINGS));
            cases.push(case(LogSoftmax, [x], 4.0 * FEW_ROUNDINGS));
        }
    }
    check(cases);
}

#[test]
fn operators_that_move_elements_agree() {
    let r = &mut Random::new(9);
    let slice = |axes: &[usize], starts: &[usize], ends: &[usize], steps: &[usize]| Slice {
        axes: axes.to_vec(),
        starts: starts.to_vec(),
        ends: ends.to_vec(),
        steps: steps.to_vec(),
    };
    check(vec![
        case(Concat { axis: 0 }, [r.normal(&[2, 3]), r.normal(&[4, 3])], 0.0),
        case(Concat { axis: 3 }, [r.normal(&[2, 3, 4, 1]), r.normal(&[2, 3, 4, 2]), r.normal(&[2, 3, 4, 3])], 0.0),
        case(Flatten, [r.normal(&[2, 3, 4, 5])], 0.0),
        case(Gather { axis: 2, indices: vec![3, 0, 0, 2] }, [r.normal(&[2, 3, 4])], 0.0),
        case(Gather { axis: 0, indices: vec![1] }, [r.uniform(DType::U8, &[3, 2], 0.0, 256.0)], 0.0),
        case(Pad { before: vec![0, 0, 1, 2], after: vec![0, 0, 0, 3] }, [r.normal(&[2, 3, 4, 5])], 0.0),
        case(Pad { before: vec![1, 0], after: vec![0, 0] }, [r.normal(&[3, 4])], 0.0),
        case(Reshape { shape: vec![6, 20] }, [r.normal(&[2, 3, 4, 5])], 0.0),
        case(Reshape { shape: vec![1, 1] }, [r.normal(&[])], 0.0),
        case(Reshape { shape: vec![] }, [r.normal(&[1, 1])], 0.0),
        case(slice(&[0], &[2], &[5], &[1]), [r.normal(&[6, 3])], 0.0),
        case(slice(&[2, 3], &[1, 0], &[6, 5], &[2, 2]), [r.normal(&[2, 3, 7, 6])], 0.0),
        case(slice(&[0], &[0], &[1], &[1]), [r.uniform(DType::I64, &[4], 0.0, 9.0)], 0.0),
        case(Transpose { permutation: vec![1, 0] }, [r.normal(&[3, 5])], 0.0),
        case(Transpose { permutation: vec![0, 2, 3, 1] }, [r.normal(&[2, 3, 4, 5])], 0.0),
    ]);
}
