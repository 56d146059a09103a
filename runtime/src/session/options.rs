//! What every session of this program has in common.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::operator::OperatorDomain;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::placement::Listener;
use super::{EngineError, PlacedNode, Placement, ProviderOptions};

/// Options of a session.
#[derive(Clone, Default)]
pub struct SessionOptions {
    /// Threads of one operator; 0 for one a core.
    pub threads: usize,
    /// Native kernels that replace functions of the graph.
    pub operators: Option<Arc<OperatorDomain>>,
    /// Where it runs.
    pub provider: ProviderOptions,
    /// An existing folder that ONNX Runtime's profiles go to, a file for each graph, when the sessions end; see
    /// [`read_profiles`](super::read_profiles).
    pub profiles: Option<PathBuf>,
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
        let graph_error = |source| EngineError::Graph { file: file.into(), source };
        let mut builder = self.builder(environment).map_err(graph_error)?;
        if let Some(folder) = &self.profiles {
            builder = builder.with_profiling(folder.join(file.file_stem().unwrap_or_default())).map_err(|error| graph_error(error.into()))?;
        }
        let Some(dispatch) = self.provider.dispatch()? else {
            return builder.commit_from_file(file).map_err(graph_error);
        };
        let listener = Listener::default();
        let mut builder = builder.with_execution_providers([dispatch]).map_err(|error| self.provider.not_usable(&error.into()))?;
        builder = listened(builder, &listener).map_err(graph_error)?;
        let session = builder.commit_from_file(file).map_err(|source| match self.provider.memory_advice(&source) {
            Some(advice) => EngineError::Memory { activity: format!("loading {}", file.display()), source, advice },
            None => graph_error(source),
        })?;
        self.check_placement(&listener.placement(), file)?;
        Ok(session)
    }

    /// Where a provider other than the CPU takes the nodes of a graph as it stands in its file, without optimisations.
    ///
    /// # Errors
    /// A provider that is not there, and graphs that ONNX Runtime does not accept.
    pub fn placement(&self, environment: &Environment, file: &Path) -> Result<Placement, EngineError> {
        let _creating = creating();
        let (listener, graph_error) = (Listener::default(), |source| EngineError::Graph { file: file.into(), source });
        let dispatch = self.provider.dispatch()?;
        let builder = self.builder(environment).map_err(graph_error)?;
        let builder = builder.with_execution_providers(dispatch.as_slice()).map_err(|error| self.provider.not_usable(&error.into()))?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::Disable).map_err(|error| graph_error(error.into()))?;
        let mut builder = listened(builder, &listener).map_err(graph_error)?;
        builder.commit_from_file(file).map_err(graph_error)?;
        Ok(listener.placement())
    }

    /// Every node must lie on the provider, or be allowed elsewhere by its operator.
    fn check_placement(&self, placement: &Placement, file: &Path) -> Result<(), EngineError> {
        let provider = self.provider.name();
        let elsewhere = placement.elsewhere(provider, &self.provider.allowed_on_cpu);
        let on_provider = placement.counts.get(provider).copied().unwrap_or(0);
        // Of a graph that is elsewhere as a whole only the number is known.
        let count = if on_provider == 0 { placement.counts.values().sum() } else { elsewhere.len() };
        if !placement.is_known() || on_provider == 0 || !elsewhere.is_empty() {
            const LISTED: usize = 20;
            let name = |node: &&PlacedNode| format!("{} {}", node.operator, node.name);
            let mut nodes: Vec<String> = elsewhere.iter().take(LISTED).map(name).collect();
            if elsewhere.len() > LISTED {
                nodes.push(format!("and {} more", elsewhere.len() - LISTED));
            }
            return Err(EngineError::Placement { file: file.into(), provider, on_provider, elsewhere: count, nodes: nodes.join(", ") });
        }
        tracing::info!("{}: {on_provider} nodes on {provider}, {:?} in all", file.display(), placement.counts);
        Ok(())
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

/// A session whose log the listener hears.
fn listened(builder: SessionBuilder, listener: &Listener) -> ort::Result<SessionBuilder> {
    Ok(builder.with_log_level(LogLevel::Verbose)?.with_logger(listener.logger())?)
}
