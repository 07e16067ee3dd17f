//! Answers for load balancers and supervisors: is the program ready, and is it alive?

use crate::group::TaskGroup;
use crate::run::handle::Handle;
use crate::run::phase::Phase;
use crate::run::task_tree::Headline;
use crate::text::Escaped;
use async_io::Timer;
use futures_lite::FutureExt as _;
use std::fmt::Write as _;
use std::time::Duration;

/// How long `/live` waits until an executor runs a task.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns whether all servers are ready, and a text: the answer, and a line for each server.
pub(super) fn ready(watched: &[Handle]) -> (bool, String) {
    let is_ready = !watched.is_empty() && watched.iter().all(Handle::is_ready);
    let mut text = String::from(if is_ready { "ready\n" } else { "not ready\n" });
    for server in watched {
        let _ = writeln!(text, "{}", Headline(&server.task_tree_of(0)));
    }
    if watched.is_empty() {
        text.push_str("no server is watched: see `Admin::watch`\n");
    }
    (is_ready, text)
}

/// Returns whether the executor of each server runs tasks, and a text.
pub(super) async fn live(watched: &[Handle]) -> (bool, String) {
    let mut stuck = String::new();
    for server in watched {
        if server.phase() < Phase::Closed && !runs_tasks(server).await {
            let name = &server.run().name;
            let _ = writeln!(
                stuck,
                "the executor of the server `{}` has not run a task for {} s: all of its threads are blocked, or it is \
                 not run",
                Escaped(name),
                PATIENCE.as_secs()
            );
        }
    }
    if stuck.is_empty() { (true, "live\n".to_owned()) } else { (false, format!("not live\n{stuck}")) }
}

/// Gives the executor of a server a task, and returns whether it runs it in time.
async fn runs_tasks(server: &Handle) -> bool {
    let group = TaskGroup::with_executor(server.run().executor()); // its drop removes the task
    let runs = async { group.spawn(async {}).await.is_ok() };
    let late = async {
        Timer::after(PATIENCE).await;
        false
    };
    runs.or(late).await
}
