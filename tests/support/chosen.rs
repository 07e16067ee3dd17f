//! The executor that the tests run on: the one that the crate's features choose, or tokio's.
//!
//! With `EBBTIDE_TEST_EXECUTOR=tokio` every server and every group that a test makes on its own thread runs on a
//! tokio runtime, because it is made inside of a job of that executor. So the suite needs no word about executors.

use ebbtide::{Job, TaskGroup};
use std::env;
use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use tokio::runtime::Runtime;

const CHOICE: &str = "EBBTIDE_TEST_EXECUTOR";

/// Returns whether the tests run on tokio.
pub fn is_tokio() -> bool {
    match env::var(CHOICE).as_deref() {
        Ok("tokio") => true,
        Ok(other) => panic!("{CHOICE} is `tokio` or not set, not `{other}`"),
        Err(_) => false,
    }
}

/// Returns the environment variable that sets the number of the executor's threads, which is read when it starts.
pub fn threads_variable() -> &'static str {
    if is_tokio() {
        "TOKIO_WORKER_THREADS"
    } else if cfg!(feature = "async-std") {
        "ASYNC_STD_THREAD_COUNT"
    } else {
        "SMOL_THREADS"
    }
}

/// Returns the number of the executor's threads.
pub fn threads() -> usize {
    let threads = env::var(threads_variable()).ok().and_then(|threads| threads.parse().ok());
    let default = || match threads_variable() {
        "SMOL_THREADS" => 1,
        _ => available_parallelism().unwrap().get(),
    };
    threads.unwrap_or_else(default)
}

/// Returns the tokio runtime of this process.
pub fn tokio() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap())
}

/// Runs a test, or a part of one, on this thread, so that what it makes here uses the chosen executor.
pub fn run<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    if !is_tokio() {
        return body();
    }
    let is_first = AtomicBool::new(true);
    let group = TaskGroup::on(move |job: Job| {
        if is_first.swap(false, Ordering::Relaxed) {
            async_io::block_on(job); // the test itself, here
        } else {
            tokio().spawn(job);
        }
    });
    let result = group.spawn(async move { body() });
    match async_io::block_on(result) {
        Ok(value) => value,
        Err(error) => resume_unwind(error.into_panic().expect("a test is not cancelled")),
    }
}
