//! Makes a shared library with ONNX Runtime's C interface out of the training build that is published for Python.
//!
//! The wheel `onnxruntime-training-cpu` holds all of ONNX Runtime, training API included, in one Python extension module,
//! `onnxruntime_pybind11_state*.so`, which exports nothing but the function that Python calls. This library stands beside
//! that file and exports `OrtGetApiBase` for it, so that any program can use the two as it would use `libonnxruntime.so`.
//! No Python is started, and none need be installed.
//!
//! Three steps, when `OrtGetApiBase` is called for the first time:
//! 1. The module refers to Python's functions and objects. The file `python.rs` defines them, and this library makes its own symbols
//!    visible to libraries loaded later.
//! 2. It loads the module from its own folder. The module's constructors run, its Python entry point does not: that would
//!    create a second logger.
//! 3. `OrtApiBase` is a constant of two function pointers in the module. It is found by what it must look like: two
//!    addresses of code in the read-only relocated data, of which the second one is a function that does nothing but return
//!    the address of a version string.
//!
//! Linux on x86-64 only; empty elsewhere. Unsafe code cannot be avoided here, and no other part of the project links this
//! crate: it is loaded as a file, as ONNX Runtime is.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod module;
#[allow(non_snake_case, non_upper_case_globals, reason = "the names are Python's")]
mod python;

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::OnceLock;

/// ONNX Runtime's `OrtApiBase`, from which a program gets everything else.
#[repr(C)]
pub struct OrtApiBase {
    get_api: unsafe extern "C" fn(u32) -> *const c_void,
    get_version_string: unsafe extern "C" fn() -> *const c_char,
}

/// The module's `OrtApiBase`; null, with the reason on standard error, if there is no module or it looks different.
#[unsafe(no_mangle)]
pub extern "C" fn OrtGetApiBase() -> *const OrtApiBase {
    static ADDRESS: OnceLock<Option<usize>> = OnceLock::new();
    let address = ADDRESS.get_or_init(|| module::load().inspect_err(|problem| eprintln!("onnxruntime-training-shim: {problem}")).ok());
    address.map_or(ptr::null(), |address| address as *const OrtApiBase)
}
