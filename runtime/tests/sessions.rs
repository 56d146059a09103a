//! Sessions that are created at the same time. A test of its own process: it is the first use of the domain that matters.

use std::sync::{Arc, Barrier};

use runtime::kernels::{KernelSet, native_operators};
use runtime::session::SessionOptions;
use runtime::session::environment::environment;

#[test]
fn threads_that_create_sessions_at_the_same_time_all_get_one() {
    let model = std::fs::read("tests/models/sinkhorn.onnx").expect("the model");
    let environment = environment().expect("scripts/setup.sh has set ONNX Runtime up");
    let start = Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let domain = native_operators(KernelSet::Native, true, 1).expect("kernels").expect("some");
                #[expect(clippy::arc_with_non_send_sync, reason = "`ort` takes the domain in an Arc; it stays on this thread")]
                let options = SessionOptions { threads: 1, operators: Some(Arc::new(domain)), ..SessionOptions::default() };
                start.wait();
                options.open_bytes(&environment, &model).expect("a session");
            });
        }
    });
}
