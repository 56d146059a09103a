//! Which numbers a setting may be.

use super::EvalError;

/// A range of numbers, for options and for the settings that they become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    least: f64,
    /// Whether `least` itself is allowed.
    inclusive: bool,
    most: f64,
}

impl Bounds {
    /// Learning rates, durations and sizes: above 0 and not absurd.
    pub const POSITIVE: Bounds = Bounds { least: 0.0, inclusive: false, most: 1e6 };
    /// A share of something that is not empty.
    pub const SHARE: Bounds = Bounds { least: 0.0, inclusive: false, most: 1.0 };
    /// Weight decay.
    pub const DECAY: Bounds = Bounds { least: 0.0, inclusive: true, most: 1.0 };
    /// Temperature of kNN: below, exp(1 / temperature) is more than f64 holds.
    pub const TEMPERATURE: Bounds = Bounds { least: 0.002, inclusive: true, most: 1e6 };
    /// Cosine similarity.
    pub const COSINE: Bounds = Bounds { least: -1.0, inclusive: true, most: 1.0 };

    /// The number, if it is within the bounds.
    ///
    /// # Errors
    /// What was expected and what came.
    pub fn check(self, value: f64) -> Result<f64, String> {
        let Bounds { least, inclusive, most } = self;
        let is_above = if inclusive { value >= least } else { value > least };
        if is_above && value <= most {
            return Ok(value);
        }
        let lower = if inclusive { "of at least" } else { "above" };
        Err(format!("expected a number {lower} {least} and up to {most}, got {value}"))
    }

    /// The same for the setting of an evaluation.
    ///
    /// # Errors
    /// The setting, what was expected and what came.
    pub(super) fn require(self, setting: &'static str, value: f64) -> Result<(), EvalError> {
        self.check(value).map(drop).map_err(|problem| EvalError::Setting { setting, problem })
    }
}
