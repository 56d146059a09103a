//! Event files of TensorBoard: scalars and pictures of a run.
//!
//! A file is a sequence of TFRecords (length, masked CRC-32C of it, bytes, masked CRC-32C of them), each an `Event` message.
//! The messages are those fields of TensorFlow's `event.proto` and `summary.proto` that are written here.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::{StepMetrics, TrainError};

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<SummaryImage>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryImage {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 3 for RGB.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// 1: started. TensorBoard then forgets what an earlier file has from this step on.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Writes an event file.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a new file in `folder` for the steps after `step`; earlier files stay.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub fn create(folder: &Path, step: u64) -> Result<EventFile, TrainError> {
        std::fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        // TensorBoard reads a folder's files in the order of their names.
        let path = folder.join(format!("events.out.tfevents.{:017.6}.step-{step:08}.v2", now()));
        let file = File::create_new(&path).map_err(TrainError::io(&path))?;
        let mut events = EventFile { path, file };
        events.write(Event { file_version: Some("brain.Event:2".into()), ..Event::default() })?;
        events.write(Event { step: step as i64 + 1, session_log: Some(SessionLog { status: 1 }), ..Event::default() })?;
        Ok(events)
    }

    /// Writes all figures of a step.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub fn scalars(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        let fields = match serde_json::to_value(metrics) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => Default::default(),
        };
        let figures = fields.iter().filter(|(name, _)| *name != "step");
        let value = figures.filter_map(|(name, value)| Some(SummaryValue { tag: name.clone(), simple_value: Some(value.as_f64()? as f32), image: None }));
        let summary = Summary { value: value.collect() };
        self.write(Event { step: metrics.step as i64, summary: Some(summary), ..Event::default() })
    }

    /// Writes a picture: PNG or JPEG bytes of `width` x `height` px.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub fn picture(&mut self, tag: &str, step: u64, encoded: Vec<u8>, (width, height): (usize, usize)) -> Result<(), TrainError> {
        let image = SummaryImage { height: height as i32, width: width as i32, colorspace: 3, encoded_image_string: encoded };
        let summary = Summary { value: vec![SummaryValue { tag: tag.into(), simple_value: None, image: Some(image) }] };
        self.write(Event { step: step as i64, summary: Some(summary), ..Event::default() })
    }

    fn write(&mut self, event: Event) -> Result<(), TrainError> {
        let record = record(&Event { wall_time: now(), ..event }.encode_to_vec());
        self.file.write_all(&record).map_err(TrainError::io(&self.path))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// The bytes of a TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

/// CRC-32C, turned and shifted so that the checksum of data that holds checksums is no special case.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_as_tensorflow_writes_it() {
        // tensorboard 2.21: RecordWriter(file).write(b"abc")
        let expected = [3, 0, 0, 0, 0, 0, 0, 0, 176, 153, 73, 14, b'a', b'b', b'c', 110, 87, 241, 33];
        assert_eq!(record(b"abc"), expected);
    }

    #[test]
    fn figures_of_a_step_are_scalars_by_their_names() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let report = super::super::StepReport { step: 6, epoch: 1, learning_rate: 0.5, loss: 2.0, stats: Default::default(), overflowed: false, queue: None };
        let mut events = EventFile::create(folder.path(), 6).expect("file");
        events.scalars(&StepMetrics::new(&report, 4.0, 100.0, 0.25)).expect("write");
        events.picture("crops", 7, vec![1, 2, 3], (4, 5)).expect("write");

        let bytes = std::fs::read(&events.path).expect("read");
        let mut rest = &bytes[..];
        let mut read = Vec::new();
        while let Some(length) = rest.first_chunk::<8>() {
            let length = u64::from_le_bytes(*length) as usize;
            let data = &rest[12..12 + length];
            assert_eq!(record(data), rest[..length + 16]);
            read.push(Event::decode(data).expect("an event"));
            rest = &rest[length + 16..];
        }
        assert_eq!(read[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!((read[1].step, read[1].session_log.clone()), (7, Some(SessionLog { status: 1 })));
        let scalars = read[2].summary.as_ref().expect("a summary");
        let value = |tag: &str| scalars.value.iter().find(|value| value.tag == tag).and_then(|value| value.simple_value);
        assert_eq!((read[2].step, value("loss"), value("loss_over_ln_k"), value("lr"), value("step")), (7, Some(2.0), Some(0.5), Some(0.5), None));
        assert_eq!(value("code_entropy"), None);
        let image = read[3].summary.as_ref().and_then(|summary| summary.value[0].image.clone()).expect("a picture");
        assert_eq!((image.width, image.height, image.encoded_image_string), (4, 5, vec![1, 2, 3]));
    }
}
