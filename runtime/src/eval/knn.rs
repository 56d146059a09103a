//! Weighted k-nearest-neighbour classification on frozen features.
//!
//! Wu et al., arXiv 1805.01978, section 3.4, as lightly's benchmarks and DINO use it: cosine similarity, each of the k
//! nearest training images votes for its class with `exp(similarity / temperature)`.

use ndarray::{Array1, Array2, ArrayView1, Axis};

use super::scores::rank;
use super::{Bounds, EvalError, Rankings};

/// Test images of one unit of work.
const BLOCK: usize = 128;

/// One setting of the classifier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knn {
    /// Neighbours that vote.
    pub k: usize,
    /// Temperature of the votes.
    pub temperature: f64,
}

impl Default for Knn {
    fn default() -> Self {
        Knn { k: 20, temperature: 0.07 }
    }
}

/// Labelled features.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// f32 [N, F].
    rows: Array2<f32>,
    /// Lengths of the rows; 1 for a row of zeros, which is as similar to all others.
    norms: Vec<f64>,
    labels: Vec<usize>,
}

impl Labelled {
    /// Rows f32 [N, F] of any length with a class each.
    ///
    /// # Panics
    /// If there are not as many labels as rows.
    pub fn new(rows: Array2<f32>, labels: Vec<usize>) -> Labelled {
        assert_eq!(rows.nrows(), labels.len(), "one label a row");
        let norm = |row: ArrayView1<f32>| dot(row, row).sqrt();
        let norms = rows.axis_iter(Axis(0)).map(norm).map(|norm| if norm > 0.0 { norm } else { 1.0 }).collect();
        Labelled { rows, norms, labels }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Class of each image.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// The classes with the most votes for each test image, for each setting. Only classes with a vote are ranked; of equal
/// votes, the first class leads. A `k` beyond the bank uses all of it.
///
/// The result does not depend on the number of threads.
///
/// # Errors
/// No images, features of different lengths, settings out of range.
pub fn classify(bank: &Labelled, test: &Labelled, classes: usize, settings: &[Knn], threads: usize) -> Result<Vec<Rankings>, EvalError> {
    let invalid = |setting, problem: String| Err(EvalError::Setting { setting, problem });
    if bank.is_empty() || test.is_empty() {
        return invalid("kNN", format!("expected images in both sets, got {} for training and {} for testing", bank.len(), test.len()));
    }
    if bank.rows.ncols() != test.rows.ncols() {
        return invalid("kNN", format!("expected features of one length, got {} and {}", bank.rows.ncols(), test.rows.ncols()));
    }
    for knn in settings {
        if knn.k == 0 {
            return invalid("--k", "expected at least 1, got 0".into());
        }
        Bounds::TEMPERATURE.require("--temperature", knn.temperature)?;
    }
    let blocks: Vec<usize> = (0..test.len()).step_by(BLOCK).collect();
    let share = blocks.len().div_ceil(threads.max(1));
    let mut rankings: Vec<Rankings> = settings.iter().map(|_| Vec::with_capacity(test.len())).collect();
    std::thread::scope(|scope| {
        let work = |blocks: &[usize]| blocks.iter().map(|&start| rank_block(bank, test, start, classes, settings)).collect::<Vec<_>>();
        let threads: Vec<_> = blocks.chunks(share).map(|blocks| scope.spawn(move || work(blocks))).collect();
        for thread in threads {
            for block in thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                rankings.iter_mut().zip(block).for_each(|(all, block)| all.extend(block));
            }
        }
    });
    Ok(rankings)
}

/// Rankings of the test images of one block, for each setting.
fn rank_block(bank: &Labelled, test: &Labelled, start: usize, classes: usize, settings: &[Knn]) -> Vec<Rankings> {
    let end = (start + BLOCK).min(test.len());
    let products = test.rows.slice(ndarray::s![start..end, ..]).dot(&bank.rows.t());
    let most = settings.iter().map(|knn| knn.k).max().unwrap_or(0).min(bank.len());
    let mut rankings: Vec<Rankings> = settings.iter().map(|_| Vec::with_capacity(end - start)).collect();
    for (products, image) in products.axis_iter(Axis(0)).zip(start..) {
        let neighbours = neighbours(bank, test, image, products, most);
        for (knn, rankings) in settings.iter().zip(&mut rankings) {
            let mut votes = vec![0.0; classes];
            for &(index, similarity) in neighbours.iter().take(knn.k) {
                votes[bank.labels[index]] += (similarity / knn.temperature).exp();
            }
            let mut ranking = rank(votes.iter().copied());
            ranking.retain(|&class| votes[class] > 0.0);
            rankings.push(ranking);
        }
    }
    rankings
}

/// The `most` nearest images of a test image with their cosine similarities, the nearest first; of equally near ones, the
/// smaller index first. The f32 products choose the candidates, f64 decides: among tens of thousands of images, the last
/// neighbour and the next may be closer than f32 can tell.
fn neighbours(bank: &Labelled, test: &Labelled, image: usize, products: ArrayView1<f32>, most: usize) -> Vec<(usize, f64)> {
    let length = test.norms[image];
    let rounded: Array1<f32> = products.iter().zip(&bank.norms).map(|(&product, norm)| (f64::from(product) / (length * norm)) as f32).collect();
    // A sum of F products is off by F/2 units in the last place of the sum of their absolute values at most, which is 1.
    let margin = (bank.rows.ncols() + 2) as f32 * f32::EPSILON;
    let Some(&last) = nearest(rounded.view(), most).last() else { return Vec::new() };
    let candidates = (0..rounded.len()).filter(|&index| rounded[index] >= rounded[last] - margin);
    let exact = |index: usize| (index, dot(test.rows.row(image), bank.rows.row(index)) / (length * bank.norms[index]));
    let mut neighbours: Vec<(usize, f64)> = candidates.map(exact).collect();
    neighbours.sort_by(|a, b| b.1.total_cmp(&a.1));
    neighbours.truncate(most);
    neighbours
}

fn dot(a: ArrayView1<f32>, b: ArrayView1<f32>) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Indices of the `count` largest similarities, the largest first; of equal ones, the smaller index first.
pub(crate) fn nearest(similarities: ArrayView1<f32>, count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..similarities.len()).collect();
    let by_similarity = |a: &usize, b: &usize| similarities[*b].total_cmp(&similarities[*a]).then(a.cmp(b));
    if count < indices.len() {
        indices.select_nth_unstable_by(count, by_similarity);
        indices.truncate(count);
    }
    indices.sort_unstable_by(by_similarity);
    indices
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn close_neighbours_outvote_many_distant_ones() {
        // Two of class 1 at similarity 0.8, one of class 0 at 1: exp(1/0.1) > 2·exp(0.8/0.1), but not at temperature 1.
        let bank = Labelled::new(array![[2.0, 0.0], [0.8, 0.6], [0.8, -0.6]], vec![0, 1, 1]);
        let test = Labelled::new(array![[5.0, 0.0]], vec![0]);
        let settings = [(3, 0.1), (3, 1.0), (1, 1.0), (200, 0.1)].map(|(k, temperature)| Knn { k, temperature });
        let rankings = classify(&bank, &test, 3, &settings, 1).expect("valid");
        assert_eq!(rankings, [vec![vec![0, 1]], vec![vec![1, 0]], vec![vec![0]], vec![vec![0, 1]]]);
    }

    #[test]
    fn neighbours_closer_than_f32_can_tell_are_told_apart() {
        // 1 − 5.00e-9 and 1 − 4.05e-9 are both 1 in f32.
        let bank = Labelled::new(array![[1.0, 1e-4], [1.0, 0.9e-4], [0.0, 1.0]], vec![0, 1, 2]);
        let test = Labelled::new(array![[3.0, 0.0], [0.0, 0.0]], vec![0, 0]);
        let rankings = classify(&bank, &test, 3, &[Knn { k: 1, temperature: 0.07 }], 1).expect("valid");
        assert_eq!(rankings[0], [vec![1], vec![0]], "and all are alike to a row of zeros");
    }

    #[test]
    fn equal_similarities_are_taken_in_order() {
        assert_eq!(nearest(array![0.5, 1.0, 0.5, 0.5].view(), 3), [1, 0, 2]);
        assert_eq!(nearest(array![0.5, 1.0].view(), 2), [1, 0]);
    }

    #[test]
    fn the_rankings_do_not_depend_on_threads() {
        let rows = |count: usize, salt: usize| Array2::from_shape_fn((count, 5), |(i, j)| ((i * 31 + j * 17 + salt) % 23) as f32 - 11.0);
        let bank = Labelled::new(rows(400, 1), (0..400).map(|index| index % 7).collect());
        let test = Labelled::new(rows(300, 4), (0..300).map(|index| index % 7).collect());
        let one = classify(&bank, &test, 7, &[Knn::default()], 1).expect("valid");
        assert_eq!(one, classify(&bank, &test, 7, &[Knn::default()], 3).expect("valid"));
        assert_eq!(one[0].len(), 300);
        assert!((1..7).any(|class| one[0].iter().any(|ranking| ranking[0] == class)), "not all alike");
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let some = Labelled::new(array![[1.0]], vec![0]);
        let check = |k, temperature| classify(&some, &some, 1, &[Knn { k, temperature }], 1).expect_err("invalid").to_string();
        assert!(check(0, 0.07).contains("--k"));
        assert!(check(1, 0.0).contains("--temperature"));
    }
}
