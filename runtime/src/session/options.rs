//! What every session of this program has in common.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::environment::Environment;
use ort::operator::OperatorDomain;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::EngineError;

/// Options of a session on the CPU.
#[derive(Clone, Default)]
pub struct SessionOptions {
    /// Threads of one operator; 0 for one a core.
    pub threads: usize,
    /// Native kernels that replace functions of the graph.
    pub operators: Option<Arc<OperatorDomain>>,
}

/// Held while a session is created. ONNX Runtime keeps one table of operator domains for the whole process, and two threads
/// that enter the same domain for the first time fail: it asks whether the domain is there and adds it in two steps.
static CREATING: Mutex<()> = Mutex::new(());

/// Lets no other session be created until it is dropped.
pub(crate) fn creating() -> MutexGuard<'static, ()> {
    CREATING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SessionOptions {
    /// Loads a graph from a file.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports, with the graph's file.
    pub(crate) fn open(&self, environment: &Environment, file: &Path) -> Result<Session, EngineError> {
        let _creating = creating();
        let session = self.builder(environment).and_then(|mut builder| builder.commit_from_file(file));
        session.map_err(|source| EngineError::Graph { file: file.into(), source })
    }

    /// Loads a graph from the bytes of its file.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn open_bytes(&self, environment: &Environment, model: &[u8]) -> ort::Result<Session> {
        let _creating = creating();
        self.builder(environment)?.commit_from_memory(model)
    }

    pub(super) fn builder(&self, environment: &Environment) -> ort::Result<SessionBuilder> {
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
        Ok(builder)
    }
}
