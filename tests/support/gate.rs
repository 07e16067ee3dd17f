//! Decides which tests run at the same time, and gives each test a time limit.
//!
//! The tests of a binary share one process: its executor, its log, its open files. Most tests run beside others. These
//! run alone:
//!
//! - a test that blocks executor threads, or that counts what the process holds ([`alone`]);
//! - the start of a process by [`alone_with_threads`](super::executor::alone_with_threads). Until the new process
//!   executes its program it has a copy of every socket. So for a moment a socket that a test has closed is still open.

use super::{NET, chosen};
use std::cell::Cell;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// How a test shares the process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// Beside other tests.
    Beside,
    /// While no other test runs.
    Alone,
}

thread_local! {
    /// The role of the test to which this thread belongs; `None` outside of all tests.
    static ROLE: Cell<Option<Role>> = const { Cell::new(None) };
}

/// The tests that are running.
struct State {
    /// How many of [`Role::Beside`].
    beside: usize,
    /// Whether one of [`Role::Alone`].
    alone: bool,
}

static GATE: (Mutex<State>, Condvar) = (Mutex::new(State { beside: 0, alone: false }), Condvar::new());

fn wait_while(holds: fn(&State) -> bool) -> MutexGuard<'static, State> {
    let state = GATE.0.lock().unwrap_or_else(PoisonError::into_inner);
    GATE.1.wait_while(state, |state| holds(state)).unwrap_or_else(PoisonError::into_inner)
}

/// The permit of a running test. Dropping it lets other tests begin.
struct Permit(Role);

impl Permit {
    fn wait_for(role: Role) -> Self {
        match role {
            Role::Beside => wait_while(|state| state.alone).beside += 1,
            Role::Alone => wait_while(|state| state.alone || state.beside > 0).alone = true,
        }
        Self(role)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = wait_while(|_| false);
        match self.0 {
            Role::Beside => state.beside -= 1,
            Role::Alone => state.alone = false,
        }
        drop(state);
        GATE.1.notify_all();
    }
}

/// Does something short while no test runs. A test must not call this: it would wait for its own end.
pub fn while_no_test_runs<T>(work: impl FnOnce() -> T) -> T {
    assert_eq!(ROLE.get(), None, "a test cannot wait until no test runs");
    let _permit = Permit::wait_for(Role::Alone);
    work()
}

/// Panics if no test runs. This finds tests that use none of the functions below.
pub fn assert_in_a_test() {
    let state = wait_while(|_| false);
    assert!(state.alone || state.beside > 0, "a test has to run in `test`, `on_thread`, `alone` or `within_net`");
}

/// Returns whether this thread's test runs alone.
pub fn is_alone() -> bool {
    ROLE.get() == Some(Role::Alone)
}

/// Runs a test on a thread of its own, because a panic leaves async-std's `block_on` in another state on its thread.
///
/// The test fails if it still runs after `net`; the message then ends with `alive()`. If this is called inside a test,
/// the body is a part of that test.
pub fn run<T: Send + 'static>(
    role: Role,
    net: Duration,
    alive: &dyn Fn() -> String,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    run_boxed(role, net, alive, Box::new(body))
}

/// Does the same as [`run`], without the type of the body, so that less code is compiled for each test.
fn run_boxed<T: Send + 'static>(
    role: Role,
    net: Duration,
    alive: &dyn Fn() -> String,
    body: Box<dyn FnOnce() -> T + Send>,
) -> T {
    let outer = ROLE.get();
    assert!(outer.is_none() || role == Role::Beside || is_alone(), "only a whole test can run alone, not a part of it");
    let _permit = outer.is_none().then(|| Permit::wait_for(role));
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        ROLE.set(Some(outer.unwrap_or(role)));
        let value = chosen::run(body);
        let _ = done.send(());
        value
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = wait.recv_timeout(net) {
        panic!("the test still ran after {net:?}{}", alive());
    }
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs a test, or blocking code of one, on a thread of its own, for at most [`NET`].
pub fn on_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    run(Role::Beside, NET, &String::new, body)
}

/// Does the same while no other test runs.
pub fn alone<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    run(Role::Alone, NET, &String::new, body)
}

/// Runs the parts of a test at the same time, each on a thread of its own.
pub fn side_by_side<T: Copy + Send + Sync>(parts: &[T], body: impl Fn(T) + Sync) {
    let outer = ROLE.get();
    let _permit = outer.is_none().then(|| Permit::wait_for(Role::Beside));
    let body = &body;
    std::thread::scope(|scope| {
        for &part in parts {
            scope.spawn(move || {
                ROLE.set(Some(outer.unwrap_or(Role::Beside)));
                body(part);
            });
        }
    });
}
