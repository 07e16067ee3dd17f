//! The tests once more, in a process of their own with as many executor threads as they ask for.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::env;
use std::process::Command;

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
    let output = Command::new(env::current_exe().unwrap())
        .args(which)
        .env(THREADS, threads.to_string())
        .env(RERUN, which.last().unwrap_or(&"the whole file"))
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "with {threads} executor threads ({}):\n{text}", output.status);
    text
}
