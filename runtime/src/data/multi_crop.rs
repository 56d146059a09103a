//! All crops of one image: what is drawn for each, and how it is made.

use graphgen::preset::{CropGroup, Crops};

use super::augment::blur::{BlurScratch, gaussian_blur};
use super::augment::crop::{Window, random_window};
use super::augment::grayscale::grayscale;
use super::augment::hue::{hue, hue_shift};
use super::augment::jitter::{brightness, contrast, saturation};
use super::augment::resize::Resizer;
use super::decode::RgbImage;
use super::random::Random;
use super::stages::{Lap, StageTimes};

/// Probability of a horizontal flip.
const FLIP: f64 = 0.5;
/// Probability of the colour jitter, where its strength is not 0.
const JITTER: f64 = 0.8;
/// Standard deviations of the blur, px.
const BLUR_RADIUS: (f64, f64) = (0.1, 2.0);

/// One step of the colour jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Jitter {
    /// Brightness by a factor.
    Brightness(f32),
    /// Contrast by a factor.
    Contrast(f32),
    /// Saturation by a factor.
    Saturation(f32),
    /// Hue by 1/255 of the circle.
    Hue(i32),
}

/// What was drawn for one crop.
#[derive(Debug, Clone, PartialEq)]
pub struct CropPlan {
    /// The part of the image that is shown.
    pub window: Window,
    /// Side of the crop, px.
    pub size_px: usize,
    /// Whether it is mirrored.
    pub flip: bool,
    /// Colour jitter in its order; `None` for none.
    pub jitter: Option<[Jitter; 4]>,
    /// Whether it becomes grey.
    pub grayscale: bool,
    /// Standard deviation of the blur, px; 0 for none.
    pub blur_radius: f32,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub struct Scratch {
    resizer: Resizer,
    blur: BlurScratch,
}

/// The crops and augmentations of a preset.
///
/// A crop goes through RandomResizedCrop with the flip, colour jitter, greyscale and blur.
#[derive(Debug, Clone)]
pub struct MultiCrop {
    crops: Crops,
    groups: Vec<CropGroup>,
}

impl MultiCrop {
    /// The crops of valid preset settings.
    pub fn new(crops: &Crops) -> MultiCrop {
        MultiCrop { groups: crops.groups(), crops: crops.clone() }
    }

    /// Groups of adjacent crops of equal size.
    pub fn groups(&self) -> &[CropGroup] {
        &self.groups
    }

    /// Bytes of all crops of one image.
    pub fn bytes_per_image(&self) -> usize {
        self.groups.iter().map(|group| group.count * crop_bytes(group.size_px)).sum()
    }

    /// Draws all crops of an image of `width` x `height` px, in crop order.
    pub fn plan(&self, random: &mut Random, width: usize, height: usize) -> impl Iterator<Item = CropPlan> {
        let Crops { size_crops, nmb_crops, min_scale_crops, max_scale_crops, .. } = &self.crops;
        let entries = size_crops.iter().zip(nmb_crops).zip(min_scale_crops.iter().zip(max_scale_crops));
        let crops = entries.flat_map(|((&size_px, &count), (&min, &max))| std::iter::repeat_n((size_px, min, max), count));
        crops.map(move |(size_px, min, max)| CropPlan {
            window: random_window(random, width, height, min, max),
            size_px,
            flip: random.chance(FLIP),
            jitter: (self.crops.jitter > 0.0 && random.chance(JITTER)).then(|| draw_jitter(random, self.crops.jitter)),
            grayscale: random.chance(self.crops.grayscale),
            blur_radius: if random.chance(self.crops.blur) { random.uniform(BLUR_RADIUS.0, BLUR_RADIUS.1) as f32 } else { 0.0 },
        })
    }

    /// Makes all crops of an image, one after another, each u8 [3, S, S]; adds the time of each stage to `times`.
    ///
    /// # Panics
    /// If `out` does not have [`bytes_per_image`](Self::bytes_per_image) bytes or the image is empty.
    pub fn apply(&self, image: &RgbImage, random: &mut Random, scratch: &mut Scratch, out: &mut [u8], times: &mut StageTimes) {
        let plans: Vec<CropPlan> = self.plan(random, image.width(), image.height()).collect();
        self.apply_plans(image, &plans, scratch, out, times);
    }

    /// Makes the crops that [`plan`](Self::plan) drew for an image of this size.
    ///
    /// # Panics
    /// As [`apply`](Self::apply), and if a window reaches outside the image.
    pub(super) fn apply_plans(&self, image: &RgbImage, plans: &[CropPlan], scratch: &mut Scratch, mut out: &mut [u8], times: &mut StageTimes) {
        assert_eq!(out.len(), self.bytes_per_image(), "a buffer for all crops of an image");
        for plan in plans {
            let (crop, rest) = out.split_at_mut(crop_bytes(plan.size_px));
            plan.apply(image, scratch, crop, times);
            out = rest;
        }
    }
}

/// Bytes of a crop: u8 [3, S, S].
pub(super) fn crop_bytes(size_px: usize) -> usize {
    3 * size_px * size_px
}

fn draw_jitter(random: &mut Random, strength: f64) -> [Jitter; 4] {
    let (colour, hue) = (0.8 * strength, 0.2 * strength);
    let mut factor = || random.uniform((1.0 - colour).max(0.0), 1.0 + colour) as f32;
    let (brightness, contrast, saturation) = (factor(), factor(), factor());
    let shift = hue_shift(random.uniform(-hue, hue));
    let mut steps = [Jitter::Brightness(brightness), Jitter::Contrast(contrast), Jitter::Saturation(saturation), Jitter::Hue(shift)];
    random.shuffle(&mut steps);
    steps
}

impl CropPlan {
    /// Makes the crop, u8 [3, S, S]; adds the time of each stage to `times`.
    ///
    /// # Panics
    /// If `out` has another size or the window reaches outside the image.
    pub fn apply(&self, image: &RgbImage, scratch: &mut Scratch, out: &mut [u8], times: &mut StageTimes) {
        let mut clock = Lap::start();
        scratch.resizer.resize(image, self.window, self.size_px, self.size_px, self.flip, out);
        times.resize += clock.lap();

        for step in self.jitter.iter().flatten() {
            match *step {
                Jitter::Brightness(factor) => brightness(out, factor),
                Jitter::Contrast(factor) => contrast(out, factor),
                Jitter::Saturation(factor) => saturation(out, factor),
                Jitter::Hue(shift) => hue(out, shift),
            }
        }
        if self.grayscale {
            grayscale(out);
        }
        times.jitter += clock.lap();

        if self.blur_radius > 0.0 {
            let plane_bytes = self.size_px * self.size_px;
            if self.grayscale {
                let (plane, others) = out.split_at_mut(plane_bytes);
                gaussian_blur(plane, self.size_px, self.blur_radius, &mut scratch.blur);
                others.chunks_exact_mut(plane_bytes).for_each(|other| other.copy_from_slice(plane));
            } else {
                for plane in out.chunks_exact_mut(plane_bytes) {
                    gaussian_blur(plane, self.size_px, self.blur_radius, &mut scratch.blur);
                }
            }
        }
        times.blur += clock.lap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::Purpose;

    fn plans(crops: &Crops, images: u64) -> Vec<CropPlan> {
        let multi_crop = MultiCrop::new(crops);
        (0..images).flat_map(|index| multi_crop.plan(&mut Random::new(1, Purpose::Augment, 0, index), 400, 300).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn augmentations_come_as_often_as_the_method_says() {
        let plans = plans(&Crops::default(), 1000);
        assert_eq!(plans.len(), 8000);
        let share = |holds: &dyn Fn(&CropPlan) -> bool| plans.iter().filter(|plan| holds(plan)).count() as f64 / plans.len() as f64;
        // Five standard deviations: 5 · √(0.25/8000) = 0.028.
        assert!((share(&|plan| plan.flip) - 0.5).abs() < 0.028);
        assert!((share(&|plan| plan.jitter.is_some()) - 0.8).abs() < 0.028);
        assert!((share(&|plan| plan.grayscale) - 0.2).abs() < 0.028);
        assert!((share(&|plan| plan.blur_radius > 0.0) - 0.5).abs() < 0.028);
        assert!((share(&|plan| matches!(plan.jitter, Some([Jitter::Hue(_), ..]))) - 0.2).abs() < 0.028);
        for plan in &plans {
            assert!(plan.blur_radius == 0.0 || (0.1..=2.0).contains(&plan.blur_radius));
            for step in plan.jitter.iter().flatten() {
                match *step {
                    Jitter::Brightness(factor) | Jitter::Contrast(factor) | Jitter::Saturation(factor) => assert!((0.2..=1.8).contains(&factor)),
                    Jitter::Hue(shift) => assert!((-51..=51).contains(&shift)),
                }
            }
        }
    }

    #[test]
    fn a_preset_without_augmentations_gets_none() {
        let crops = Crops { jitter: 0.0, blur: 0.0, grayscale: 0.0, ..Crops::default() };
        assert!(plans(&crops, 100).iter().all(|plan| plan.jitter.is_none() && !plan.grayscale && plan.blur_radius == 0.0));
    }

    #[test]
    fn a_flipped_crop_is_the_crop_of_the_mirrored_image() {
        let rgb: Vec<u8> = (0..3 * 40 * 30).map(|value: usize| (value * value / 7 % 256) as u8).collect();
        let image = RgbImage::from_rgb(40, 30, &rgb);
        let mirrored: Vec<u8> = rgb.chunks_exact(3 * 40).flat_map(|row| row.chunks_exact(3).rev().flatten().copied()).collect();
        let mirrored = RgbImage::from_rgb(40, 30, &mirrored);
        let plan = CropPlan {
            window: Window { x: 4, y: 2, width: 16, height: 16 },
            size_px: 16,
            flip: true,
            jitter: Some([Jitter::Contrast(1.4), Jitter::Hue(20), Jitter::Saturation(0.5), Jitter::Brightness(1.2)]),
            grayscale: false,
            blur_radius: 1.3,
        };
        let first = CropPlan { window: Window { x: 40 - 4 - 16, ..plan.window }, flip: false, ..plan.clone() };
        let make = |image: &RgbImage, plan: &CropPlan| {
            let mut out = vec![0; crop_bytes(16)];
            plan.apply(image, &mut Scratch::default(), &mut out, &mut StageTimes::default());
            out
        };
        assert_eq!(make(&image, &plan), make(&mirrored, &first));
    }
}
