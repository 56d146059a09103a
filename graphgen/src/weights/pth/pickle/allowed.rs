//! The classes and functions that a pickle may name.

use super::super::super::ElementType;

/// What an allowed name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Allowed {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.
    Tensor,
    /// `torch._utils._rebuild_parameter`: the tensor itself.
    Parameter,
    /// `torch.Size`: a tuple.
    Size,
    /// `torch.FloatStorage` and the like.
    Storage(ElementType),
    /// Makes a value that weights have no use for.
    Plain,
}

impl Allowed {
    /// The meaning of a name; `None` for everything that is not allowed.
    pub(super) fn find(module: &str, name: &str) -> Option<Allowed> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Allowed::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Allowed::Tensor,
            ("torch._utils", "_rebuild_parameter") => Allowed::Parameter,
            ("torch", "Size") => Allowed::Size,
            ("torch", "DoubleStorage") => Allowed::Storage(ElementType::F64),
            ("torch", "FloatStorage") => Allowed::Storage(ElementType::F32),
            ("torch", "HalfStorage") => Allowed::Storage(ElementType::F16),
            ("torch", "BFloat16Storage") => Allowed::Storage(ElementType::BF16),
            ("torch", "LongStorage") => Allowed::Storage(ElementType::I64),
            ("torch", "IntStorage") => Allowed::Storage(ElementType::I32),
            ("torch", "ShortStorage") => Allowed::Storage(ElementType::I16),
            ("torch", "CharStorage") => Allowed::Storage(ElementType::I8),
            ("torch", "ByteStorage") => Allowed::Storage(ElementType::U8),
            ("torch", "BoolStorage") => Allowed::Storage(ElementType::Bool),
            ("torch", "device" | "float64" | "float32" | "float16" | "bfloat16" | "int64" | "int32" | "int16" | "int8" | "uint8" | "bool") => Allowed::Plain,
            // Sets and, in protocol 2, bytes.
            ("builtins" | "__builtin__", "set" | "frozenset" | "bytes") | ("_codecs", "encode") => Allowed::Plain,
            // NumPy scalars: the official training loop leaves its learning rate, a numpy.float64, in the optimizer's state.
            ("numpy", "dtype") | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Allowed::Plain,
            _ => return None,
        })
    }
}
