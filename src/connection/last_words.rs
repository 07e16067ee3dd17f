//! The task grace: what a connection's tasks may still write after the handler has returned.
//!
//! A handler that queues a goodbye for its writer task, and returns, expects the goodbye to be sent. So its tasks may
//! write during the task grace. Reads return EOF by then, so a task that reads ends. At the end of the task grace the
//! tasks that are left are cut, with a warning: a loss that is not logged cannot be found.

use super::linger::{self, Discarded, Ending};
use crate::run::Run;
use crate::run::name::run_line;
use crate::run::record::{ConnectionRecord, DrainAlone};
use crate::run::state::ConnectionState;
use crate::run::tasks::TaskGroups;
use crate::span::Span;
use crate::sync::time;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// How many cut tasks of one connection are examined for the warning.
const EXAMINED: usize = 100;

/// Waits for the tasks within the task grace, then lingers and closes the connection.
///
/// It must be polled by the connection's own task, since only that is woken for a cancel. A task that panics here ends
/// only itself.
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
        let left = |alone: DrainAlone| alone.deadline.saturating_duration_since(time::now());
        let grace = record.alone().map_or(grace, |alone| grace.min(left(alone)));
        let cut = CutUnlessDone { run: &run, record: &record, tasks: &tasks };
        finish(&record, &tasks, grace, cut).await;
        record.end(true);
        linger::with_care(run, record, Some(tasks), None).await;
    })
}

/// Waits until the awaited tasks have ended, the connection is cancelled, or the task grace is over.
async fn finish(record: &ConnectionRecord, tasks: &TaskGroups, grace: Duration, cut: CutUnlessDone<'_>) {
    let mut settled = pin!(tasks.awaited.settled());
    let mut timer = cut.run.timers.timer();
    timer.set(time::now().checked_add(grace));
    poll_fn(|cx| {
        if settled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if record.is_cancelled() {
            return Poll::Ready(());
        }
        // Reads and discards: clones no longer read, and the peer may not read before it has sent everything.
        if matches!(linger::discard(record, cx), Discarded::More) {
            cx.waker().wake_by_ref();
        }
        timer.poll(cx).map(|()| log_cut(cut.run, tasks, grace))
    })
    .await;
}

/// Logs the cut tasks, once for each line of code that spawns them.
fn log_cut(run: &Run, tasks: &TaskGroups, grace: Duration) {
    for (task, at) in tasks.awaited.list(EXAMINED) {
        if at.is_none_or(|at| run.is_first_cut_of(at)) {
            run_line!(
                warn,
                run,
                [],
                "cut {task}: it still ran {} after its handler had returned. To wait for it, let the handler \
                 await it or `join_tasks`; one that never ends by itself is for `spawn_background`. (Logged once for \
                 this line of code; `Report::undelivered` has the number)",
                Span(grace)
            );
        }
    }
}

/// Drop guard: if tasks are left when it is dropped, on any way out, it counts the connection as undelivered.
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
