//! R12: a waker of a given executor panics when it is cloned. Its child was lost: it was neither dropped nor
//! removed from its group, so a join of the group hung. Such a waker takes `unsafe`, so a program of its own makes it.

use crate::support::process::{Process, other_program};

#[test]
fn r12_a_waker_that_panics_when_it_is_cloned_cancels_its_task_and_nothing_else() {
    let ended = Process::start(&mut other_program("panicking_waker")).wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let logged = "ERROR a waker panicked, so its task is cancelled: no clone today";
    assert_eq!(
        ended.stdout,
        [logged, "the child is dropped", "ready: true, children: 0", "cancelled: true"],
        "{ended:?}"
    );
}
