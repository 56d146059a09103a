//! Learning rates: the warm-up exactly, the cosine to one rounding of `base_lr` (libraries round `cos` differently).

use graphgen::preset::Preset;
use runtime::train::LearningRate;
use serde_json::Value;

use super::fixture::{overrides, path};

#[test]
fn learning_rates_of_the_official_settings() {
    let text = std::fs::read_to_string(path("schedule.json")).expect("the golden");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    for case in cases {
        let preset = Preset::from_toml("", &overrides(&case["settings"])).expect("a valid preset");
        let integer = |key: &str| case[key].as_u64().expect("an integer");
        let schedule = LearningRate::new(&preset.optim, integer("steps_per_epoch"), preset.train.epochs);
        let total = integer("total_steps");
        assert_eq!(total, integer("steps_per_epoch") * preset.train.epochs as u64);
        for rate in case["rates"].as_array().expect("a list") {
            let (step, expected) = (rate[0].as_u64().expect("a step"), rate[1].as_f64().expect("a rate"));
            let actual = schedule.at(step);
            let allowed = if step < integer("warmup_steps") { 0.0 } else { preset.optim.base_lr * f64::EPSILON };
            assert!((actual - expected).abs() <= allowed, "{}: step {step} has {actual}, expected {expected}", case["name"]);
        }
        assert_eq!(schedule.at(total), schedule.at(total - 1), "{}: stays after the end", case["name"]);
    }
}
