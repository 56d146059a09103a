//! Types of stored elements, and their conversion to f32.

use half::{bf16, f16};

/// Type of a stored tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum ElementType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    /// Any other type of a safetensors file; its tensors cannot be used.
    Other(safetensors::Dtype),
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ElementType::Other(dtype) => write!(f, "{dtype:?}"),
            ElementType::Bool => write!(f, "BOOL"),
            known => write!(f, "{known:?}"),
        }
    }
}

impl ElementType {
    /// Little-endian elements as f32, rounded to nearest; `None` for types that are no floating-point numbers.
    /// `bytes` holds whole elements.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<Vec<f32>> {
        fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|&element| convert(element)).collect()
        }
        match self {
            ElementType::F64 => Some(each(bytes, |element| f64::from_le_bytes(element) as f32)),
            ElementType::F32 => Some(each(bytes, f32::from_le_bytes)),
            ElementType::F16 => Some(each(bytes, |element| f16::from_le_bytes(element).to_f32())),
            ElementType::BF16 => Some(each(bytes, |element| bf16::from_le_bytes(element).to_f32())),
            _ => None,
        }
    }

    /// Whether [`decode`](Self::decode) can read this type.
    pub(super) fn is_float(self) -> bool {
        matches!(self, ElementType::F64 | ElementType::F32 | ElementType::F16 | ElementType::BF16)
    }

    /// The type of a safetensors file.
    pub(super) fn from_safetensors(dtype: safetensors::Dtype) -> ElementType {
        use safetensors::Dtype;
        match dtype {
            Dtype::F64 => ElementType::F64,
            Dtype::F32 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::BF16,
            Dtype::I64 => ElementType::I64,
            Dtype::I32 => ElementType::I32,
            Dtype::I16 => ElementType::I16,
            Dtype::I8 => ElementType::I8,
            Dtype::U8 => ElementType::U8,
            Dtype::BOOL => ElementType::Bool,
            other => ElementType::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_type_becomes_f32() {
        let decode = |element: ElementType, bytes: &[u8]| element.decode(bytes).expect("a float type");
        assert_eq!(decode(ElementType::F64, &(-2.5_f64).to_le_bytes()), [-2.5]);
        assert_eq!(decode(ElementType::F32, &(-2.5_f32).to_le_bytes()), [-2.5]);
        // numpy.float16(-2.5), numpy.float16(6e-8) (subnormal); the upper half of f32's -2.5.
        assert_eq!(decode(ElementType::F16, &[0x00, 0xc1, 0x01, 0x00]), [-2.5, 5.960_464_5e-8]);
        assert_eq!(decode(ElementType::BF16, &[0x20, 0xc0]), [-2.5]);
        // A double beyond f32 becomes infinite, as in PyTorch.
        assert_eq!(decode(ElementType::F64, &1e300_f64.to_le_bytes()), [f32::INFINITY]);
        assert_eq!(ElementType::I64.decode(&[0; 8]), None);
    }
}
