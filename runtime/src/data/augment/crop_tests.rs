//! Windows against torchvision's distribution, drawn by `tests/golden/crop_sampler.py`: the test of Kolmogorov and Smirnov.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::crop::{Window, random_window};
use crate::data::random::{Purpose, Random};

#[derive(serde::Deserialize)]
struct Case {
    width: usize,
    height: usize,
    scale: [f64; 2],
    draws: usize,
    /// Of each figure: values, and the share of the draws that are not above.
    figures: BTreeMap<String, Vec<(f64, f64)>>,
}

const DRAWS: usize = 40_000;

/// Largest distance of the two distributions that chance explains in one of 1000 cases.
fn bound(golden_draws: usize) -> f64 {
    let (n, m) = (DRAWS as f64, golden_draws as f64);
    (-(0.001f64 / 2.0).ln() / 2.0 * (n + m) / (n * m)).sqrt()
}

#[test]
fn windows_have_torchvisions_distribution() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/crop_sampler.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let cases: Vec<Case> = serde_json::from_str(&text).expect("crop_sampler.json");
    assert_eq!(cases.len(), 4);
    for (number, Case { width, height, scale, draws, figures }) in (0..).zip(cases) {
        let draw = |index| random_window(&mut Random::new(3, Purpose::Augment, number, index), width, height, scale[0], scale[1]);
        let windows: Vec<Window> = (0..DRAWS as u64).map(draw).collect();
        for (name, distribution) in &figures {
            let figure = |window: &Window| match name.as_str() {
                "area" => (window.width * window.height) as f64,
                "ratio" => window.width as f64 / window.height as f64,
                "left" => window.x as f64,
                "top" => window.y as f64,
                "right" => (window.x + window.width) as f64,
                "bottom" => (window.y + window.height) as f64,
                other => panic!("unknown figure {other}"),
            };
            let mut values: Vec<f64> = windows.iter().map(figure).collect();
            values.sort_unstable_by(f64::total_cmp);
            let share = |most: f64| values.partition_point(|&value| value <= most) as f64 / DRAWS as f64;
            let distance = distribution.iter().map(|&(value, golden)| (share(value) - golden).abs()).fold(0.0, f64::max);
            assert!(distance <= bound(draws), "{name} of {width}x{height} at {scale:?}: {distance}, at most {}", bound(draws));
        }
        assert_eq!(figures.len(), 6);
    }
}
