//! The stack machine.

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

use super::super::tensor::{Storage, Tensor};
use super::source::Source;
use super::{Allowed, Id, Pickle, PickleError, Value};

/// Longest integer, bytes; PyTorch's magic number has 10.
const LONGEST_INTEGER: u8 = 16;
/// Longest key of a storage, bytes; PyTorch's are numbers.
const LONGEST_KEY: usize = 64;
/// Most dimensions of a tensor, as in PyTorch's own loops.
const MOST_DIMENSIONS: usize = 64;

/// The one value of all that weights have no use for.
const PLAIN: Id = 0;

pub(super) struct Machine<'r, R> {
    source: Source<'r, R>,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at which the open marks stand.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    storages: HashMap<String, Arc<Storage>>,
}

impl<'r, R: BufRead> Machine<'r, R> {
    pub(super) fn new(input: &'r mut R, limit: u64) -> Self {
        let (values, stack, marks) = (vec![Value::Plain], Vec::new(), Vec::new());
        Machine { source: Source::new(input, limit), values, stack, marks, memo: HashMap::new(), storages: HashMap::new() }
    }

    pub(super) fn run(mut self) -> Result<Pickle, PickleError> {
        loop {
            let opcode = self.source.byte()?;
            if opcode == b'.' {
                let root = self.pop()?;
                return Ok(Pickle { values: self.values, root, storages: self.storages });
            }
            self.execute(opcode)?;
        }
    }

    /// Names and numbers are those of Python's `pickletools`.
    fn execute(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            // PROTO, FRAME: nothing to do.
            0x80 => match self.source.byte()? {
                2..=5 => {}
                version => return Err(self.source.damaged(format!("expected pickle protocol 2 to 5, got {version}"))),
            },
            0x95 => {
                self.source.array::<8>()?;
            }
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT.
            b'N' | 0x88 | 0x89 => self.stack.push(PLAIN),
            b'G' => {
                self.source.array::<8>()?;
                self.stack.push(PLAIN);
            }
            // BININT, BININT1, BININT2, LONG1.
            b'J' => self.push_int(4, true)?,
            b'K' => self.push_int(1, false)?,
            b'M' => self.push_int(2, false)?,
            0x8a => {
                let length = self.source.byte()?;
                self.push_int(length, true)?;
            }
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8; Python 2's SHORT_BINSTRING, BINSTRING.
            b'X' | b'T' => self.push_text(4)?,
            0x8c | b'U' => self.push_text(1)?,
            0x8d => self.push_text(8)?,
            // SHORT_BINBYTES, BINBYTES, BINBYTES8.
            b'C' => self.push_bytes(1)?,
            b'B' => self.push_bytes(4)?,
            0x8e => self.push_bytes(8)?,
            // MARK, POP, POP_MARK.
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE.
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85..=0x87 => {
                let items = self.pop_items(usize::from(opcode - 0x84))?;
                self.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            // EMPTY_LIST, APPEND, APPENDS.
            b']' => self.push(Value::List(Vec::new())),
            b'a' => {
                let items = self.pop_items(1)?;
                self.append(items)?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS.
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let items = self.pop_items(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            // EMPTY_SET, ADDITEMS, FROZENSET.
            0x8f => self.stack.push(PLAIN),
            0x90 => {
                self.pop_to_mark()?;
                self.expect_plain("ADDITEMS")?;
            }
            0x91 => {
                self.pop_to_mark()?;
                self.stack.push(PLAIN);
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET.
            b'q' => {
                let key = self.source.byte()?;
                self.memoize(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.source.array()?);
                self.memoize(key)?;
            }
            0x94 => {
                // The memo has fewer entries than the pickle has bytes.
                let key = self.memo.len() as u32;
                self.memoize(key)?;
            }
            b'h' => {
                let key = self.source.byte()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.source.array()?);
                self.recall(key)?;
            }
            // GLOBAL, STACK_GLOBAL, REDUCE, BUILD, BINPERSID.
            b'c' => {
                let (module, name) = (self.source.line()?, self.source.line()?);
                self.push_global(&module, &name)?;
            }
            0x93 => {
                let items = self.pop_items(2)?;
                let (Value::Text(module), Value::Text(name)) = (&self.values[items[0]], &self.values[items[1]]) else {
                    return Err(self.source.damaged("STACK_GLOBAL: expected a module and a name"));
                };
                let allowed = Allowed::find(module, name).ok_or_else(|| refused(module, name))?;
                self.push(Value::Global(allowed));
            }
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            other => return Err(self.source.damaged(format!("opcode {other:#04x} is none of those that torch.save writes"))),
        }
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// Height below which the stack belongs to an outer mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        let floor = self.floor();
        if self.stack.len() <= floor {
            return Err(self.source.damaged("too few values on the stack"));
        }
        self.stack.pop().ok_or_else(|| self.source.damaged("an empty stack"))
    }

    fn pop_items(&mut self, count: usize) -> Result<Vec<Id>, PickleError> {
        match self.stack.len().checked_sub(count).filter(|&height| height >= self.floor()) {
            Some(height) => Ok(self.stack.split_off(height)),
            None => Err(self.source.damaged("too few values on the stack")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let height = self.marks.pop().ok_or_else(|| self.source.damaged("no mark on the stack"))?;
        Ok(self.stack.split_off(height))
    }

    /// The value on top, which stays there.
    fn top(&self) -> Result<Id, PickleError> {
        let top = self.stack.get(self.floor()..).and_then(<[Id]>::last);
        top.copied().ok_or_else(|| self.source.damaged("too few values on the stack"))
    }

    fn memoize(&mut self, key: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), PickleError> {
        let id = *self.memo.get(&key).ok_or_else(|| self.source.damaged(format!("no value was stored as {key}")))?;
        self.stack.push(id);
        Ok(())
    }

    fn push_int(&mut self, length: u8, signed: bool) -> Result<(), PickleError> {
        if length > LONGEST_INTEGER {
            return Err(self.source.damaged(format!("an integer of {length} bytes, expected at most {LONGEST_INTEGER}")));
        }
        let bytes = self.source.bytes(length.into())?;
        let negative = signed && bytes.last().is_some_and(|&last| last >= 0x80);
        let mut padded = [if negative { 0xff } else { 0 }; 16];
        padded[..bytes.len()].copy_from_slice(&bytes);
        self.push(Value::Int(i128::from_le_bytes(padded)));
        Ok(())
    }

    /// A little-endian length of so many bytes.
    fn length(&mut self, bytes: u8) -> Result<u64, PickleError> {
        match bytes {
            1 => Ok(self.source.byte()?.into()),
            4 => Ok(u32::from_le_bytes(self.source.array()?).into()),
            _ => Ok(u64::from_le_bytes(self.source.array()?)),
        }
    }

    fn push_text(&mut self, length_bytes: u8) -> Result<(), PickleError> {
        let length = self.length(length_bytes)?;
        let text = self.source.text(length)?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn push_bytes(&mut self, length_bytes: u8) -> Result<(), PickleError> {
        let length = self.length(length_bytes)?;
        self.source.bytes(length)?;
        self.stack.push(PLAIN);
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), PickleError> {
        let list = self.top()?;
        match &mut self.values[list] {
            Value::List(list) => list.extend(items),
            _ => return Err(self.source.damaged("APPEND: expected a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), PickleError> {
        let dictionary = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.values[dictionary] {
            Value::Dict(entries) if rest.is_empty() => entries.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Value::Dict(_) => return Err(self.source.damaged("SETITEMS: a key without a value")),
            _ => return Err(self.source.damaged("SETITEMS: expected a dictionary")),
        }
        Ok(())
    }

    fn expect_plain(&self, what: &str) -> Result<(), PickleError> {
        match self.values[self.top()?] {
            Value::Plain => Ok(()),
            _ => Err(self.source.damaged(format!("{what} on a value that has none"))),
        }
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), PickleError> {
        let allowed = Allowed::find(module, name).ok_or_else(|| refused(module, name))?;
        self.push(Value::Global(allowed));
        Ok(())
    }

    /// Calls an allowed class or function.
    fn reduce(&mut self) -> Result<(), PickleError> {
        let items = self.pop_items(2)?;
        let (function, arguments) = (&self.values[items[0]], &self.values[items[1]]);
        let (&Value::Global(function), Value::Tuple(arguments)) = (function, arguments) else {
            return Err(self.source.damaged("REDUCE: expected a function and a tuple of arguments"));
        };
        match (function, arguments.as_slice()) {
            (Allowed::Plain, _) => self.stack.push(PLAIN),
            (Allowed::OrderedDict, []) => self.push(Value::Dict(Vec::new())),
            (Allowed::OrderedDict, &[pairs]) => self.push(Value::DictOf(pairs)),
            (Allowed::Size, &[size]) if matches!(self.values[size], Value::Tuple(_)) => self.stack.push(size),
            (Allowed::Parameter, &[data, ..]) if matches!(self.values[data], Value::Tensor(_)) => self.stack.push(data),
            (Allowed::Tensor, &[storage, offset, size, stride, ..]) => {
                let tensor = self.tensor(storage, offset, size, stride).map_err(|problem| self.source.damaged(problem))?;
                self.push(Value::Tensor(Arc::new(tensor)));
            }
            _ => return Err(self.source.damaged(format!("arguments of {function:?} that do not fit"))),
        }
        Ok(())
    }

    fn tensor(&self, storage: Id, offset: Id, size: Id, stride: Id) -> Result<Tensor, String> {
        let Value::Storage(storage) = &self.values[storage] else { return Err("a tensor without a storage".into()) };
        let offset = self.whole(offset).ok_or("a tensor's offset is no whole number")?;
        let numbers = |id: Id| match &self.values[id] {
            Value::Tuple(items) if items.len() <= MOST_DIMENSIONS => items.iter().map(|&item| self.whole(item)).collect::<Option<Vec<u64>>>(),
            _ => None,
        };
        let (Some(size), Some(stride)) = (numbers(size), numbers(stride)) else {
            return Err(format!("a tensor's size and stride must be at most {MOST_DIMENSIONS} whole numbers each"));
        };
        Tensor::new(Arc::clone(storage), offset, &size, stride)
    }

    fn whole(&self, id: Id) -> Option<u64> {
        match self.values[id] {
            Value::Int(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// Attributes of a dictionary (`_metadata` of a state dict) or of a plain value: dropped.
    fn build(&mut self) -> Result<(), PickleError> {
        self.pop()?;
        match self.values[self.top()?] {
            Value::Dict(_) | Value::DictOf(_) | Value::Plain => Ok(()),
            _ => Err(self.source.damaged("BUILD on a value without attributes")),
        }
    }

    /// `('storage', class, key, device, elements)`, and None at the end in the legacy format.
    fn persistent(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let storage = self.storage(id).ok_or_else(|| self.source.damaged("expected the description of a storage"))?;
        match self.storages.get(&storage.key) {
            // The same storage again.
            Some(known) if **known == storage => self.push(Value::Storage(Arc::clone(known))),
            Some(_) => return Err(self.source.damaged(format!("storage {} has two types or sizes", storage.key))),
            None => {
                let storage = Arc::new(storage);
                self.storages.insert(storage.key.clone(), Arc::clone(&storage));
                self.push(Value::Storage(storage));
            }
        }
        Ok(())
    }

    fn storage(&self, id: Id) -> Option<Storage> {
        let Value::Tuple(parts) = &self.values[id] else { return None };
        let (kind, class, key, elements) = match *parts.as_slice() {
            [kind, class, key, _device, elements] => (kind, class, key, elements),
            // Storages that are views of others have not been written since PyTorch 0.4.
            [kind, class, key, _device, elements, view] if matches!(self.values[view], Value::Plain) => (kind, class, key, elements),
            _ => return None,
        };
        match (&self.values[kind], &self.values[class], &self.values[key]) {
            (Value::Text(kind), &Value::Global(Allowed::Storage(element)), Value::Text(key)) if kind == "storage" && key.len() <= LONGEST_KEY => {
                Some(Storage { key: key.clone(), element, elements: self.whole(elements)? })
            }
            _ => None,
        }
    }
}

fn refused(module: &str, name: &str) -> PickleError {
    // A name from the stack may be of any length.
    let name: String = format!("{module}.{name}").chars().take(200).collect();
    PickleError::Refused { name }
}
