//! The segments in front of the entropy-coded data, of the kind of JPEG that is decoded here.

/// One component of the frame.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Component {
    id: u8,
    /// Blocks of a minimum coded unit across and down.
    pub(super) across: usize,
    pub(super) down: usize,
    pub(super) quantization: usize,
    pub(super) dc_table: usize,
    pub(super) ac_table: usize,
}

/// A Huffman table as it stands in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code<'a> {
    /// Number of codes of 1 to 16 bits.
    pub(super) counts: &'a [u8],
    /// Symbols in the order of their codes.
    pub(super) symbols: &'a [u8],
}

/// All that is known before the first bit of the scan.
#[derive(Debug, Default)]
pub(crate) struct Header<'a> {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Of one (grey) or three (YCbCr) components, in the order of the scan.
    pub(super) components: Vec<Component>,
    /// Divisors in zigzag order.
    pub(super) quantization: [Option<[u8; 64]>; 4],
    pub(super) dc: [Option<Code<'a>>; 4],
    pub(super) ac: [Option<Code<'a>>; 4],
    /// Minimum coded units between restart markers; 0 for no markers.
    pub(super) restart_interval: usize,
    /// The TIFF structure of the Exif segment.
    pub(crate) exif: Option<&'a [u8]>,
    /// Everything after the scan's header.
    pub(super) scan: &'a [u8],
    jfif: bool,
    adobe_transform: Option<u8>,
}

/// The header of a baseline, Huffman-coded JPEG of 8 bits with one scan, grey or YCbCr in 4:4:4, 4:2:2 or 4:2:0. `None` for
/// everything else, broken files among it.
pub(crate) fn parse(bytes: &[u8]) -> Option<Header<'_>> {
    let mut header = Header::default();
    let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
    loop {
        let (&[0xff, marker, high, low], _) = rest.split_first_chunk()? else { return None };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let segment = rest.get(4..2 + len)?;
        rest = &rest[2 + len..];
        match marker {
            0xc0 => header.frame(segment)?,
            0xc4 => header.huffman_tables(segment)?,
            0xda => {
                header.scan(segment)?;
                header.scan = rest;
                return Some(header);
            }
            0xdb => header.quantization_tables(segment)?,
            0xdd => header.restart_interval = usize::from(u16::from_be_bytes(segment.try_into().ok()?)),
            0xe0 if segment.starts_with(b"JFIF\0") => header.jfif = true,
            0xe1 if header.exif.is_none() => header.exif = segment.strip_prefix(b"Exif\0\0"),
            0xee if segment.starts_with(b"Adobe") => header.adobe_transform = Some(*segment.get(11)?),
            0xe0..=0xef | 0xfe => {}
            _ => return None,
        }
    }
}

impl<'a> Header<'a> {
    fn frame(&mut self, segment: &[u8]) -> Option<()> {
        let (&[8, y1, y0, x1, x0, count], components) = segment.split_first_chunk()? else { return None };
        if !self.components.is_empty() || components.len() != 3 * usize::from(count) {
            return None;
        }
        (self.width, self.height) = (usize::from(u16::from_be_bytes([x1, x0])), usize::from(u16::from_be_bytes([y1, y0])));
        let component = |&[id, sampling, quantization]: &[u8; 3]| Component {
            id,
            across: usize::from(sampling >> 4),
            down: usize::from(sampling & 15),
            quantization: usize::from(quantization),
            ..Component::default()
        };
        self.components = components.as_chunks().0.iter().map(component).collect();
        let samplings: Vec<_> = self.components.iter().map(|component| (component.across, component.down)).collect();
        match samplings[..] {
            // A scan of one component has one block a unit, whatever the frame says.
            [(1..=4, 1..=4)] => (self.components[0].across, self.components[0].down) = (1, 1),
            [(1, 1) | (2, 1) | (2, 2), (1, 1), (1, 1)] => {}
            _ => return None,
        }
        (self.width > 0 && self.height > 0).then_some(())
    }

    fn quantization_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&number, rest)) = segment.split_first() {
            // Tables of 16 bits have a number above 15.
            let (&table, rest) = rest.split_first_chunk()?;
            *self.quantization.get_mut(usize::from(number))? = Some(table);
            segment = rest;
        }
        Some(())
    }

    fn huffman_tables(&mut self, mut segment: &'a [u8]) -> Option<()> {
        while let Some((&number, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_at_checked(16)?;
            let (symbols, rest) = rest.split_at_checked(counts.iter().map(|&count| usize::from(count)).sum())?;
            let tables = if number & 0x10 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(number & !0x10))? = Some(Code { counts, symbols });
            segment = rest;
        }
        Some(())
    }

    fn scan(&mut self, segment: &[u8]) -> Option<()> {
        let (&count, rest) = segment.split_first()?;
        if self.components.is_empty() || usize::from(count) != self.components.len() || rest.len() != 2 * self.components.len() + 3 {
            return None;
        }
        let (choices, spectrum) = rest.split_at(2 * self.components.len());
        // All coefficients in all their bits.
        if spectrum != [0, 63, 0] {
            return None;
        }
        for (component, &[id, tables]) in self.components.iter_mut().zip(choices.as_chunks().0) {
            if id != component.id {
                return None;
            }
            (component.dc_table, component.ac_table) = (usize::from(tables >> 4), usize::from(tables & 15));
        }
        // As libjpeg guesses the colour space, where it does not have to guess.
        let ycbcr = match (self.components.len(), self.adobe_transform) {
            (1, _) => true,
            (_, Some(transform)) => transform == 1,
            (_, None) => self.jfif || self.components.iter().map(|component| component.id).eq(1..=3),
        };
        ycbcr.then_some(())
    }
}
