//! A gallery that opens from the file system: one page, and data that it loads as scripts when they are needed. A page from
//! `file://` may not fetch files, but it may add scripts.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::tables::main_class;
use super::thumbnails::{COLUMNS, PER_SHEET, write_sheets};
use super::{Clusters, ClustersError};
use crate::data::Dataset;

const PAGE: &str = include_str!("page/index.html");
const SCRIPT: &str = include_str!("page/gallery.js");
const STYLE: &str = include_str!("page/gallery.css");

/// Images of one block of names or neighbours.
const BLOCK: usize = 2000;

/// What a gallery shows.
#[derive(Debug, Clone)]
pub struct GalleryOptions {
    /// Heading, such as the run's name.
    pub title: String,
    /// Side of a thumbnail, px, 16 to 512.
    pub thumbnail_px: usize,
    /// Threads; 0 for one a core.
    pub workers: usize,
}

/// Writes `index.html` and its data into `folder`. In the gallery an image's number is its place in `clusters.order`, so that
/// the images of a cluster lie side by side on the sheets. `neighbours` holds the nearest images of each image of the data
/// set, or nothing. `progress` gets the number of thumbnails done.
///
/// # Errors
/// Images that cannot be read, and whatever the file system reports.
pub fn write_gallery(
    folder: &Path,
    dataset: &Dataset,
    clusters: &Clusters,
    neighbours: &[Vec<usize>],
    options: &GalleryOptions,
    progress: impl FnMut(usize) + Send,
) -> Result<(), ClustersError> {
    let (data, sheets) = (folder.join("data"), folder.join("sheets"));
    for path in [folder, &data, &sheets] {
        std::fs::create_dir_all(path).map_err(ClustersError::io(path))?;
    }
    let write = |path: PathBuf, text: &str| std::fs::write(&path, text).map_err(ClustersError::io(&path));
    write_sheets(&sheets, dataset, &clusters.order, options.thumbnail_px, options.workers, progress)?;

    // Numbers in the gallery of the data set's images.
    let mut number = vec![0; dataset.len()];
    clusters.order.iter().enumerate().for_each(|(place, &image)| number[image] = place);
    let (roots, root_of) = roots(folder, dataset);
    for (block, images) in clusters.order.chunks(BLOCK).enumerate() {
        let names: Vec<&str> = images.iter().map(|&image| dataset.inner_name(image)).collect();
        let similarity: Vec<f64> = images.iter().map(|&image| (f64::from(clusters.similarity[image]) * 1e4).round() / 1e4).collect();
        let classes: Vec<Option<usize>> = images.iter().map(|&image| dataset.label(image)).collect();
        let roots: Vec<usize> = images.iter().map(|&image| root_of[image]).collect();
        let value = json!({ "names": names, "similarity": similarity, "classes": classes, "roots": roots });
        write(data.join(format!("images-{block:04}.js")), &call("images", Some(block), &value))?;
        if !neighbours.is_empty() {
            let near: Vec<Vec<usize>> = images.iter().map(|&image| neighbours[image].iter().map(|&near| number[near]).collect()).collect();
            write(data.join(format!("neighbours-{block:04}.js")), &call("neighbours", Some(block), &json!(near)))?;
        }
    }
    write(data.join("clusters.js"), &call("clusters", None, &overview(dataset, clusters, &roots, !neighbours.is_empty(), options)))?;
    write(folder.join("gallery.js"), SCRIPT)?;
    write(folder.join("gallery.css"), STYLE)?;
    write(folder.join("index.html"), PAGE)
}

fn overview(dataset: &Dataset, clusters: &Clusters, roots: &[Value], has_neighbours: bool, options: &GalleryOptions) -> Value {
    let each = (0..clusters.len()).map(|cluster| {
        let class = main_class(clusters.images(cluster), dataset);
        let mean = clusters.mean_similarity(cluster).map(|mean| (mean * 1e4).round() / 1e4);
        json!([clusters.starts[cluster], clusters.images(cluster).len(), mean, class.map(|(class, _)| class), class.map(|(_, count)| count)])
    });
    json!({
        "version": 1,
        "title": options.title,
        "images": dataset.len(),
        "perSheet": PER_SHEET,
        "columns": COLUMNS,
        "block": BLOCK,
        "thumbnail": options.thumbnail_px,
        "neighbours": has_neighbours,
        "classNames": dataset.class_names(),
        "roots": roots,
        // [start, images, mean similarity, main class, images of it]
        "clusters": each.collect::<Vec<_>>(),
        "duplicates": clusters.duplicates.iter().map(|&(a, b, similarity)| json!([a, b, (f64::from(similarity) * 1e4).round() / 1e4])).collect::<Vec<_>>(),
    })
}

/// A script that hands `value` to the page.
fn call(function: &str, block: Option<usize>, value: &Value) -> String {
    match block {
        Some(block) => format!("gallery.{function}({block}, {value});\n"),
        None => format!("gallery.{function}({value});\n"),
    }
}

/// The folders and archives that images come from, with the way there from `folder` where it is one of files; and the index
/// among them for each image.
fn roots(folder: &Path, dataset: &Dataset) -> (Vec<Value>, Vec<usize>) {
    let mut roots: Vec<String> = Vec::new();
    let mut values = Vec::new();
    let mut last = 0;
    let root_of = (0..dataset.len()).map(|image| {
        let name = dataset.name(image);
        let root = name.strip_suffix(dataset.inner_name(image)).unwrap_or(&name);
        if roots.get(last).is_none_or(|known| known != root) {
            last = roots.iter().position(|known| known == root).unwrap_or_else(|| {
                let path = dataset.file(image).and_then(|_| relative(folder, Path::new(root)));
                values.push(json!({ "name": root.trim_end_matches(':'), "href": path }));
                roots.push(root.to_owned());
                roots.len() - 1
            });
        }
        last
    });
    let root_of = root_of.collect();
    (values, root_of)
}

/// The way from one existing folder to another with `/`, ending in it: galleries keep working when both are moved together.
fn relative(from: &Path, to: &Path) -> Option<String> {
    let to = if to.as_os_str().is_empty() { Path::new(".") } else { to };
    let (from, to) = (from.canonicalize().ok()?, to.canonicalize().ok()?);
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return None;
    }
    let mut way: String = "../".repeat(from.components().count() - shared);
    to.components().skip(shared).for_each(|part| way += &format!("{}/", part.as_os_str().to_string_lossy()));
    Some(way)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::data::synth::{self, SynthConfig};

    #[test]
    fn a_gallery_holds_a_sheet_a_block_and_relative_links() {
        let folder = tempfile::tempdir().expect("temporary folder");
        synth::write(&folder.path().join("images"), &SynthConfig { images: 4, classes: 2, size_px: 16, seed: 1 }, |_| {}).expect("images");
        let dataset = Dataset::open(&[folder.path().join("images")]).expect("data set");
        let embeddings = array![[0.8, 0.6], [0.6, 0.8], [1.0, 0.0], [0.0, 1.0]];
        let clusters = Clusters::assign(embeddings.view(), &array![[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], 0.9, 1).expect("valid");
        let near = super::super::neighbours(embeddings.view(), 2, 1, |_| {});
        let options = GalleryOptions { title: "a run".into(), thumbnail_px: 24, workers: 1 };
        let out = folder.path().join("deep/gallery");
        write_gallery(&out, &dataset, &clusters, &near, &options, |_| {}).expect("gallery");

        let read = |name: &str| std::fs::read_to_string(out.join(name)).expect("file");
        let overview = read("data/clusters.js");
        assert!(overview.starts_with("gallery.clusters({") && overview.contains("\"href\":\"../../images/\""), "{overview}");
        assert!(overview.contains("\"clusters\":[[0,2,"), "{overview}");
        // Images 2, 0 belong to the first prototype and have the numbers 0, 1; 3, 1 have 2, 3.
        assert!(read("data/neighbours-0000.js").contains("[[1,3],"), "{}", read("data/neighbours-0000.js"));
        assert!(read("data/images-0000.js").contains(dataset.inner_name(2)));
        let sheet = crate::data::decode_rgb(&std::fs::read(out.join("sheets/0000.jpg")).expect("a sheet")).expect("a JPEG");
        assert_eq!((sheet.width(), sheet.height()), (240, 24));
        for name in ["index.html", "gallery.js", "gallery.css"] {
            assert!(!read(name).contains("http"), "{name} loads nothing from elsewhere");
        }
    }
}
