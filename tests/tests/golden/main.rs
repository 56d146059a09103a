//! The method against PyTorch: goldens that the scripts in `tests/golden/` wrote, in f64.
//!
//! graphgen's own evaluation in f64 is held to 1e-9: it shows that the graphs are the method. ONNX Runtime in f32 is held
//! to what rounding leaves. `docs/numerics.md` lists bounds and measured errors.

mod fixture;
mod formula;
mod initial_weights;
mod onnx_runtime;
mod optimizer;
mod schedule;
mod sinkhorn;
mod step;
mod trajectory;
