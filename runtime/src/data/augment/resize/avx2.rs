//! Resizing with AVX2.

use std::arch::x86_64::{__m128i, __m256i};

use pulp::NullaryFnOnce;
use pulp::x86::V3;

use super::taps::{BITS, Taps};
use super::{ACROSS, DOWN, Source};

/// New pixels of a row that one step makes.
const PIXELS: usize = 8;

/// As [`portable::resize`](super::portable::resize); false on processors without AVX2 and where there are fewer samples than
/// one step takes in.
pub(super) fn resize(source: &Source<'_>, across: &Taps, down: &Taps, rows: &mut [[u8; 4]], planes: [&mut [u8]; 3]) -> bool {
    let fits = across.count.is_multiple_of(ACROSS) && down.count.is_multiple_of(DOWN) && across.starts.len() >= PIXELS;
    let Some(simd) = V3::try_new().filter(|_| fits) else { return false };
    simd.vectorize(Resize { simd, source, across, down, rows, planes });
    true
}

/// The work, with the vector instructions of `simd` switched on. A struct, not a closure: only what is inlined for certain gets
/// them.
struct Resize<'a> {
    simd: V3,
    source: &'a Source<'a>,
    across: &'a Taps,
    down: &'a Taps,
    rows: &'a mut [[u8; 4]],
    planes: [&'a mut [u8]; 3],
}

impl NullaryFnOnce for Resize<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Resize { simd, source, across, down, rows, planes: [red, green, blue] } = self;
        let width = across.starts.len();
        let planes = red.chunks_exact_mut(width).zip(green.chunks_exact_mut(width)).zip(blue.chunks_exact_mut(width));
        // Rows are made shortly before they are needed, while they are in the cache.
        let mut made = 0;
        for (y, ((red, green), blue)) in planes.enumerate() {
            let (start, weights) = down.of(y);
            while made < start + down.count {
                let some = 4.min(rows.len() / width - made);
                four_rows(simd, source, across, made, &mut rows[made * width..][..some * width]);
                made += some;
            }
            one_row(simd, &rows[start * width..][..down.count * width], weights, [red, green, blue]);
        }
    }
}

#[inline(always)]
fn both_lanes(bytes: [i8; 16]) -> __m256i {
    pulp::cast([bytes; 2])
}

/// Makes up to four rows of the window narrower or wider; `out`: u8 [rows, width, 4].
#[inline(always)]
fn four_rows(simd: V3, source: &Source<'_>, across: &Taps, y: usize, out: &mut [[u8; 4]]) {
    let width = across.starts.len();
    let last = out.len() / width - 1;
    // Missing rows repeat the last one, and are made of the same numbers.
    let input = [source.row(y), source.row(y + 1.min(last)), source.row(y + 2.min(last)), source.row(y + 3.min(last))];
    let (first, rest) = out.split_at_mut(width);
    let (second, rest) = if last >= 1 { rest.split_at_mut(width) } else { (&mut [][..], rest) };
    let (third, fourth) = if last >= 2 { rest.split_at_mut(width) } else { (&mut [][..], rest) };
    let mut x = 0;
    while x + 2 <= width {
        let pixels: [[[u8; 4]; 2]; 4] = two_pixels(simd, input, across, [x, x + 1]);
        first[x..x + 2].copy_from_slice(&pixels[0]);
        for (row, pixels) in [&mut *second, &mut *third, &mut *fourth].into_iter().zip(&pixels[1..]) {
            if let Some(row) = row.get_mut(x..x + 2) {
                row.copy_from_slice(pixels);
            }
        }
        x += 2;
    }
    if x < width {
        let pixels = two_pixels(simd, input, across, [x, x]);
        first[x] = pixels[0][0];
        for (row, pixels) in [second, third, fourth].into_iter().zip(&pixels[1..]) {
            if let Some(pixel) = row.get_mut(x) {
                *pixel = pixels[0];
            }
        }
    }
}

/// Two new pixels of each of four rows.
#[inline(always)]
fn two_pixels(simd: V3, rows: [&[[u8; 4]]; 4], across: &Taps, [first, second]: [usize; 2]) -> [[[u8; 4]; 2]; 4] {
    let avx2 = simd.avx2;
    let ([first02, first13], [second02, second13]) = (one_pixel(simd, rows, across, first), one_pixel(simd, rows, across, second));
    let pixels = avx2._mm256_packus_epi16(avx2._mm256_packs_epi32(first02, second02), avx2._mm256_packs_epi32(first13, second13));
    // The first half has the first rows of the pairs.
    let [[row0, row2], [row1, row3]]: [[[[u8; 4]; 2]; 2]; 2] = pulp::cast(pixels);
    [row0, row1, row2, row3]
}

/// A new pixel of each of four rows, i32 [2, 4]: of rows 0 and 1, of rows 2 and 3.
#[inline(always)]
fn one_pixel(simd: V3, rows: [&[[u8; 4]]; 4], across: &Taps, place: usize) -> [__m256i; 2] {
    let avx2 = simd.avx2;
    let (start, weights) = across.of(place);
    let round = simd.avx._mm256_set1_epi32(1 << (BITS - 1));
    let (mut upper, mut lower) = (round, round);
    let mut at = start;
    for weights in weights.as_chunks::<ACROSS>().0 {
        upper = avx2._mm256_add_epi32(upper, weigh(simd, rows[0], rows[1], at, weights));
        lower = avx2._mm256_add_epi32(lower, weigh(simd, rows[2], rows[3], at, weights));
        at += ACROSS;
    }
    [avx2._mm256_srai_epi32::<{ BITS as i32 }>(upper), avx2._mm256_srai_epi32::<{ BITS as i32 }>(lower)]
}

/// The weighted sum of a step's pixels in two rows, i32 [2, 4].
#[inline(always)]
fn weigh(simd: V3, first: &[[u8; 4]], second: &[[u8; 4]], at: usize, weights: &[i16; ACROSS]) -> __m256i {
    let avx2 = simd.avx2;
    // Bytes of neighbouring pixels to pairs of i16: r0 r1 g0 g1 b0 b1 x0 x1.
    let near = both_lanes([0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1]);
    let far = both_lanes([8, -1, 12, -1, 9, -1, 13, -1, 10, -1, 14, -1, 11, -1, 15, -1]);
    let [near_weights, far_weights]: [i32; 2] = pulp::cast(*weights);
    let pixels = avx2._mm256_inserti128_si256::<1>(simd.avx._mm256_castsi128_si256(load(first, at)), load(second, at));
    let near = avx2._mm256_madd_epi16(avx2._mm256_shuffle_epi8(pixels, near), simd.avx._mm256_set1_epi32(near_weights));
    let far = avx2._mm256_madd_epi16(avx2._mm256_shuffle_epi8(pixels, far), simd.avx._mm256_set1_epi32(far_weights));
    avx2._mm256_add_epi32(near, far)
}

#[inline(always)]
fn load(row: &[[u8; 4]], at: usize) -> __m128i {
    let pixels: [[u8; 4]; ACROSS] = row[at..at + ACROSS].try_into().expect("a step");
    pulp::cast(pixels)
}

/// One new row of each plane, from `rows`, u8 [weights, width, 4].
#[inline(always)]
fn one_row(simd: V3, rows: &[[u8; 4]], weights: &[i16], [red, green, blue]: [&mut [u8]; 3]) {
    let width = red.len();
    let mut x = 0;
    while x < width {
        // The last step makes some pixels again.
        let at = x.min(width - PIXELS);
        let planes = eight_pixels(simd, rows, width, at, weights);
        for (plane, pixels) in [&mut *red, &mut *green, &mut *blue].into_iter().zip(planes) {
            plane[at..at + PIXELS].copy_from_slice(&pixels);
        }
        x += PIXELS;
    }
}

/// Eight new pixels, by plane.
#[inline(always)]
fn eight_pixels(simd: V3, rows: &[[u8; 4]], width: usize, x: usize, weights: &[i16]) -> [[u8; PIXELS]; 3] {
    let avx2 = simd.avx2;
    let zero = simd.avx._mm256_setzero_si256();
    let mut sums = [simd.avx._mm256_set1_epi32(1 << (BITS - 1)); 4];
    for (pair, weights) in weights.as_chunks::<DOWN>().0.iter().enumerate() {
        let weights = simd.avx._mm256_set1_epi32(pulp::cast(*weights));
        let (upper, lower) = (load_eight(rows, 2 * pair * width + x), load_eight(rows, (2 * pair + 1) * width + x));
        let (low, high) = (avx2._mm256_unpacklo_epi8(upper, lower), avx2._mm256_unpackhi_epi8(upper, lower));
        sums[0] = avx2._mm256_add_epi32(sums[0], avx2._mm256_madd_epi16(avx2._mm256_unpacklo_epi8(low, zero), weights));
        sums[1] = avx2._mm256_add_epi32(sums[1], avx2._mm256_madd_epi16(avx2._mm256_unpackhi_epi8(low, zero), weights));
        sums[2] = avx2._mm256_add_epi32(sums[2], avx2._mm256_madd_epi16(avx2._mm256_unpacklo_epi8(high, zero), weights));
        sums[3] = avx2._mm256_add_epi32(sums[3], avx2._mm256_madd_epi16(avx2._mm256_unpackhi_epi8(high, zero), weights));
    }
    for sum in &mut sums {
        *sum = avx2._mm256_srai_epi32::<{ BITS as i32 }>(*sum);
    }
    let pixels = avx2._mm256_packus_epi16(avx2._mm256_packs_epi32(sums[0], sums[1]), avx2._mm256_packs_epi32(sums[2], sums[3]));
    // Four pixels in each lane: their reds, greens, blues; then both lanes' together.
    let by_channel = avx2._mm256_shuffle_epi8(pixels, both_lanes([0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]));
    let [red, green, blue, _]: [[u8; PIXELS]; 4] = pulp::cast(avx2._mm256_permutevar8x32_epi32(by_channel, pulp::cast([0, 4, 1, 5, 2, 6, 3, 7])));
    [red, green, blue]
}

#[inline(always)]
fn load_eight(rows: &[[u8; 4]], at: usize) -> __m256i {
    let pixels: [[u8; 4]; PIXELS] = rows[at..at + PIXELS].try_into().expect("eight pixels");
    pulp::cast(pixels)
}
