//! Where the time of graphs goes, from ONNX Runtime's profiler.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// What ONNX Runtime puts before the names of a function's nodes when it puts them in the function's place.
const INLINED: &str = "_inlfunc_";
/// What it puts behind a node's name for the time that its kernel took.
const KERNEL_TIME: &str = "_kernel_time";

/// A function of the graphs, or a standard operator outside of one, and what it takes in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionTime {
    /// Its name. Nodes of a function's body count as the function.
    pub name: String,
    /// Kernels run in a step.
    pub kernels: usize,
    /// Their time in a step.
    pub time: Duration,
}

/// A profile that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: ONNX Runtime's profile cannot be read: {problem}", path.display())]
pub struct ProfileError {
    /// The file, or the folder of it.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    name: String,
    #[serde(default)]
    dur: u64,
    #[serde(default)]
    args: Arguments,
}

#[derive(Deserialize, Default)]
struct Arguments {
    #[serde(default)]
    op_name: String,
}

/// The dearest functions first, from the profiles of a folder: those of sessions that ran `warm_up` steps, which do not count,
/// and `steps` more.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn read_profiles(folder: &Path, warm_up: usize, steps: usize) -> Result<Vec<FunctionTime>, ProfileError> {
    let error = |path: &Path, problem: &dyn std::fmt::Display| ProfileError { path: path.into(), problem: problem.to_string() };
    let mut functions: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(|problem| error(folder, &problem))? {
        let path = entry.map_err(|problem| error(folder, &problem))?.path();
        let bytes = std::fs::read(&path).map_err(|problem| error(&path, &problem))?;
        let events: Vec<Event> = serde_json::from_slice(&bytes).map_err(|problem| error(&path, &problem))?;
        add(&mut functions, events, warm_up, warm_up + steps);
    }
    let steps_f64 = steps as f64;
    let mut functions: Vec<FunctionTime> = functions
        .into_iter()
        .map(|(name, (kernels, micros))| FunctionTime { name, kernels: kernels / steps, time: Duration::from_secs_f64(micros as f64 / 1e6 / steps_f64) })
        .collect();
    functions.sort_by_key(|function| std::cmp::Reverse(function.time));
    Ok(functions)
}

/// Adds kernels and microseconds of one session's events by function.
fn add(functions: &mut BTreeMap<String, (usize, u64)>, events: Vec<Event>, warm_up: usize, runs: usize) {
    let mut nodes: BTreeMap<String, (String, Vec<u64>)> = BTreeMap::new();
    for event in events.into_iter().filter(|event| event.cat == "Node") {
        if let Some(name) = event.name.strip_suffix(KERNEL_TIME) {
            nodes.entry(name.to_owned()).or_insert_with(|| (function_of(name, event.args.op_name), Vec::new())).1.push(event.dur);
        }
    }
    for (function, times) in nodes.into_values() {
        let counted = &times[times.len() * warm_up / runs..];
        let (kernels, micros) = functions.entry(function).or_default();
        *kernels += counted.len();
        *micros += counted.iter().sum::<u64>();
    }
}

/// The function that a node of this name and operator is part of.
fn function_of(node: &str, operator: String) -> String {
    match node.strip_prefix(INLINED).and_then(|rest| rest.split('_').next()) {
        Some(function) => function.to_owned(),
        None => operator,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bodys_nodes_count_as_the_function_and_warm_up_does_not() {
        let event = |name: &str, operator: &str, micros: u64| serde_json::json!({ "cat": "Node", "name": format!("{name}_kernel_time"), "dur": micros, "args": { "op_name": operator } });
        let run = |factor: u64| {
            [
                event("_inlfunc_LarsStep_token_7_Mul", "Mul", 1000 * factor),
                event("_inlfunc_LarsStep_Add", "Add", 500 * factor),
                event("conv1/Convolution", "Convolution", 3000 * factor),
                event("loss/Mul", "Mul", 10 * factor),
            ]
        };
        let mut events: Vec<_> = [run(100), run(1), run(3)].into_iter().flatten().collect();
        events.push(serde_json::json!({ "cat": "Session", "name": "model_run", "dur": 9, "args": {} }));
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("train_step.json"), serde_json::to_vec(&events).expect("JSON")).expect("written");

        let functions = read_profiles(folder.path(), 1, 2).expect("read");
        let found: Vec<_> = functions.iter().map(|function| (function.name.as_str(), function.kernels, function.time.as_micros())).collect();
        assert_eq!(found, [("Convolution", 1, 6000), ("LarsStep", 2, 3000), ("Mul", 1, 20)]);
    }

    #[test]
    fn what_is_no_profile_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("other.json"), "{").expect("written");
        let error = read_profiles(folder.path(), 1, 2).expect_err("no profile").to_string();
        assert!(error.contains("other.json"), "{error}");
    }
}
