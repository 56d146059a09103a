//! Types, tensors and attributes as protobuf messages.

use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{AttributeProto, GraphProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_proto, type_proto};
use super::writer::Dim;
use crate::ir::{DType, TensorData, TensorType};
use crate::ops::Attribute;

/// `TensorProto.DataType` of an element type.
pub(crate) fn data_type(dtype: DType) -> i32 {
    let data_type = match dtype {
        DType::F32 => tensor_proto::DataType::Float,
        DType::F16 => tensor_proto::DataType::Float16,
        DType::F64 => tensor_proto::DataType::Double,
        DType::U8 => tensor_proto::DataType::Uint8,
        DType::I64 => tensor_proto::DataType::Int64,
        DType::Bool => tensor_proto::DataType::Bool,
    };
    data_type.into()
}

/// A named type with static dimensions.
pub(crate) fn value_info(name: &str, ty: &TensorType) -> ValueInfoProto {
    let dims: Vec<Dim> = ty.shape.iter().map(|&dim| Dim::Static(dim)).collect();
    symbolic_value_info(name, ty.dtype, &dims)
}

/// A named type whose dimensions may be symbolic.
pub(super) fn symbolic_value_info(name: &str, dtype: DType, dims: &[Dim]) -> ValueInfoProto {
    let dimension = |dim: &Dim| match dim {
        Dim::Static(length) => dimension::Value::DimValue(*length as i64),
        Dim::Symbolic(name) => dimension::Value::DimParam(name.clone()),
    };
    let dim = dims.iter().map(|dim| Dimension { value: Some(dimension(dim)), ..Dimension::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: Some(data_type(dtype)), shape: Some(TensorShapeProto { dim }) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// A constant, without a name.
pub(crate) fn tensor(ty: &TensorType, data: &TensorData) -> TensorProto {
    let raw: Vec<u8> = match data {
        TensorData::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        &TensorData::Filled(value, len) => value.to_le_bytes().repeat(len),
        TensorData::Exact(values) => values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect(),
        TensorData::F16(values) => values.iter().flat_map(|&value| half::f16::from_f64(value).to_le_bytes()).collect(),
        TensorData::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        TensorData::U8(values) => values.clone(),
        TensorData::Bool(values) => values.iter().map(|&value| value.into()).collect(),
    };
    TensorProto { dims: ty.shape.iter().map(|&dim| dim as i64).collect(), data_type: Some(data_type(ty.dtype)), raw_data: Some(raw), ..TensorProto::default() }
}

/// An attribute with its type, also where the value is zero.
pub(crate) fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    let ty = match value {
        Attribute::Int(value) => {
            proto.i = Some(*value);
            AttributeType::Int
        }
        Attribute::Ints(values) => {
            proto.ints.clone_from(values);
            AttributeType::Ints
        }
        Attribute::Float(value) => {
            proto.f = Some(*value);
            AttributeType::Float
        }
        Attribute::String(value) => {
            proto.s = Some(value.as_bytes().to_vec());
            AttributeType::String
        }
    };
    proto.r#type = Some(ty.into());
    proto
}

/// A constant as the attribute of a `Constant` node.
pub(crate) fn tensor_attribute(tensor: TensorProto) -> AttributeProto {
    AttributeProto { name: Some("value".to_owned()), r#type: Some(AttributeType::Tensor.into()), t: Some(tensor), ..AttributeProto::default() }
}

/// A branch of `If`.
pub(crate) fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(AttributeType::Graph.into()), g: Some(graph), ..AttributeProto::default() }
}
