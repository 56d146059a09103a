//! Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2015, arXiv 1509.09308) on channels-last maps.
//!
//! A 6x6 tile of the input, transformed, times the transformed 3x3 weights, point by point, transformed back, is a 4x4 tile
//! of the output: 36 multiplications where the definition takes 144. All
//! transforms work on whole vectors of channels.

use pulp::Simd;

use crate::kernels::gemm::PANEL;

/// Side of an output tile.
pub(super) const OUTPUT: usize = 4;
/// Side of an input tile.
pub(super) const INPUT: usize = 6;
/// Products of a tile.
pub(super) const POINTS: usize = INPUT * INPUT;
/// Taps of the convolution.
pub(super) const TAPS: usize = 9;

/// Some rows of tiles of a map, with padding 1 around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strip {
    pub height: usize,
    pub width: usize,
    /// First row of tiles.
    pub first: usize,
    /// Rows of tiles.
    pub rows: usize,
}

impl Strip {
    /// Strips of at most `rows` rows of tiles that make up a map.
    pub fn all(height: usize, width: usize, rows: usize) -> impl Iterator<Item = Strip> {
        let total = height.div_ceil(OUTPUT);
        (0..total).step_by(rows).map(move |first| Strip { height, width, first, rows: rows.min(total - first) })
    }

    /// Tiles in the strip.
    pub fn tiles(&self) -> usize {
        self.rows * self.width.div_ceil(OUTPUT)
    }

    /// Pixels of the output that the strip writes: first, and count.
    pub fn output_pixels(&self) -> (usize, usize) {
        let first = self.first * OUTPUT;
        let last = ((self.first + self.rows) * OUTPUT).min(self.height);
        (first * self.width, (last - first) * self.width)
    }

    /// Where the pixels that each tile reads begin in a map whose pixels have `len` vectors, or [`OUTSIDE`].
    pub fn input_table(&self, len: usize) -> Table<INPUT> {
        (0..self.tiles()).map(|tile| self.pixels(tile, 1, 0, len)).collect()
    }

    /// Where the pixels that each tile writes begin, counted from the first of [`output_pixels`](Self::output_pixels).
    pub fn output_table(&self, len: usize) -> Table<OUTPUT> {
        (0..self.tiles()).map(|tile| self.pixels(tile, 0, self.output_pixels().0, len)).collect()
    }

    fn pixels<const SIDE: usize>(&self, tile: usize, margin: usize, first_pixel: usize, len: usize) -> [[usize; SIDE]; SIDE] {
        let across = self.width.div_ceil(OUTPUT);
        let (top, left) = ((self.first + tile / across) * OUTPUT, tile % across * OUTPUT);
        std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                let (y, x) = (top + i, left + j);
                let inside = (margin..self.height + margin).contains(&y) && (margin..self.width + margin).contains(&x);
                if inside { ((y - margin) * self.width + x - margin - first_pixel) * len } else { OUTSIDE }
            })
        })
    }
}

/// Stands for the place of a pixel that is not on the map: zeros to read, and nothing to write. Behind the end of every
/// map with any channel added, so that one comparison finds both.
const OUTSIDE: usize = usize::MAX / 2;

/// One of Winograd's matrices, applied to vectors.
///
/// Everything here is a function that is always inlined, and no closure: what is not inlined is compiled without the
/// processor's vector instructions.
trait Transform<const FROM: usize, const TO: usize> {
    fn apply<S: Simd>(simd: S, values: [S::f32s; FROM]) -> [S::f32s; TO];
}

/// The interpolation points are 0, ±[`A`], ±[`B`] and infinity: exact in binary, and close enough to 1 both ways that
/// rounding errors stay half as large as with the usual ±1 and ±2 (measured).
const A: f32 = 0.625;
/// See [`A`].
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;
/// The products over the other points that divide the weights' points: of 0, of ±[`A`], of ±[`B`].
const DIVISORS: [f32; 3] = [A2 * B2, 2.0 * A2 * (A2 - B2), 2.0 * B2 * (B2 - A2)];

/// Bᵀ d: six inputs to six points.
struct Input;

impl Transform<INPUT, INPUT> for Input {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, d: [S::f32s; INPUT]) -> [S::f32s; INPUT] {
        let (minus_a2, minus_b2) = (simd.splat_f32s(-A2), simd.splat_f32s(-B2));
        let (a2b2, minus_sum) = (simd.splat_f32s(A2 * B2), simd.splat_f32s(-A2 - B2));
        let (even_a, odd_a) = (simd.mul_add_f32s(minus_b2, d[2], d[4]), simd.mul_add_f32s(minus_b2, d[1], d[3]));
        let (even_b, odd_b) = (simd.mul_add_f32s(minus_a2, d[2], d[4]), simd.mul_add_f32s(minus_a2, d[1], d[3]));
        [
            simd.mul_add_f32s(a2b2, d[0], simd.mul_add_f32s(minus_sum, d[2], d[4])),
            simd.mul_add_f32s(simd.splat_f32s(A), odd_a, even_a),
            simd.mul_add_f32s(simd.splat_f32s(-A), odd_a, even_a),
            simd.mul_add_f32s(simd.splat_f32s(B), odd_b, even_b),
            simd.mul_add_f32s(simd.splat_f32s(-B), odd_b, even_b),
            simd.mul_add_f32s(a2b2, d[1], simd.mul_add_f32s(minus_sum, d[3], d[5])),
        ]
    }
}

/// Aᵀ m: six points to four outputs.
struct Output;

impl Transform<INPUT, OUTPUT> for Output {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, m: [S::f32s; INPUT]) -> [S::f32s; OUTPUT] {
        let (sum_a, difference_a) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
        let (sum_b, difference_b) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
        let first = simd.mul_f32s(simd.splat_f32s(B), difference_b);
        let second = simd.mul_f32s(simd.splat_f32s(B2), sum_b);
        let third = simd.mul_add_f32s(simd.splat_f32s(B * B2), difference_b, m[5]);
        [
            simd.add_f32s(m[0], simd.add_f32s(sum_a, sum_b)),
            simd.mul_add_f32s(simd.splat_f32s(A), difference_a, first),
            simd.mul_add_f32s(simd.splat_f32s(A2), sum_a, second),
            simd.mul_add_f32s(simd.splat_f32s(A * A2), difference_a, third),
        ]
    }
}

/// A dy: the transpose of [`Output`], four gradients to six points.
struct OutputGradient;

impl Transform<OUTPUT, INPUT> for OutputGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, dy: [S::f32s; OUTPUT]) -> [S::f32s; INPUT] {
        let (a2, b2) = (simd.splat_f32s(A2), simd.splat_f32s(B2));
        let (even_a, odd_a) = (simd.mul_add_f32s(a2, dy[2], dy[0]), simd.mul_add_f32s(a2, dy[3], dy[1]));
        let (even_b, odd_b) = (simd.mul_add_f32s(b2, dy[2], dy[0]), simd.mul_add_f32s(b2, dy[3], dy[1]));
        [
            dy[0],
            simd.mul_add_f32s(simd.splat_f32s(A), odd_a, even_a),
            simd.mul_add_f32s(simd.splat_f32s(-A), odd_a, even_a),
            simd.mul_add_f32s(simd.splat_f32s(B), odd_b, even_b),
            simd.mul_add_f32s(simd.splat_f32s(-B), odd_b, even_b),
            dy[3],
        ]
    }
}

/// G g: three weights to six points.
struct Weight;

impl Transform<3, INPUT> for Weight {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; INPUT] {
        let even_a = simd.mul_f32s(simd.splat_f32s(1.0 / DIVISORS[1]), simd.mul_add_f32s(simd.splat_f32s(A2), g[2], g[0]));
        let even_b = simd.mul_f32s(simd.splat_f32s(1.0 / DIVISORS[2]), simd.mul_add_f32s(simd.splat_f32s(B2), g[2], g[0]));
        let (odd_a, odd_b) = (A / DIVISORS[1], B / DIVISORS[2]);
        [
            simd.mul_f32s(simd.splat_f32s(1.0 / DIVISORS[0]), g[0]),
            simd.mul_add_f32s(simd.splat_f32s(odd_a), g[1], even_a),
            simd.mul_add_f32s(simd.splat_f32s(-odd_a), g[1], even_a),
            simd.mul_add_f32s(simd.splat_f32s(odd_b), g[1], even_b),
            simd.mul_add_f32s(simd.splat_f32s(-odd_b), g[1], even_b),
            g[2],
        ]
    }
}

/// Gᵀ u: the transpose of [`Weight`], six points to three gradients.
struct WeightGradient;

impl Transform<INPUT, 3> for WeightGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, u: [S::f32s; INPUT]) -> [S::f32s; 3] {
        let (by_a, by_b) = (simd.splat_f32s(1.0 / DIVISORS[1]), simd.splat_f32s(1.0 / DIVISORS[2]));
        let (sum_a, difference_a) = (simd.mul_f32s(by_a, simd.add_f32s(u[1], u[2])), simd.mul_f32s(by_a, simd.sub_f32s(u[1], u[2])));
        let (sum_b, difference_b) = (simd.mul_f32s(by_b, simd.add_f32s(u[3], u[4])), simd.mul_f32s(by_b, simd.sub_f32s(u[3], u[4])));
        [
            simd.mul_add_f32s(simd.splat_f32s(1.0 / DIVISORS[0]), u[0], simd.add_f32s(sum_a, sum_b)),
            simd.mul_add_f32s(simd.splat_f32s(A), difference_a, simd.mul_f32s(simd.splat_f32s(B), difference_b)),
            simd.mul_add_f32s(simd.splat_f32s(A2), sum_a, simd.mul_add_f32s(simd.splat_f32s(B2), sum_b, u[5])),
        ]
    }
}

/// Where the vectors of a tile come from.
trait Source<S: Simd> {
    fn vector(&self, simd: S, row: usize, column: usize) -> S::f32s;
}

/// Where the vectors of a transformed tile go.
trait Sink<S: Simd> {
    fn put(&mut self, simd: S, row: usize, column: usize, vector: S::f32s);
}

/// A transform of columns, then of rows: [FROM, FROM] to [TO, TO].
#[inline(always)]
fn both_ways<T: Transform<FROM, TO>, S: Simd, const FROM: usize, const TO: usize>(simd: S, source: &impl Source<S>, sink: &mut impl Sink<S>) {
    let zero = simd.splat_f32s(0.0);
    let mut half = [[zero; FROM]; TO];
    for column in 0..FROM {
        let mut values = [zero; FROM];
        for (row, value) in values.iter_mut().enumerate() {
            *value = source.vector(simd, row, column);
        }
        for (half, value) in half.iter_mut().zip(T::apply(simd, values)) {
            half[column] = value;
        }
    }
    for (row, &values) in half.iter().enumerate() {
        let transformed = T::apply(simd, values);
        for (column, &value) in transformed.iter().enumerate() {
            sink.put(simd, row, column, value);
        }
    }
}

/// A tile's pixels in the vectors of a channels-last map.
struct Pixels<'a, M, const SIDE: usize> {
    map: M,
    /// Where they begin, or [`OUTSIDE`].
    pixels: &'a [[usize; SIDE]; SIDE],
    /// Vector of a pixel.
    channel: usize,
}

impl<S: Simd, const SIDE: usize> Source<S> for Pixels<'_, &[S::f32s], SIDE> {
    #[inline(always)]
    fn vector(&self, simd: S, row: usize, column: usize) -> S::f32s {
        match self.map.get(self.pixels[row][column] + self.channel) {
            Some(&vector) => vector,
            None => simd.splat_f32s(0.0),
        }
    }
}

/// Outputs and what is added to them.
struct Sums<'a, V> {
    outputs: &'a mut [V],
    addend: Option<&'a [V]>,
}

impl<S: Simd, const SIDE: usize> Sink<S> for Pixels<'_, Sums<'_, S::f32s>, SIDE> {
    #[inline(always)]
    fn put(&mut self, simd: S, row: usize, column: usize, vector: S::f32s) {
        let place = self.pixels[row][column] + self.channel;
        let Some(output) = self.map.outputs.get_mut(place) else { return };
        *output = match self.map.addend {
            Some(addend) => simd.add_f32s(vector, addend[place]),
            None => vector,
        };
    }
}

/// The vectors of a square of `side`, the first of `values` and then every `stride`th.
struct Spaced<V> {
    values: V,
    side: usize,
    stride: usize,
}

impl<S: Simd> Source<S> for Spaced<&[S::f32s]> {
    #[inline(always)]
    fn vector(&self, _: S, row: usize, column: usize) -> S::f32s {
        self.values[(row * self.side + column) * self.stride]
    }
}

impl<S: Simd> Sink<S> for Spaced<&mut [S::f32s]> {
    #[inline(always)]
    fn put(&mut self, _: S, row: usize, column: usize, vector: S::f32s) {
        self.values[(row * self.side + column) * self.stride] = vector;
    }
}

/// Where the points of tiles are: `points[point * stride + panel * panel_stride + tile * tile_stride + channel]`, with
/// channels counted from the first of their panel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Points {
    pub channels: usize,
    pub stride: usize,
    panel_stride: usize,
    tile_stride: usize,
}

impl Points {
    /// Room for `tiles` tiles, each with all channels side by side.
    pub fn by_tiles(channels: usize, tiles: usize) -> Points {
        Points { channels, stride: Points::spread(channels * tiles), panel_stride: PANEL, tile_stride: channels }
    }

    /// Room for `tiles` tiles, panel after panel.
    pub fn by_panels(channels: usize, tiles: usize) -> Points {
        Points { channels, stride: Points::spread(channels * tiles), panel_stride: PANEL * tiles, tile_stride: PANEL }
    }

    /// The points of a tile are an odd number of cache lines apart: a power of two would put them all into the same few
    /// places of the cache.
    fn spread(len: usize) -> usize {
        len.next_multiple_of(32) + 16
    }

    /// Elements of all points.
    pub fn len(&self) -> usize {
        self.stride * POINTS
    }

    /// A panel of a point.
    pub fn panel<'a>(&self, points: &'a [f32], point: usize, panel: usize) -> &'a [f32] {
        &points[point * self.stride + panel * self.panel_stride..]
    }

    /// Where the vectors of a tile are, and those of the map's pixels: both in vectors of `lanes` elements.
    #[inline(always)]
    fn vectors(self, tile: usize, lanes: usize) -> impl Iterator<Item = (usize, usize)> {
        let of_panel = PANEL / lanes;
        (0..self.channels / lanes).map(move |vector| {
            let start = (vector / of_panel * self.panel_stride + tile * self.tile_stride) / lanes + vector % of_panel;
            (start, vector)
        })
    }
}

/// Pixels of every tile of a strip.
pub(super) type Table<const SIDE: usize> = Vec<[[usize; SIDE]; SIDE]>;

/// Transforms a strip's tiles of a map; the first tile is written as number `first_tile`.
#[inline(always)]
pub(super) fn input_points<S: Simd>(simd: S, table: &Table<INPUT>, map: &[f32], layout: Points, first_tile: usize, points: &mut [f32]) {
    transform_tiles::<Input, S, _>(simd, table, map, layout, first_tile, points);
}

/// Transforms a strip's tiles of the output's gradient, `map` being the strip's pixels.
#[inline(always)]
pub(super) fn gradient_points<S: Simd>(simd: S, table: &Table<OUTPUT>, map: &[f32], layout: Points, first_tile: usize, points: &mut [f32]) {
    transform_tiles::<OutputGradient, S, _>(simd, table, map, layout, first_tile, points);
}

#[inline(always)]
fn transform_tiles<T: Transform<SIDE, INPUT>, S: Simd, const SIDE: usize>(
    simd: S,
    table: &Table<SIDE>,
    map: &[f32],
    layout: Points,
    first_tile: usize,
    points: &mut [f32],
) {
    let ((map, _), (points, _), stride) = (S::as_simd_f32s(map), S::as_mut_simd_f32s(points), layout.stride / S::F32_LANES);
    for (tile, pixels) in table.iter().enumerate() {
        for (start, channel) in layout.vectors(first_tile + tile, S::F32_LANES) {
            let mut sink = Spaced { values: &mut points[start..], side: INPUT, stride };
            both_ways::<T, S, _, _>(simd, &Pixels { map, pixels, channel }, &mut sink);
        }
    }
}

/// Transforms products back to the strip's pixels of the output, and adds what is to be added.
#[inline(always)]
pub(super) fn output_rows<S: Simd>(
    simd: S,
    table: &Table<OUTPUT>,
    layout: Points,
    first_tile: usize,
    points: &[f32],
    outputs: &mut [f32],
    addend: Option<&[f32]>,
) {
    let ((points, _), stride) = (S::as_simd_f32s(points), layout.stride / S::F32_LANES);
    let ((outputs, _), addend) = (S::as_mut_simd_f32s(outputs), addend.map(|addend| S::as_simd_f32s(addend).0));
    for (tile, pixels) in table.iter().enumerate() {
        for (start, channel) in layout.vectors(first_tile + tile, S::F32_LANES) {
            let mut sink = Pixels { map: Sums { outputs: &mut *outputs, addend }, pixels, channel };
            both_ways::<Output, S, _, _>(simd, &Spaced { values: &points[start..], side: INPUT, stride }, &mut sink);
        }
    }
}

/// Transforms the weights of a vector of output channels: `taps` holds them as [[`TAPS`], `width`], from element `lane`
/// on; point p is written to `points[p * stride + start..]`.
#[inline(always)]
pub(super) fn weight_points<S: Simd>(simd: S, taps: &[f32], width: usize, lane: usize, stride: usize, start: usize, points: &mut [f32]) {
    let source = spaced(simd, &taps[lane..], 3, width);
    let (points, _) = S::as_mut_simd_f32s(&mut points[start..]);
    both_ways::<Weight, S, _, _>(simd, &source, &mut Spaced { values: points, side: INPUT, stride: stride / S::F32_LANES });
}

/// The reverse of [`weight_points`] for gradients.
#[inline(always)]
pub(super) fn weight_gradient<S: Simd>(simd: S, points: &[f32], stride: usize, start: usize, taps: &mut [f32], width: usize, lane: usize) {
    let source = spaced(simd, &points[start..], INPUT, stride);
    let (taps, _) = S::as_mut_simd_f32s(&mut taps[lane..]);
    both_ways::<WeightGradient, S, _, _>(simd, &source, &mut Spaced { values: taps, side: 3, stride: width / S::F32_LANES });
}

/// A square of vectors that begin every `stride` elements.
#[inline(always)]
fn spaced<S: Simd>(_: S, values: &[f32], side: usize, stride: usize) -> Spaced<&[S::f32s]> {
    Spaced { values: S::as_simd_f32s(values).0, side, stride: stride / S::F32_LANES }
}
