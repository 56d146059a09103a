//! Dense kernels as ONNX Runtime operators of the domain `swav`.

use std::marker::PhantomData;
use std::sync::Arc;

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{Shape, TensorElementType, ValueType};

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
pub fn native_functions(kernels: KernelSet, sinkhorn: Option<usize>) -> Vec<&'static str> {
    let mut names = Vec::new();
    if sinkhorn.is_some() {
        names.push(SINKHORN);
    }
    if kernels == KernelSet::Native {
        use super::{batch_norm, convolution};
        names.extend([convolution::Forward::NAME, convolution::InputGradient::NAME, convolution::WeightGradient::NAME]);
        names.extend([batch_norm::BatchNormTrain::NAME, batch_norm::BatchNormTrainGrad::NAME]);
    }
    names
}

/// The native kernels for a session on the CPU, to be registered when the session is built. `sinkhorn`: the threads that
/// Sinkhorn-Knopp uses at most, or none for its function's body; the others use the session's own. `None` if there is nothing to register.
///
/// # Errors
/// Whatever ONNX Runtime reports.
pub fn native_operators(kernels: KernelSet, sinkhorn: Option<usize>) -> ort::Result<Option<OperatorDomain>> {
    if kernels == KernelSet::Functions && sinkhorn.is_none() {
        return Ok(None);
    }
    let pool = Arc::new(ScratchPool::default());
    let mut domain = OperatorDomain::new(DOMAIN)?;
    if let Some(threads) = sinkhorn {
        domain = domain.add(SinkhornOperator { threads })?;
    }
    if kernels == KernelSet::Native {
        domain = domain
            .add(Native::<super::convolution::Forward>::new(&pool))?
            .add(Native::<super::convolution::InputGradient>::new(&pool))?
            .add(Native::<super::convolution::WeightGradient>::new(&pool))?
            .add(Native::<super::batch_norm::BatchNormTrain>::new(&pool))?
            .add(Native::<super::batch_norm::BatchNormTrainGrad>::new(&pool))?;
    }
    Ok(Some(domain))
}

/// A kernel on f32 tensors whose shapes are known from those of its inputs.
pub(super) trait Dense: Sized + Send + Sync + 'static {
    /// Name of the function.
    const NAME: &'static str;
    /// Numbers of required and of optional inputs.
    const INPUTS: (usize, usize);
    /// Numbers of required and of optional outputs.
    const OUTPUTS: (usize, usize);

    /// Reads the attributes of a call.
    fn read(attributes: &Attributes) -> Result<Self, String>;

    /// Shapes of the outputs.
    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String>;

    /// Fills the outputs, whose content is undefined.
    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError>;
}

/// A tensor that a kernel reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    pub shape: &'a [usize],
    pub data: &'a [f32],
}

/// A tensor that a kernel fills.
#[derive(Debug)]
pub(super) struct Output<'a> {
    pub shape: &'a [usize],
    pub data: &'a mut [f32],
}

/// Attributes as they are written at the call site: a function's defaults do not reach a kernel.
pub(super) struct Attributes<'a> {
    ints: &'a dyn Fn(&str) -> Option<Vec<i64>>,
    int: &'a dyn Fn(&str) -> Option<i64>,
    float: &'a dyn Fn(&str) -> Option<f32>,
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

    /// A number.
    pub fn float(&self, name: &str) -> Result<f32, String> {
        (self.float)(name).ok_or_else(|| format!("attribute {name} is not written at the call site"))
    }
}

/// [`Dense`] as an operator.
struct Native<K> {
    pool: Arc<ScratchPool>,
    kernel: PhantomData<K>,
}

impl<K> Native<K> {
    fn new(pool: &Arc<ScratchPool>) -> Native<K> {
        Native { pool: pool.clone(), kernel: PhantomData }
    }
}

fn named<K: Dense>(problem: impl std::fmt::Display) -> ort::Error {
    ort::Error::new(format!("{}: {problem}", K::NAME))
}

impl<K: Dense> Operator for Native<K> {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &str {
        K::NAME
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let (required, optional) = K::INPUTS;
        let (f32, all) = (TensorElementType::Float32, required + optional);
        (0..all).map(move |index| if index < required { OperatorInput::required(f32) } else { OperatorInput::optional(f32) })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let (required, optional) = K::OUTPUTS;
        let (f32, all) = (TensorElementType::Float32, required + optional);
        (0..all).map(move |index| if index < required { OperatorOutput::required(f32) } else { OperatorOutput::optional(f32) })
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
            context.set_output(index, &ValueType::Tensor { ty: TensorElementType::Float32, shape, dimension_symbols })?;
        }
        Ok(())
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        let attributes = Attributes { ints: &|name| context.get(name), int: &|name| context.get(name), float: &|name| context.get(name) };
        let kernel = K::read(&attributes).map_err(named::<K>)?;
        let (pool, arch) = (self.pool.clone(), pulp::Arch::new());
        Ok(Box::new(move |context: &ComputeContext| compute(&kernel, context, &pool, arch)))
    }
}

fn compute<K: Dense>(kernel: &K, context: &ComputeContext, pool: &ScratchPool, arch: pulp::Arch) -> ort::Result<()> {
    // An optional input that is left out comes last.
    let values = (0..context.num_inputs()?).map(|index| context.input(index)).collect::<ort::Result<Vec<_>>>()?;
    let values: Vec<_> = values.into_iter().flatten().collect();
    if values.len() < K::INPUTS.0 {
        return Err(named::<K>(format!("expected {} inputs, got {}", K::INPUTS.0, values.len())));
    }
    let tensors = values.iter().map(|value| value.try_extract_tensor::<f32>()).collect::<ort::Result<Vec<_>>>()?;
    let shapes: Vec<Vec<usize>> = tensors.iter().map(|(shape, _)| shape.iter().map(|&size| size as usize).collect()).collect();
    let inputs: Vec<Input> = shapes.iter().zip(&tensors).map(|(shape, &(_, data))| Input { shape, data }).collect();
    let sizes = kernel.infer(&shapes).map_err(named::<K>)?;
    let mut values = sizes.iter().enumerate().map(|(index, shape)| context.output(index, shape.clone())).collect::<ort::Result<Vec<_>>>()?;
    // An optional output that nobody reads is left out; the kernel fills memory of its own instead.
    let mut unread: Vec<Vec<f32>> =
        sizes.iter().zip(&values).map(|(shape, value)| vec![0.0; if value.is_none() { shape.iter().product() } else { 0 }]).collect();
    let outputs = values.iter_mut().zip(&mut unread).zip(&sizes).map(|((value, unread), shape)| match value {
        Some(value) => Ok(Output { shape, data: value.try_extract_tensor_mut::<f32>()?.1 }),
        None => Ok(Output { shape, data: unread }),
    });
    let outputs = outputs.collect::<ort::Result<Vec<_>>>()?;
    kernel.compute(&Resources { parallel: &OrtPool(context), pool, arch }, &inputs, outputs).map_err(named::<K>)
}
