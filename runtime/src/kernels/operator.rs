//! Dense kernels as ONNX Runtime operators of the domain `swav`.

use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{DynValue, Shape, TensorElementType, ValueRef, ValueType};

use super::Resources;
use super::parallel::{KernelError, OrtPool};
use super::scratch::ScratchPool;
use super::sinkhorn_operator::{SINKHORN, SinkhornOperator};

/// Domain of graph functions that may have a native kernel.
pub const DOMAIN: &str = "swav";

/// Which of the graph's functions run as native kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum KernelSet {
    /// All that there are kernels for; those but Sinkhorn-Knopp's in graphs of the target `native` only.
    #[default]
    Native,
    /// None but Sinkhorn-Knopp: the functions' bodies in standard operators.
    Functions,
}

/// Names of the functions that [`native_operators`] has kernels for.
pub fn native_functions(kernels: KernelSet, sinkhorn: bool) -> Vec<&'static str> {
    let mut names = Vec::new();
    if sinkhorn {
        names.push(SINKHORN);
    }
    if kernels == KernelSet::Native {
        use super::{batch_norm, convolution, max_pool, optimizer, pixels};
        names.extend([convolution::Forward::NAME, convolution::InputGradient::NAME, convolution::WeightGradient::NAME]);
        names.extend([batch_norm::BatchNormTrain::NAME, batch_norm::BatchNormTrainGrad::NAME]);
        names.extend([max_pool::MaxPoolTrain::NAME, max_pool::MaxPoolTrainGrad::NAME, pixels::NormalizePixels::NAME]);
        names.extend([optimizer::LarsStep::NAME, optimizer::SgdStep::NAME, optimizer::AdamStep::NAME]);
    }
    names
}

/// The native kernels for a session on the CPU, to be registered when the session is built, `None` if there are none: those of
/// `kernels`, and Sinkhorn-Knopp's if `sinkhorn`. `threads`: the session's own, at least 1. Kernels use those; the number tells
/// them how much of the cache is a thread's share, and Sinkhorn-Knopp how many to start.
///
/// # Errors
/// Whatever ONNX Runtime reports.
pub fn native_operators(kernels: KernelSet, sinkhorn: bool, threads: usize) -> ort::Result<Option<OperatorDomain>> {
    if kernels == KernelSet::Functions && !sinkhorn {
        return Ok(None);
    }
    let shared = &Arc::new(Shared { pool: ScratchPool::default(), threads });
    let mut domain = OperatorDomain::new(DOMAIN)?;
    if sinkhorn {
        domain = domain.add(SinkhornOperator { threads })?;
    }
    if kernels == KernelSet::Native {
        domain = domain
            .add(Native::<super::convolution::Forward>::new(shared))?
            .add(Native::<super::convolution::InputGradient>::new(shared))?
            .add(Native::<super::convolution::WeightGradient>::new(shared))?
            .add(Native::<super::batch_norm::BatchNormTrain>::new(shared))?
            .add(Native::<super::batch_norm::BatchNormTrainGrad>::new(shared))?
            .add(Native::<super::max_pool::MaxPoolTrain>::new(shared))?
            .add(Native::<super::max_pool::MaxPoolTrainGrad>::new(shared))?
            .add(Native::<super::pixels::NormalizePixels>::new(shared))?
            .add(Native::<super::optimizer::LarsStep>::new(shared))?
            .add(Native::<super::optimizer::SgdStep>::new(shared))?
            .add(Native::<super::optimizer::AdamStep>::new(shared))?;
    }
    Ok(Some(domain))
}

/// A kernel on tensors of f32 and u8 whose shapes are known from those of its inputs.
pub(super) trait Dense: Sized + Send + Sync + 'static {
    /// Name of the function.
    const NAME: &'static str;
    /// Numbers of required and of optional inputs.
    const INPUTS: (usize, usize);
    /// Numbers of required and of optional outputs.
    const OUTPUTS: (usize, usize);
    /// Which inputs and which outputs are u8; all others are f32.
    const BYTES: (&'static [usize], &'static [usize]) = (&[], &[]);
    /// Pairs of an input and an output that may lie in the same memory: a caller updates a tensor in place, or ONNX Runtime
    /// gives the output the memory of a value that nobody reads any more. The kernel then finds the input's elements in the
    /// output ([`Input::apart`]). Both have one shape.
    const IN_PLACE: &'static [(u32, u32)] = &[];

    /// Reads the attributes of a call.
    fn read(attributes: &Attributes) -> Result<Self, String>;

    /// Shapes of the outputs.
    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String>;

    /// Fills the outputs, whose content is undefined but for those of [`IN_PLACE`](Self::IN_PLACE).
    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError>;
}

/// A tensor that a kernel reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    pub shape: &'a [usize],
    pub elements: Elements<'a>,
}

/// The elements of an [`Input`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Elements<'a> {
    F32(&'a [f32]),
    U8(&'a [u8]),
    /// Those of the output that [`Dense::IN_PLACE`] names.
    InOutput,
}

impl<'a> Input<'a> {
    /// The elements of a tensor of f32.
    pub fn f32(&self) -> Result<&'a [f32], KernelError> {
        match self.elements {
            Elements::F32(elements) => Ok(elements),
            Elements::U8(_) => Err(unexpected("f32", "u8", self.shape)),
            Elements::InOutput => Err(unexpected("f32", "one in an output's memory", self.shape)),
        }
    }

    /// The elements of a tensor of f32; `None` if they are those of the output that [`Dense::IN_PLACE`] names.
    pub fn apart(&self) -> Result<Option<&'a [f32]>, KernelError> {
        if matches!(self.elements, Elements::InOutput) { Ok(None) } else { self.f32().map(Some) }
    }

    /// The elements of a tensor of u8.
    pub fn u8(&self) -> Result<&'a [u8], KernelError> {
        match self.elements {
            Elements::U8(elements) => Ok(elements),
            Elements::F32(_) => Err(unexpected("u8", "f32", self.shape)),
            Elements::InOutput => Err(unexpected("u8", "one in an output's memory", self.shape)),
        }
    }
}

/// A tensor that a kernel fills.
#[derive(Debug)]
pub(super) struct Output<'a> {
    pub shape: &'a [usize],
    pub elements: ElementsMut<'a>,
}

/// The elements of an [`Output`].
#[derive(Debug)]
pub(super) enum ElementsMut<'a> {
    F32(&'a mut [f32]),
    U8(&'a mut [u8]),
}

impl<'a> Output<'a> {
    /// The elements of a tensor of f32.
    pub fn f32(self) -> Result<&'a mut [f32], KernelError> {
        match self.elements {
            ElementsMut::F32(elements) => Ok(elements),
            ElementsMut::U8(_) => Err(unexpected("f32", "u8", self.shape)),
        }
    }

    /// The elements of a tensor of u8.
    pub fn u8(self) -> Result<&'a mut [u8], KernelError> {
        match self.elements {
            ElementsMut::U8(elements) => Ok(elements),
            ElementsMut::F32(_) => Err(unexpected("u8", "f32", self.shape)),
        }
    }
}

fn unexpected(expected: &str, actual: &str, shape: &[usize]) -> KernelError {
    KernelError::Shape(format!("expected a tensor of {expected}, got {actual} {shape:?}"))
}

/// The outputs of a kernel that has `COUNT` of them.
pub(super) fn exactly<const COUNT: usize>(outputs: Vec<Output>) -> Result<[Output; COUNT], KernelError> {
    outputs.try_into().map_err(|outputs: Vec<Output>| KernelError::Shape(format!("expected {COUNT} outputs, got {}", outputs.len())))
}

/// Attributes as they are written at the call site: a function's defaults do not reach a kernel.
pub(super) struct Attributes<'a> {
    pub(super) ints: &'a dyn Fn(&str) -> Option<Vec<i64>>,
    pub(super) int: &'a dyn Fn(&str) -> Option<i64>,
    pub(super) float: &'a dyn Fn(&str) -> Option<f32>,
}

impl Attributes<'_> {
    /// A list of sizes.
    pub fn sizes(&self, name: &str) -> Result<Vec<usize>, String> {
        let values = (self.ints)(name).ok_or_else(|| format!("attribute {name} is not written at the call site"))?;
        values.iter().map(|&value| usize::try_from(value).map_err(|_| format!("attribute {name} is {values:?}, expected sizes"))).collect()
    }

    /// 0 or 1.
    pub fn flag(&self, name: &str) -> Result<bool, String> {
        (self.int)(name).map(|value| value != 0).ok_or_else(|| format!("attribute {name} is not written at the call site"))
    }

    /// Refuses channels-first maps.
    pub fn expect_channels_last(&self) -> Result<(), String> {
        if self.flag("channels_last")? { Ok(()) } else { Err("expected channels-last maps: export the graphs for the target native".into()) }
    }

    /// A number.
    pub fn float(&self, name: &str) -> Result<f32, String> {
        (self.float)(name).ok_or_else(|| format!("attribute {name} is not written at the call site"))
    }
}

/// What the kernels of a session share.
struct Shared {
    pool: ScratchPool,
    threads: usize,
}

/// [`Dense`] as an operator.
struct Native<K> {
    shared: Arc<Shared>,
    kernel: PhantomData<K>,
}

impl<K> Native<K> {
    fn new(shared: &Arc<Shared>) -> Native<K> {
        Native { shared: shared.clone(), kernel: PhantomData }
    }
}

fn element_type(bytes: &[usize], index: usize) -> TensorElementType {
    if bytes.contains(&index) { TensorElementType::Uint8 } else { TensorElementType::Float32 }
}

fn named<K: Dense>(problem: impl std::fmt::Display) -> ort::Error {
    ort::Error::new(format!("{}: {problem}", K::NAME))
}

impl<K: Dense> Operator for Native<K> {
    type Kernel<'a> = BoxedKernel<'a>;

    const INPLACES: &'static [(u32, u32)] = K::IN_PLACE;

    fn name(&self) -> &str {
        K::NAME
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let (required, optional) = K::INPUTS;
        (0..required + optional).map(move |index| {
            let ty = element_type(K::BYTES.0, index);
            if index < required { OperatorInput::required(ty) } else { OperatorInput::optional(ty) }
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let (required, optional) = K::OUTPUTS;
        (0..required + optional).map(move |index| {
            let ty = element_type(K::BYTES.1, index);
            if index < required { OperatorOutput::required(ty) } else { OperatorOutput::optional(ty) }
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let shape = |ty: &ValueType| ty.tensor_shape().and_then(|shape| shape.iter().map(|&size| usize::try_from(size).ok()).collect());
        let Some(shapes) = context.inputs().iter().map(shape).collect::<Option<Vec<Vec<usize>>>>() else {
            return Ok(());
        };
        if shapes.len() < K::INPUTS.0 {
            return Ok(());
        }
        let attributes = Attributes { ints: &|name| context.attr(name).ok(), int: &|name| context.attr(name).ok(), float: &|name| context.attr(name).ok() };
        let outputs = K::read(&attributes).and_then(|kernel| kernel.infer(&shapes)).map_err(named::<K>)?;
        for (index, shape) in outputs.into_iter().enumerate() {
            let shape = Shape::new(shape.into_iter().map(|size| size as i64));
            let dimension_symbols = ort::value::SymbolicDimensions::empty(shape.len());
            context.set_output(index, &ValueType::Tensor { ty: element_type(K::BYTES.1, index), shape, dimension_symbols })?;
        }
        Ok(())
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        let attributes = Attributes { ints: &|name| context.get(name), int: &|name| context.get(name), float: &|name| context.get(name) };
        let kernel = K::read(&attributes).map_err(named::<K>)?;
        let (shared, arch) = (self.shared.clone(), pulp::Arch::new());
        Ok(Box::new(move |context: &ComputeContext| guarded(K::NAME, || compute(&kernel, context, &shared, arch))))
    }
}

/// Runs a kernel. A panic must not unwind into ONNX Runtime: it would abort the process without a message.
///
/// # Errors
/// The kernel's, and a panic.
pub(super) fn guarded(name: &str, compute: impl FnOnce() -> ort::Result<()>) -> ort::Result<()> {
    catch_unwind(AssertUnwindSafe(compute)).unwrap_or_else(|_| Err(ort::Error::new(format!("{name}: the kernel panicked; the message is above"))))
}

fn compute<K: Dense>(kernel: &K, context: &ComputeContext, shared: &Shared, arch: pulp::Arch) -> ort::Result<()> {
    let with = Resources { parallel: &OrtPool(context), threads: shared.threads, pool: &shared.pool, arch };
    let inputs = input_values::<K>(context)?;
    let tensors = inputs.iter().enumerate().map(|(index, value)| extract(value, K::BYTES.0.contains(&index))).collect::<ort::Result<Vec<_>>>()?;
    let (shapes, places): (Vec<Vec<usize>>, Vec<Range<usize>>) = tensors.into_iter().map(|(shape, elements)| (shape, place(elements))).unzip();
    let sizes = kernel.infer(&shapes).map_err(named::<K>)?;
    let mut values = sizes.iter().enumerate().map(|(index, shape)| context.output(index, shape.clone())).collect::<ort::Result<Vec<_>>>()?;
    // An optional output that nobody reads is left out; the kernel fills memory of its own instead.
    let mut unread: Vec<(Vec<f32>, Vec<u8>)> = sizes.iter().map(|_| Default::default()).collect();
    let mut outputs = Vec::with_capacity(sizes.len());
    let (mut in_output, mut written) = (vec![false; inputs.len()], Vec::with_capacity(sizes.len()));
    for (index, ((value, (floats, bytes)), shape)) in values.iter_mut().zip(&mut unread).zip(&sizes).enumerate() {
        let len = shape.iter().product();
        if let Some(value) = value.as_ref() {
            let own = place(extract(value, K::BYTES.1.contains(&index))?.1);
            for input in overlapped(&places, &own, index, K::IN_PLACE).map_err(named::<K>)? {
                in_output[input] = true;
            }
            written = apart(written, own, index).map_err(named::<K>)?;
        }
        let elements = match (value, K::BYTES.1.contains(&index)) {
            (Some(value), true) => ElementsMut::U8(value.try_extract_tensor_mut()?.1),
            (Some(value), false) => ElementsMut::F32(value.try_extract_tensor_mut()?.1),
            (None, true) => {
                bytes.resize(len, 0);
                ElementsMut::U8(bytes)
            }
            (None, false) => {
                floats.resize(len, 0.0);
                ElementsMut::F32(floats)
            }
        };
        outputs.push(Output { shape, elements });
    }
    let mut tensors = Vec::with_capacity(inputs.len());
    for (index, (value, shape)) in inputs.iter().zip(&shapes).enumerate() {
        // What an output overwrites is not borrowed as an input.
        let elements = if in_output[index] { Elements::InOutput } else { extract(value, K::BYTES.0.contains(&index))?.1 };
        tensors.push(Input { shape, elements });
    }
    kernel.compute(&with, &tensors, outputs).map_err(named::<K>)
}

/// A tensor's shape and elements.
fn extract<'a>(value: &'a DynValue, bytes: bool) -> ort::Result<(Vec<usize>, Elements<'a>)> {
    let (shape, elements) = if bytes {
        value.try_extract_tensor().map(|(shape, elements)| (shape, Elements::U8(elements)))?
    } else {
        value.try_extract_tensor().map(|(shape, elements)| (shape, Elements::F32(elements)))?
    };
    Ok((shape.iter().map(|&size| size as usize).collect(), elements))
}

/// The addresses of elements.
fn place(elements: Elements) -> Range<usize> {
    let (start, len) = match elements {
        Elements::F32(elements) => (elements.as_ptr().addr(), size_of_val(elements)),
        Elements::U8(elements) => (elements.as_ptr().addr(), elements.len()),
        Elements::InOutput => (0, 0),
    };
    start..start + len
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

/// The places of the outputs `written`, with that of output number `index`.
///
/// # Errors
/// One in the memory of another.
fn apart(mut written: Vec<(usize, Range<usize>)>, own: Range<usize>, index: usize) -> Result<Vec<(usize, Range<usize>)>, String> {
    if let Some((other, _)) = written.iter().find(|(_, place)| overlap(place, &own)) {
        return Err(format!("outputs {other} and {index} lie in the same memory; expected one for each"));
    }
    written.push((index, own));
    Ok(written)
}

/// The inputs in whose memory output number `index` lies: those at `places`, and the output at `own`.
///
/// # Errors
/// One that the kernel needs when it fills the output.
fn overlapped(places: &[Range<usize>], own: &Range<usize>, index: usize, in_place: &[(u32, u32)]) -> Result<Vec<usize>, String> {
    let overlapping = places.iter().enumerate().filter(|(_, place)| overlap(place, own));
    let inputs = overlapping.map(|(input, place)| match in_place.contains(&(input as u32, index as u32)) && place == own {
        true => Ok(input),
        false => Err(format!("output {index} lies in the memory of input {input}; expected memory of its own, or exactly that of an input of {in_place:?}")),
    });
    inputs.collect()
}

/// The inputs of a call. An optional one that is left out comes last.
fn input_values<'a, K: Dense>(context: &'a ComputeContext) -> ort::Result<Vec<ValueRef<'a>>> {
    let values = (0..context.num_inputs()?).map(|index| context.input(index)).collect::<ort::Result<Vec<_>>>()?;
    let values: Vec<_> = values.into_iter().flatten().collect();
    if values.len() < K::INPUTS.0 {
        return Err(named::<K>(format!("expected {} inputs, got {}", K::INPUTS.0, values.len())));
    }
    Ok(values)
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
