//! Clusters as CSV and JSON.

use serde_json::{Value, json};

use super::Clusters;
use crate::data::Dataset;
use crate::eval::csv_field;

/// A line for each image in the data set's order: image, class, cluster, cosine similarity to the prototype.
pub fn csv(clusters: &Clusters, dataset: &Dataset) -> String {
    let mut text = String::from("image,class,cluster,similarity\n");
    for (image, (cluster, similarity)) in clusters.cluster.iter().zip(&clusters.similarity).enumerate() {
        let class = dataset.label(image).map_or("", |label| &dataset.class_names()[label]);
        text += &format!("{},{},{cluster},{similarity:.6}\n", csv_field(&dataset.name(image)), csv_field(class));
    }
    text
}

/// Sizes, empty and near-duplicate prototypes, and the most frequent class of each cluster.
pub fn json(clusters: &Clusters, dataset: &Dataset) -> Value {
    let each = (0..clusters.len()).map(|cluster| {
        let images = clusters.images(cluster);
        let class = main_class(images, dataset).map(|(class, count)| json!({ "name": dataset.class_names()[class], "images": count }));
        json!({
            "cluster": cluster,
            "images": images.len(),
            "mean_similarity": clusters.mean_similarity(cluster),
            "main_class": class,
            "nearest": images.first().map(|&image| dataset.name(image)),
        })
    });
    json!({
        "version": 1,
        "images": dataset.len(),
        "prototypes": clusters.len(),
        "empty": clusters.empty().collect::<Vec<_>>(),
        "near_duplicates": clusters.duplicates.iter().map(|&(a, b, similarity)| json!([a, b, similarity])).collect::<Vec<_>>(),
        "clusters": each.collect::<Vec<_>>(),
    })
}

/// The most frequent class among images and how many have it; of equal ones the first; `None` without labels.
pub(super) fn main_class(images: &[usize], dataset: &Dataset) -> Option<(usize, usize)> {
    let mut counts = vec![0; dataset.class_names().len()];
    images.iter().filter_map(|&image| dataset.label(image)).for_each(|label| counts[label] += 1);
    let (class, &count) = counts.iter().enumerate().max_by_key(|&(class, &count)| (count, std::cmp::Reverse(class)))?;
    (count > 0).then_some((class, count))
}
