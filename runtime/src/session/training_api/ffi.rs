//! Calls of the training API that `ort` 2.0.0-rc.15 does not make: its `Trainer::step` panics where an output is a tensor,
//! and its checkpoint is lent without the right to change it.
//!
//! The only unsafe code of this crate.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr::{self, NonNull};

use ort::AsPointer;
use ort::memory::Allocator;
use ort::training::{Trainer, training_api};
use ort::value::DynValue;

/// A tensor of any type.
pub(super) type AnyTensor<'a> = &'a dyn AsPointer<Sys = ort::sys::OrtValue>;

/// Which of a training session's models runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The training model.
    Train,
    /// The model for EvalStep.
    Eval,
}

/// Runs a model: `inputs` in the order of its user inputs; all its user outputs come back, of which there must be `outputs`.
///
/// # Errors
/// Whatever ONNX Runtime reports.
pub(super) fn run_step(trainer: &mut Trainer, step: Step, inputs: &[AnyTensor<'_>], outputs: usize) -> ort::Result<Vec<DynValue>> {
    let inputs: Vec<*const ort::sys::OrtValue> = inputs.iter().map(|input| input.ptr()).collect();
    let mut values: Vec<*mut ort::sys::OrtValue> = vec![ptr::null_mut(); outputs];
    let api = training_api()?;
    let (session, options, given, wanted) = (trainer.ptr().cast_mut(), ptr::null(), inputs.len(), values.len());
    // SAFETY: the session lives as long as `trainer`, which is borrowed exclusively. Both lists live through the call and are as long as it
    // is told; ONNX Runtime checks the lengths against the model and fills `values` with values of its own.
    unsafe {
        let status = match step {
            Step::Train => (api.TrainStep)(session, options, given, inputs.as_ptr(), wanted, values.as_mut_ptr()),
            Step::Eval => (api.EvalStep)(session, options, given, inputs.as_ptr(), wanted, values.as_mut_ptr()),
        };
        ort::Error::result_from_status(status)?;
    }
    let allocator = Allocator::default();
    let value = |value| {
        let value = NonNull::new(value).ok_or_else(|| ort::Error::new(format!("{step:?}Step left an output out")))?;
        // SAFETY: the step hands the value over, and nothing else holds it.
        Ok(unsafe { DynValue::from_ptr(value, Some(&allocator)) })
    };
    values.into_iter().map(value).collect()
}

/// Overwrites a parameter, or a frozen one, with a tensor of its type and shape.
///
/// # Errors
/// Whatever ONNX Runtime reports.
pub(super) fn update_parameter(trainer: &mut Trainer, name: &str, value: AnyTensor<'_>) -> ort::Result<()> {
    let name = CString::new(name).map_err(|_| ort::Error::new(format!("{name:?} is no parameter's name")))?;
    let api = training_api()?;
    // SAFETY: checkpoint and value outlive the call, which copies the elements after checking type and shape. The trainer is borrowed
    // exclusively, so that no step reads the parameter meanwhile.
    unsafe { ort::Error::result_from_status((api.UpdateParameter)(trainer.checkpoint().ptr().cast_mut(), name.as_ptr(), value.ptr().cast_mut())) }
}
