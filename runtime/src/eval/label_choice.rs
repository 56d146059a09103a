//! Which training images keep their labels in a semi-supervised evaluation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Bounds, EvalError};
use crate::data::{Dataset, Purpose, Random};

/// Which images are labelled.
#[derive(Debug, Clone, PartialEq)]
pub enum LabelChoice {
    /// This share of each class, above 0 and up to 1, drawn at random; at least one image.
    Share(f64),
    /// Those that a text file names, one a line: file names, or paths inside the data set. The official subsets of ImageNet
    /// are such lists.
    Listed(PathBuf),
}

impl LabelChoice {
    /// Indices of the chosen images, ascending.
    ///
    /// # Errors
    /// A share out of range; a list that cannot be read, names images that are not there, or names that several images have.
    pub fn choose(&self, dataset: &Dataset, seed: u64) -> Result<Vec<usize>, EvalError> {
        match self {
            LabelChoice::Share(share) => by_share(dataset, *share, seed),
            LabelChoice::Listed(file) => listed(dataset, file),
        }
    }
}

fn by_share(dataset: &Dataset, share: f64, seed: u64) -> Result<Vec<usize>, EvalError> {
    Bounds::SHARE.require("--share", share)?;
    let mut classes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in 0..dataset.len() {
        let class = dataset.label(index).ok_or_else(|| EvalError::Unlabelled { name: dataset.name(index) })?;
        classes.entry(class).or_default().push(index);
    }
    let mut chosen = Vec::new();
    for (class, mut images) in classes {
        // Epoch 0 draws subsets of whole data sets.
        Random::new(seed, Purpose::Subset, 1, class as u64).shuffle(&mut images);
        let count = (share * images.len() as f64).round() as usize;
        chosen.extend_from_slice(&images[..count.clamp(1, images.len())]);
    }
    chosen.sort_unstable();
    Ok(chosen)
}

fn listed(dataset: &Dataset, file: &Path) -> Result<Vec<usize>, EvalError> {
    let refuse = |problem: String| EvalError::Setting { setting: "--labels", problem: format!("{}: {problem}", file.display()) };
    let text = std::fs::read_to_string(file).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for index in 0..dataset.len() {
        let path = dataset.inner_name(index);
        let name = path.rsplit('/').next().unwrap_or(path);
        by_name.entry(path).or_default().push(index);
        if name != path {
            by_name.entry(name).or_default().push(index);
        }
    }
    let mut chosen = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match by_name.get(line).map(Vec::as_slice) {
            Some([index]) => chosen.push(*index),
            Some(several) => {
                return Err(refuse(format!(
                    "{} images are named {line}; write their paths inside the data set, such as {}",
                    several.len(),
                    dataset.inner_name(several[0])
                )));
            }
            None => return Err(refuse(format!("names {line}, which the training images do not have; they have names like {}", dataset.inner_name(0)))),
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    if chosen.is_empty() {
        return Err(refuse("expected file names, one a line, found none".into()));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synth::{self, SynthConfig};

    fn images(folder: &Path) -> Dataset {
        synth::write(folder, &SynthConfig { images: 60, classes: 3, size_px: 16, seed: 1 }, |_| {}).expect("images");
        Dataset::open(&[folder.into()]).expect("a data set")
    }

    #[test]
    fn a_share_is_one_of_every_class_and_follows_the_seed() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let dataset = images(folder.path());
        let chosen = LabelChoice::Share(0.1).choose(&dataset, 5).expect("valid");
        let mut of_class = [0; 3];
        chosen.iter().for_each(|&index| of_class[dataset.label(index).expect("a label")] += 1);
        assert_eq!(of_class, [2, 2, 2]);
        assert!(chosen.is_sorted());
        assert_eq!(LabelChoice::Share(0.1).choose(&dataset, 5).expect("valid"), chosen);
        assert_ne!(LabelChoice::Share(0.1).choose(&dataset, 6).expect("valid"), chosen);
        assert_eq!(LabelChoice::Share(1e-6).choose(&dataset, 5).expect("valid").len(), 3, "one of each at least");
        assert_eq!(LabelChoice::Share(1.0).choose(&dataset, 5).expect("valid"), (0..60).collect::<Vec<_>>());
        for share in [0.0, 1.5, f64::NAN] {
            assert!(LabelChoice::Share(share).choose(&dataset, 5).expect_err("out of range").to_string().contains("--share"));
        }
    }

    #[test]
    fn a_list_names_files_or_paths() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let data = folder.path().join("images");
        for (class, image) in [("cats", "tom.jpg"), ("cats", "twin.jpg"), ("dogs", "rex.jpg"), ("dogs", "twin.jpg")] {
            std::fs::create_dir_all(data.join(class)).and_then(|()| std::fs::write(data.join(class).join(image), "encoded")).expect("write");
        }
        let dataset = Dataset::open(&[data]).expect("a data set");
        let list = folder.path().join("list.txt");
        let choose = |text: &str| {
            std::fs::write(&list, text).expect("write");
            LabelChoice::Listed(list.clone()).choose(&dataset, 0).map_err(|error| error.to_string())
        };
        assert_eq!(choose("rex.jpg\r\n\ncats/tom.jpg\ntom.jpg\ndogs/twin.jpg\n").expect("named"), [0, 2, 3]);
        let error = choose("tom.jpg\nabsent.jpg").expect_err("not there");
        assert!(error.contains("list.txt: names absent.jpg") && error.contains("names like cats/tom.jpg"), "{error}");
        let error = choose("twin.jpg").expect_err("ambiguous");
        assert!(error.contains("2 images are named twin.jpg") && error.contains("cats/twin.jpg"), "{error}");
        assert!(choose("\n").expect_err("empty").contains("found none"));
    }
}
