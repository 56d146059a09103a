use super::*;
use crate::kernels::testing::{distance, run, values};

/// Vectors, a tail of less than one, more than a block.
const SHAPES: [&[usize]; 5] = [&[1], &[17], &[64, 3, 7, 7], &[40_001], &[0, 3]];

const LEARNING_RATE: f32 = 0.3;

struct Case {
    shape: Vec<usize>,
    p: Vec<f32>,
    g: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(shape: &[usize]) -> Case {
        let len = shape.iter().product();
        let v = values(len, 4).iter().map(|v| v * v).collect();
        Case { shape: shape.to_vec(), p: values(len, 1), g: values(len, 2).iter().map(|g| g * 0.1).collect(), m: values(len, 3), v }
    }

    fn check(&self, name: &str, kernel: &impl Dense, states: &[&[f32]], scalars: &[f32], expected: &[Vec<f64>]) {
        let scalars: Vec<[f32; 1]> = scalars.iter().map(|&scalar| [scalar]).collect();
        let states = states.iter().map(|&state| (self.shape.as_slice(), state));
        let inputs: Vec<(&[usize], &[f32])> = states.chain(scalars.iter().map(|scalar| (&[1usize][..], &scalar[..]))).collect();
        let outputs = run(kernel, &inputs);
        assert_eq!(outputs.len(), expected.len());
        for (index, (actual, expected)) in outputs.iter().zip(expected).enumerate() {
            let distance = distance(actual, expected);
            assert!(distance <= 3e-7, "{name}, output {index} of {:?}: {distance:e}", self.shape);
        }
    }
}

/// The two outputs of SGD with momentum.
fn momentum_update(case: &Case, momentum: f32, decay: f64, rate: f64) -> [Vec<f64>; 2] {
    let (mut p, mut m) = (Vec::new(), Vec::new());
    for index in 0..case.p.len() {
        let old = f64::from(case.p[index]);
        let scaled = (f64::from(case.g[index]) + decay * old) * rate;
        m.push(f64::from(momentum) * f64::from(case.m[index]) + scaled);
        p.push(old - f64::from(LEARNING_RATE) * m[index]);
    }
    [p, m]
}

#[test]
fn sgd_is_the_definition() {
    for shape in SHAPES {
        let (case, kernel) = (Case::new(shape), SgdStep { momentum: 0.9, weight_decay: 0.01 });
        let expected = momentum_update(&case, 0.9, f64::from(0.01f32), 1.0);
        case.check("SGD", &kernel, &[&case.p, &case.g, &case.m], &[LEARNING_RATE], &expected);
    }
}

#[test]
fn lars_is_the_definition_also_without_a_norm() {
    let kernel = LarsStep { momentum: 0.9, weight_decay: 0.01, trust_coefficient: 0.02, epsilon: 1e-3 };
    for (shape, without) in SHAPES.into_iter().flat_map(|shape| ["nothing", "parameter", "gradient"].map(|without| (shape, without))) {
        let mut case = Case::new(shape);
        match without {
            "parameter" => case.p.fill(0.0),
            "gradient" => case.g.fill(0.0),
            _ => {}
        }
        let norm = |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let (p, g, decay) = (norm(&case.p), norm(&case.g), f64::from(0.01f32));
        let rate = f64::from(0.02f32) * p / (g + decay * p + f64::from(1e-3f32));
        let (decay, rate) = if p > 0.0 && g > 0.0 { (decay, rate) } else { (0.0, 1.0) };
        let expected = momentum_update(&case, 0.9, decay, rate);
        case.check(&format!("LARS without {without}"), &kernel, &[&case.p, &case.g, &case.m], &[LEARNING_RATE], &expected);
    }
}

#[test]
fn adam_and_adamw_are_the_definition() {
    let (c1, c2) = (0.271f32, 0.002_997f32);
    for (shape, decoupled) in SHAPES.into_iter().flat_map(|shape| [(shape, false), (shape, true)]) {
        let case = Case::new(shape);
        let floats = |name: &str| {
            Some(match name {
                "beta1" => 0.9,
                "beta2" => 0.999,
                "epsilon" => 1e-8,
                _ => 0.01,
            })
        };
        let kernel = AdamStep::read(&Attributes { ints: &|_| None, int: &|_| Some(decoupled.into()), float: &floats }).expect("attributes");
        let (lr, decay) = (f64::from(LEARNING_RATE), f64::from(0.01f32));
        let [mut p, mut m, mut v] = [const { Vec::new() }; 3];
        for index in 0..case.p.len() {
            let (old, g) = (f64::from(case.p[index]), f64::from(case.g[index]));
            let (old, g) = if decoupled { (old - lr * decay * old, g) } else { (old, g + decay * old) };
            m.push(0.9 * f64::from(case.m[index]) + 0.1 * g);
            v.push(0.999 * f64::from(case.v[index]) + 0.001 * g * g);
            let denominator = v[index].sqrt() / f64::from(c2).sqrt() + 1e-8;
            p.push(old - lr / f64::from(c1) * m[index] / denominator);
        }
        let name = if decoupled { "AdamW" } else { "Adam" };
        case.check(name, &kernel, &[&case.p, &case.g, &case.m, &case.v], &[LEARNING_RATE, c1, c2], &[p, m, v]);
    }
}

#[test]
fn shapes_that_do_not_belong_together_are_refused() {
    let (kernel, shape, scalar) = (SgdStep { momentum: 0.9, weight_decay: 0.0 }, vec![2, 3], vec![1]);
    let infer = |inputs: [&Vec<usize>; 4]| kernel.infer(&inputs.map(Clone::clone));
    assert_eq!(infer([&shape, &shape, &shape, &scalar]), Ok(vec![shape.clone(); 2]));
    assert!(infer([&shape, &shape, &vec![3, 2], &scalar]).is_err());
    assert!(infer([&shape, &shape, &shape, &shape]).is_err());
}
