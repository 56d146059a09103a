//! Takes one native training step on the graphs that `graphgen export` wrote and saves what went in and came out, for
//! `scripts/check_graphs.py`: `cargo run --release -p tests --example dump_step -- GRAPHS FILE.safetensors [native|functions]`
//!
//! `functions` leaves Sinkhorn-Knopp as the only native kernel: what then differs from another program is the program, not
//! the rounding of other kernels.

use std::path::Path;

use graphgen::artifacts::{INIT_FILE, open};
use graphgen::weights::load_safetensors;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use runtime::kernels::KernelSet;
use runtime::session::environment::environment;
use runtime::train::open_engine_with;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (graphs, file, kernels) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [graphs, file] | [graphs, file, "native"] => (graphs, file, KernelSet::Native),
        [graphs, file, "functions"] => (graphs, file, KernelSet::Functions),
        _ => return Err("expected GRAPHS FILE.safetensors, and perhaps native (the default) or functions".into()),
    };
    let directory = Path::new(graphs);
    let manifest = open(directory)?;
    let mut engine = open_engine_with(&environment()?, directory, &manifest, 0, kernels)?;
    engine.load_weights(&load_safetensors(&directory.join(INIT_FILE))?)?;
    let gradients: Vec<String> = manifest.parameters.iter().map(|parameter| format!("grad/{}", parameter.name)).collect();
    for gradient in &gradients {
        engine.request_output(gradient)?;
    }

    let mut random = ChaCha8Rng::seed_from_u64(1);
    let inputs: Vec<_> = manifest.train_step.inputs.iter().filter(|input| input.name.starts_with("crops/")).collect();
    let crops: Vec<Vec<u8>> = inputs
        .iter()
        .map(|input| {
            let mut pixels = vec![0; input.shape.iter().product()];
            random.fill_bytes(&mut pixels);
            pixels
        })
        .collect();
    let output = engine.forward_backward(&crops.iter().map(Vec::as_slice).collect::<Vec<_>>())?;

    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = vec![("loss".to_owned(), Dtype::F32, vec![1], bytes(&[output.loss]))];
    for name in gradients {
        let gradient = engine.output(&name).expect("read").expect("requested above");
        tensors.push((name, Dtype::F32, gradient.shape, bytes(&gradient.data)));
    }
    for (input, pixels) in inputs.into_iter().zip(crops) {
        tensors.push((input.name.clone(), Dtype::U8, input.shape.clone(), pixels));
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    std::fs::write(file, safetensors::serialize(views, None)?)?;
    println!("loss {}, {} Sinkhorn-Knopp calls of the native kernel", output.loss, runtime::kernels::sinkhorn_calls());
    Ok(())
}
