//! Huffman decoding: one lookup gives a coefficient, and often the next one or the end of the block with it.

use super::header::Code;

/// Bits looked up at once in the table of coefficients.
const LOOKUP_BITS: u32 = 12;
/// Bits looked up at once in the table of codes.
const CODE_BITS: u32 = 9;

/// A code with the bits of its value behind it. The fields of a `u32`, from the lowest bit: 6 for the bits of both, 5 for those
/// of the code, 4 for those of the value, 4 for the zeros before the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Coded(u32);

impl Coded {
    /// A code of more bits than are looked up, or none.
    const LONG: Coded = Coded(0);

    /// A code of `bits` bits for a symbol; `None` for symbols that baseline JPEGs do not have.
    fn new(kind: Kind, bits: u32, symbol: u8) -> Option<Coded> {
        let (run, size) = kind.split(symbol)?;
        Some(Coded((bits + size) | bits << 6 | size << 11 | run << 15))
    }

    /// Bits of the code and its value.
    #[inline(always)]
    fn bits(self) -> u32 {
        self.0 & 63
    }

    /// Bits of the code.
    #[inline(always)]
    fn code_bits(self) -> u32 {
        self.0 >> 6 & 31
    }

    /// Bits of the value.
    #[inline(always)]
    fn size(self) -> u32 {
        self.0 >> 11 & 15
    }

    /// Zeros before the value.
    #[inline(always)]
    fn run(self) -> u32 {
        self.0 >> 15
    }

    /// Among the codes of coefficients: whether it is the end of the block.
    fn is_end(self) -> bool {
        (self.run(), self.size()) == (0, 0)
    }

    /// The value behind the code that `bits` begin with, from the highest one down.
    #[inline(always)]
    fn value(self, bits: u64) -> i16 {
        let bits = bits << self.code_bits();
        // Numbers with a leading 0 are negative.
        let negative = !(bits as i64 >> 63) as i32;
        ((bits >> 1 >> (63 - self.size())) as i32 + (negative & ((-1 << self.size()) + 1))) as i16
    }
}

/// What looked-up bits begin with: a coefficient, then as far as the bits tell another one or the end of the block. The fields
/// of a `u32`, from the lowest bit: 6 for the bits of all that, 7 for how far the coefficient's index moves (past the block
/// for an end or what is not known), 4 for the zeros before the first coefficient, 4 for the second one, 11 for the first one.
/// Where there is no second coefficient the index moves to the first one. Small, as the tables of luma and chroma have to share
/// the first cache with all else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry(u32);

/// How far the end of a block moves the index, beside the coefficient before it.
const PAST_BLOCK: u32 = 64;

impl Entry {
    /// Nothing that fits into the bits.
    const UNKNOWN: Entry = Entry(63 | 127 << 6);

    /// A code with one of its values.
    fn new(coded: Coded, value: i16) -> Entry {
        let advance = if coded.is_end() { PAST_BLOCK } else { coded.run() + 1 };
        Entry(coded.bits() | advance << 6 | coded.run() << 13 | (i32::from(value) as u32) << 21)
    }

    /// This and what stands behind it, if that has a place here.
    fn followed_by(self, second: Entry) -> Entry {
        let fits = self.bits() + second.bits() <= LOOKUP_BITS && self.advance() < PAST_BLOCK && (-8..=7).contains(&second.first());
        let fields = if fits { (second.0 & 0x1fff) + ((second.0 >> 21 & 15) << 17) } else { 0 };
        Entry(self.0 + fields)
    }

    #[inline(always)]
    fn bits(self) -> u32 {
        self.0 & 63
    }

    #[inline(always)]
    fn advance(self) -> u32 {
        self.0 >> 6 & 127
    }

    #[inline(always)]
    fn run(self) -> u32 {
        self.0 >> 13 & 15
    }

    #[inline(always)]
    fn second(self) -> i16 {
        ((self.0 << 11) as i32 >> 28) as i16
    }

    #[inline(always)]
    fn first(self) -> i16 {
        (self.0 as i32 >> 21) as i16
    }
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
    /// What bits begin with, for coefficients.
    entries: Box<[Entry; 1 << LOOKUP_BITS]>,
    /// The codes that bits begin with.
    codes: Box<[Coded; 1 << CODE_BITS]>,
    /// For each length the first code that is longer, left-aligned in 16 bits.
    limits: [u32; 17],
    /// For each length the index of the symbol of code 0.
    offsets: [i32; 17],
    symbols: Vec<u8>,
    counts: Vec<u8>,
}

impl Table {
    pub(super) fn new(kind: Kind) -> Table {
        Table {
            kind,
            entries: Box::new([Entry::UNKNOWN; 1 << LOOKUP_BITS]),
            codes: Box::new([Coded::LONG; 1 << CODE_BITS]),
            limits: [0; 17],
            offsets: [0; 17],
            symbols: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// Takes over a table of a file; `None` if it is not one of a baseline JPEG. One that is there already is kept: files have
    /// the standard's example tables or, as often, their own.
    pub(super) fn set(&mut self, code: Code<'_>) -> Option<()> {
        if self.counts == code.counts && self.symbols == code.symbols {
            return Some(());
        }
        // Until it is whole it equals no file's table.
        self.counts.clear();
        self.codes.fill(Coded::LONG);
        let mut entries = [Entry::UNKNOWN; 1 << LOOKUP_BITS];
        let mut next = 0u32;
        let mut index = 0;
        for (bits, &count) in (1..=16u32).zip(code.counts) {
            next <<= 1;
            self.offsets[bits as usize] = index as i32 - next as i32;
            for &symbol in code.symbols.get(index..index + usize::from(count))? {
                if next >= 1 << bits {
                    return None;
                }
                if let Some(coded) = Coded::new(self.kind, bits, symbol) {
                    if bits <= CODE_BITS {
                        self.codes[beginning_with(next, CODE_BITS - bits)].fill(coded);
                    }
                    if self.kind == Kind::Ac && coded.bits() <= LOOKUP_BITS {
                        for value in 0..1 << coded.size() {
                            let bits = next << coded.size() | value;
                            let entry = Entry::new(coded, coded.value(u64::from(bits) << (64 - coded.bits())));
                            entries[beginning_with(bits, LOOKUP_BITS - coded.bits())].fill(entry);
                        }
                    }
                }
                next += 1;
            }
            index += usize::from(count);
            self.limits[bits as usize] = next << (16 - bits);
        }
        if self.kind == Kind::Ac {
            for (index, (entry, first)) in self.entries.iter_mut().zip(entries).enumerate() {
                *entry = first.followed_by(entries[index << first.bits() & ((1 << LOOKUP_BITS) - 1)]);
            }
        }
        self.symbols.clear();
        self.symbols.extend_from_slice(code.symbols);
        self.counts.extend_from_slice(code.counts);
        Some(())
    }

    /// The code that `window`, 16 bits, begins with; `None` if there is none or its symbol is none of a baseline JPEG.
    fn search(&self, window: u32) -> Option<Coded> {
        let bits = (1..=16).find(|&bits| window < self.limits[bits])?;
        let symbol = *self.symbols.get((self.offsets[bits] + (window >> (16 - bits)) as i32) as usize)?;
        Coded::new(self.kind, bits as u32, symbol)
    }
}

/// The looked-up bits that begin with given ones and have `free` more.
fn beginning_with(bits: u32, free: u32) -> std::ops::Range<usize> {
    (bits << free) as usize..((bits + 1) << free) as usize
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

    /// Whether nothing but the filling of the last byte is left, and no bit behind the end was used.
    pub(super) fn at_end(&self) -> bool {
        let left = 8 * (self.data.len() - PADDING) as i64 - (8 * self.position as i64 - i64::from(self.count));
        (0..8).contains(&left)
    }

    /// The next bits' code.
    #[inline(always)]
    fn code(&self, table: &Table) -> Option<Coded> {
        match table.codes[(self.buffer >> (64 - CODE_BITS)) as usize] {
            Coded::LONG => table.search((self.buffer >> 48) as u32),
            coded => Some(coded),
        }
    }

    /// Decodes the coefficients of a block into `slots`, where those that are 0 stand already: the difference of the mean
    /// to the block before goes into `slots[0]`. Returns the zigzag index of the last coefficient that may differ from 0.
    /// `order` has the slot of each zigzag index. `None` for codes that are none.
    #[inline(always)]
    pub(super) fn block(&mut self, dc: &Table, ac: &Table, order: &[u8; 64], slots: &mut [i16; 64]) -> Option<u32> {
        self.refill()?;
        let mean = self.code(dc)?;
        slots[0] = mean.value(self.buffer);
        self.skip(mean.bits());

        let mut index = 0u32;
        'refill: loop {
            self.refill()?;
            // Four lookups take 48 bits at most.
            for _ in 0..4 {
                let found = ac.entries[(self.buffer >> (64 - LOOKUP_BITS)) as usize];
                let next = index + found.advance();
                let place = (index + found.run() + 1) as usize & 63;
                if next < 63 {
                    // Without a second coefficient the first one goes to the same place.
                    slots[usize::from(order[next as usize]) & 63] = found.second();
                    slots[usize::from(order[place]) & 63] = found.first();
                    self.skip(found.bits());
                    index = next;
                    continue;
                }
                // The end, after a last coefficient, or after a 0 written where there is one already.
                if found.advance() >= PAST_BLOCK && found != Entry::UNKNOWN && (index as usize + 1..63).contains(&place) {
                    slots[usize::from(order[place]) & 63] = found.first();
                    self.skip(found.bits());
                    return Some(next - PAST_BLOCK);
                }
                self.refill()?;
                let coded = self.code(ac)?;
                if coded.is_end() {
                    self.skip(coded.bits());
                    return Some(index);
                }
                index += coded.run() + 1;
                slots[usize::from(*order.get(index as usize)?) & 63] = coded.value(self.buffer);
                self.skip(coded.bits());
                // The last place ends a block without a code.
                if index == 63 {
                    return Some(index);
                }
                continue 'refill;
            }
        }
    }
}
