//! A data set: named, possibly labelled, encoded images that any thread can read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::DataError;
use super::parquet::{self, ParquetFile};
use super::random::{Purpose, Random};
use super::{image_folder, path_list, shard_index, tar};

/// File name endings of images.
pub(super) const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Whether a file name is that of a visible image.
pub(super) fn is_image(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    !hidden && EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// Where in its file an image's bytes are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// A member of an archive.
    Bytes { offset: u64, len: u64 },
    /// A row of a table.
    Row(u64),
}

/// An image found while opening a folder or an archive.
pub(super) struct Found {
    /// Path inside the folder or archive, with `/`.
    pub(super) name: String,
    pub(super) class: Option<String>,
    /// `None` for a file of its own.
    pub(super) place: Option<Place>,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    container: Container,
}

/// What a source's images lie in.
#[derive(Debug)]
enum Container {
    /// Files of their own in a folder.
    Folder,
    Archive(File),
    Parquet(ParquetFile),
}

#[derive(Debug, Clone)]
struct Entry {
    source: usize,
    name: String,
    class: Option<usize>,
    place: Option<Place>,
}

/// Encoded images from folders and archives, in a fixed order: path by path, sorted by name inside each.
///
/// Labels are indices into [`class_names`](Dataset::class_names), the sorted names of all class folders of all paths.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # std::fs::create_dir(folder.path().join("cats")).unwrap();
/// # std::fs::write(folder.path().join("cats/tom.jpg"), b"encoded").unwrap();
/// let dataset = runtime::data::Dataset::open(&[folder.path().into()])?;
/// assert_eq!((dataset.len(), dataset.label(0)), (1, Some(0)));
/// assert_eq!(dataset.class_names(), ["cats"]);
/// assert_eq!(dataset.read(0)?, b"encoded");
/// # Ok::<(), runtime::data::DataError>(())
/// ```
#[derive(Debug)]
pub struct Dataset {
    sources: Vec<Source>,
    entries: Vec<Entry>,
    class_names: Vec<String>,
}

impl Dataset {
    /// Opens folders of class folders, flat folders of images, `.tar` archives (indexed here; the class of a member is that
    /// of its `.cls` member or the name of the folder it is in), `.parquet` files with an image column (and mostly labels),
    /// folders of `.tar` or `.parquet` shards, `.txt` lists of paths, or several of them.
    ///
    /// # Errors
    /// Paths that do not exist, are of another kind or cannot be read, and those without images.
    pub fn open(paths: &[PathBuf]) -> Result<Dataset, DataError> {
        let (dataset, problems) = Dataset::open_with_problems(paths)?;
        problems.into_iter().next().map_or(Ok(dataset), Err)
    }

    /// As [`open`](Self::open), but folders inside the paths that cannot be listed are left out and returned.
    ///
    /// # Errors
    /// As [`open`](Self::open), for the paths themselves.
    pub fn open_with_problems(paths: &[PathBuf]) -> Result<(Dataset, Vec<DataError>), DataError> {
        if paths.is_empty() {
            return Err(DataError::NoPaths);
        }
        let mut sources = Vec::new();
        let mut found = Vec::new();
        let mut problems = Vec::new();
        for path in paths {
            let before = (found.len(), problems.len());
            for (source, images) in open_path(path, &mut problems)? {
                found.extend(images.into_iter().map(|image| (sources.len(), image)));
                sources.push(source);
            }
            if before == (found.len(), problems.len()) {
                return Err(DataError::Empty { path: path.clone() });
            }
        }

        let mut classes: BTreeMap<String, usize> = found.iter().filter_map(|(_, image)| image.class.clone()).map(|class| (class, 0)).collect();
        for (index, label) in classes.values_mut().enumerate() {
            *label = index;
        }
        let entries =
            found.into_iter().map(|(source, Found { name, class, place })| Entry { source, name, class: class.map(|class| classes[&class]), place }).collect();
        Ok((Dataset { sources, entries, class_names: classes.into_keys().collect() }, problems))
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no images; never so after [`open`](Self::open).
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps `limit` images drawn at random, in their order (0: all of them). Classes keep their indices.
    pub fn subset(self, limit: usize, seed: u64) -> Dataset {
        if limit == 0 || limit >= self.entries.len() {
            return self;
        }
        let mut chosen: Vec<usize> = (0..self.entries.len()).collect();
        let mut random = Random::new(seed, Purpose::Subset, 0, 0);
        for position in 0..limit {
            let other = position + random.below(chosen.len() - position);
            chosen.swap(position, other);
        }
        chosen.truncate(limit);
        chosen.sort_unstable();
        self.select(&chosen)
    }

    /// Keeps the images of these indices, in the order of the indices. Classes keep theirs.
    ///
    /// # Panics
    /// If an index ≥ [`len`](Self::len).
    pub fn select(mut self, indices: &[usize]) -> Dataset {
        self.entries = indices.iter().map(|&index| self.entries[index].clone()).collect();
        self
    }

    /// The encoded bytes of an image.
    ///
    /// # Errors
    /// A file or archive that can no longer be read.
    ///
    /// # Panics
    /// If `index` ≥ [`len`](Self::len).
    pub fn read(&self, index: usize) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        self.read_into(index, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`read`](Self::read), into a buffer that is used again and again.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_into(&self, index: usize, bytes: &mut Vec<u8>) -> Result<(), DataError> {
        let entry = &self.entries[index];
        let source = &self.sources[entry.source];
        bytes.clear();
        match (&source.container, entry.place) {
            (Container::Parquet(file), Some(Place::Row(row))) => file.read_into(row, bytes).map_err(|error| {
                let source = DataError::Parquet { path: source.path.clone(), message: error.to_string() };
                DataError::Image { name: self.name(index), source: Box::new(source) }
            }),
            (Container::Archive(archive), Some(Place::Bytes { offset, len })) => {
                let read = archive.metadata().and_then(|metadata| {
                    // A length is believed only where there are as many bytes.
                    if offset.checked_add(len).is_none_or(|end| end > metadata.len()) {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                    bytes.resize(len as usize, 0);
                    tar::read_exact_at(archive, bytes, offset)
                });
                let error = |error| DataError::Tar { path: source.path.clone(), source: error };
                read.map_err(|source| DataError::Image { name: self.name(index), source: Box::new(error(source)) })
            }
            _ => {
                let path = source.path.join(&entry.name);
                File::open(&path).and_then(|mut file| file.read_to_end(bytes)).map(drop).map_err(|source| DataError::Io { path, source })
            }
        }
    }

    /// Path or archive member, for messages.
    ///
    /// # Panics
    /// If `index` ≥ [`len`](Self::len).
    pub fn name(&self, index: usize) -> String {
        let entry = &self.entries[index];
        let source = &self.sources[entry.source];
        match source.container {
            Container::Archive(_) | Container::Parquet(_) => format!("{}:{}", source.path.display(), entry.name),
            Container::Folder => source.path.join(&entry.name).display().to_string(),
        }
    }

    /// Path inside the folder or archive, with `/`.
    ///
    /// # Panics
    /// If `index` ≥ [`len`](Self::len).
    pub fn inner_name(&self, index: usize) -> &str {
        &self.entries[index].name
    }

    /// The image's file; `None` for a member of an archive.
    ///
    /// # Panics
    /// If `index` ≥ [`len`](Self::len).
    pub fn file(&self, index: usize) -> Option<PathBuf> {
        let entry = &self.entries[index];
        entry.place.is_none().then(|| self.sources[entry.source].path.join(&entry.name))
    }

    /// Index of the image's class; `None` in a flat folder.
    ///
    /// # Panics
    /// If `index` ≥ [`len`](Self::len).
    pub fn label(&self, index: usize) -> Option<usize> {
        self.entries[index].class
    }

    /// Names of the classes, sorted.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// SHA-256 over the names (inside their folder or archive) and sizes of all images (of a Parquet file: its own), in hexadecimal: the same wherever
    /// the data lies, another one when images come, go or change their size. Asks the file system for every file's size.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut table_lens = BTreeMap::new();
        for entry in &self.entries {
            let source = &self.sources[entry.source].path;
            // A file that has vanished is reported when it is read.
            let file_len = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
            let len = match entry.place {
                Some(Place::Bytes { len, .. }) => len,
                // The length of one row is not known without reading it.
                Some(Place::Row(_)) => *table_lens.entry(entry.source).or_insert_with(|| file_len(source)),
                None => file_len(&source.join(&entry.name)),
            };
            hash.update((entry.name.len() as u64).to_le_bytes());
            hash.update(entry.name.as_bytes());
            hash.update(len.to_le_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The sources behind one path, with the images of each.
fn open_path(path: &Path, problems: &mut Vec<DataError>) -> Result<Vec<(Source, Vec<Found>)>, DataError> {
    let metadata = std::fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => DataError::Missing { path: path.into() },
        _ => DataError::Io { path: path.into(), source },
    })?;
    let has_extension = |path: &Path, wanted: &str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted));
    if !metadata.is_dir() {
        return if has_extension(path, "tar") {
            Ok(vec![(Source::archive(path)?, tar::scan(path)?)])
        } else if has_extension(path, "parquet") {
            Ok(vec![open_parquet(path)?])
        } else if has_extension(path, "txt") {
            let folder = path.parent().unwrap_or(Path::new("")).into();
            Ok(vec![(Source { path: folder, container: Container::Folder }, path_list::read(path)?)])
        } else {
            Err(DataError::NotADataset { path: path.into() })
        };
    }
    if path.join(shard_index::INDEX_FILE).exists() {
        let shards = shard_index::read(path)?.into_iter();
        return shards.map(|(shard, images)| Ok((Source::archive(&path.join(shard.file))?, images))).collect();
    }
    let mut listing = image_folder::scan(path)?;
    if listing.images.is_empty() {
        let io = |source| DataError::Io { path: path.into(), source };
        let entries = std::fs::read_dir(path).map_err(io)?.map(|entry| entry.map(|entry| entry.path()));
        let mut shards = entries.collect::<Result<Vec<_>, _>>().map_err(io)?;
        shards.retain(|shard| (has_extension(shard, "tar") || has_extension(shard, "parquet")) && shard.is_file());
        shards.sort_unstable();
        if !shards.is_empty() {
            let open = |shard: &PathBuf| if has_extension(shard, "tar") { Ok((Source::archive(shard)?, tar::scan(shard)?)) } else { open_parquet(shard) };
            return shards.iter().map(open).collect();
        }
    }
    problems.append(&mut listing.problems);
    Ok(vec![(Source { path: path.into(), container: Container::Folder }, listing.images)])
}

fn open_parquet(path: &Path) -> Result<(Source, Vec<Found>), DataError> {
    let (file, found) = parquet::open(path)?;
    Ok((Source { path: path.into(), container: Container::Parquet(file) }, found))
}

impl Source {
    fn archive(path: &Path) -> Result<Source, DataError> {
        let file = File::open(path).map_err(|source| DataError::Io { path: path.into(), source })?;
        Ok(Source { path: path.into(), container: Container::Archive(file) })
    }
}
