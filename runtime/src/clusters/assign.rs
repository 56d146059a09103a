//! Which prototype an image belongs to, and which images and prototypes are alike.

use ndarray::{Array2, ArrayView2, Axis, s};

use crate::eval::EvalError;

/// Rows of one unit of work, and columns that it compares them with at a time: the similarities stay in the cache.
const TILE: (usize, usize) = (128, 2048);

/// Images sorted by prototypes.
#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    /// Prototype of each image.
    pub cluster: Vec<usize>,
    /// Cosine similarity of each image to its prototype.
    pub similarity: Vec<f32>,
    /// All images, cluster by cluster, those nearest to the prototype first.
    pub order: Vec<usize>,
    /// Where each cluster begins in `order`, K + 1 values.
    pub starts: Vec<usize>,
    /// Pairs of prototypes that are nearly the same, with their cosine similarity, the most similar first.
    pub duplicates: Vec<(usize, usize, f32)>,
}

impl Clusters {
    /// Assigns embeddings f32 [N, D] (rows of length 1) to the prototypes f32 [K, D] of the highest score. Prototypes that
    /// are at least `duplicate_from` similar count as near-duplicates.
    ///
    /// # Errors
    /// Embeddings and prototypes of different lengths.
    pub fn assign(embeddings: ArrayView2<f32>, prototypes: &Array2<f32>, duplicate_from: f32, threads: usize) -> Result<Clusters, EvalError> {
        if embeddings.ncols() != prototypes.ncols() {
            let problem = format!("expected embeddings of {} values, as the prototypes have, got {}", prototypes.ncols(), embeddings.ncols());
            return Err(EvalError::Setting { setting: "--run", problem });
        }
        let prototypes = normalised(prototypes);
        let best = nearest_rows(embeddings, prototypes.view(), 1, threads, |_| usize::MAX, |_| {});
        let (cluster, similarity): (Vec<usize>, Vec<f32>) = best.into_iter().map(|nearest| nearest[0]).unzip();

        let mut order: Vec<usize> = (0..cluster.len()).collect();
        order.sort_by(|&a, &b| cluster[a].cmp(&cluster[b]).then(similarity[b].total_cmp(&similarity[a])).then(a.cmp(&b)));
        let mut starts = vec![0; prototypes.nrows() + 1];
        cluster.iter().for_each(|&cluster| starts[cluster + 1] += 1);
        (0..prototypes.nrows()).for_each(|k| starts[k + 1] += starts[k]);
        Ok(Clusters { cluster, similarity, order, starts, duplicates: near_duplicates(&prototypes, duplicate_from) })
    }

    /// K: number of prototypes.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there are no prototypes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The images of a cluster, those nearest to the prototype first.
    pub fn images(&self, cluster: usize) -> &[usize] {
        &self.order[self.starts[cluster]..self.starts[cluster + 1]]
    }

    /// Clusters without images.
    pub fn empty(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(|&cluster| self.images(cluster).is_empty())
    }

    /// Mean similarity of a cluster's images to its prototype; `None` without images.
    pub fn mean_similarity(&self, cluster: usize) -> Option<f64> {
        let images = self.images(cluster);
        (!images.is_empty()).then(|| images.iter().map(|&image| f64::from(self.similarity[image])).sum::<f64>() / images.len() as f64)
    }
}

/// Rows of length 1; a row of zeros stays.
fn normalised(rows: &Array2<f32>) -> Array2<f32> {
    let mut rows = rows.clone();
    for mut row in rows.axis_iter_mut(Axis(0)) {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row.mapv_inplace(|value| value / norm);
        }
    }
    rows
}

fn near_duplicates(prototypes: &Array2<f32>, from: f32) -> Vec<(usize, usize, f32)> {
    let mut pairs = Vec::new();
    for start in (0..prototypes.nrows()).step_by(TILE.0) {
        let end = (start + TILE.0).min(prototypes.nrows());
        let similarities = prototypes.slice(s![start..end, ..]).dot(&prototypes.t());
        for (a, row) in (start..end).zip(similarities.rows()) {
            pairs.extend((a + 1..prototypes.nrows()).filter(|&b| row[b] >= from).map(|b| (a, b, row[b])));
        }
    }
    pairs.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
    pairs
}

/// The `count` nearest other images of each image, by the cosine of embeddings f32 [N, D] with rows of length 1, the nearest
/// first. `progress` gets the number of images done.
pub fn neighbours(embeddings: ArrayView2<f32>, count: usize, threads: usize, progress: impl FnMut(usize) + Send) -> Vec<Vec<usize>> {
    let found = nearest_rows(embeddings, embeddings, count, threads, |row| row, progress);
    found.into_iter().map(|nearest| nearest.into_iter().map(|(index, _)| index).collect()).collect()
}

/// For each row the `count` rows of `others` with the largest inner products, the largest first and of equal ones the smaller
/// index first; `except` names one that is left out. The result does not depend on the number of threads.
fn nearest_rows(
    rows: ArrayView2<f32>,
    others: ArrayView2<f32>,
    count: usize,
    threads: usize,
    except: impl Fn(usize) -> usize + Sync,
    progress: impl FnMut(usize) + Send,
) -> Vec<Vec<(usize, f32)>> {
    let starts: Vec<usize> = (0..rows.nrows()).step_by(TILE.0).collect();
    let progress = std::sync::Mutex::new((0, progress));
    let block = |start: usize| {
        let end = (start + TILE.0).min(rows.nrows());
        let block = rows.slice(s![start..end, ..]);
        let mut nearest: Vec<Vec<(usize, f32)>> = vec![Vec::with_capacity(count.min(others.nrows()) + 1); end - start];
        for left in (0..others.nrows()).step_by(TILE.1) {
            let right = (left + TILE.1).min(others.nrows());
            let similarities = block.dot(&others.slice(s![left..right, ..]).t());
            for ((row, nearest), similarities) in (start..end).zip(&mut nearest).zip(similarities.rows()) {
                let skip = except(row);
                for (index, &similarity) in (left..right).zip(similarities) {
                    let enters = nearest.len() < count || nearest.last().is_some_and(|&(_, last)| similarity > last);
                    if enters && index != skip {
                        let place = nearest.partition_point(|&(_, other)| other >= similarity);
                        nearest.insert(place, (index, similarity));
                        nearest.truncate(count);
                    }
                }
            }
        }
        if let Ok(mut progress) = progress.lock() {
            progress.0 += end - start;
            let done = progress.0;
            (progress.1)(done);
        }
        nearest
    };
    let share = starts.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let block = &block;
        let threads: Vec<_> =
            starts.chunks(share).map(|starts| scope.spawn(move || starts.iter().flat_map(|&start| block(start)).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn images_go_to_the_prototype_of_the_highest_score_nearest_first() {
        // Prototypes of any length; the third is a copy of the first, so that it stays empty.
        let prototypes = array![[5.0, 0.0], [0.0, 0.1], [1.0, 0.001]];
        let embeddings = array![[0.8, 0.6], [0.6, 0.8], [1.0, 0.0], [0.0, 1.0]];
        let clusters = Clusters::assign(embeddings.view(), &prototypes, 0.99, 2).expect("valid");
        assert_eq!(clusters.cluster, [2, 1, 0, 1]);
        assert_eq!((clusters.images(0), clusters.images(1), clusters.images(2)), (&[2][..], &[3, 1][..], &[0][..]));
        assert_eq!(clusters.duplicates.iter().map(|&(a, b, _)| (a, b)).collect::<Vec<_>>(), [(0, 2)]);
        assert!((clusters.mean_similarity(1).expect("images") - 0.9).abs() < 1e-6);
        assert!(Clusters::assign(embeddings.view(), &array![[1.0]], 0.9, 1).expect_err("length").to_string().contains("expected embeddings of 1"));
    }

    #[test]
    fn clusters_without_images_are_listed() {
        let clusters = Clusters::assign(array![[1.0, 0.0]].view(), &array![[-1.0, 0.0], [1.0, 0.0]], 0.9, 1).expect("valid");
        assert_eq!(clusters.empty().collect::<Vec<_>>(), [0]);
        assert_eq!(clusters.mean_similarity(0), None);
    }

    #[test]
    fn neighbours_over_many_tiles_are_those_of_a_full_sort() {
        let images = 2 * TILE.1 + 37;
        let rows = normalised(&Array2::from_shape_fn((images, 6), |(i, j)| ((i * 7919 + j * 104_729 + i * i % 31) % 997) as f32 - 498.0));
        let mut calls = 0;
        let found = neighbours(rows.view(), 5, 3, |done| calls = calls.max(done));
        assert_eq!((found.len(), calls), (images, images));
        for image in [0, 1, 2047, 2048, images - 1] {
            let similarities = rows.dot(&rows.row(image));
            let mut expected: Vec<usize> = (0..images).filter(|&other| other != image).collect();
            expected.sort_by(|&a, &b| similarities[b].total_cmp(&similarities[a]).then(a.cmp(&b)));
            let values = |indices: &[usize]| indices.iter().map(|&index| similarities[index]).collect::<Vec<_>>();
            for (got, expected) in values(&found[image]).into_iter().zip(values(&expected[..5])) {
                assert!((got - expected).abs() < 1e-6, "image {image}");
            }
        }
    }
}
