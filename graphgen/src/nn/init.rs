//! Initial weights.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use sha2::{Digest, Sha256};

use crate::weights::WeightTensor;

/// Distribution of a parameter's initial values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Normal with variance 2 / (out channels · kernel area): Kaiming, fan-out, ReLU; for convolutions [O,C,k,k].
    KaimingNormalFanOut,
    /// Uniform in ±1/√fan_in: PyTorch's default for linear layers, weight and bias.
    UniformFanIn(usize),
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
}

/// Initial values of a parameter: a function of seed, name and shape alone, so that no parameter moves another's.
pub fn initialize(seed: u64, name: &str, shape: &[usize], init: Init) -> WeightTensor {
    let key: [u8; 32] = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize().into();
    let mut rng = ChaCha8Rng::from_seed(key);
    let count: usize = shape.iter().product();
    let data = match init {
        Init::KaimingNormalFanOut => {
            let fan_out: usize = shape[0] * shape[2..].iter().product::<usize>();
            let deviation = (2.0 / fan_out as f64).sqrt();
            (0..count).map(|_| (deviation * normal(&mut rng)) as f32).collect()
        }
        Init::UniformFanIn(fan_in) => {
            let bound = 1.0 / (fan_in as f64).sqrt();
            (0..count).map(|_| rng.random_range(-bound..bound) as f32).collect()
        }
        Init::Zeros => vec![0.0; count],
        Init::Ones => vec![1.0; count],
    };
    WeightTensor { shape: shape.to_vec(), data }
}

fn normal(rng: &mut impl Rng) -> f64 {
    StandardNormal.sample(rng)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(data: &[f32]) -> (f64, f64) {
        let mean = data.iter().map(|&x| f64::from(x)).sum::<f64>() / data.len() as f64;
        let variance = data.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / data.len() as f64;
        (mean, variance)
    }

    #[test]
    fn distributions_have_their_moments() {
        let conv = initialize(1, "conv", &[64, 32, 3, 3], Init::KaimingNormalFanOut);
        let (mean, variance) = moments(&conv.data);
        assert!(mean.abs() < 2e-3 && (variance * 64.0 * 9.0 / 2.0 - 1.0).abs() < 0.03, "{mean} {variance}");
        let linear = initialize(1, "linear", &[128, 256], Init::UniformFanIn(256));
        let (mean, variance) = moments(&linear.data);
        assert!(mean.abs() < 1e-3 && (variance * 3.0 * 256.0 - 1.0).abs() < 0.03, "{mean} {variance}");
        assert!(linear.data.iter().all(|x| x.abs() <= 1.0 / 16.0));
    }

    #[test]
    fn seed_and_name_decide() {
        let draw = |seed, name| initialize(seed, name, &[4], Init::UniformFanIn(4));
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
    }
}
