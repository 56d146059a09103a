//! Crops as the encoder's input: `swav::NormalizePixels`.

use super::Resources;
use super::convolution::rank_four;
use super::operator::{Attributes, Dense, Input, Output, exactly};
use super::parallel::{KernelError, for_each};

/// Pixels that a task normalises.
const TASK_PIXELS: usize = 4 * 1024;

/// `swav::NormalizePixels`: pixels u8 [N,C,H,W], scale and shift [C] → `pixel · scale + shift` [N,H,W,C].
pub(super) struct NormalizePixels;

impl Dense for NormalizePixels {
    const NAME: &'static str = "NormalizePixels";
    const INPUTS: (usize, usize) = (3, 0);
    const OUTPUTS: (usize, usize) = (1, 0);
    const BYTES: (&'static [usize], &'static [usize]) = (&[0], &[]);

    fn read(_: &Attributes) -> Result<Self, String> {
        Ok(NormalizePixels)
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        let [[batch, channels, height, width]] = rank_four(&inputs[..1])?;
        if inputs[1..].iter().any(|vector| vector.as_slice() != [channels]) {
            return Err(format!("expected a scale and a shift for each of {channels} channels, got {:?}", &inputs[1..]));
        }
        Ok(vec![vec![batch, height, width, channels]])
    }

    fn compute(&self, &Resources { parallel, .. }: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let [[_, channels, height, width]] = rank_four(&[inputs[0].shape.to_vec()]).map_err(KernelError::Shape)?;
        let (pixels, scale, shift, plane) = (inputs[0].u8()?, inputs[1].f32()?, inputs[2].f32()?, height * width);
        let [y] = exactly(outputs)?;
        let image_len = plane * channels;
        let parts = y.f32()?.chunks_mut(image_len.max(1)).enumerate().flat_map(|(image, y)| {
            let parts = y.chunks_mut(TASK_PIXELS * channels).enumerate();
            parts.map(move |(part, y)| (image * image_len + part * TASK_PIXELS, y))
        });
        for_each(parallel, parts, |_, (first, y)| {
            for (channel, (&scale, &shift)) in scale.iter().zip(shift).enumerate() {
                let pixels = &pixels[first + channel * plane..];
                for (y, &pixel) in y.iter_mut().skip(channel).step_by(channels).zip(pixels) {
                    *y = f32::from(pixel) * scale + shift;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operator::Elements;
    use crate::kernels::testing::run_tensors;

    #[test]
    fn planes_become_pixels() {
        let [batch, channels, height, width] = [2, 3, 70, 61];
        let plane = height * width;
        let value = |index: usize| (index * 7 % 256) as u8;
        let pixels: Vec<u8> = (0..batch * channels * plane).map(value).collect();
        let (scale, shift) = ([0.5, 2.0, -1.0], [1.0, 0.0, 3.0]);
        let inputs = [
            Input { shape: &[batch, channels, height, width], elements: Elements::U8(&pixels) },
            Input { shape: &[channels], elements: Elements::F32(&scale) },
            Input { shape: &[channels], elements: Elements::F32(&shift) },
        ];
        let (y, _) = run_tensors(&NormalizePixels, &inputs).remove(0);
        for (index, &y) in y.iter().enumerate() {
            let (channel, pixel, image) = (index % channels, index / channels % plane, index / channels / plane);
            let x = f32::from(value((image * channels + channel) * plane + pixel));
            assert_eq!(y, x * scale[channel] + shift[channel], "element {index}");
        }
    }
}
