//! The last words of a connection's tasks: what they still write when the handler has returned.
//!
//! A handler that queues a goodbye for its writer task and returns expects it to be sent. So its tasks have the task
//! grace, in which they may write, and no clone reads any more: a task that reads ends by that. Then they are cut,
//! which a warning says: a loss that is not seen cannot be found.

use super::linger::{self, Discarded, Ending};
use crate::run::Run;
use crate::run::name::run_line;
use crate::run::record::{ConnectionRecord, DrainAlone};
use crate::run::state::ConnectionState;
use crate::run::tasks::TaskGroups;
use crate::span::Span;
use async_io::Timer;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How many tasks of one connection are looked at when they are cut.
const LOOKED_AT: usize = 100;

/// Lets the tasks finish, and then closes the connection with care. To be polled by the connection's own task, which
/// alone is woken for a cancel. A task that panics ends by that, and no other with it.
pub(super) fn last_words(
    run: Arc<Run>,
    record: Arc<ConnectionRecord>,
    tasks: Box<TaskGroups>,
    grace: Duration,
) -> Ending {
    Box::pin(async move {
        record.set_state(ConnectionState::Finishing);
        record.end_reads();
        tasks.background.cancel();
        let left = |alone: DrainAlone| alone.deadline.saturating_duration_since(Instant::now());
        let grace = record.alone().map_or(grace, |alone| grace.min(left(alone)));
        let cut = CutUnlessDone { run: &run, record: &record, tasks: &tasks };
        finish(&record, &tasks, grace, cut).await;
        record.end(true);
        linger::with_care(run, record, Some(tasks), None).await;
    })
}

async fn finish(record: &ConnectionRecord, tasks: &TaskGroups, grace: Duration, cut: CutUnlessDone<'_>) {
    let mut settled = pin!(tasks.awaited.settled());
    let mut timer = Timer::after(grace);
    poll_fn(|cx| {
        if settled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if record.is_cancelled() {
            return Poll::Ready(());
        }
        // No clone reads any more, and the peer may not read before it has sent all.
        if matches!(linger::discard(record, cx), Discarded::More) {
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut timer).poll(cx).map(|_| log_cut(cut.run, tasks, grace))
    })
    .await;
}

/// Once for each line that has spawned one.
fn log_cut(run: &Run, tasks: &TaskGroups, grace: Duration) {
    for (task, at) in tasks.awaited.list(LOOKED_AT) {
        if at.is_none_or(|at| run.is_first_cut_of(at)) {
            run_line!(
                warn,
                run,
                [],
                "cut {task}: it still ran {} after its handler had returned. To wait for it, let the handler \
                 await it or `join_tasks`; one that never ends by itself is for `spawn_background`. (Said once for \
                 this line of code; `Report::undelivered` has the number)",
                Span(grace)
            );
        }
    }
}

/// Dropped before they are done, on any way out, the tasks are cut: that is counted.
struct CutUnlessDone<'a> {
    run: &'a Run,
    record: &'a ConnectionRecord,
    tasks: &'a TaskGroups,
}

impl Drop for CutUnlessDone<'_> {
    fn drop(&mut self) {
        if !self.tasks.awaited.is_empty() && self.record.note_undelivered() {
            self.run.counters.undelivered();
        }
    }
}
