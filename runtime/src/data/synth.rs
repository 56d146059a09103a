//! A procedural data set: textured, coloured shapes, for trying things out without downloading any images.
//!
//! The class of an image is a combination of shape and texture. Colours, size, place, rotation, background and noise are
//! random and say nothing about the class, so that raw pixels do not give it away but an encoder can learn it.

use std::fs;
use std::path::{Path, PathBuf};

use jpeg_encoder::{ColorType, Encoder};

use super::error::DataError;
use super::new_folder::fill_new_folder;
use super::random::{Purpose, Random};

const SHAPES: [&str; 8] = ["circle", "square", "triangle", "star", "cross", "ring", "crescent", "hexagon"];
const TEXTURES: [&str; 6] = ["stripes", "checks", "dots", "plain", "waves", "rings"];

/// Most classes there can be: every shape with every texture.
pub const MOST_CLASSES: usize = SHAPES.len() * TEXTURES.len();

/// Settings of a synthetic data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthConfig {
    /// Images, spread evenly over the classes.
    pub images: usize,
    /// Classes, 1 to [`MOST_CLASSES`].
    pub classes: usize,
    /// Side of an image, px, 16 to 1024.
    pub size_px: usize,
    /// Other seeds give other images of the same classes.
    pub seed: u64,
}

/// Writes a data set of JPEG files in class folders; after an error there are none. `progress` gets the number of images done.
///
/// # Errors
/// A folder with something in it, impossible settings, and files that cannot be written.
pub fn write(folder: &Path, config: &SynthConfig, mut progress: impl FnMut(usize)) -> Result<(), DataError> {
    let SynthConfig { images, classes, size_px, seed } = *config;
    if !(1..=MOST_CLASSES).contains(&classes) {
        return Err(DataError::SynthClasses { classes, most: MOST_CLASSES });
    }
    if !(16..=1024).contains(&size_px) {
        return Err(DataError::SynthSize { size_px });
    }
    if images == 0 {
        return Err(DataError::Zero { setting: "images" });
    }
    let io = |path: &Path| {
        let path = PathBuf::from(path);
        move |source| DataError::Io { path, source }
    };
    fill_new_folder(folder, || {
        for class in 0..classes.min(images) {
            let path = folder.join(class_name(class));
            fs::create_dir(&path).map_err(io(&path))?;
        }
        for index in 0..images {
            let class = index % classes;
            let path = folder.join(class_name(class)).join(format!("{:06}.jpg", index / classes));
            let rgb = render(class, size_px, &mut Random::new(seed, Purpose::Synth, 0, index as u64));
            let encode = |error: jpeg_encoder::EncodingError| DataError::Encode { path: path.clone(), message: error.to_string() };
            let mut bytes = Vec::new();
            Encoder::new(&mut bytes, 92).encode(&rgb, size_px as u16, size_px as u16, ColorType::Rgb).map_err(encode)?;
            fs::write(&path, bytes).map_err(io(&path))?;
            progress(index + 1);
        }
        Ok(())
    })
}

/// Shape and texture of a class. The first classes share no shape, and each texture serves several of them, so that
/// neither alone tells all classes apart.
fn class_parts(class: usize) -> (usize, usize) {
    let shape = class % SHAPES.len();
    (shape, (shape + class / SHAPES.len()) % TEXTURES.len())
}

/// Name of a class, for example `circle-stripes`.
pub fn class_name(class: usize) -> String {
    let (shape, texture) = class_parts(class);
    format!("{}-{}", SHAPES[shape], TEXTURES[texture])
}

type Colour = [f64; 3];

/// One image of a class, u8 [size, size, 3].
fn render(class: usize, size_px: usize, random: &mut Random) -> Vec<u8> {
    let (shape, texture) = class_parts(class);
    let figure = Figure::draw(shape, texture, random);
    let background = Background::draw(random);
    let noise = random.uniform(0.0, 12.0);
    // Four samples a pixel smooth the edges.
    const SAMPLES: [f64; 2] = [0.25, 0.75];
    let mut rgb = Vec::with_capacity(3 * size_px * size_px);
    for y in 0..size_px {
        for x in 0..size_px {
            let mut sum = [0.0; 3];
            for dy in SAMPLES {
                for dx in SAMPLES {
                    // −1…1 across the image.
                    let place = [x as f64 + dx, y as f64 + dy].map(|v| 2.0 * v / size_px as f64 - 1.0);
                    let colour = figure.colour(place).unwrap_or_else(|| background.colour(place));
                    sum = std::array::from_fn(|c| sum[c] + colour[c] / 4.0);
                }
            }
            rgb.extend(sum.map(|value| (value + noise * random.normal()).clamp(0.0, 255.0) as u8));
        }
    }
    rgb
}

/// A random colour of about the given luma.
fn colour(random: &mut Random, luma: f64) -> Colour {
    let raw: Colour = std::array::from_fn(|_| random.uniform(0.0, 255.0));
    let shift = luma - (0.299 * raw[0] + 0.587 * raw[1] + 0.114 * raw[2]);
    raw.map(|value| (value + shift).clamp(0.0, 255.0))
}

/// The textured shape.
struct Figure {
    shape: usize,
    texture: usize,
    centre: [f64; 2],
    radius: f64,
    rotation: (f64, f64),
    /// Of the texture, against the shape.
    texture_rotation: (f64, f64),
    phase: [f64; 2],
    /// Periods of the texture across the shape's radius.
    frequency: f64,
    colours: [Colour; 2],
}

impl Figure {
    fn draw(shape: usize, texture: usize, random: &mut Random) -> Figure {
        let radius = random.uniform(0.6, 0.95);
        let reach = 1.0 - 0.8 * radius;
        let dark = random.uniform(30.0, 90.0);
        let mut lumas = [dark, dark + random.uniform(90.0, 140.0)];
        random.shuffle(&mut lumas);
        Figure {
            shape,
            texture,
            centre: std::array::from_fn(|_| random.uniform(-reach, reach)),
            radius,
            rotation: random.uniform(0.0, std::f64::consts::TAU).sin_cos(),
            texture_rotation: random.uniform(0.0, std::f64::consts::TAU).sin_cos(),
            phase: std::array::from_fn(|_| random.unit()),
            frequency: random.uniform(1.6, 2.4),
            colours: lumas.map(|luma| colour(random, luma)),
        }
    }

    /// The colour at a place, if the shape covers it.
    fn colour(&self, place: [f64; 2]) -> Option<Colour> {
        let local = rotate([0, 1].map(|axis| (place[axis] - self.centre[axis]) / self.radius), self.rotation);
        covers(self.shape, local).then(|| self.colours[usize::from(self.marked(local))])
    }

    /// Whether the texture shows its second colour at a place of the shape.
    fn marked(&self, local: [f64; 2]) -> bool {
        let [u, v] = rotate(local, self.texture_rotation);
        let [u, v] = [u * self.frequency + self.phase[0], v * self.frequency + self.phase[1]];
        let upper_half = |t: f64| t.rem_euclid(1.0) < 0.5;
        match TEXTURES[self.texture] {
            "stripes" => upper_half(u),
            "checks" => upper_half(u) != upper_half(v),
            "dots" => (u.rem_euclid(1.0) - 0.5).hypot(v.rem_euclid(1.0) - 0.5) < 0.33,
            "waves" => upper_half(u + 0.3 * (std::f64::consts::TAU * v).sin()),
            "rings" => upper_half(local[0].hypot(local[1]) * self.frequency * 1.2 + self.phase[0]),
            _ => false,
        }
    }
}

/// Whether a shape of radius 1 around the origin covers a place.
fn covers(shape: usize, [x, y]: [f64; 2]) -> bool {
    let radius = x.hypot(y);
    // Distance to the nearest side of a regular polygon, from its centre.
    let polygon = |sides: f64| {
        let sector = std::f64::consts::TAU / sides;
        radius * ((y.atan2(x)).rem_euclid(sector) - sector / 2.0).cos()
    };
    match SHAPES[shape] {
        "circle" => radius < 0.9,
        "square" => x.abs().max(y.abs()) < 0.78,
        "triangle" => polygon(3.0) < 0.5,
        "star" => {
            let sector = std::f64::consts::TAU / 5.0;
            let from_point = ((y.atan2(x)).rem_euclid(sector) - sector / 2.0).abs() / (sector / 2.0);
            radius < 0.42 + 0.58 * from_point.powf(1.3)
        }
        "cross" => x.abs().min(y.abs()) < 0.28 && x.abs().max(y.abs()) < 0.95,
        "ring" => (0.5..0.95).contains(&radius),
        "crescent" => radius < 0.95 && (x - 0.45).hypot(y) > 0.7,
        _ => polygon(6.0) < 0.82,
    }
}

fn rotate([x, y]: [f64; 2], (sin, cos): (f64, f64)) -> [f64; 2] {
    [cos * x - sin * y, sin * x + cos * y]
}

/// A gradient between two colours with soft waves over it.
struct Background {
    colours: [Colour; 2],
    direction: (f64, f64),
    waves: [(f64, f64, f64); 3],
}

impl Background {
    fn draw(random: &mut Random) -> Background {
        Background {
            colours: std::array::from_fn(|_| {
                let luma = random.uniform(40.0, 215.0);
                // Half as colourful as the shape, which is what an image is about.
                colour(random, luma).map(|value| (value + luma) / 2.0)
            }),
            direction: random.uniform(0.0, std::f64::consts::TAU).sin_cos(),
            waves: std::array::from_fn(|_| (random.uniform(-4.0, 4.0), random.uniform(-4.0, 4.0), random.uniform(0.0, std::f64::consts::TAU))),
        }
    }

    fn colour(&self, place: [f64; 2]) -> Colour {
        let along = rotate(place, self.direction)[0];
        let wave: f64 = self.waves.iter().map(|&(fx, fy, phase)| (fx * place[0] + fy * place[1] + phase).sin()).sum();
        let share = (0.5 + 0.4 * along + 0.12 * wave).clamp(0.0, 1.0);
        std::array::from_fn(|c| self.colours[0][c] + share * (self.colours[1][c] - self.colours[0][c]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn classes_are_different_combinations() {
        let names: BTreeSet<String> = (0..MOST_CLASSES).map(class_name).collect();
        assert_eq!(names.len(), MOST_CLASSES);
    }

    #[test]
    fn an_image_is_a_function_of_class_and_seed() {
        let render_seeded = |class, seed| render(class, 24, &mut Random::new(seed, Purpose::Synth, 0, 5));
        assert_eq!(render_seeded(2, 1), render_seeded(2, 1));
        assert_ne!(render_seeded(2, 1), render_seeded(2, 2));
        assert_ne!(render_seeded(2, 1), render_seeded(3, 1));
    }

    #[test]
    fn every_shape_covers_a_fair_part_of_its_circle() {
        for (shape, name) in SHAPES.iter().enumerate() {
            let grid = (0..100 * 100).map(|i| [f64::from(i % 100) / 50.0 - 1.0, f64::from(i / 100) / 50.0 - 1.0]);
            let share = grid.filter(|&place| covers(shape, place)).count() as f64 / 1e4;
            assert!((0.2..0.75).contains(&share), "{name} covers {share}");
        }
    }

    #[test]
    fn images_are_spread_evenly_and_a_folder_in_use_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let config = SynthConfig { images: 7, classes: 3, size_px: 16, seed: 0 };
        let mut seen = Vec::new();
        write(folder.path(), &config, |done| seen.push(done)).expect("written");
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
        let count = |class| fs::read_dir(folder.path().join(class_name(class))).expect("class folder").count();
        assert_eq!([count(0), count(1), count(2)], [3, 2, 2]);
        assert!(matches!(write(folder.path(), &config, |_| {}), Err(DataError::NotEmpty { .. })));
        for config in [
            SynthConfig { classes: 0, ..config.clone() },
            SynthConfig { classes: MOST_CLASSES + 1, ..config.clone() },
            SynthConfig { size_px: 8, ..config.clone() },
            SynthConfig { images: 0, ..config.clone() },
        ] {
            assert!(write(&folder.path().join("new"), &config, |_| {}).is_err(), "{config:?}");
        }
    }
}
