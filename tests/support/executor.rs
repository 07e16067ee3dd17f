//! Tests that need a certain executor: one whose threads are all blocked, or one with a certain number of threads.

use super::chosen::{threads, threads_variable};
use super::{NET, gate};
use ebbtide::TaskGroup;
use std::any::type_name;
use std::env;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};

/// Set in the processes that are started here. Its value is the name of the one test that the process runs.
const RERUN: &str = "EBBTIDE_TEST_RERUN";

/// Guard that blocks every thread of the executor until it is dropped. Tasks that are spawned in this time run
/// afterwards.
pub struct HeldExecutor {
    /// The blocking tasks end when this sender is dropped. Dropped first: then the group waits for them.
    _gate: mpsc::Sender<()>,
    _group: TaskGroup,
}

/// Blocks every thread of the executor. Only for tests that run alone: other tests would make no progress.
pub fn hold_executor() -> HeldExecutor {
    assert!(gate::is_alone(), "a test that holds the executor has to run alone");
    static ONE: Mutex<()> = Mutex::new(());
    // Otherwise two parts of a test could hold half of the threads each, and wait for each other.
    let _one_at_a_time = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let threads = threads();
    let (gate, closed) = mpsc::channel::<()>();
    let closed = Arc::new(Mutex::new(closed));
    let (held, is_held) = mpsc::channel();
    let group = TaskGroup::new();
    for _ in 0..threads {
        let (closed, held) = (Arc::clone(&closed), held.clone());
        group.spawn(async move {
            held.send(()).unwrap();
            // When the sender is dropped, this returns an error in all of the tasks at once.
            let _ = closed.lock().unwrap().recv_timeout(NET);
        });
    }
    (0..threads).for_each(|_| is_held.recv_timeout(NET).expect("every executor thread takes a task"));
    HeldExecutor { _gate: gate, _group: group }
}

/// Runs the body of a test in a process of its own, with this number of executor threads. The body must be a closure
/// that is written inside the test function: the test's name is taken from the name of the closure's type.
pub fn alone_with_threads<F: FnOnce()>(threads: usize, body: F) {
    let path = type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, test) = path.split_once("::").expect("the name of the crate comes first");
    match env::var(RERUN) {
        Ok(name) if name == test => body(),
        Ok(_) => {} // this process was started for another test
        Err(_) => rerun(threads, test),
    }
}

fn rerun(threads: usize, test: &str) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test]).env(threads_variable(), threads.to_string()).env(RERUN, test);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = gate::while_no_test_runs(|| command.spawn().unwrap());
    let output = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "with {threads} executor threads ({}):\n{text}", output.status);
    assert!(text.contains("1 passed"), "there is no test `{test}`:\n{text}");
}
