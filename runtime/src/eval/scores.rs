//! What a classifier got right, class by class.

use ndarray::Array2;

/// Classes that count as found for the top-5 accuracy.
pub const TOP: usize = 5;

/// The classes predicted for each test image, the most likely first, at most [`TOP`]. Never empty.
pub type Rankings = Vec<Vec<usize>>;

/// Accuracies and the confusion matrix of one classifier on one test set.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// u32 [C, C]: images of the row's class that were taken for the column's.
    pub confusion: Array2<u32>,
    /// Test images of each class whose class is among the first [`TOP`].
    top5: Vec<u32>,
}

impl Scores {
    /// Compares predictions with the truth.
    ///
    /// # Panics
    /// If there are not as many rankings as labels, or a class is none of `classes`.
    pub fn new(rankings: &Rankings, labels: &[usize], classes: &[String]) -> Scores {
        assert_eq!(rankings.len(), labels.len(), "one ranking a test image");
        let mut confusion = Array2::zeros((classes.len(), classes.len()));
        let mut top5 = vec![0; classes.len()];
        for (ranking, &label) in rankings.iter().zip(labels) {
            confusion[[label, ranking[0]]] += 1;
            top5[label] += u32::from(ranking.iter().take(TOP).any(|&class| class == label));
        }
        Scores { classes: classes.to_vec(), confusion, top5 }
    }

    /// Number of test images.
    pub fn images(&self) -> u32 {
        self.confusion.sum()
    }

    /// Share of the images, 0 to 1, whose first class is the right one.
    pub fn top1(&self) -> f64 {
        f64::from(self.confusion.diag().sum()) / f64::from(self.images())
    }

    /// Share of the images, 0 to 1, whose class is among the first five. A class without a single vote is not counted.
    pub fn top5(&self) -> f64 {
        f64::from(self.top5.iter().sum::<u32>()) / f64::from(self.images())
    }

    /// Test images of a class, and shares of them found at first and among the first five.
    pub fn class(&self, class: usize) -> ClassScore {
        let images = self.confusion.row(class).sum();
        let share = |count: u32| (images > 0).then(|| f64::from(count) / f64::from(images));
        ClassScore { images, top1: share(self.confusion[[class, class]]), top5: share(self.top5[class]) }
    }

    /// Mean of the classes' top-1 accuracies, classes without test images left out.
    pub fn mean_class_top1(&self) -> f64 {
        let shares: Vec<f64> = (0..self.classes.len()).filter_map(|class| self.class(class).top1).collect();
        shares.iter().sum::<f64>() / shares.len() as f64
    }
}

/// How one class came out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassScore {
    /// Test images of the class.
    pub images: u32,
    /// Share found at first, 0 to 1; `None` without test images.
    pub top1: Option<f64>,
    /// Share found among the first five.
    pub top5: Option<f64>,
}

/// The indices of the largest values, the largest first and of equal ones the smaller index first; at most [`TOP`].
pub(super) fn rank(values: impl Iterator<Item = f64>) -> Vec<usize> {
    let mut best: Vec<(usize, f64)> = Vec::with_capacity(TOP + 1);
    for (class, value) in values.enumerate() {
        if best.len() < TOP || value > best[TOP - 1].1 {
            let place = best.partition_point(|&(_, other)| other >= value);
            best.insert(place, (class, value));
            best.truncate(TOP);
        }
    }
    best.into_iter().map(|(class, _)| class).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn scores() -> Scores {
        let classes = ["a", "b", "c"].map(String::from);
        Scores::new(&vec![vec![0, 1], vec![1], vec![2, 1], vec![0, 2]], &[0, 0, 1, 1], &classes)
    }

    #[test]
    fn rows_of_the_confusion_matrix_are_the_true_classes() {
        let scores = scores();
        assert_eq!(scores.confusion, array![[1, 1, 0], [1, 0, 1], [0, 0, 0]]);
        assert_eq!((scores.top1(), scores.top5(), scores.mean_class_top1()), (0.25, 0.5, 0.25));
        assert_eq!(scores.class(1), ClassScore { images: 2, top1: Some(0.0), top5: Some(0.5) });
        assert_eq!(scores.class(2), ClassScore { images: 0, top1: None, top5: None });
    }

    #[test]
    fn ranks_are_stable_and_at_most_five() {
        assert_eq!(rank([1.0, 3.0, 3.0, 2.0].into_iter()), [1, 2, 3, 0]);
        assert_eq!(rank([0.0; 9].into_iter()), [0, 1, 2, 3, 4]);
        assert_eq!(rank((0..9).map(f64::from)), [8, 7, 6, 5, 4]);
    }
}
