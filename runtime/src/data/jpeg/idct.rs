//! The inverse DCT of libjpeg's "slow" integer method (jidctint.c) on AVX2, in the order of libjpeg-turbo's SIMD code,
//! so that even overflows come out alike.

use std::arch::x86_64::__m256i;

use pulp::x86::V3;

/// A block's rows in pairs, as the transform takes them: rows 0 and 4, 1 and 5, 2 and 6, 3 and 7, i16 [4, 2, 8].
pub(super) const ROW_PLACES: [u8; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

const FIX_0_298: i32 = 2446;
const FIX_0_390: i32 = 3196;
const FIX_0_541: i32 = 4433;
const FIX_0_765: i32 = 6270;
const FIX_0_899: i32 = 7373;
const FIX_1_175: i32 = 9633;
const FIX_1_501: i32 = 12299;
const FIX_1_847: i32 = 15137;
const FIX_1_961: i32 = 16069;
const FIX_2_053: i32 = 16819;
const FIX_2_562: i32 = 20995;
const FIX_3_072: i32 = 25172;

/// Bits of the constants' fractions.
const CONST_BITS: i32 = 13;
/// Bits that the first pass keeps beyond whole numbers.
const PASS1_BITS: i32 = 2;

/// Quantised coefficients, i16 [64] in [`ROW_PLACES`] order, to samples: u8 [8, 8]. `quantization` is in the same order.
#[inline(always)]
pub(super) fn inverse_dct(simd: V3, coefficients: &[i16; 64], quantization: &[i16; 64]) -> [[u8; 8]; 8] {
    let avx2 = simd.avx2;
    let rows: [[i16; 16]; 4] = pulp::cast(*coefficients);
    let divisors: [[i16; 16]; 4] = pulp::cast(*quantization);
    let mut rows: [__m256i; 4] = std::array::from_fn(|i| avx2._mm256_mullo_epi16(pulp::cast(rows[i]), pulp::cast(divisors[i])));

    let below = avx2._mm256_or_si256(avx2._mm256_or_si256(rows[1], rows[2]), rows[3]);
    let [first, fourth]: [[i16; 8]; 2] = pulp::cast(rows[0]);
    rows = if fourth == [0; 8] && simd.avx._mm256_testz_si256(below, below) == 1 {
        // Only the first row: libjpeg-turbo's shortcut wraps around where its full pass saturates.
        std::array::from_fn(|i| pulp::cast([[first[i] << PASS1_BITS; 8], [first[i + 4] << PASS1_BITS; 8]]))
    } else {
        transpose(simd, pass::<{ CONST_BITS - PASS1_BITS }>(simd, rows))
    };
    let columns = pass::<{ CONST_BITS + PASS1_BITS + 3 }>(simd, rows);

    // Columns 0-3 and 4-7, four rows in each half, to signed bytes; then rows in order.
    let offset = simd.avx._mm256_set1_epi8(-128);
    let bytes = |low, high| {
        let bytes = avx2._mm256_add_epi8(avx2._mm256_packs_epi16(low, high), offset);
        avx2._mm256_shuffle_epi8(bytes, both_lanes([0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]))
    };
    let (left, right) = (bytes(columns[0], columns[1]), bytes(columns[2], columns[3]));
    let [r0, r1, r4, r5]: [[u8; 8]; 4] = pulp::cast(avx2._mm256_unpacklo_epi32(left, right));
    let [r2, r3, r6, r7]: [[u8; 8]; 4] = pulp::cast(avx2._mm256_unpackhi_epi32(left, right));
    [r0, r1, r2, r3, r4, r5, r6, r7]
}

/// The samples of a block with a mean only, all alike.
#[inline(always)]
pub(super) fn inverse_dct_of_mean(mean: i16, quantization: i16) -> u8 {
    let mean = i32::from(mean.wrapping_mul(quantization) << PASS1_BITS);
    (((mean + (1 << (PASS1_BITS + 2))) >> (PASS1_BITS + 3)) + 128).clamp(0, 255) as u8
}

#[inline(always)]
fn both_lanes(bytes: [i8; 16]) -> __m256i {
    pulp::cast([bytes; 2])
}

/// Eight pairs of factors.
#[inline(always)]
fn factors(first: i32, second: i32) -> __m256i {
    pulp::cast([[first as i16, second as i16]; 8])
}

/// One pass over eight columns at once. Takes rows 0|4, 1|5, 2|6, 3|7; gives the results of 0 and 1, 2 and 3, 4 and 5, 6 and 7,
/// rounded by `SHIFT` bits and saturated, i16, each pair as four values of the one, four of the other in both halves.
#[inline(always)]
fn pass<const SHIFT: i32>(simd: V3, [rows04, rows15, rows26, rows37]: [__m256i; 4]) -> [__m256i; 4] {
    let avx2 = simd.avx2;
    let add = |a, b| avx2._mm256_add_epi32(a, b);
    let sub = |a, b| avx2._mm256_sub_epi32(a, b);
    // Both halves' values side by side: a0 b0 a1 b1 … a7 b7.
    let pair = |halves| {
        let quarters = avx2._mm256_permute4x64_epi64::<0b11_01_10_00>(halves);
        avx2._mm256_shuffle_epi8(quarters, both_lanes([0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]))
    };
    let weigh = |pairs, first, second| avx2._mm256_madd_epi16(pairs, factors(first, second));
    let widen = |halves: __m256i| avx2._mm256_slli_epi32::<CONST_BITS>(avx2._mm256_cvtepi16_epi32(simd.avx._mm256_castsi256_si128(halves)));

    // Even part; the rounding is added once to all that becomes a result.
    let pairs26 = pair(rows26);
    let tmp2 = weigh(pairs26, FIX_0_541, FIX_0_541 - FIX_1_847);
    let tmp3 = weigh(pairs26, FIX_0_541 + FIX_0_765, FIX_0_541);
    let swapped = avx2._mm256_permute4x64_epi64::<0b01_00_11_10>(rows04);
    let round = simd.avx._mm256_set1_epi32(1 << (SHIFT - 1));
    let tmp0 = add(widen(avx2._mm256_add_epi16(rows04, swapped)), round);
    let tmp1 = add(widen(avx2._mm256_sub_epi16(rows04, swapped)), round);
    let (tmp10, tmp13) = (add(tmp0, tmp3), sub(tmp0, tmp3));
    let (tmp11, tmp12) = (add(tmp1, tmp2), sub(tmp1, tmp2));

    // Odd part.
    let rows17 = avx2._mm256_permute2x128_si256::<0x30>(rows15, rows37);
    let rows53 = avx2._mm256_permute2x128_si256::<0x21>(rows15, rows37);
    // z4 = row 1 + row 5, z3 = row 7 + row 3.
    let z43 = pair(avx2._mm256_add_epi16(rows17, rows53));
    let z3 = weigh(z43, FIX_1_175, FIX_1_175 - FIX_1_961);
    let z4 = weigh(z43, FIX_1_175 - FIX_0_390, FIX_1_175);
    let (pairs17, pairs53) = (pair(rows17), pair(rows53));
    let odd0 = add(weigh(pairs17, -FIX_0_899, FIX_0_298 - FIX_0_899), z3);
    let odd3 = add(weigh(pairs17, FIX_1_501 - FIX_0_899, -FIX_0_899), z4);
    let odd1 = add(weigh(pairs53, FIX_2_053 - FIX_2_562, -FIX_2_562), z4);
    let odd2 = add(weigh(pairs53, -FIX_2_562, FIX_3_072 - FIX_2_562), z3);

    let pack = |a, b| avx2._mm256_packs_epi32(avx2._mm256_srai_epi32::<SHIFT>(a), avx2._mm256_srai_epi32::<SHIFT>(b));
    [
        pack(add(tmp10, odd3), add(tmp11, odd2)),
        pack(add(tmp12, odd1), add(tmp13, odd0)),
        pack(sub(tmp13, odd0), sub(tmp12, odd1)),
        pack(sub(tmp11, odd2), sub(tmp10, odd3)),
    ]
}

/// The results of [`pass`] as it takes them, transposed.
#[inline(always)]
fn transpose(simd: V3, pairs: [__m256i; 4]) -> [__m256i; 4] {
    let avx2 = simd.avx2;
    // a0 b0 a1 b1 a2 b2 a3 b3 of the first four columns, then of the others.
    let mixed = pairs.map(|pair| avx2._mm256_shuffle_epi8(pair, both_lanes([0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15])));
    let (low03, high03) = (avx2._mm256_unpacklo_epi32(mixed[0], mixed[1]), avx2._mm256_unpackhi_epi32(mixed[0], mixed[1]));
    let (low47, high47) = (avx2._mm256_unpacklo_epi32(mixed[2], mixed[3]), avx2._mm256_unpackhi_epi32(mixed[2], mixed[3]));
    [
        avx2._mm256_unpacklo_epi64(low03, low47),
        avx2._mm256_unpackhi_epi64(low03, low47),
        avx2._mm256_unpacklo_epi64(high03, high47),
        avx2._mm256_unpackhi_epi64(high03, high47),
    ]
}
