//! Which tests may run beside each other.
//!
//! The tests of a binary share one process: its executor, its log, its open files. Most tests run beside others. These
//! run alone:
//!
//! - a test that blocks executor threads, or counts what the process holds ([`alone`]);
//! - the start of a process by [`alone_with_threads`](super::executor::alone_with_threads). The new process has a copy
//!   of every socket until it executes its program, so for a moment a socket that a test has closed is still open.

use super::NET;
use std::cell::Cell;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// What a test shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    Beside,
    Alone,
}

thread_local! {
    /// The role of the test to which this thread belongs; `None` outside of all tests.
    static ROLE: Cell<Option<Role>> = const { Cell::new(None) };
}

struct State {
    beside: usize,
    alone: bool,
}

static GATE: (Mutex<State>, Condvar) = (Mutex::new(State { beside: 0, alone: false }), Condvar::new());

fn wait_while(holds: fn(&State) -> bool) -> MutexGuard<'static, State> {
    let state = GATE.0.lock().unwrap_or_else(PoisonError::into_inner);
    GATE.1.wait_while(state, |state| holds(state)).unwrap_or_else(PoisonError::into_inner)
}

/// The permit of a test. Its drop lets others begin.
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

/// Does something quick while no test runs. Not for tests, which would wait for themselves.
pub fn while_no_test_runs<T>(work: impl FnOnce() -> T) -> T {
    assert_eq!(ROLE.get(), None, "a test cannot wait until no test runs");
    let _permit = Permit::wait_for(Role::Alone);
    work()
}

/// Fails if no test runs, so that no test goes without one of the functions below.
pub fn assert_in_a_test() {
    let state = wait_while(|_| false);
    assert!(state.alone || state.beside > 0, "a test without `test`, `on_thread`, `alone` or `within_net` around it");
}

/// Whether the test of this thread has the process to itself.
pub fn is_alone() -> bool {
    ROLE.get() == Some(Role::Alone)
}

/// Runs a test on a thread of its own, since after a panic async-std's `block_on` is not the same on that thread. It
/// fails when it still runs after `net`, with `alive` in its message. A test inside of another is a part of that.
pub fn run<T: Send + 'static>(
    role: Role,
    net: Duration,
    alive: &dyn Fn() -> String,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    run_boxed(role, net, alive, Box::new(body))
}

/// Compiled once for all tests.
fn run_boxed<T: Send + 'static>(
    role: Role,
    net: Duration,
    alive: &dyn Fn() -> String,
    body: Box<dyn FnOnce() -> T + Send>,
) -> T {
    let outer = ROLE.get();
    assert!(outer.is_none() || role == Role::Beside || is_alone(), "a part of a test cannot be alone");
    let _permit = outer.is_none().then(|| Permit::wait_for(role));
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        ROLE.set(Some(outer.unwrap_or(role)));
        let value = body();
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

/// Runs a test, or blocking code of one, on a thread of its own within the net.
pub fn on_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    run(Role::Beside, NET, &String::new, body)
}

/// The same while no other test runs.
pub fn alone<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    run(Role::Alone, NET, &String::new, body)
}

/// Runs the parts of a test side by side, a thread for each.
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
