//! One folder of images for each cluster.

use std::path::Path;

use super::{Clusters, ClustersError};
use crate::data::{Dataset, check_new_folder};

/// How images get into the folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Placing {
    /// Symbolic links (hard links on Windows); only for images that are files
    Link,
    /// Copies
    Copy,
}

/// Puts every image into `folder/cluster-NNNN/`, its name preceded by its rank: nearest to the prototype is 00000.
/// `progress` gets the number of images done.
///
/// # Errors
/// A folder that has something in it, members of archives to be linked, and whatever the file system reports.
pub fn place(folder: &Path, clusters: &Clusters, dataset: &Dataset, placing: Placing, mut progress: impl FnMut(usize)) -> Result<(), ClustersError> {
    check_new_folder(folder)?;
    std::fs::create_dir_all(folder).map_err(ClustersError::io(folder))?;
    let mut done = 0;
    for cluster in 0..clusters.len() {
        let images = clusters.images(cluster);
        if images.is_empty() {
            continue;
        }
        let path = folder.join(format!("cluster-{cluster:04}"));
        std::fs::create_dir(&path).map_err(ClustersError::io(&path))?;
        for (rank, &image) in images.iter().enumerate() {
            // The rank keeps images of one name from different folders apart.
            let name = Path::new(dataset.inner_name(image)).file_name().unwrap_or_default().to_string_lossy();
            let target = path.join(format!("{rank:05}-{name}"));
            match (placing, dataset.file(image)) {
                (Placing::Link, Some(file)) => {
                    let file = std::path::absolute(&file).map_err(ClustersError::io(&file))?;
                    link(&file, &target).map_err(ClustersError::io(&target))?;
                }
                (Placing::Link, None) => return Err(ClustersError::NoFile { name: dataset.name(image) }),
                (Placing::Copy, _) => std::fs::write(&target, dataset.read(image)?).map_err(ClustersError::io(&target))?,
            }
            done += 1;
            progress(done);
        }
    }
    Ok(())
}

#[cfg(unix)]
fn link(file: &Path, target: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(file, target)
}

/// Symbolic links need a privilege on Windows.
#[cfg(not(unix))]
fn link(file: &Path, target: &Path) -> std::io::Result<()> {
    std::fs::hard_link(file, target)
}
