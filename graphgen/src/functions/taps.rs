//! For each tap of a kernel the inputs that meet it: what turns a convolution into matrix products.

use crate::ir::{Graph, GraphError, ValueId};
use crate::ops::conv::Window;
use crate::ops::{Pad, Slice};

/// H and W of a shape [N,C,H,W].
pub(super) fn input_size_of(shape: &[usize]) -> [usize; 2] {
    let [_, _, height, width] = *shape else { unreachable!("shapes were inferred") };
    [height, width]
}

/// For every tap the inputs that met it, cut out of the padded input along two adjacent axes, the first of which is
/// `spatial`.
pub(super) fn taps(g: &mut Graph, window: Window, x: ValueId, output: [usize; 2], spatial: usize) -> Result<Vec<ValueId>, GraphError> {
    let Window { kernel, stride, padding } = window;
    let shape = g.shape(x).to_vec();
    let (mut before, mut after) = (vec![0; 4], vec![0; 4]);
    for (axis, out) in output.into_iter().enumerate() {
        before[spatial + axis] = padding;
        after[spatial + axis] = ((out - 1) * stride + kernel).saturating_sub(shape[spatial + axis] + padding);
    }
    let padded = if before.iter().chain(&after).any(|&zeros| zeros > 0) { g.apply(Pad { before, after }, &[x])? } else { x };
    let mut taps = Vec::with_capacity(kernel * kernel);
    for (a, b) in (0..kernel).flat_map(|a| (0..kernel).map(move |b| (a, b))) {
        let ends = [a + (output[0] - 1) * stride + 1, b + (output[1] - 1) * stride + 1];
        let whole = g.shape(padded)[spatial..spatial + 2] == ends && stride == 1 && (a, b) == (0, 0);
        let slice = Slice { axes: vec![spatial, spatial + 1], starts: vec![a, b], ends: ends.to_vec(), steps: vec![stride; 2] };
        taps.push(if whole { padded } else { g.apply(slice, &[padded])? });
    }
    Ok(taps)
}

/// The taps side by side, batch and pixels together: x [N,C,H,W] → [N·P, k·k·C].
pub(super) fn columns(g: &mut Graph, window: Window, x: ValueId, output: [usize; 2]) -> Result<ValueId, GraphError> {
    let [batch, channels, ..] = *g.shape(x) else { unreachable!("shapes were inferred") };
    let x = g.transpose(x, &[0, 2, 3, 1])?;
    let taps = taps(g, window, x, output, 1)?;
    let columns = g.concat(&taps, 3)?;
    g.reshape(columns, &[batch * output[0] * output[1], window.kernel * window.kernel * channels])
}
