//! Tests that need a certain executor: all of its threads held, or a certain number of threads.

use super::{NET, gate};
use async_std::task;
use std::any::type_name;
use std::env;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};

/// async-std reads it when its executor starts, so another number takes another process.
const THREADS: &str = "ASYNC_STD_THREAD_COUNT";

/// Set in the processes that are started here: the one test that each of them runs.
const RERUN: &str = "EBBTIDE_TEST_RERUN";

/// How many threads the executor has.
pub fn threads() -> usize {
    let threads = env::var(THREADS).ok().and_then(|threads| threads.parse().ok());
    threads.unwrap_or_else(|| std::thread::available_parallelism().unwrap().get())
}

/// Keeps every thread of the executor busy until it is dropped: what is spawned meanwhile runs afterwards.
pub struct Held {
    _gate: mpsc::Sender<()>,
}

/// For tests that run alone: the others would not get on.
pub fn hold_executor() -> Held {
    assert!(gate::is_alone(), "the test holds the executor, and is not alone");
    static ONE: Mutex<()> = Mutex::new(());
    // Two parts of a test that hold half of the threads each would wait for each other.
    let _one_at_a_time = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let threads = threads();
    let (gate, closed) = mpsc::channel::<()>();
    let closed = Arc::new(Mutex::new(closed));
    let (held, is_held) = mpsc::channel();
    for _ in 0..threads {
        let (closed, held) = (Arc::clone(&closed), held.clone());
        task::spawn(async move {
            held.send(()).unwrap();
            // An error for all of them at once: the gate is gone.
            let _ = closed.lock().unwrap().recv_timeout(NET);
        });
    }
    (0..threads).for_each(|_| is_held.recv_timeout(NET).expect("an executor thread is free"));
    Held { _gate: gate }
}

/// Runs the body of a test in a process of its own with so many executor threads. The body must be a closure that is
/// written in the test: the name of its type has the name of the test in it.
pub fn alone_with_threads<F: FnOnce()>(threads: usize, body: F) {
    let path = type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, test) = path.split_once("::").expect("the name of the crate comes first");
    match env::var(RERUN) {
        Ok(name) if name == test => body(),
        Ok(_) => {} // it has a process of its own
        Err(_) => rerun(threads, test),
    }
}

fn rerun(threads: usize, test: &str) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test]).env(THREADS, threads.to_string()).env(RERUN, test);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = gate::while_no_test_runs(|| command.spawn().unwrap());
    let output = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "with {threads} executor threads ({}):\n{text}", output.status);
    assert!(text.contains("1 passed"), "there is no test `{test}`:\n{text}");
}
