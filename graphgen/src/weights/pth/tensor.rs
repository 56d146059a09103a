//! Tensors as PyTorch stores them: a storage of elements, and a view of it by offset, size and stride.

use std::ops::Range;
use std::sync::Arc;

use super::super::ElementType;

/// A run of elements in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    /// Its name in the file.
    pub(super) key: String,
    pub(super) element: ElementType,
    /// Number of elements.
    pub(super) elements: u64,
}

impl Storage {
    /// Bytes of one element.
    pub(super) fn element_bytes(&self) -> u64 {
        match self.element {
            ElementType::F64 | ElementType::I64 => 8,
            ElementType::F32 | ElementType::I32 => 4,
            ElementType::F16 | ElementType::BF16 | ElementType::I16 => 2,
            ElementType::I8 | ElementType::U8 | ElementType::Bool | ElementType::Other(_) => 1,
        }
    }

    /// Bytes of all elements; `None` for more than can be counted.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.elements.checked_mul(self.element_bytes())
    }
}

/// A view of a storage that lies within it.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) storage: Arc<Storage>,
    offset: u64,
    pub(super) shape: Vec<usize>,
    /// Elements from one index of a dimension to the next.
    strides: Vec<u64>,
}

impl Tensor {
    /// Checks that the view lies within the storage.
    pub(super) fn new(storage: Arc<Storage>, offset: u64, size: &[u64], mut strides: Vec<u64>) -> Result<Tensor, String> {
        if size.len() != strides.len() {
            return Err(format!("a tensor of size {size:?} has strides {strides:?}"));
        }
        let shape = size.iter().map(|&dimension| usize::try_from(dimension)).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        // A dimension of one index takes no step, whatever its stride says.
        strides.iter_mut().zip(&shape).filter(|(_, dimension)| **dimension == 1).for_each(|(stride, _)| *stride = 0);
        let tensor = Tensor { storage, offset, shape, strides };
        match tensor.end() {
            Some(end) if end <= tensor.storage.elements => Ok(tensor),
            _ => Err(format!(
                "a tensor of size {:?} and strides {:?} from element {offset} lies outside of its storage of {} elements",
                tensor.shape, tensor.strides, tensor.storage.elements
            )),
        }
    }

    /// One beyond the last element of the storage that the view holds; `None` beyond what can be counted.
    fn end(&self) -> Option<u64> {
        if self.shape.contains(&0) {
            return Some(self.offset);
        }
        let mut steps = self.shape.iter().zip(&self.strides);
        let last = steps.try_fold(self.offset, |last, (&dimension, &stride)| last.checked_add(stride.checked_mul(dimension as u64 - 1)?))?;
        last.checked_add(1)
    }

    /// Elements of the storage between the first and the last one of the view.
    fn span(&self) -> Range<u64> {
        // `new` has computed the end before.
        self.offset..self.end().unwrap_or(self.offset).max(self.offset)
    }

    /// Bytes of the storage between the first and the last element of the view.
    pub(super) fn byte_span(&self) -> Range<u64> {
        let (span, width) = (self.span(), self.storage.element_bytes());
        // No larger than the storage, whose size in bytes is checked where it is found.
        span.start.saturating_mul(width)..span.end.saturating_mul(width)
    }

    /// Number of elements, which may repeat; `None` if there are more than in the storage.
    fn count(&self) -> Option<usize> {
        let count = self.shape.iter().try_fold(1_usize, |count, &dimension| count.checked_mul(dimension));
        count.filter(|&count| count as u64 <= self.storage.elements)
    }

    /// The view's elements in row-major order, from those of its span.
    pub(super) fn gather(&self, span: Vec<f32>) -> Result<Vec<f32>, String> {
        let count = self.count().ok_or_else(|| {
            format!("a tensor of size {:?} repeats the {} elements of its storage; save it with .contiguous()", self.shape, self.storage.elements)
        })?;
        if self.is_row_major() {
            return Ok(span);
        }
        let mut gathered = Vec::with_capacity(count);
        let mut index = vec![0; self.shape.len()];
        let mut position = 0;
        while gathered.len() < count {
            gathered.push(*span.get(position).ok_or("a tensor lies outside of its storage")?);
            for (dimension, index) in index.iter_mut().enumerate().rev() {
                let stride = self.strides[dimension] as usize;
                *index += 1;
                position += stride;
                if *index < self.shape[dimension] {
                    break;
                }
                position -= stride * self.shape[dimension];
                *index = 0;
            }
        }
        Ok(gathered)
    }

    /// Whether the span holds the elements in order and nothing else.
    fn is_row_major(&self) -> bool {
        let mut expected = 1;
        for (&dimension, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if dimension != 1 && stride != expected {
                return self.shape.contains(&0);
            }
            expected = expected.saturating_mul(dimension as u64);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(elements: u64, offset: u64, size: &[u64], strides: &[u64]) -> Result<Vec<f32>, String> {
        let storage = Arc::new(Storage { key: "0".into(), element: ElementType::F32, elements });
        let tensor = Tensor::new(storage, offset, size, strides.to_vec())?;
        tensor.gather(tensor.span().map(|element| element as f32).collect())
    }

    #[test]
    fn views_are_gathered_in_row_major_order() {
        assert_eq!(view(6, 0, &[2, 3], &[3, 1]).expect("row-major"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(view(6, 0, &[3, 2], &[1, 3]).expect("transposed"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(view(9, 2, &[2, 2], &[4, 2]).expect("every other element"), [2.0, 4.0, 6.0, 8.0]);
        assert_eq!(view(2, 0, &[1, 2, 1], &[u64::MAX, 1, 77]).expect("strides of single indices"), [0.0, 1.0]);
        assert_eq!(view(6, 0, &[3, 1, 2], &[1, u64::MAX, 3]).expect("the same, transposed"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(view(3, 2, &[], &[]).expect("a scalar"), [2.0]);
        assert_eq!(view(3, 3, &[4, 0], &[7, 9]).expect("empty"), [0.0; 0]);
        assert_eq!(view(2, 0, &[2, 1], &[0, 1]).expect("the same element twice"), [0.0, 0.0]);
    }

    #[test]
    fn views_outside_of_the_storage_are_refused() {
        for (offset, size, strides) in [
            (0, &[7][..], &[1][..]),
            (1, &[6], &[1]),
            (0, &[2, 3], &[4, 1]),
            (7, &[0], &[1]),
            (u64::MAX, &[2], &[1]),
            (0, &[u64::MAX, u64::MAX], &[u64::MAX, 1]),
        ] {
            let error = view(6, offset, size, strides).expect_err("outside");
            assert!(error.contains("outside of its storage of 6 elements"), "{error}");
        }
        assert!(view(6, 0, &[6], &[]).expect_err("no stride").contains("strides []"));
    }

    #[test]
    fn a_view_larger_than_its_storage_allocates_nothing() {
        let error = view(1, 0, &[1 << 40, 1 << 20], &[0, 0]).expect_err("expanded");
        assert!(error.contains("repeats"), "{error}");
    }
}
