//! The crops that the stock engine's graphs read. On the host there is one set of tensors. On a device there are two, so that
//! the crops of the next run are copied to one while a graph reads the other; then the sets change places.

use std::panic::resume_unwind;
use std::thread;

use graphgen::manifest::TensorSpec;
use ort::session::IoBinding;
use ort::value::Tensor;

use super::bound::Bound;
use super::state::{EngineError, Memory, dimensions, zeros};

/// The crops of a batch, and what tells them from those of others.
#[derive(Debug, Clone, Copy)]
pub struct BatchCrops<'a> {
    /// u8 [N·count·B, 3, S, S], one slice for each group of adjacent crops of equal size: micro-batch after micro-batch,
    /// each of them crop-major. N is 1 without accumulation.
    pub groups: &'a [&'a [u8]],
    /// A number that no other batch has that the engine is given. What an engine has copied ahead is known by it: crops
    /// without a number are never taken for such.
    pub number: Option<u64>,
}

impl<'a> BatchCrops<'a> {
    /// One of the N micro-batches, from 0.
    pub(super) fn micro_batch(self, index: usize) -> MicroBatch<'a> {
        MicroBatch { batch: self, index }
    }
}

/// The crops of one run of a graph.
#[derive(Clone, Copy)]
pub(super) struct MicroBatch<'a> {
    batch: BatchCrops<'a>,
    index: usize,
}

impl MicroBatch<'_> {
    /// Which of its batch it is, from 0.
    pub(super) fn index(self) -> usize {
        self.index
    }

    fn name(self) -> (Option<u64>, usize) {
        (self.batch.number, self.index)
    }

    /// `tensors` are of the sizes that [`CropInputs::check`] has checked.
    fn copy_to(self, tensors: &mut [Tensor<u8>]) {
        for (tensor, bytes) in tensors.iter_mut().zip(self.batch.groups) {
            let pixels = tensor.extract_tensor_mut().1;
            pixels.copy_from_slice(&bytes[self.index * pixels.len()..][..pixels.len()]);
        }
    }
}

/// The inputs `crops/…` of the engine's graphs, u8 [count·B, 3, S, S] for each group.
pub(super) struct CropInputs {
    /// What the host writes. On the host graphs read it; a device's tensors are copied from it, because `ort` cannot copy from
    /// memory that it borrows.
    host: Vec<Tensor<u8>>,
    device: Option<DeviceCrops>,
}

/// Two sets of crops on a device.
struct DeviceCrops {
    /// What graphs read.
    current: Vec<Tensor<u8>>,
    /// What the crops of the next run are copied to.
    next: Vec<Tensor<u8>>,
    /// The micro-batch whose crops `next` holds.
    ahead: Option<(Option<u64>, usize)>,
}

impl CropInputs {
    /// Tensors for the inputs `crops/0`, `crops/1`, … among `inputs`.
    pub(super) fn zeros(inputs: &[TensorSpec], memory: &Memory) -> ort::Result<CropInputs> {
        let shape = |index: usize| inputs.iter().find(|input| input.name == format!("crops/{index}")).map(|input| input.shape.as_slice());
        let shapes: Vec<&[usize]> = (0..).map_while(shape).collect();
        let set = || shapes.iter().map(|shape| memory.zeros(shape)).collect::<ort::Result<Vec<_>>>();
        let device = match memory {
            Memory::Host => None,
            Memory::Device(_) => Some(DeviceCrops { current: set()?, next: set()?, ahead: None }),
        };
        Ok(CropInputs { host: shapes.iter().map(|shape| zeros(shape)).collect::<ort::Result<_>>()?, device })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.host.is_empty()
    }

    /// Whether a run has the crops of the next one copied.
    pub(super) fn copies_ahead(&self) -> bool {
        self.device.is_some()
    }

    /// Whether there is a slice of the right size for each group, over `count` micro-batches.
    pub(super) fn check(&self, batch: BatchCrops<'_>, count: usize) -> Result<(), EngineError> {
        check_crops(&self.host.iter().map(dimensions).collect::<Vec<_>>(), batch.groups, count)
    }

    /// Binds an input to what graphs read now; `false` if it is none of these.
    pub(super) fn bind(&self, binding: &mut IoBinding, name: &str) -> ort::Result<bool> {
        let current = self.device.as_ref().map_or(&self.host, |device| &device.current);
        let tensor = name.strip_prefix("crops/").and_then(|index| current.get(index.parse::<usize>().ok()?));
        tensor.map_or(Ok(false), |tensor| binding.bind_input(name, tensor).map(|()| true))
    }

    /// Crops that have been copied ahead are not used.
    pub(super) fn forget(&mut self) {
        if let Some(device) = &mut self.device {
            device.ahead = None;
        }
    }

    /// Runs a graph on the crops of a micro-batch. On a device, those of the run after it are copied meanwhile.
    ///
    /// # Errors
    /// The graph's, or else that of the copy.
    pub(super) fn run(&mut self, graph: &mut Bound, crops: MicroBatch<'_>, next: Option<MicroBatch<'_>>) -> Result<(), EngineError> {
        self.load(graph, crops)?;
        let (Some(device), Some(next)) = (&mut self.device, next) else { return graph.run() };
        let (host, tensors) = (&mut self.host, &mut device.next);
        // A graph runs in another session than a copy, on another stream of the device. The copy holds a lock of `ort`'s that
        // all copies between tensors take: nothing else is copied until both are done.
        thread::scope(|scope| {
            let copying = thread::Builder::new().name("crops".into()).spawn_scoped(scope, || copy(host, tensors, next));
            let copying = copying.map_err(|error| EngineError::run("starting a thread that copies crops")(ort::Error::wrap(error)))?;
            graph.run()?;
            copying.join().unwrap_or_else(|panic| resume_unwind(panic))
        })?;
        device.ahead = Some(next.name());
        Ok(())
    }

    /// Makes the crops of a micro-batch those that a graph reads.
    fn load(&mut self, graph: &mut Bound, crops: MicroBatch<'_>) -> Result<(), EngineError> {
        let Some(device) = &mut self.device else {
            crops.copy_to(&mut self.host);
            return Ok(());
        };
        if device.ahead.take() != Some(crops.name()) {
            copy(&mut self.host, &mut device.next, crops)?;
        }
        std::mem::swap(&mut device.current, &mut device.next);
        // Binding what lies on the device copies nothing.
        for index in 0..self.host.len() {
            let name = format!("crops/{index}");
            self.bind(&mut graph.binding, &name).map_err(graph.binding_error(&name))?;
        }
        Ok(())
    }
}

/// Copies the crops of a micro-batch to a device, by way of `host`.
fn copy(host: &mut [Tensor<u8>], device: &mut [Tensor<u8>], crops: MicroBatch<'_>) -> Result<(), EngineError> {
    crops.copy_to(host);
    let copied = host.iter().zip(device).try_for_each(|(host, device)| host.copy_into(device));
    copied.map_err(EngineError::run("copying crops to the device"))
}

/// Whether there is a slice of the right size for each group of crops, over `count` micro-batches. `shapes`: those of the
/// graph's inputs.
pub(super) fn check_crops(shapes: &[Vec<usize>], crops: &[&[u8]], count: usize) -> Result<(), EngineError> {
    if crops.len() != shapes.len() {
        let problem = format!("expected {} groups of crops, got {}", shapes.len(), crops.len());
        return Err(EngineError::State { name: "crops".into(), problem });
    }
    for (index, (shape, bytes)) in shapes.iter().zip(crops).enumerate() {
        let expected = count * shape.iter().product::<usize>();
        if bytes.len() != expected {
            let times = if count > 1 { format!("{count} micro-batches of ") } else { String::new() };
            let problem = format!("expected {expected} bytes for {times}shape {shape:?}, got {}", bytes.len());
            return Err(EngineError::State { name: format!("crops/{index}"), problem });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "crops_tests.rs"]
mod tests;
