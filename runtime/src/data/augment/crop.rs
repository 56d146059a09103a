//! RandomResizedCrop: which part of the image a crop shows.

use crate::data::random::Random;

/// A rectangle inside an image, px.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Left edge.
    pub x: usize,
    /// Top edge.
    pub y: usize,
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
}

const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// Draws a window of torchvision's `RandomResizedCrop`: an area share U(`min_scale`, `max_scale`), an aspect ratio
/// log-uniform in [3/4, 4/3], at a uniform place. After ten tries that do not fit it is the largest window in the centre
/// with an allowed ratio.
pub fn random_window(random: &mut Random, width: usize, height: usize, min_scale: f64, max_scale: f64) -> Window {
    let area = (width * height) as f64;
    for _ in 0..10 {
        let target = area * random.uniform(min_scale, max_scale);
        let ratio = random.uniform(RATIO.0.ln(), RATIO.1.ln()).exp();
        // Python's round: halves go to the even neighbour.
        let w = (target * ratio).sqrt().round_ties_even() as usize;
        let h = (target / ratio).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let y = random.below(height - h + 1);
            let x = random.below(width - w + 1);
            return Window { x, y, width: w, height: h };
        }
    }
    let ratio = width as f64 / height as f64;
    let (w, h) = if ratio < RATIO.0 {
        (width, (width as f64 / RATIO.0).round_ties_even() as usize)
    } else if ratio > RATIO.1 {
        ((height as f64 * RATIO.1).round_ties_even() as usize, height)
    } else {
        (width, height)
    };
    // An image one pixel wide or high can round past its own edge or down to nothing.
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    Window { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::Purpose;

    fn windows(width: usize, height: usize, scale: (f64, f64), count: u64) -> Vec<Window> {
        (0..count).map(|index| random_window(&mut Random::new(5, Purpose::Augment, 0, index), width, height, scale.0, scale.1)).collect()
    }

    #[test]
    fn windows_lie_inside_with_allowed_area_and_ratio() {
        for window in windows(500, 375, (0.14, 1.0), 5000) {
            assert!(window.x + window.width <= 500 && window.y + window.height <= 375, "{window:?}");
            let share = (window.width * window.height) as f64 / (500.0 * 375.0);
            let ratio = window.width as f64 / window.height as f64;
            // Rounding to whole pixels moves a side of at least 120 px by half a pixel.
            assert!((0.138..=1.0).contains(&share) && (0.744..=1.344).contains(&ratio), "{window:?}");
        }
    }

    #[test]
    fn areas_are_uniform_and_places_centred() {
        // Small shares always fit at the first try, so the area keeps its uniform distribution.
        let windows = windows(500, 375, (0.05, 0.14), 20_000);
        let mean = |value: &dyn Fn(&Window) -> f64| windows.iter().map(value).sum::<f64>() / windows.len() as f64;
        let share = mean(&|w| (w.width * w.height) as f64 / 187_500.0);
        // Standard error of the mean: 0.09/√12/√20000 = 0.00018; six of them.
        assert!((share - 0.095).abs() < 0.0012, "{share}");
        let log_ratio = mean(&|w| (w.width as f64 / w.height as f64).ln());
        assert!(log_ratio.abs() < 0.008, "{log_ratio}");
        // Centres: sd of a uniform place is at most 500/√12, its error over 20000 draws 1.02 px.
        assert!((mean(&|w| w.x as f64 + w.width as f64 / 2.0) - 250.0).abs() < 5.0);
        assert!((mean(&|w| w.y as f64 + w.height as f64 / 2.0) - 187.5).abs() < 5.0);
    }

    #[test]
    fn a_long_thin_image_falls_back_to_its_centre() {
        for window in windows(1000, 10, (0.9, 1.0), 50) {
            assert_eq!(window, Window { x: 493, y: 0, width: 13, height: 10 });
        }
        for window in windows(1, 1, (0.05, 0.14), 50) {
            assert_eq!(window, Window { x: 0, y: 0, width: 1, height: 1 });
        }
        for (width, height) in [(1, 50), (50, 1), (2, 3)] {
            for window in windows(width, height, (0.05, 1.0), 200) {
                assert!(window.width >= 1 && window.height >= 1 && window.x + window.width <= width && window.y + window.height <= height);
            }
        }
    }
}
