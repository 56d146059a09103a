//! Element types, static tensor types and constants.

use std::fmt;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float of IEEE 754.
    F16,
    /// 64-bit float: what f32 is too coarse for, inside a function's body.
    F64,
    /// 8-bit unsigned integer: pixels.
    U8,
    /// 64-bit signed integer: indices and counters.
    I64,
    /// Boolean.
    Bool,
}

impl DType {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 => 2,
            DType::U8 | DType::Bool => 1,
            DType::F64 | DType::I64 => 8,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::F64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::F64 => "f64",
            DType::U8 => "u8",
            DType::I64 => "i64",
            DType::Bool => "bool",
        })
    }
}

/// Element type and static shape. The empty shape is a scalar.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// A tensor type.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        TensorType { dtype, shape: shape.into() }
    }

    /// An f32 tensor type.
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        TensorType::new(DType::F32, shape)
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

/// Elements of a constant, in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 32-bit floats by their exact values: rounded when a file is written, not when a graph is evaluated in f64.
    Exact(Vec<f64>),
    /// The same 32-bit float so many times: of maps as large as a whole batch's there must not be a copy here.
    Filled(f32, usize),
    /// 16-bit floats by their exact values, as [`Exact`](Self::Exact).
    F16(Vec<f64>),
    /// Pixels.
    U8(Vec<u8>),
    /// Indices and counters.
    I64(Vec<i64>),
    /// Booleans.
    Bool(Vec<bool>),
}

impl TensorData {
    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            TensorData::F32(_) | TensorData::Exact(_) | TensorData::Filled(..) => DType::F32,
            TensorData::F16(_) => DType::F16,
            TensorData::U8(_) => DType::U8,
            TensorData::I64(_) => DType::I64,
            TensorData::Bool(_) => DType::Bool,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            TensorData::F32(data) => data.len(),
            TensorData::Filled(_, len) => *len,
            TensorData::Exact(data) | TensorData::F16(data) => data.len(),
            TensorData::U8(data) => data.len(),
            TensorData::I64(data) => data.len(),
            TensorData::Bool(data) => data.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as f64; booleans are 0 and 1.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            TensorData::F32(data) => data.iter().map(|&value| value.into()).collect(),
            &TensorData::Filled(value, len) => vec![value.into(); len],
            TensorData::Exact(data) | TensorData::F16(data) => data.clone(),
            TensorData::U8(data) => data.iter().map(|&value| value.into()).collect(),
            TensorData::I64(data) => data.iter().map(|&value| value as f64).collect(),
            TensorData::Bool(data) => data.iter().map(|&value| f64::from(u8::from(value))).collect(),
        }
    }
}
