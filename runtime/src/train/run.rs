//! The run directory: `graphs/`, `preset.toml`, `checkpoints/`, `metrics.jsonl`, `init.json` if the run
//! started from given weights and, at the end, `encoder.onnx`.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use graphgen::artifacts;
use graphgen::manifest::Manifest;
use graphgen::preset::{Device, Guards, Preset};
use graphgen::training_api;

use super::files::{Disk, is_unfinished, remove_unfinished, replace};
use super::{GraphSource, TrainError};

const GRAPHS: &str = "graphs";
/// Graphs that are being written; renamed when complete.
const UNFINISHED_GRAPHS: &str = ".graphs.tmp";
const PRESET: &str = "preset.toml";
/// Locked while a process trains here.
const LOCK: &str = ".lock";

/// Where a run keeps its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// Names a directory; touches nothing.
    pub fn new(root: &Path) -> RunDirectory {
        RunDirectory { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What `graphgen export` writes, for this run.
    pub fn graphs(&self) -> PathBuf {
        self.root.join(GRAPHS)
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// One JSON object a step.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// The resolved settings.
    pub fn preset(&self) -> PathBuf {
        self.root.join(PRESET)
    }

    /// Program, library, machine and data of the last start.
    pub fn environment(&self) -> PathBuf {
        self.root.join("environment.json")
    }

    /// A picture of augmented crops of the first step.
    pub fn crops(&self) -> PathBuf {
        self.root.join("crops.jpg")
    }

    /// TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("tensorboard")
    }

    /// Images that could not be read, a line each.
    pub fn broken_images(&self) -> PathBuf {
        self.root.join("broken-images.txt")
    }

    /// What the run's initial weights were taken from, if not random.
    pub fn init(&self) -> PathBuf {
        self.root.join("init.json")
    }

    /// The encoder of the last step.
    pub fn encoder(&self) -> PathBuf {
        self.root.join("encoder.onnx")
    }

    fn refuse(&self, problem: String) -> TrainError {
        TrainError::Run { path: self.root.clone(), problem }
    }

    /// Checks that a run of `preset` may be here: the directory is absent, empty, or holds a run of this preset. Writes
    /// nothing.
    ///
    /// # Errors
    /// A run of another preset, with the settings that differ; other files.
    pub fn check(&self, preset: &Preset) -> Result<(), TrainError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(TrainError::io(&self.root))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(self.refuse("expected a directory, got a file; choose another --out".into()));
            }
            Err(error) => return Err(TrainError::io(&self.root)(error)),
        };
        let file = self.root.join(PRESET);
        if !file.exists() {
            // The preset is written last: graphs without one are what an interrupted start left.
            let foreign = entries.iter().find(|entry| {
                let name = entry.file_name();
                name != GRAPHS && name != LOCK && !is_unfinished(&entry.path())
            });
            return match foreign {
                None => Ok(()),
                Some(entry) => Err(self.refuse(format!("holds {}, which is no run's; choose another --out", entry.path().display()))),
            };
        }
        let text = fs::read_to_string(&file).map_err(TrainError::io(&file))?;
        let earlier = Preset::from_toml(&text, &[]).map_err(|error| self.refuse(format!("{PRESET} cannot be read: {error}")))?;
        let differences = differences(&earlier, preset);
        if differences.is_empty() {
            return Ok(());
        }
        let differences = differences.join(", ");
        Err(self.refuse(format!("holds a run with other settings: {differences}. Choose another --out, or give the same settings to go on with it")))
    }

    /// Creates the directory and keeps other processes from training in it for as long as the file is open;
    /// [`check`](Self::check) first. Removes what an interrupted process left unfinished.
    ///
    /// # Errors
    /// Another process trains here; a directory that cannot be written.
    pub fn lock(&self) -> Result<File, TrainError> {
        fs::create_dir_all(&self.root).map_err(TrainError::io(&self.root))?;
        let path = self.root.join(LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(TrainError::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(self.refuse("another process trains here; wait for it, or choose another --out".into()));
            }
            Err(TryLockError::Error(error)) if matches!(error.kind(), ErrorKind::Unsupported) => {
                tracing::warn!("{}: this file system has no locks; make sure that no other process trains here", self.root.display());
            }
            Err(TryLockError::Error(error)) => return Err(TrainError::io(path)(error)),
        }
        remove_unfinished(&self.root)?;
        Ok(file)
    }

    /// Creates graphs and `preset.toml`, or takes the graphs that are there; [`lock`](Self::lock) first.
    ///
    /// # Errors
    /// Graphs that cannot be built, and whatever the file system reports.
    pub fn prepare(&self, source: &GraphSource) -> Result<Manifest, TrainError> {
        let manifest = self.prepare_graphs(source)?;
        let file = self.root.join(PRESET);
        if !file.exists() {
            replace(&Disk, &file, source.preset().to_toml().as_bytes())?;
        }
        Ok(manifest)
    }

    fn prepare_graphs(&self, source: &GraphSource) -> Result<Manifest, TrainError> {
        let (graphs, unfinished) = (self.graphs(), self.root.join(UNFINISHED_GRAPHS));
        remove_folder(&unfinished)?;
        if graphs.exists() {
            match artifacts::open(&graphs) {
                Ok(manifest) if differences(&manifest.preset, source.preset()).is_empty() => return Ok(manifest),
                Ok(_) => tracing::warn!("{}: graphs of other settings; writing them anew", graphs.display()),
                Err(error) => tracing::warn!("{error}; writing the graphs anew"),
            }
            remove_folder(&graphs)?;
        }
        match source {
            GraphSource::Preset(preset) => {
                tracing::info!("writing the graphs into {}", graphs.display());
                artifacts::export(preset, &unfinished)?;
            }
            GraphSource::Directory { directory, .. } => {
                copy_files(directory, &unfinished)?;
                let training_api = directory.join(training_api::FOLDER);
                if training_api.is_dir() {
                    copy_files(&training_api, &unfinished.join(training_api::FOLDER))?;
                }
            }
        }
        fs::rename(&unfinished, &graphs).map_err(TrainError::io(&graphs))?;
        Ok(artifacts::open(&graphs)?)
    }
}

/// Copies the files of a folder, not those of folders in it.
fn copy_files(from: &Path, to: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(to).map_err(TrainError::io(to))?;
    for entry in fs::read_dir(from).map_err(TrainError::io(from))? {
        let entry = entry.map_err(TrainError::io(from))?;
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).map_err(TrainError::io(entry.path()))?;
        }
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::io(folder)(error)),
        _ => Ok(()),
    }
}

/// Settings in which two presets differ, as `section.key (a there, b here)`. Those that do not change what a run
/// computes may differ.
pub(super) fn differences(earlier: &Preset, now: &Preset) -> Vec<String> {
    let comparable = |preset: &Preset| {
        let mut preset = preset.clone();
        preset.train.workers = 0;
        preset.train.checkpoint_every_steps = 0;
        preset.train.checkpoint_every_epochs = 0;
        preset.device = Device::default();
        preset.train.keep_last = 1;
        preset.train.keep_every = 0;
        preset.guards = Guards::default();
        serde_json::to_value(preset).expect("a preset has only JSON types")
    };
    let (earlier, now) = (comparable(earlier), comparable(now));
    let mut found = Vec::new();
    for (section, settings) in now.as_object().into_iter().flatten() {
        for (key, value) in settings.as_object().into_iter().flatten() {
            let before = &earlier[section][key];
            if before != value {
                found.push(format!("{section}.{key} ({before} there, {value} here)"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_another_run_or_other_files_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let run = RunDirectory::new(directory.path());
        let preset = Preset::default();
        run.check(&preset).expect("an empty directory will do");
        RunDirectory::new(&directory.path().join("absent/deeper")).check(&preset).expect("an absent one, too");

        fs::create_dir(directory.path().join(UNFINISHED_GRAPHS)).expect("create");
        fs::write(directory.path().join(LOCK), "").expect("write");
        run.check(&preset).expect("so will what an interrupted start left");

        let other = directory.path().join("notes.txt");
        fs::write(&other, "mine").expect("write");
        assert!(run.check(&preset).expect_err("foreign").to_string().contains("notes.txt"));
        fs::write(directory.path().join(PRESET), preset.to_toml()).expect("write");
        run.check(&preset).expect("beside a run, other files do no harm");

        let mut changed = preset.clone();
        changed.optim.base_lr = 0.5;
        let error = run.check(&changed).expect_err("another preset").to_string();
        assert!(error.contains("optim.base_lr (4.8 there, 0.5 here)"), "{error}");
        assert!(RunDirectory::new(&other).check(&preset).expect_err("a file").to_string().contains("got a file"));
    }

    #[test]
    fn only_one_process_trains_in_a_directory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let run = RunDirectory::new(directory.path());
        let lock = run.lock().expect("free");
        assert!(run.lock().expect_err("taken").to_string().contains("another process"));
        drop(lock);
        run.lock().expect("free again");
    }

    #[test]
    fn workers_checkpoints_and_guards_may_change() {
        let mut changed = Preset::default();
        changed.train.workers = 7;
        changed.train.checkpoint_every_steps = 100;
        changed.train.keep_last = 9;
        changed.guards.patience_steps = 5;
        assert_eq!(differences(&Preset::default(), &changed), Vec::<String>::new());
    }
}
