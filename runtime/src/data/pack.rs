//! Writes a data set as tar shards with an index, byte by byte or scaled down.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use jpeg_encoder::{ColorType, Encoder};

use super::augment::crop::Window;
use super::augment::resize::Resizer;
use super::dataset::{Dataset, Found, Place};
use super::decode::{DecodeOptions, Decoder, RgbImage};
use super::each::for_each_image;
use super::error::DataError;
use super::new_folder::fill_new_folder;
use super::shard_index::{self, Shard};
use super::tar::BLOCK;
use crate::machine::thread_count;

/// How images are made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reencode {
    /// Longer side of the largest images, px; JPEGs that are no larger keep their bytes.
    pub max_side_px: usize,
    /// Quality of the JPEGs, 1 to 100.
    pub quality: u8,
    /// How images are decoded.
    pub decode: DecodeOptions,
}

/// Settings of [`pack`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackOptions {
    /// A new shard is begun when one has this many bytes.
    pub shard_bytes: u64,
    /// `None` to copy every image byte by byte.
    pub reencode: Option<Reencode>,
    /// Whether broken images are left out and reported, rather than an error.
    pub leave_out_broken: bool,
    /// Threads; 0 for one per core.
    pub workers: usize,
}

/// What [`pack`] wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// Images in the shards.
    pub images: usize,
    /// Shards.
    pub shards: usize,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Images left out, each with what is wrong.
    pub left_out: Vec<String>,
}

#[derive(Default)]
struct Buffers {
    decoder: Decoder,
    image: RgbImage,
    resizer: Resizer,
    planes: Vec<u8>,
}

/// Writes all images, in their order, into `folder/shard-000000.tar` and so on, and their index last, so that a folder with
/// an index is complete; after an error there are none. The same images and settings give the same bytes. `progress` gets the number of images done.
///
/// # Errors
/// A folder with something in it, names that occur twice, broken images (unless left out), and files that cannot be written.
pub fn pack(dataset: &Dataset, folder: &Path, options: &PackOptions, mut progress: impl FnMut(usize)) -> Result<Packed, DataError> {
    let mut names = BTreeSet::new();
    if let Some(name) = (0..dataset.len()).map(|index| dataset.inner_name(index)).find(|name| !names.insert(*name)) {
        return Err(DataError::NameTwice { name: name.into() });
    }
    fill_new_folder(folder, || {
        let mut writer = ShardWriter { folder: folder.into(), file: None, position: 0, shards: Vec::new(), images: Vec::new() };
        fill(&mut writer, dataset, options, &mut progress)
    })
}

/// Writes all shards and their index.
fn fill(writer: &mut ShardWriter, dataset: &Dataset, options: &PackOptions, progress: &mut impl FnMut(usize)) -> Result<Packed, DataError> {
    let mut packed = Packed::default();
    // As many images at a time as fit into memory whatever the data set's size.
    let run = 16 * thread_count(options.workers);
    for start in (0..dataset.len()).step_by(run) {
        let indices = start..(start + run).min(dataset.len());
        let encoded = for_each_image(indices.clone(), options.workers, |buffers: &mut Buffers, index| encode(dataset, index, options.reencode, buffers))?;
        for (index, encoded) in indices.clone().zip(encoded) {
            match encoded {
                Ok((name, bytes)) => {
                    let class = dataset.label(index).map(|label| dataset.class_names()[label].clone());
                    writer.append(name, class, &bytes, options.shard_bytes)?;
                    packed.images += 1;
                }
                Err(error) if options.leave_out_broken => packed.left_out.push(error.to_string()),
                Err(error) => return Err(DataError::PackBroken { source: Box::new(error) }),
            }
        }
        progress(indices.end);
    }
    writer.end_shard()?;
    shard_index::write(&writer.folder, &writer.shards, &writer.images)?;
    packed.shards = writer.shards.len();
    packed.bytes = writer.shards.iter().map(|shard| shard.bytes).sum();
    Ok(packed)
}

/// Name and bytes of an image as it goes into a shard.
fn encode(dataset: &Dataset, index: usize, reencode: Option<Reencode>, buffers: &mut Buffers) -> Result<(String, Vec<u8>), DataError> {
    let encoded = dataset.read(index)?;
    let name = dataset.inner_name(index);
    let Some(Reencode { max_side_px, quality, decode }) = reencode else { return Ok((name.into(), encoded)) };
    let named = |source| DataError::Image { name: dataset.name(index), source: Box::new(source) };
    let Buffers { decoder, image, resizer, planes } = buffers;
    decoder.decode(&encoded, decode, image).map_err(named)?;
    let (width, height) = (image.width(), image.height());
    // A turned image must be written again: shards hold pixels as they are used.
    if width.max(height) <= max_side_px && encoded.starts_with(&[0xff, 0xd8, 0xff]) && !decode.exif_orientation {
        return Ok((name.into(), encoded));
    }
    let scaled = |side: usize| (side * max_side_px.min(width.max(height)) / width.max(height)).max(1);
    let (new_width, new_height) = (scaled(width), scaled(height));
    planes.resize(3 * new_width * new_height, 0);
    resizer.resize(image, Window { x: 0, y: 0, width, height }, new_width, new_height, false, planes);
    let plane = new_width * new_height;
    let rgb: Vec<u8> = (0..plane).flat_map(|i| [planes[i], planes[plane + i], planes[2 * plane + i]]).collect();
    let jpeg_side = |side: usize| u16::try_from(side).map_err(|_| named(DataError::Decode { message: format!("{side} px are too many for a JPEG") }));
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, quality)
        .encode(&rgb, jpeg_side(new_width)?, jpeg_side(new_height)?, ColorType::Rgb)
        .map_err(|error| DataError::Encode { path: PathBuf::from(dataset.name(index)), message: error.to_string() })?;
    // Names stay apart when only their endings differed.
    let is_jpeg = Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jpg") || extension.eq_ignore_ascii_case("jpeg"));
    Ok((if is_jpeg { name.into() } else { format!("{name}.jpg") }, jpeg))
}

/// Appends members to one shard after another.
struct ShardWriter {
    folder: PathBuf,
    file: Option<tar::Builder<BufWriter<File>>>,
    /// Bytes written to the open shard.
    position: u64,
    /// Those begun; the last one's size is set when it ends.
    shards: Vec<Shard>,
    images: Vec<(usize, Found)>,
}

/// Longest name that fits into one header; longer ones take a header and blocks of their own before it.
const SHORT_NAME: usize = 100;

impl ShardWriter {
    fn append(&mut self, name: String, class: Option<String>, bytes: &[u8], shard_bytes: u64) -> Result<(), DataError> {
        if self.position >= shard_bytes {
            self.end_shard()?;
        }
        let path = self.path();
        let io = |source| DataError::Io { path: path.clone(), source };
        if self.file.is_none() {
            self.shards.push(Shard { file: shard_name(self.shards.len()), bytes: 0 });
            let path = self.path();
            self.file = Some(tar::Builder::new(BufWriter::new(File::create(&path).map_err(|source| DataError::Io { path, source })?)));
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        // GNU's long names have a header and the name with a closing zero, in whole blocks, before the member's own header.
        let long_name = if name.len() > SHORT_NAME { BLOCK + (name.len() as u64 + 1).next_multiple_of(BLOCK) } else { 0 };
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        file.append_data(&mut header, &name, bytes).map_err(io)?;
        let (offset, len) = (self.position + long_name + BLOCK, bytes.len() as u64);
        self.position = (offset + len).next_multiple_of(BLOCK);
        self.images.push((self.shards.len() - 1, Found { name, class, place: Some(Place::Bytes { offset, len }) }));
        Ok(())
    }

    fn end_shard(&mut self) -> Result<(), DataError> {
        let path = self.path();
        let io = |source| DataError::Io { path: path.clone(), source };
        let (Some(file), Some(shard)) = (self.file.take(), self.shards.last_mut()) else { return Ok(()) };
        let mut file = file.into_inner().map_err(io)?;
        file.flush().map_err(io)?;
        file.get_ref().sync_all().map_err(io)?;
        shard.bytes = file.get_ref().metadata().map_err(io)?.len();
        self.position = 0;
        Ok(())
    }

    /// The shard that is or was written last.
    fn path(&self) -> PathBuf {
        self.folder.join(shard_name(self.shards.len().saturating_sub(1)))
    }
}

fn shard_name(number: usize) -> String {
    format!("shard-{number:06}.tar")
}
