//! Huffman decoding: one lookup gives a coefficient's run, its value and the bits of both.

use super::header::Code;

/// Bits looked up at once.
const LOOKUP_BITS: u32 = 11;

// An entry of the lookup table: bits 0-7 the bits to consume, 8-15 how far the coefficient's index moves, 16-31 the value.
// What is no coefficient moves the index past the block, so that one comparison finds it.
const END_OF_BLOCK: u32 = 64;
/// The code is known, its extra bits lie outside the lookup; the value is the symbol.
const LONG_VALUE: u32 = 128;
/// A code of more bits than are looked up, or none.
const LONG_CODE: u32 = 192;

fn entry(bits: u32, advance: u32, value: i32) -> u32 {
    bits | advance << 8 | (value as u32) << 16
}

/// An entry of the table of pairs: a coefficient in the lower half; in the upper half the next one, with bits and advance
/// of both together. Where the next one does not fit, the upper half repeats the lower one.
fn pair(lookup: &[u32; 1 << LOOKUP_BITS], index: usize) -> u64 {
    let first = lookup[index];
    let (bits, advance) = (first & 0xff, first >> 8 & 0xff);
    let second = lookup[index << bits & ((1 << LOOKUP_BITS) - 1)];
    let (second_bits, second_advance) = (second & 0xff, second >> 8 & 0xff);
    let both = advance < END_OF_BLOCK && second_advance < END_OF_BLOCK && bits + second_bits <= LOOKUP_BITS;
    let upper = if both { (second & 0xffff_0000) | ((advance + second_advance) << 8) | (bits + second_bits) } else { first };
    u64::from(upper) << 32 | u64::from(first)
}

/// A number of `size` bits as JPEG writes signed ones: those with a leading 0 are negative.
#[inline(always)]
fn extend(bits: u32, size: u32) -> i32 {
    let negative = if bits < 1 << size >> 1 { (1 << size) - 1 } else { 0 };
    bits as i32 - negative
}

/// What a table's symbols mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Differences of the mean: a size.
    Dc,
    /// The other coefficients: a run of zeros and a size.
    Ac,
}

impl Kind {
    /// The run of zeros and the size of a symbol's value; `None` for symbols that baseline JPEGs do not have.
    fn split(self, symbol: u8) -> Option<(u32, u32)> {
        let (run, size) = match self {
            Kind::Dc => (0, u32::from(symbol)),
            Kind::Ac => (u32::from(symbol >> 4), u32::from(symbol & 15)),
        };
        let known = match self {
            Kind::Dc => size <= 11,
            Kind::Ac => size <= 10 && (size > 0 || run == 0 || run == 15),
        };
        known.then_some((run, size))
    }
}

/// A Huffman table made ready for decoding.
#[derive(Debug, Clone)]
pub(super) struct Table {
    kind: Kind,
    lookup: Box<[u32; 1 << LOOKUP_BITS]>,
    pairs: Box<[u64; 1 << LOOKUP_BITS]>,
    /// For each length the first code that is longer, left-aligned in 16 bits.
    limits: [u32; 17],
    /// For each length the index of the symbol of code 0.
    offsets: [i32; 17],
    symbols: Vec<u8>,
    counts: Vec<u8>,
}

impl Table {
    pub(super) fn new(kind: Kind) -> Table {
        let lookup = Box::new([entry(0, LONG_CODE, 0); 1 << LOOKUP_BITS]);
        let pairs = Box::new([0; 1 << LOOKUP_BITS]);
        Table { kind, lookup, pairs, limits: [0; 17], offsets: [0; 17], symbols: Vec::new(), counts: Vec::new() }
    }

    /// Takes over a table of a file; `None` if it is not one of a baseline JPEG. Most files share a few tables, and
    /// one that is there already is kept.
    pub(super) fn set(&mut self, code: Code<'_>) -> Option<()> {
        if self.counts == code.counts && self.symbols == code.symbols {
            return Some(());
        }
        // Until it is whole it equals no file's table.
        self.counts.clear();
        self.lookup.fill(entry(0, LONG_CODE, 0));
        let mut next = 0u32;
        let mut index = 0;
        for (bits, &count) in (1..=16u32).zip(code.counts) {
            next <<= 1;
            self.offsets[bits as usize] = index as i32 - next as i32;
            for &symbol in code.symbols.get(index..index + usize::from(count))? {
                if next >= 1 << bits {
                    return None;
                }
                if bits <= LOOKUP_BITS {
                    let free = LOOKUP_BITS - bits;
                    fill(&mut self.lookup[(next << free) as usize..((next + 1) << free) as usize], self.kind, bits, symbol);
                }
                next += 1;
            }
            index += usize::from(count);
            self.limits[bits as usize] = next << (16 - bits);
        }
        if self.kind == Kind::Ac {
            for (index, entry) in self.pairs.iter_mut().enumerate() {
                *entry = pair(&self.lookup, index);
            }
        }
        self.symbols.clear();
        self.symbols.extend_from_slice(code.symbols);
        self.counts.extend_from_slice(code.counts);
        Some(())
    }
}

/// Fills the entries of all bits that begin with a code of `bits` bits.
fn fill(slots: &mut [u32], kind: Kind, bits: u32, symbol: u8) {
    let Some((run, size)) = kind.split(symbol) else { return };
    if kind == Kind::Ac && (run, size) == (0, 0) {
        slots.fill(entry(bits, END_OF_BLOCK, 0));
    } else if slots.len() < 1 << size {
        slots.fill(entry(bits, LONG_VALUE, i32::from(symbol)));
    } else {
        let same = slots.len() >> size;
        for (extra, slots) in (0..).zip(slots.chunks_exact_mut(same)) {
            slots.fill(entry(bits + size, run + 1, extend(extra, size)));
        }
    }
}

/// Bytes after the data that may be read without meaning anything.
pub(super) const PADDING: usize = 16;

/// The bits of a run of entropy-coded data without stuffed bytes, followed by [`PADDING`] zeros.
#[derive(Debug)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// The next byte that is not in the buffer.
    position: usize,
    /// The next bits, from the highest one down.
    buffer: u64,
    /// How many of them are accounted for; those below are right, but read again.
    count: u32,
}

impl<'a> Bits<'a> {
    #[inline(always)]
    pub(super) fn new(data: &'a [u8]) -> Bits<'a> {
        Bits { data, position: 0, buffer: 0, count: 0 }
    }

    /// No bits, and none left.
    pub(super) fn none() -> Bits<'static> {
        Bits::new(&[0; PADDING])
    }

    /// Makes at least 56 bits ready; `None` far behind the end.
    #[inline(always)]
    fn refill(&mut self) -> Option<()> {
        let next = self.data.get(self.position..)?.first_chunk()?;
        self.buffer |= u64::from_be_bytes(*next) >> self.count;
        self.position += (63 - self.count as usize) >> 3;
        self.count |= 56;
        Some(())
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits & 63;
        self.count = self.count.wrapping_sub(bits);
    }

    /// The next `bits` bits, at most 16.
    #[inline(always)]
    fn take(&mut self, bits: u32) -> u32 {
        let taken = (self.buffer >> 32 >> (32 - bits)) as u32;
        self.skip(bits);
        taken
    }

    /// Whether nothing but the filling of the last byte is left, and no bit behind the end was used.
    pub(super) fn at_end(&self) -> bool {
        let left = 8 * (self.data.len() - PADDING) as i64 - (8 * self.position as i64 - i64::from(self.count));
        (0..8).contains(&left)
    }

    /// Run and value behind an entry of [`LONG_VALUE`] or [`LONG_CODE`].
    #[inline(always)]
    fn long(&mut self, table: &Table, found: u32) -> Option<(u32, i32)> {
        let symbol = if found >> 8 & 0xff == LONG_VALUE {
            self.skip(found & 0xff);
            (found >> 16) as u8
        } else {
            let window = (self.buffer >> 48) as u32;
            let bits = (1..=16).find(|&bits| window < table.limits[bits])?;
            self.skip(bits as u32);
            *table.symbols.get((table.offsets[bits] + (window >> (16 - bits)) as i32) as usize)?
        };
        let (run, size) = table.kind.split(symbol)?;
        let extra = self.take(size);
        Some((run, extend(extra, size)))
    }

    /// Decodes the coefficients of a block in `slots`, where those that are 0 stand already: the difference of the mean
    /// to the block before goes into `slots[0]`. Returns the zigzag index of the last coefficient that may differ from 0. `order` has the
    /// slot of each zigzag index. `None` for codes that are none.
    #[inline(always)]
    pub(super) fn block(&mut self, dc: &Table, ac: &Table, order: &[u8; 64], slots: &mut [i16; 64]) -> Option<u32> {
        self.refill()?;
        let found = dc.lookup[(self.buffer >> (64 - LOOKUP_BITS)) as usize];
        slots[0] = if found >> 8 & 0xff < LONG_VALUE {
            self.skip(found & 0xff);
            (found >> 16) as i16
        } else {
            self.long(dc, found)?.1 as i16
        };

        let mut index = 0u32;
        'refill: loop {
            self.refill()?;
            // Four lookups take 44 bits at most.
            for _ in 0..4 {
                let both = ac.pairs[(self.buffer >> (64 - LOOKUP_BITS)) as usize];
                let (found, second) = (both as u32, (both >> 32) as u32);
                let next = index + (second >> 8 & 0xff);
                if next >= 63 {
                    let (run, value) = match found >> 8 & 0xff {
                        END_OF_BLOCK => {
                            self.skip(found & 0xff);
                            return Some(index);
                        }
                        LONG_VALUE | LONG_CODE => {
                            self.refill()?;
                            let (run, value) = self.long(ac, found)?;
                            // The end of the block as a code too long to be looked up.
                            if (run, value) == (0, 0) {
                                return Some(index);
                            }
                            (run, value)
                        }
                        advance => {
                            self.skip(found & 0xff);
                            (advance - 1, i32::from((found >> 16) as i16))
                        }
                    };
                    index += run + 1;
                    slots[usize::from(*order.get(index as usize)?) & 63] = value as i16;
                    if index == 63 {
                        return Some(index);
                    }
                    continue 'refill;
                }
                self.skip(second & 0xff);
                slots[usize::from(order[(index + (found >> 8 & 0xff)) as usize & 63]) & 63] = (found >> 16) as i16;
                slots[usize::from(order[next as usize]) & 63] = (second >> 16) as i16;
                index = next;
            }
        }
    }
}
