//! Pickles, as far as `torch.save` needs them: tensors and plain containers.
//!
//! A pickle is a program for a stack machine that can call anything by name. This reader runs none of it: it knows the
//! few names below and refuses all others. Values stand in one table and refer to each other by number, so that shared and
//! cyclic values cost nothing and nothing recurses; every operation takes time and memory in proportion to the bytes it
//! was read from.

mod allowed;
mod machine;
mod source;

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

use super::tensor::{Storage, Tensor};
use allowed::Allowed;
use machine::Machine;

/// Longest pickle, bytes: checkpoints of the largest published networks have less than a tenth of it.
const LONGEST_PICKLE: u64 = 16 << 20;

/// Why a pickle is not read.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// The file system failed.
    #[error("cannot be read: {0}")]
    Io(std::io::Error),
    /// The file ends too early.
    #[error("ends in the middle of a pickle, at its byte {position}: the file is damaged or incomplete")]
    Truncated {
        /// Byte of the pickle.
        position: u64,
    },
    /// More than any real checkpoint has.
    #[error("its pickle is longer than {LONGEST_PICKLE} bytes; save the weights alone: torch.save(model.state_dict(), FILE)")]
    TooLong,
    /// A class or function that is no part of tensors or plain containers.
    #[error(
        "its pickle asks for {name}; only tensors, numbers, text and plain containers are read. Save the weights alone: \
         torch.save(model.state_dict(), FILE)"
    )]
    Refused {
        /// Module and name.
        name: String,
    },
    /// A pickle that PyTorch does not write.
    #[error("its pickle is damaged at byte {position}: {problem}")]
    Damaged {
        /// Byte of the pickle.
        position: u64,
        /// What is wrong.
        problem: String,
    },
}

/// Number of a value in [`Pickle::values`].
pub(super) type Id = usize;

/// A value of a pickle.
#[derive(Debug)]
pub(super) enum Value {
    Int(i128),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// Keys and values in the order of insertion; the last of equal keys counts.
    Dict(Vec<(Id, Id)>),
    /// A dictionary given as a list of pairs, as Python 2 writes an OrderedDict.
    DictOf(Id),
    Storage(Arc<Storage>),
    Tensor(Arc<Tensor>),
    /// An allowed class or function, not yet called.
    Global(Allowed),
    /// A plain value that weights have no use for: None, a flag, bytes, a device, …
    Plain,
}

/// The values of a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
    /// Every storage that is mentioned, by key.
    pub(super) storages: HashMap<String, Arc<Storage>>,
}

impl Pickle {
    /// Reads one pickle and nothing behind it.
    pub(super) fn read(input: &mut impl BufRead) -> Result<Pickle, PickleError> {
        Machine::new(input, LONGEST_PICKLE).run()
    }

    /// The value that the pickle stands for.
    pub(super) fn root(&self) -> &Value {
        &self.values[self.root]
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// The entries of a dictionary; `None` for other values.
    pub(super) fn entries(&self, dictionary: &Value) -> Option<Vec<(Id, Id)>> {
        match dictionary {
            Value::Dict(entries) => Some(entries.clone()),
            Value::DictOf(list) => {
                let Value::List(pairs) = self.get(*list) else { return None };
                let pair = |&id: &Id| match self.get(id) {
                    Value::Tuple(pair) | Value::List(pair) => <[Id; 2]>::try_from(pair.as_slice()).ok().map(|[key, value]| (key, value)),
                    _ => None,
                };
                pairs.iter().map(pair).collect()
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
