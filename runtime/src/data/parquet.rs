//! Parquet files with an image column, as the Hugging Face hub lays data sets out: a struct of `bytes` and `path`, and
//! mostly a column of labels.
//!
//! Rows are read at random: pages in front of a row are skipped, not decoded, and a few blocks of neighbouring rows are kept
//! for readers that go through the rows in order.

use std::fs::File;
use std::io::{BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use parquet::column::reader::ColumnReader;
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length};
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;

use super::dataset::{Found, Place};
use super::error::DataError;
use super::ring::lock;
use super::tar::read_exact_at;

/// Rows read at once: about as many photos as a page of a megabyte holds.
const BLOCK_ROWS: usize = 8;
/// Blocks that are kept.
const KEPT_BLOCKS: usize = 16;

/// A file that several threads read at their own places.
#[derive(Debug, Clone)]
struct SharedFile {
    file: Arc<File>,
    len: u64,
}

/// Reads on from an offset.
struct ReadFrom {
    file: SharedFile,
    offset: u64,
}

impl Read for ReadFrom {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.file.len.saturating_sub(self.offset);
        let len = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        read_exact_at(&self.file.file, &mut buffer[..len], self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<ReadFrom>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(ReadFrom { file: self.clone(), offset: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // A length is believed only where there are as many bytes.
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of a file of {}", self.len)));
        }
        let mut bytes = vec![0; length];
        read_exact_at(&self.file, &mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// The first row of a block, counted over the file, and its images' bytes; `None` for a missing one.
type Block = (u64, Arc<Vec<Option<Bytes>>>);

/// An open Parquet file with images.
pub(super) struct ParquetFile {
    reader: SerializedFileReader<SharedFile>,
    /// The leaf column of the encoded bytes.
    column: usize,
    /// Blocks read last, the latest at the end.
    blocks: Mutex<Vec<Block>>,
}

impl std::fmt::Debug for ParquetFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ParquetFile").field("column", &self.column).finish_non_exhaustive()
    }
}

/// Opens a file and lists its images, in the order of the rows.
pub(super) fn open(path: &Path) -> Result<(ParquetFile, Vec<Found>), DataError> {
    let io = |source| DataError::Io { path: path.into(), source };
    let wrong = |message: String| DataError::Parquet { path: path.into(), message };
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let file = SharedFile { file: Arc::new(file), len };
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let options = ReadOptionsBuilder::new().with_page_index().build();
        let reader = SerializedFileReader::new_with_options(file, options).map_err(|error| wrong(error.to_string()))?;
        let column = image_column(reader.metadata().file_metadata().schema_descr())
            .ok_or_else(|| wrong("expected a column of images: a struct with `bytes`, or one of bytes called image or img".into()))?;
        let found = list(&reader, column, path).map_err(|error| wrong(error.to_string()))?;
        Ok((ParquetFile { reader, column, blocks: Mutex::default() }, found))
    }));
    opened.unwrap_or_else(|_| Err(wrong("the reader panicked; the file is damaged".into())))
}

/// The leaf column with the images' bytes.
fn image_column(schema: &SchemaDescriptor) -> Option<usize> {
    use parquet::basic::Type;
    (0..schema.num_columns()).find(|&index| {
        let column = schema.column(index);
        let is_image = match column.path().parts() {
            [_, field] => field == "bytes",
            [name] => ["image", "img"].contains(&name.as_str()),
            _ => false,
        };
        is_image && column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0
    })
}

/// Reads one leaf column of a row group: a value for each row, `None` for a missing one.
fn read_column<T: DataType>(reader: &mut parquet::column::reader::ColumnReaderImpl<T>, max_level: i16, rows: usize) -> Result<Vec<Option<T::T>>, ParquetError> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let mut read = 0;
    while read < rows {
        let (records, _, _) = reader.read_records(rows - read, Some(&mut levels), None, &mut values)?;
        if records == 0 {
            return Err(ParquetError::EOF(format!("{read} of {rows} rows")));
        }
        read += records;
    }
    let mut values = values.into_iter();
    // A column that may not be empty has no levels.
    Ok(if max_level == 0 { values.map(Some).collect() } else { levels.iter().map(|&level| if level == max_level { values.next() } else { None }).collect() })
}

/// A text or number of each row, as text.
fn read_texts(reader: &SerializedFileReader<SharedFile>, column: usize) -> Result<Vec<Option<String>>, ParquetError> {
    let level = reader.metadata().file_metadata().schema_descr().column(column).max_def_level();
    let mut texts = Vec::new();
    for group in 0..reader.num_row_groups() {
        let rows = usize::try_from(reader.metadata().row_group(group).num_rows()).unwrap_or(0);
        let text = |bytes: parquet::data_type::ByteArray| String::from_utf8_lossy(bytes.data()).into_owned();
        // Numbers are padded: classes are sorted by name.
        let number = |number: i64| format!("{number:05}");
        match reader.get_row_group(group)?.get_column_reader(column)? {
            ColumnReader::ByteArrayColumnReader(mut reader) => texts.extend(read_column(&mut reader, level, rows)?.into_iter().map(|value| value.map(text))),
            ColumnReader::Int64ColumnReader(mut reader) => texts.extend(read_column(&mut reader, level, rows)?.into_iter().map(|value| value.map(number))),
            ColumnReader::Int32ColumnReader(mut reader) => {
                texts.extend(read_column(&mut reader, level, rows)?.into_iter().map(|value| value.map(|value| number(value.into()))));
            }
            _ => return Err(ParquetError::General("expected labels that are numbers or text".into())),
        }
    }
    Ok(texts)
}

/// The label column and the names of its classes, where the hub's description of the data set has them.
fn labels(reader: &SerializedFileReader<SharedFile>) -> (Option<usize>, Vec<String>) {
    let metadata = reader.metadata().file_metadata();
    let schema = metadata.schema_descr();
    let described = metadata.key_value_metadata().into_iter().flatten().find(|entry| entry.key == "huggingface");
    let described: serde_json::Value = described.and_then(|entry| serde_json::from_str(entry.value.as_deref()?).ok()).unwrap_or_default();
    let features = &described["info"]["features"];
    let column_of = |name: &str| {
        let is_column = |&index: &usize| schema.column(index).path().parts() == [name] && schema.column(index).max_rep_level() == 0;
        (0..schema.num_columns()).find(is_column)
    };
    let class_labels = features.as_object().into_iter().flatten().filter(|(_, feature)| feature["_type"] == "ClassLabel").map(|(name, _)| name.as_str());
    let Some((name, column)) = ["label", "labels"].into_iter().chain(class_labels).find_map(|name| Some((name, column_of(name)?))) else {
        return (None, Vec::new());
    };
    let names = features[name]["names"].as_array().into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
    (Some(column), names)
}

fn list(reader: &SerializedFileReader<SharedFile>, column: usize, path: &Path) -> Result<Vec<Found>, ParquetError> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let groups = reader.metadata().row_groups().iter();
    let rows = groups.map(|group| usize::try_from(group.num_rows()).unwrap_or(0)).sum();
    let (label_column, names) = labels(reader);
    let mut classes = label_column.map_or(Ok(Vec::new()), |column| read_texts(reader, column))?.into_iter();
    let path_column = match schema.column(column).path().parts() {
        [parent, _] => (0..schema.num_columns()).find(|&index| schema.column(index).path().parts() == [parent.as_str(), "path"]),
        _ => None,
    };
    let mut paths = path_column.map_or(Ok(Vec::new()), |column| read_texts(reader, column))?.into_iter();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = |row: usize, path: Option<String>| {
        let file = path.as_deref().and_then(|path| path.rsplit(['/', '\\']).next()).filter(|file| !file.is_empty());
        format!("{stem}/{row:06}{}{}", if file.is_some() { "-" } else { "" }, file.unwrap_or_default())
    };
    // A number names its class; missing labels of test sets are -1.
    let class = |text: String| match text.parse::<i64>() {
        Ok(number) if number < 0 => None,
        Ok(number) => Some(usize::try_from(number).ok().and_then(|number| names.get(number).cloned()).unwrap_or(text)),
        Err(_) => Some(text),
    };
    let found = |row| Found { name: name(row, paths.next().flatten()), class: classes.next().flatten().and_then(class), place: Some(Place::Row(row as u64)) };
    Ok((0..rows).map(found).collect())
}

impl ParquetFile {
    /// Reads the encoded bytes of a row's image.
    pub(super) fn read_into(&self, row: u64, bytes: &mut Vec<u8>) -> Result<(), ParquetError> {
        let image = |(first, block): &Block| row.checked_sub(*first).and_then(|place| block.get(place as usize)).cloned();
        let kept = lock(&self.blocks).iter().find_map(image);
        let found = match kept {
            Some(found) => found,
            None => {
                // Pages of a damaged file can make the reader panic.
                let block = catch_unwind(AssertUnwindSafe(|| self.read_block(row)));
                let block = block.unwrap_or_else(|_| Err(ParquetError::General("the reader panicked; the file is damaged".into())))?;
                let found = image(&block).flatten();
                let mut blocks = lock(&self.blocks);
                if blocks.len() == KEPT_BLOCKS {
                    blocks.remove(0);
                }
                blocks.push(block);
                found
            }
        };
        bytes.clear();
        bytes.extend_from_slice(&found.ok_or_else(|| ParquetError::General(format!("row {row} has no bytes")))?);
        Ok(())
    }

    /// Reads the block of a row.
    fn read_block(&self, row: u64) -> Result<Block, ParquetError> {
        let mut first = 0;
        for (group, metadata) in self.reader.metadata().row_groups().iter().enumerate() {
            let rows = u64::try_from(metadata.num_rows()).unwrap_or(0);
            if row >= first + rows {
                first += rows;
                continue;
            }
            let start = (row - first) as usize / BLOCK_ROWS * BLOCK_ROWS;
            let level = metadata.schema_descr().column(self.column).max_def_level();
            let ColumnReader::ByteArrayColumnReader(mut reader) = self.reader.get_row_group(group)?.get_column_reader(self.column)? else {
                return Err(ParquetError::General("expected a column of bytes".into()));
            };
            if reader.skip_records(start)? != start {
                return Err(ParquetError::EOF(format!("row {row}")));
            }
            let values = read_column(&mut reader, level, BLOCK_ROWS.min(rows as usize - start))?;
            let images = values.into_iter().map(|value| value.map(|value| Bytes::copy_from_slice(value.data())));
            return Ok((first + start as u64, Arc::new(images.collect())));
        }
        Err(ParquetError::EOF(format!("row {row}")))
    }
}
