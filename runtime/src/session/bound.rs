//! A graph in a session, with its inputs and outputs bound.

use std::path::Path;

use graphgen::manifest::{GraphSpec, TensorSpec};
use ort::environment::Environment;
use ort::session::{IoBinding, Session};

use super::state::Memory;
use super::{EngineError, ProviderOptions, SessionOptions};

/// A graph with everything bound.
pub(super) struct Bound {
    file: String,
    session: Session,
    pub(super) binding: IoBinding,
    provider: ProviderOptions,
}

impl Bound {
    pub(super) fn open(environment: &Environment, directory: &Path, spec: &GraphSpec, options: &SessionOptions) -> Result<Bound, EngineError> {
        Bound::of(&spec.file, options.open(environment, &directory.join(&spec.file))?, options)
    }

    /// Binds nothing yet. `file`: what errors name.
    pub(super) fn of(file: &str, session: Session, options: &SessionOptions) -> Result<Bound, EngineError> {
        let binding = session.create_binding().map_err(EngineError::run(format!("binding {file}")))?;
        Ok(Bound { file: file.to_owned(), session, binding, provider: options.provider.clone() })
    }

    pub(super) fn run(&mut self) -> Result<(), EngineError> {
        let activity = format!("running {}", self.file);
        self.session.run_binding(&self.binding).map(drop).map_err(|source| match self.provider.memory_advice(&source) {
            Some(advice) => EngineError::Memory { activity, source, advice },
            None => EngineError::Run { activity, source },
        })
    }

    /// Where the graph's provider keeps tensors.
    pub(super) fn memory(&self, options: &SessionOptions) -> Result<Memory, EngineError> {
        Memory::of(options, &self.session)
    }

    /// The error of a graph that is not the contract's.
    pub(super) fn contract(&self, problem: impl Into<String>) -> EngineError {
        EngineError::Contract { graph: self.file.clone(), problem: problem.into() }
    }

    /// The error of an input or output that could not be bound.
    pub(super) fn binding_error(&self, name: &str) -> impl FnOnce(ort::Error) -> EngineError + use<> {
        EngineError::run(format!("binding {name} of {}", self.file))
    }

    /// Every input of the session must be bound: ONNX Runtime reports a missing one only when it runs.
    pub(super) fn bind_inputs(&mut self, mut bind: impl FnMut(&mut IoBinding, &str) -> ort::Result<bool>) -> Result<(), EngineError> {
        let names: Vec<String> = self.session.inputs().iter().map(|input| input.name().to_owned()).collect();
        for name in names {
            if !bind(&mut self.binding, &name).map_err(self.binding_error(&name))? {
                return Err(self.contract(format!("input {name} is none of the contract's: graphs and program are of different versions")));
            }
        }
        Ok(())
    }

    /// Binds the outputs that `bind` has a tensor for, and gives the names of the others, which are then not computed for
    /// their own sake.
    pub(super) fn bind_outputs<'a>(
        &mut self,
        outputs: &'a [TensorSpec],
        mut bind: impl FnMut(&mut IoBinding, &str) -> ort::Result<bool>,
    ) -> Result<Vec<&'a str>, EngineError> {
        let mut others = Vec::new();
        for TensorSpec { name, .. } in outputs {
            if !bind(&mut self.binding, name).map_err(self.binding_error(name))? {
                others.push(name.as_str());
            }
        }
        Ok(others)
    }

    /// [`bind_outputs`](Self::bind_outputs) of a graph whose outputs are all of use.
    pub(super) fn bind_all_outputs(&mut self, outputs: &[TensorSpec], bind: impl FnMut(&mut IoBinding, &str) -> ort::Result<bool>) -> Result<(), EngineError> {
        match self.bind_outputs(outputs, bind)?.first() {
            None => Ok(()),
            Some(name) => Err(self.contract(format!("output {name} is none of the contract's: graphs and program are of different versions"))),
        }
    }
}
