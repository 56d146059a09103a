//! Finds and loads the ONNX Runtime library.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;

use super::EngineKind;

/// Names the library file; an alternative to `.ort/lib` of the project folder.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Which build of ONNX Runtime a process loads: `ort` takes one a process, so the choice comes before everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// The stock build.
    Stock,
    /// The training build, with the training API beside everything that the stock build has.
    Training,
}

impl Library {
    /// Where `scripts/setup.sh` unpacks the library, below the project folder.
    fn folder(self) -> &'static str {
        match self {
            Library::Stock => ".ort/lib",
            Library::Training => ".ort/training",
        }
    }

    /// The command that puts it there.
    fn setup(self) -> &'static str {
        match self {
            Library::Stock => "scripts/setup.sh",
            Library::Training => "scripts/setup.sh --engine training-api",
        }
    }

    /// The process's environment; the first call loads the library, with telemetry off.
    ///
    /// # Errors
    /// A missing library, and a file that is none, too old, or without the training API where that is needed, naming the
    /// file and what to do.
    pub fn environment(self) -> Result<Environment, EnvironmentError> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let (environment, path) = match &*loaded {
            Some(known) => known,
            None => loaded.insert(load(self)?),
        };
        match self {
            Library::Training if ort::training::training_api().is_err() => Err(EnvironmentError::NoTrainingApi { path: path.clone() }),
            Library::Stock | Library::Training => Ok(environment.clone()),
        }
    }
}

impl EngineKind {
    /// The library that the engine needs.
    pub fn library(self) -> Library {
        match self {
            EngineKind::Stock => Library::Stock,
            EngineKind::TrainingApi => Library::Training,
        }
    }
}

/// Why there is no ONNX Runtime.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// No file to try.
    #[error(
        "ONNX Runtime was not found: {LIBRARY_VARIABLE} is not set, and neither the current folder, nor the program's, nor any above them holds \
         {folder}/{pattern}. Run {setup} in the project folder, or set {LIBRARY_VARIABLE} to the library's file"
    )]
    NotFound {
        /// The folder that was looked for.
        folder: &'static str,
        /// The command that makes it.
        setup: &'static str,
        /// The file name that was looked for.
        pattern: &'static str,
    },
    /// The file is not an ONNX Runtime that this program can use.
    #[error("{path} (from {origin}) cannot be used as ONNX Runtime: {reason}. Run {setup} in the project folder to get a suitable one")]
    Unusable {
        /// The file that was tried.
        path: PathBuf,
        /// Where its name came from.
        origin: String,
        /// What went wrong.
        reason: String,
        /// The command that gets a suitable one.
        setup: &'static str,
    },
    /// The library is ONNX Runtime, but not a training build.
    #[error(
        "{path} has no training API, as no stock build has: leave --engine training-api out, or get a training build. On Linux on x86-64 \
         {setup} fetches one (unset {LIBRARY_VARIABLE} then); elsewhere set {LIBRARY_VARIABLE} to one of your own, see docs/training-api.md",
        setup = Library::Training.setup()
    )]
    NoTrainingApi {
        /// The library.
        path: PathBuf,
    },
    /// The library was loaded and reports an error.
    #[error("ONNX Runtime from {path} failed to start: {source}")]
    Start {
        /// The library.
        path: PathBuf,
        /// What it says.
        source: ort::Error,
    },
}

/// ONNX Runtime has one environment a process: its library cannot be loaded twice, or unloaded.
static LOADED: Mutex<Option<(Environment, PathBuf)>> = Mutex::new(None);

/// The process's environment, of the stock build if this is the first call.
///
/// # Errors
/// A missing library, and a file that is none or too old, naming the file and what to do.
pub fn environment() -> Result<Environment, EnvironmentError> {
    Library::Stock.environment()
}

fn load(library: Library) -> Result<(Environment, PathBuf), EnvironmentError> {
    let (path, origin) = find_library(library)?;
    let unusable = |reason| EnvironmentError::Unusable { path: path.clone(), origin: origin.clone(), reason, setup: library.setup() };
    // `ort` asserts some of what it finds in a library.
    let builder = std::panic::catch_unwind(|| {
        ort::init_from(&path).inspect(|_| {
            let _ = ort::api();
        })
    })
    .map_err(|_| unusable("it does not offer ONNX Runtime's interface".into()))?
    .map_err(|error| unusable(describe(&error)))?;
    let environment = builder.with_name("swav").with_telemetry(false).build().map_err(|source| EnvironmentError::Start { path: path.clone(), source })?;
    environment.set_log_level(ort::logging::LogLevel::Warning);
    // The library's name carries its version; `scripts/setup.sh` may have made a link to it.
    let file = path.canonicalize().unwrap_or_else(|_| path.clone());
    tracing::info!("ONNX Runtime: {} ({})", file.display(), ort::info());
    Ok((environment, path))
}

fn describe(error: &ort::LoadDynamicError) -> String {
    match error {
        // The system's own words are in the source.
        ort::LoadDynamicError::Dlopen { error, .. } => error.source().map_or_else(|| error.to_string(), ToString::to_string),
        ort::LoadDynamicError::MissingApi { .. } => "the library does not export OrtGetApiBase".into(),
        ort::LoadDynamicError::InvalidVersionString => "its version is not readable".into(),
        ort::LoadDynamicError::BadVersion { version_str, .. } => format!("expected version 1.{} or newer, got {version_str}", ort::MINOR_VERSION),
    }
}

/// The library file, and where its name came from.
fn find_library(library: Library) -> Result<(PathBuf, String), EnvironmentError> {
    if let Some(path) = std::env::var_os(LIBRARY_VARIABLE).filter(|value| !value.is_empty()) {
        let path = PathBuf::from(path);
        // `ort` resolves relative paths against the program's folder first; people mean the current one.
        let path = if path.exists() { std::path::absolute(&path).unwrap_or(path) } else { path };
        return Ok((path, LIBRARY_VARIABLE.into()));
    }
    let folders = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let ancestors = folders.iter().flatten().flat_map(|folder| folder.ancestors());
    ancestors
        .map(|folder| folder.join(library.folder()))
        .find_map(|folder| Some((library_in(&folder)?, folder.display().to_string())))
        .ok_or(EnvironmentError::NotFound { folder: library.folder(), setup: library.setup(), pattern: library_pattern().2 })
}

/// Prefix, part that must occur, and description of the library's file name.
fn library_pattern() -> (&'static str, &'static str, &'static str) {
    if cfg!(target_os = "windows") {
        ("onnxruntime.", "dll", "onnxruntime.dll")
    } else if cfg!(target_os = "macos") {
        ("libonnxruntime.", "dylib", "libonnxruntime*.dylib")
    } else {
        ("libonnxruntime.", "so", "libonnxruntime.so*")
    }
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let (prefix, part, _) = library_pattern();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with(prefix) && name.split('.').any(|piece| piece == part) && file.is_file()
    });
    // The unversioned link first, then the newest version: deterministic whatever the order of the folder.
    files.sort_by_key(|file| (std::cmp::Reverse(file.extension().is_some_and(|extension| extension == part)), std::cmp::Reverse(file.clone())));
    files.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_by_its_versioned_name() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (prefix, part, _) = library_pattern();
        assert_eq!(library_in(folder.path()), None);
        let file = if cfg!(target_os = "linux") { format!("{prefix}{part}.1.32.0") } else { format!("{prefix}{part}") };
        for name in [file.as_str(), "libonnxruntime_providers_shared.so", "README"] {
            std::fs::write(folder.path().join(name), b"").expect("write");
        }
        assert_eq!(library_in(folder.path()), Some(folder.path().join(file)));
        assert_eq!(library_in(&folder.path().join("absent")), None);
    }

    #[test]
    fn the_library_loads_once() {
        environment().expect("ONNX Runtime is set up");
        environment().expect("and stays");
        assert!(ort::info().contains("ORT Build Info"));
    }
}
