//! ONNX files.

use crate::ir::DType;

/// `TensorProto.DataType` of an element type.
pub(crate) fn data_type(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I64 => 7,
        DType::Bool => 9,
    }
}
