//! The checked-in protobuf code is what `prost-build` makes of `graphgen/proto/onnx.proto`.

use std::path::Path;

const HEADER: &str = "\
// Generated from proto/onnx.proto by prost-build and protox; do not edit. `UPDATE_PROTO=1 cargo test -p tests
// proto_is_current` writes it anew.
//
// The crate onnx-protobuf 0.2.3 would be the ready-made one: it does not build with current protobuf, stops at IR
// version 10 and drops attributes whose value is zero.
#![allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]

";

#[test]
fn proto_is_current() {
    let graphgen = Path::new(env!("CARGO_MANIFEST_DIR")).join("../graphgen");
    let files = protox::compile(["onnx.proto"], [graphgen.join("proto")]).expect("onnx.proto compiles");
    let out = tempfile::tempdir().expect("a temporary directory");
    // Comments of the .proto would be tried as doctests.
    prost_build::Config::new().out_dir(out.path()).disable_comments(["."]).compile_fds(files).expect("code for onnx.proto");
    let generated = HEADER.to_owned() + &std::fs::read_to_string(out.path().join("onnx.rs")).expect("one file for the package onnx");
    let checked_in = graphgen.join("src/onnx/proto.rs");
    if std::env::var_os("UPDATE_PROTO").is_some_and(|value| value == "1") {
        std::fs::write(&checked_in, &generated).expect("src/onnx/proto.rs can be written");
    }
    let current = std::fs::read_to_string(&checked_in).unwrap_or_default();
    assert!(current == generated, "src/onnx/proto.rs is out of date: run UPDATE_PROTO=1 cargo test -p tests proto_is_current");
}
