//! Writing safetensors files tensor by tensor.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, ErrorKind, Result, Write};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::Shapes;

/// Elements that are converted to bytes at a time.
const CHUNK: usize = 1024;

/// Writes a safetensors file as its tensors come, so that no two of them need be in memory at once. The header comes first:
/// shapes are known from the start, tensors follow in the order of their names.
///
/// ```
/// use graphgen::weights::{SafetensorsWriter, Shapes};
///
/// let shapes = Shapes::from([("bias".to_owned(), vec![2]), ("weight".to_owned(), vec![2, 1])]);
/// let mut file = SafetensorsWriter::new(Vec::new(), &shapes, &Default::default())?;
/// file.write("bias", &[0.5, -0.5])?;
/// file.write("weight", &[1.0, 2.0])?;
/// let bytes = file.finish()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct SafetensorsWriter<W> {
    out: W,
    /// Names and elements of the tensors to come.
    pending: VecDeque<(String, usize)>,
}

impl<W: Write> SafetensorsWriter<W> {
    /// Writes the header of a file of f32 tensors.
    ///
    /// # Errors
    /// Whatever `out` reports; so many tensors that the header exceeds the format's limit.
    pub fn new(out: W, shapes: &Shapes, metadata: &BTreeMap<String, String>) -> Result<Self> {
        Self::with_counters(out, &BTreeMap::new(), shapes, metadata)
    }

    /// Writes the header and I64 scalars, which come before the f32 tensors: the format's own writer sorts by element size.
    pub(super) fn with_counters(mut out: W, counters: &BTreeMap<String, i64>, shapes: &Shapes, metadata: &BTreeMap<String, String>) -> Result<Self> {
        let mut end = 0;
        let mut info = |name: &String, dtype: Dtype, shape: Vec<usize>| {
            let start = end;
            end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
        };
        let integers: Vec<_> = counters.keys().map(|name| info(name, Dtype::I64, Vec::new())).collect();
        let floats = shapes.iter().map(|(name, shape)| info(name, Dtype::F32, shape.clone()));
        let tensors = integers.into_iter().chain(floats).collect();
        let metadata = (!metadata.is_empty()).then(|| metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect());
        let header = Metadata::new(metadata, tensors).map_err(|error| Error::new(ErrorKind::InvalidInput, error.to_string()))?;
        let mut header = serde_json::to_vec(&header)?;
        // The data is aligned to 8 bytes, as the format's own writer aligns it.
        header.resize(header.len().next_multiple_of(8), b' ');
        if header.len() as u64 > super::safetensors::LARGEST_HEADER {
            return Err(Error::new(ErrorKind::InvalidInput, format!("a header of {} bytes exceeds what safetensors files may have", header.len())));
        }
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for value in counters.values() {
            out.write_all(&value.to_le_bytes())?;
        }
        let pending = shapes.iter().map(|(name, shape)| (name.clone(), shape.iter().product())).collect();
        Ok(SafetensorsWriter { out, pending })
    }

    /// Writes the next tensor, row-major.
    ///
    /// # Errors
    /// Whatever `out` reports; a tensor out of turn or of another size.
    pub fn write(&mut self, name: &str, data: &[f32]) -> Result<()> {
        let expected = self.pending.pop_front();
        if expected.as_ref().map(|(name, elements)| (name.as_str(), *elements)) != Some((name, data.len())) {
            let expected = expected.map_or("no tensor".to_owned(), |(name, elements)| format!("{elements} elements of {name}"));
            return Err(Error::new(ErrorKind::InvalidInput, format!("expected {expected}, got {} of {name}", data.len())));
        }
        let mut bytes = [[0; 4]; CHUNK];
        for chunk in data.chunks(CHUNK) {
            for (bytes, value) in bytes.iter_mut().zip(chunk) {
                *bytes = value.to_le_bytes();
            }
            self.out.write_all(bytes[..chunk.len()].as_flattened())?;
        }
        Ok(())
    }

    /// Gives back what was written to, neither flushed nor synced.
    ///
    /// # Errors
    /// Tensors that have not come.
    pub fn finish(self) -> Result<W> {
        match self.pending.front() {
            None => Ok(self.out),
            Some((name, _)) => Err(Error::new(ErrorKind::InvalidInput, format!("expected tensor {name}, got the end"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::weights::{WeightTensor, Weights, safetensors::serialize};

    #[test]
    fn bytes_are_those_of_the_formats_own_writer() {
        // More than a chunk, a scalar, an empty tensor, and names in another order than their types.
        let tensor = |shape: &[usize]| WeightTensor { shape: shape.to_vec(), data: (0..shape.iter().product()).map(|value| value as f32 - 3.5).collect() };
        let weights = Weights::from([("b".to_owned(), tensor(&[3, CHUNK])), ("a".to_owned(), tensor(&[])), ("c".to_owned(), tensor(&[0, 2]))]);
        let counters = BTreeMap::from([("z".to_owned(), -7_i64), ("aa".to_owned(), 1 << 40)]);
        for metadata in [BTreeMap::new(), BTreeMap::from([("format".to_owned(), "pt".to_owned())])] {
            let bytes_of = |tensor: &WeightTensor| tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect();
            let floats = weights.iter().map(|(name, tensor)| (name, Dtype::F32, tensor.shape.clone(), bytes_of(tensor)));
            let integers = counters.iter().map(|(name, value)| (name, Dtype::I64, vec![], value.to_le_bytes().to_vec()));
            let tensors: Vec<(&String, Dtype, Vec<usize>, Vec<u8>)> = floats.chain(integers).collect();
            let views = tensors.iter().map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).expect("whole")));
            let expected = safetensors::serialize(views, (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect())).expect("written");
            assert_eq!(serialize(&weights, &counters, &metadata), expected);
        }
    }

    #[test]
    fn tensors_come_in_turn_and_whole() {
        let shapes = Shapes::from([("a".to_owned(), vec![2]), ("b".to_owned(), vec![1])]);
        let start = || SafetensorsWriter::new(Vec::new(), &shapes, &BTreeMap::new()).expect("a header");
        let error = start().write("b", &[1.0]).expect_err("out of turn").to_string();
        assert_eq!(error, "expected 2 elements of a, got 1 of b");
        let error = start().write("a", &[1.0]).expect_err("too short").to_string();
        assert_eq!(error, "expected 2 elements of a, got 1 of a");
        let mut file = start();
        file.write("a", &[1.0, 2.0]).expect("in turn");
        assert_eq!(file.finish().expect_err("too few").to_string(), "expected tensor b, got the end");
        let mut file = start();
        file.write("a", &[1.0, 2.0]).and_then(|()| file.write("b", &[3.0])).expect("in turn");
        assert_eq!(file.write("c", &[]).expect_err("too many").to_string(), "expected no tensor, got 0 of c");
    }
}
