//! The jobs that a group gives to its executor: what is logged if the executor drops them, and what a thread that has
//! polled one remembers of it.

use crate::support::probe::NET;
use crate::support::{logs, test};
use ebbtide::{Job, TaskGroup};
use log::Level;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};

/// Polls a job once, on this thread.
fn poll(job: &mut Job) -> Poll<()> {
    Pin::new(job).poll(&mut Context::from_waker(Waker::noop()))
}

/// Returns a group, and the jobs that it gives to its executor.
fn group_with_jobs() -> (TaskGroup, mpsc::Receiver<Job>) {
    let (give, jobs) = mpsc::channel();
    (TaskGroup::on(move |job| drop(give.send(job))), jobs)
}

#[test]
fn jobs_that_the_executor_drops_are_logged_once_for_each_group_with_the_name_of_the_first() {
    test(async {
        let logs = logs::remember();
        for name in ["soap", "towel"] {
            let refusing = TaskGroup::on(drop::<Job>);
            for n in 1..=3 {
                assert!(refusing.spawn_named(format!("{name}-{n}"), pending::<()>()).await.is_err());
            }
            let lines = logs.lines_with(name);
            let [(Level::Warn, line)] = &lines[..] else { panic!("not one warning: {lines:?}") };
            assert!(line.starts_with(&format!("the executor has dropped the task `{name}-1` (spawned at ")), "{line}");
        }
    });
}

#[test]
fn a_job_that_has_ended_is_ready_again_and_its_drop_logs_nothing() {
    test(async {
        let logs = logs::remember();
        let (group, jobs) = group_with_jobs();
        let child = group.spawn_named("sponge", async { 5 });
        let mut job = jobs.recv_timeout(NET).unwrap();
        assert_eq!(format!("{job:?}"), "Job { done: false, .. }");
        assert!(poll(&mut job).is_ready() && poll(&mut job).is_ready());
        assert_eq!(format!("{job:?}"), "Job { done: true, .. }");
        drop(job);
        assert_eq!(child.await.unwrap(), 5);
        // A job may also be dropped after its child was destroyed elsewhere.
        let hopeless = group.spawn_named("sponge", pending::<()>());
        let job = jobs.recv_timeout(NET).unwrap();
        drop(group);
        assert!(hopeless.await.unwrap_err().is_cancelled());
        drop(job);
        assert_eq!(logs.lines_with("sponge"), []);
    });
}

#[test]
fn a_thread_that_has_polled_a_job_makes_groups_on_the_default_executor_again() {
    test(async {
        let (group, jobs) = group_with_jobs();
        let inside = group.spawn(poll_fn(|_| {
            let inner = TaskGroup::new(); // runs on the executor of the job that is polled
            let mut polled = Box::pin(inner.spawn(async { 1 }));
            let is_pending = polled.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
            Poll::Ready(is_pending.then_some(inner))
        }));
        let mut outer = jobs.recv_timeout(NET).unwrap();
        assert!(poll(&mut outer).is_ready());
        let inner = inside.await.unwrap().expect("nobody has polled the inner child");
        let mut job = jobs.try_recv().expect("the inner group gave its child to another executor");
        assert!(poll(&mut job).is_ready());
        inner.join().await;

        let elsewhere = TaskGroup::new();
        let child = elsewhere.spawn(async { 2 });
        assert!(jobs.try_recv().is_err(), "a group that was made outside of a job uses the executor of the last one");
        assert_eq!(child.await.unwrap(), 2);
    });
}

#[test]
fn a_spawner_shows_whether_its_group_is_alive() {
    let (group, _jobs) = group_with_jobs();
    let spawner = group.spawner();
    assert_eq!(format!("{spawner:?}"), "Spawner { group_is_alive: true }");
    drop(group);
    assert_eq!(format!("{spawner:?}"), "Spawner { group_is_alive: false }");
}
