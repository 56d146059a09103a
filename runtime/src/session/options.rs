//! What every session of this program has in common.

use std::path::Path;
use std::sync::Arc;

use ort::environment::Environment;
use ort::operator::OperatorDomain;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use super::EngineError;

/// Options of a session on the CPU.
#[derive(Clone, Default)]
pub struct SessionOptions {
    /// Threads of one operator; 0 for one a core.
    pub threads: usize,
    /// Native kernels that replace functions of the graph.
    pub operators: Option<Arc<OperatorDomain>>,
}

impl SessionOptions {
    /// Loads a graph.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports, with the graph's file.
    pub(crate) fn open(&self, environment: &Environment, file: &Path) -> Result<Session, EngineError> {
        self.build(environment, file).map_err(|source| EngineError::Graph { file: file.into(), source })
    }

    fn build(&self, environment: &Environment, file: &Path) -> ort::Result<Session> {
        // The CPU provider is registered by ONNX Runtime itself: naming it through `ort` would switch its arena off.
        // Memory patterns can double the memory of the second run and save no time.
        let mut builder = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_memory_pattern(false)?
            .with_deterministic_compute(true)?
            // Between two runs a session's threads would wait actively for a while, on processors that the next graph needs.
            .with_config_entry("session.force_spinning_stop", "1")?;
        if self.threads > 0 {
            builder = builder.with_intra_threads(self.threads)?;
        }
        if let Some(operators) = &self.operators {
            builder = builder.with_operators(operators.clone())?;
        }
        builder.commit_from_file(file)
    }
}
