//! The learning rate of every step.
//!
//! Official code (`main_swav.py`): `np.linspace(start_warmup, base_lr, warm-up steps)`, then
//! `final_lr + ½(base_lr − final_lr)(1 + cos(πt/T))` for t = 0…T−1. Both ends of the warm-up are included, so `base_lr`
//! occurs twice in a row, and `final_lr` is never quite reached.

use graphgen::preset::{Optim, SchedulePer};

/// Learning rates of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct LearningRate {
    start_warmup: f64,
    base: f64,
    last: f64,
    warmup: u64,
    cosine: u64,
    /// Steps that share one learning rate.
    hold: u64,
}

impl LearningRate {
    /// The schedule of a run of `epochs` epochs.
    ///
    /// ```
    /// use graphgen::preset::Optim;
    /// use runtime::train::LearningRate;
    /// let optim = Optim { base_lr: 1.0, warmup_epochs: 1.0, ..Optim::default() };
    /// let schedule = LearningRate::new(&optim, 3, 2);
    /// assert_eq!([0, 1, 2, 3].map(|step| schedule.at(step)), [0.0, 0.5, 1.0, 1.0]);
    /// ```
    pub fn new(optim: &Optim, steps_per_epoch: u64, epochs: usize) -> LearningRate {
        let (points, hold) = match optim.schedule_per {
            SchedulePer::Step => (steps_per_epoch, 1),
            SchedulePer::Epoch => (1, steps_per_epoch.max(1)),
        };
        let total = points * epochs as u64;
        let warmup = ((points as f64 * optim.warmup_epochs).round() as u64).min(total);
        LearningRate { start_warmup: optim.start_warmup, base: optim.base_lr, last: optim.final_lr, warmup, cosine: total - warmup, hold }
    }

    /// The learning rate of a step, counted from 0. Past the end it stays at its last value.
    pub fn at(&self, step: u64) -> f64 {
        let point = (step / self.hold).min((self.warmup + self.cosine).saturating_sub(1));
        match point.checked_sub(self.warmup) {
            // numpy's linspace: the last point is the end exactly, a single point is the start.
            None if point > 0 && point == self.warmup - 1 => self.base,
            None => self.start_warmup + point as f64 * ((self.base - self.start_warmup) / (self.warmup - 1).max(1) as f64),
            Some(t) => self.last + 0.5 * (self.base - self.last) * (1.0 + (std::f64::consts::PI * t as f64 / self.cosine as f64).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn optim(warmup_epochs: f64) -> Optim {
        Optim { base_lr: 4.8, final_lr: 0.0048, start_warmup: 0.3, warmup_epochs, ..Optim::default() }
    }

    fn assert_close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
    }

    #[test]
    fn warm_up_includes_both_ends_and_base_lr_comes_twice() {
        // numpy.linspace(0.3, 4.8, 10): steps of 0.5.
        let schedule = LearningRate::new(&optim(2.0), 5, 10);
        for step in 0..10 {
            assert_close(schedule.at(step), 0.3 + 0.5 * step as f64);
        }
        assert_eq!(schedule.at(9), 4.8);
        assert_eq!(schedule.at(10), 4.8);
    }

    #[test]
    fn the_cosine_follows_the_formula_and_does_not_reach_final_lr() {
        let schedule = LearningRate::new(&optim(2.0), 5, 10);
        // T = 40: a quarter, half and three quarters of the way.
        let (half, root) = (0.5 * (4.8 - 0.0048), std::f64::consts::FRAC_1_SQRT_2);
        assert_close(schedule.at(10 + 10), 0.0048 + half * (1.0 + root));
        assert_close(schedule.at(10 + 20), 0.0048 + half);
        assert_close(schedule.at(10 + 30), 0.0048 + half * (1.0 - root));
        assert!(schedule.at(49) > 0.0048);
        assert_eq!(schedule.at(1000), schedule.at(49));
    }

    #[test]
    fn without_warm_up_the_first_step_has_base_lr() {
        assert_eq!(LearningRate::new(&optim(0.0), 5, 10).at(0), 4.8);
    }

    #[test]
    fn a_fractional_warm_up_is_rounded_to_steps_and_one_step_is_its_start() {
        // 0.5 epochs of 4 steps: [0.3, 4.8], then the cosine.
        let schedule = LearningRate::new(&optim(0.5), 4, 1);
        assert_eq!([schedule.at(0), schedule.at(1), schedule.at(2)], [0.3, 4.8, 4.8]);
        assert_close(schedule.at(3), 0.0048 + 0.5 * (4.8 - 0.0048));
        assert_eq!(LearningRate::new(&optim(0.25), 4, 1).at(0), 0.3);
    }

    #[test]
    fn a_schedule_per_epoch_holds_its_value_for_an_epoch() {
        let settings = Optim { schedule_per: SchedulePer::Epoch, warmup_epochs: 0.0, final_lr: 0.0, ..optim(0.0) };
        let schedule = LearningRate::new(&settings, 100, 4);
        assert_eq!((schedule.at(0), schedule.at(99)), (4.8, 4.8));
        assert_close(schedule.at(100), 2.4 * (1.0 + std::f64::consts::FRAC_1_SQRT_2));
        assert_close(schedule.at(299), 2.4);
    }
}
