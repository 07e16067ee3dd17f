//! The tests once more, in a process of their own with as many executor threads as they ask for.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::env;
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// async-std reads it when its executor starts, so it takes a process of its own.
const THREADS: &str = "ASYNC_STD_THREAD_COUNT";

/// Set in the processes that are started here, so that they start no more.
const RERUN: &str = "EBBTIDE_TEST_RERUN";

/// Runs every test of this file with one executor thread. For a test of the name
/// `the_whole_file_holds_with_one_executor_thread`.
pub(crate) fn whole_file_with_one_thread() {
    if env::var_os(RERUN).is_none() && env::var_os(THREADS).is_none_or(|threads| threads != "1") {
        rerun(1, &[]);
    }
}

/// Runs the body of one test, alone in a process with so many executor threads.
pub(crate) fn alone_with_threads(threads: usize, test: &str, body: impl FnOnce()) {
    match env::var(RERUN) {
        Ok(name) if name == test => body(),
        Ok(_) => {} // it has had, or will have, its own process
        Err(_) => {
            let output = rerun(threads, &["--exact", test]);
            assert!(output.contains("1 passed"), "there is no test `{test}`:\n{output}");
        }
    }
}

fn rerun(threads: usize, which: &[&str]) -> String {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(which).env(THREADS, threads.to_string()).env(RERUN, which.last().unwrap_or(&"the whole file"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = while_no_test_runs(|| command.spawn().unwrap());
    let output = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "with {threads} executor threads ({}):\n{text}", output.status);
    text
}

/// How many tests run, and whether a process is being started. That one has all of our sockets, until it becomes its program:
/// what a test has closed would still be open, for a moment. So it waits for the tests, and they for it.
struct Gate {
    running: usize,
    starting: bool,
}

static GATE: (Mutex<Gate>, Condvar) = (Mutex::new(Gate { running: 0, starting: false }), Condvar::new());

fn wait_while(holds: fn(&Gate) -> bool) -> MutexGuard<'static, Gate> {
    let gate = GATE.0.lock().unwrap_or_else(PoisonError::into_inner);
    GATE.1.wait_while(gate, |gate| holds(gate)).unwrap_or_else(PoisonError::into_inner)
}

fn while_no_test_runs<T>(start: impl FnOnce() -> T) -> T {
    wait_while(|gate| gate.running > 0 || gate.starting).starting = true;
    let started = start();
    wait_while(|_| false).starting = false;
    GATE.1.notify_all();
    started
}

/// A test, or a part of one, that runs.
pub(crate) struct Running;

impl Running {
    /// Inside of another it does not wait: nothing is being started then.
    pub(crate) fn enter() -> Self {
        wait_while(|gate| gate.starting).running += 1;
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        wait_while(|_| false).running -= 1;
        GATE.1.notify_all();
    }
}
