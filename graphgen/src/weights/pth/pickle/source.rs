//! The bytes of a pickle, counted and limited.

use std::io::{BufRead, Read};

use super::PickleError;

/// Longest module or class name, bytes.
const LONGEST_NAME: usize = 256;

/// Reads from a file and never beyond a limit, so that no length in the pickle can ask for more memory than the limit.
pub(super) struct Source<'r, R> {
    input: &'r mut R,
    position: u64,
    limit: u64,
}

impl<'r, R: BufRead> Source<'r, R> {
    pub(super) fn new(input: &'r mut R, limit: u64) -> Self {
        Source { input, position: 0, limit }
    }

    pub(super) fn damaged(&self, problem: impl Into<String>) -> PickleError {
        PickleError::Damaged { position: self.position, problem: problem.into() }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut bytes = [0; N];
        self.advance(N as u64)?;
        match self.input.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(PickleError::Truncated { position: self.position }),
            Err(error) => Err(PickleError::Io(error)),
        }
    }

    pub(super) fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.array::<1>()?[0])
    }

    /// `length` bytes; memory grows with what is there, not with what is claimed.
    pub(super) fn bytes(&mut self, length: u64) -> Result<Vec<u8>, PickleError> {
        self.advance(length)?;
        let mut bytes = Vec::new();
        self.input.by_ref().take(length).read_to_end(&mut bytes).map_err(PickleError::Io)?;
        if (bytes.len() as u64) < length {
            return Err(PickleError::Truncated { position: self.position });
        }
        Ok(bytes)
    }

    pub(super) fn text(&mut self, length: u64) -> Result<String, PickleError> {
        let bytes = self.bytes(length)?;
        String::from_utf8(bytes).map_err(|_| self.damaged("expected text in UTF-8"))
    }

    /// A name up to the end of the line.
    pub(super) fn line(&mut self) -> Result<String, PickleError> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                byte if line.len() < LONGEST_NAME => line.push(byte),
                _ => return Err(self.damaged(format!("a name of more than {LONGEST_NAME} bytes"))),
            }
        }
        String::from_utf8(line).map_err(|_| self.damaged("expected a name in UTF-8"))
    }

    fn advance(&mut self, count: u64) -> Result<(), PickleError> {
        self.position = self.position.checked_add(count).filter(|&position| position <= self.limit).ok_or(PickleError::TooLong)?;
        Ok(())
    }
}
