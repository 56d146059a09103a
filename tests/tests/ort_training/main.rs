//! The target `ort-training` on ONNX Runtime's training build: its functions, and whole training steps. Without the build
//! (`scripts/setup.sh --engine training-api`) these tests say so and pass.

#[path = "../operators/functions.rs"]
mod functions;
#[allow(dead_code, reason = "shared with the stock build's tests")]
#[path = "../operators/harness.rs"]
mod harness;
#[allow(dead_code, reason = "shared with the stock build's tests")]
#[path = "../train_step/harness.rs"]
mod step;

use std::path::Path;

use graphgen::manifest::Manifest;
use graphgen::methods::swav::train_step;
use graphgen::onnx::{FunctionNames, ModelOptions, encode, write_model};
use graphgen::optim::optimizer_step;
use graphgen::preset::Target;
use graphgen::training_api::with_native_kernels;
use runtime::kernels::{KernelSet, native_functions};
use runtime::session::environment::Library;

const LIBRARY: Library = Library::Training;
const TARGETS: [Target; 1] = [Target::OrtTraining];
const CHANNELS_LAST_TARGETS: [Target; 1] = [Target::Native];

/// With the kernels of 1.19.2 the deep network's loss in portable bodies is 1.4e-5 from f64; native kernels are 2e-6 from it.
const LOSS_LIMIT: f64 = 2e-5;

/// Writes the graphs again for ONNX Runtime 1.19, which cannot tell overloads apart.
fn number_functions(manifest: &Manifest, kernels: KernelSet, directory: &Path) {
    let step = train_step(&manifest.preset).expect("valid");
    let optimizer = optimizer_step(&manifest.preset, &step.parameters).expect("valid");
    let options = ModelOptions { function_names: FunctionNames::Numbered, ..ModelOptions::new(manifest.target) };
    let native = if kernels == KernelSet::Native { native_functions(kernels, true) } else { Vec::new() };
    for (spec, graph) in [(&manifest.train_step, &step.graph), (&manifest.optimizer, &optimizer)] {
        let model = encode(&write_model(graph, &spec.file, &options).expect("valid")).expect("small");
        std::fs::write(directory.join(&spec.file), with_native_kernels(&model, &native).expect("a model")).expect("written");
    }
}

#[test]
fn the_training_builds_kernels_and_portable_bodies_take_the_native_step() {
    let Some(environment) = harness::environment() else { return };
    for network in step::NETWORKS {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let preset = step::preset(network.changes);
        let outcome = |name: &str, target: Target, kernels: KernelSet| {
            let directory = directory.path().join(name);
            let manifest = step::exported(&preset, target, kernels, &directory);
            number_functions(&manifest, kernels, &directory);
            step::run(&environment, &manifest, kernels, &directory)
        };
        let native = outcome("kernels", Target::Native, KernelSet::Native);
        for target in [Target::Portable, Target::Native, Target::OrtTraining] {
            let bodies = outcome(&target.to_string(), target, KernelSet::Functions);
            println!("{}, {target}: loss {:e} of {}", network.name, (bodies.losses[0] - native.losses[0]) / native.losses[0], native.losses[0]);
            assert_eq!(bodies.native_calls, 0, "{}: the function bodies ran", network.name);
            step::assert_alike(&network, LOSS_LIMIT, &native, &bodies);
        }
    }
}
