//! [`TaskTree`]: what runs in a server, as a tree for people.

use super::Run;
use super::drain_progress::DrainProgress;
use super::phase::Phase;
use super::record::{ConnectionRecord, Label};
use super::registry::ConnectionInfo;
use super::tasks::TaskKind;
use crate::group::ListedChild;
use crate::span::Span;
use crate::text::plural;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

/// How many connections a tree has, and how many tasks of the server, of each kind.
pub(crate) const MOST: usize = 200;

/// How many tasks of one connection a tree has, of each kind.
const MOST_OF_CONNECTION: usize = 20;

/// Snapshot of what runs in a server: its connections, their tasks, and the server's own tasks, with names, labels,
/// ages, and the source lines that spawned them.
///
/// [`Handle::task_tree`](crate::Handle::task_tree) returns it. `Display` is a text of several lines for a terminal, as
/// `pstree` prints processes, trio its task tree, and `python -m asyncio pstree` the tasks of a program:
///
/// ```text
/// `echo` on 127.0.0.1:8888: serving, ready, 2 of 943 connections; 1 task, 1 background task
/// ├─ connection 0 from 127.0.0.1:50312 (`upload`), serving, 12s old, silent for 3s
/// │  ├─ task at src/main.rs:12:14, 4s old
/// │  └─ background task `heartbeat` at src/main.rs:20:14, 12s old
/// ├─ connection 1 from 127.0.0.1:50314, serving, 1.2s old, silent for 80ms
/// ├─ task `reaper` at src/main.rs:40:12, 2m 3s old
/// └─ background task at src/main.rs:44:12, 2m 3s old
/// ```
///
/// It has the oldest 200 connections, up to 20 tasks of each kind for each of them, and up to 200 tasks of each kind of
/// the server; a line has the number of the others. Text that may come from strangers is escaped.
///
/// # Examples
///
/// Print it on SIGUSR1:
///
/// ```
/// use ebbtide::{Connection, Server, signal};
/// use futures_lite::StreamExt; // the crate `futures-lite`; `async_std::prelude` has it, too
///
/// # #[cfg(unix)]
/// # async_std::task::block_on(async {
/// let server = Server::bind("127.0.0.1:0").await?.name("echo");
/// let (handle, mut signals) = (server.handle(), signal::user1()?);
/// handle.clone().spawn_background(async move {
///     while signals.next().await.is_some() {
///         eprint!("{}", handle.task_tree());
///     }
/// });
/// # let (tree, _) = server.scope(async |_: Connection| {}, async |server| Ok(server.task_tree().to_string())).await?;
/// # assert!(tree.starts_with("`echo` on 127.0.0.1:"), "{tree}");
/// # assert!(tree.contains("└─ background task at "), "{tree}");
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "pstree")]
#[doc(alias = "tokio-console")]
#[doc(alias = "dump")]
#[derive(Clone, Debug)]
pub struct TaskTree {
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) phase: Phase,
    pub(crate) is_ready: bool,
    pub(crate) is_paused: bool,
    pub(crate) max_connections: usize,
    #[cfg(feature = "admin")]
    pub(crate) counts: super::counts::Counts,
    pub(crate) drain: Option<DrainProgress>,
    /// The oldest connections.
    pub(crate) connections: Vec<ConnectionNode>,
    /// How many connections there are, those that are not listed included.
    pub(crate) connection_count: usize,
    /// Tasks of the server.
    pub(crate) tasks: Vec<TaskNode>,
    /// How many tasks the server has, and how many background tasks.
    pub(crate) task_counts: (usize, usize),
}

/// A connection in the tree.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionNode {
    pub(crate) info: ConnectionInfo,
    pub(crate) tasks: Vec<TaskNode>,
    /// How many tasks are not listed.
    pub(crate) more_tasks: usize,
}

/// A task in the tree.
#[derive(Clone, Debug)]
pub(crate) struct TaskNode {
    pub(crate) name: Option<String>,
    pub(crate) at: Option<&'static Location<'static>>,
    pub(crate) age: Option<Duration>,
    pub(crate) is_background: bool,
}

impl ConnectionNode {
    /// `most`: how many tasks of each kind it lists.
    pub(crate) fn of(record: &ConnectionRecord, most: usize) -> Self {
        let (tasks, number) = record.tasks.listed(most);
        let tasks = tasks.into_iter().map(|(kind, child)| TaskNode::new(child, kind == TaskKind::Background));
        let (info, tasks) = (ConnectionInfo::of(record), tasks.collect::<Vec<_>>());
        Self { info, more_tasks: number.saturating_sub(tasks.len()), tasks }
    }

    /// Returns a line for each task, and one for those that are not listed.
    fn lines(&self) -> Vec<String> {
        self.tasks.iter().map(ToString::to_string).chain(more(self.more_tasks, "task")).collect()
    }
}

/// One line, with the tasks in brackets.
impl fmt::Display for ConnectionNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        self.info.fmt(f)?;
        if lines.is_empty() { Ok(()) } else { write!(f, " [{}]", lines.join("; ")) }
    }
}

impl TaskNode {
    fn new(child: ListedChild, is_background: bool) -> Self {
        let ListedChild { name, at, age } = child;
        Self { name, at, age, is_background }
    }
}

impl TaskTree {
    /// `most`: how many connections it has, and how many tasks of the server of each kind, but at most [`MOST`].
    pub(crate) fn of(run: &Run, most: usize) -> Self {
        let drain = run.drain_progress(); // before the phase: what drains is shown as that
        let (records, connection_count) = run.registry.first(most);
        let connections = records.iter().map(|record| ConnectionNode::of(record, MOST_OF_CONNECTION)).collect();
        let (awaited, background) = (run.tasks.listed(most.min(MOST)), run.background.listed(most.min(MOST)));
        let task_counts = (awaited.1, background.1);
        let awaited = awaited.0.into_iter().map(|child| TaskNode::new(child, false));
        let background = background.0.into_iter().map(|child| TaskNode::new(child, true));
        Self {
            name: run.name.to_string(),
            addresses: run.name.addresses.iter().map(ToString::to_string).collect(),
            phase: run.phase(),
            is_ready: run.is_ready(),
            is_paused: run.limit.is_paused(),
            max_connections: run.limit.max(),
            #[cfg(feature = "admin")]
            counts: run.counts(),
            drain,
            connections,
            connection_count,
            tasks: awaited.chain(background).collect(),
            task_counts,
        }
    }

    /// Returns how many connections are not listed.
    pub(crate) fn more_connections(&self) -> usize {
        self.connection_count - self.connections.len()
    }

    /// Returns how many tasks of the server are not listed.
    pub(crate) fn more_tasks(&self) -> usize {
        (self.task_counts.0 + self.task_counts.1).saturating_sub(self.tasks.len())
    }
}

impl fmt::Display for TaskTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Headline(self))?;
        let mut lines: Vec<(String, Vec<String>)> = Vec::new();
        for node in &self.connections {
            lines.push((node.info.to_string(), node.lines()));
        }
        let alone = |line| (line, Vec::new());
        lines.extend(more(self.more_connections(), "connection").map(alone));
        lines.extend(self.tasks.iter().map(ToString::to_string).map(alone));
        lines.extend(more(self.more_tasks(), "task").map(alone));
        let last = lines.len().saturating_sub(1);
        for (n, (line, children)) in lines.iter().enumerate() {
            let (branch, stem) = if n == last { ("└─", "   ") } else { ("├─", "│  ") };
            writeln!(f, "{branch} {line}")?;
            for (n, child) in children.iter().enumerate() {
                let branch = if n + 1 == children.len() { "└─" } else { "├─" };
                writeln!(f, "{stem}{branch} {child}")?;
            }
        }
        Ok(())
    }
}

/// Returns the line for those that are not listed, if there are any.
fn more(number: usize, what: &str) -> Option<String> {
    (number > 0).then(|| format!("… and {}", plural(number, &format!("more {what}"))))
}

/// The first line of a tree.
pub(crate) struct Headline<'a>(pub(crate) &'a TaskTree);

impl fmt::Display for Headline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = self.0;
        let addresses = tree.addresses.join(", ");
        if tree.addresses.first() != Some(&tree.name) {
            write!(f, "`{}` on ", Label(&tree.name))?;
        }
        write!(f, "{addresses}: {}", tree.phase)?;
        match (tree.is_ready, tree.is_paused) {
            (true, _) => f.write_str(", ready")?,
            (false, true) => f.write_str(", paused")?,
            (false, false) => f.write_str(", not ready")?,
        }
        match &tree.drain {
            Some(drain) if tree.phase < Phase::Closed => return write!(f, ", {drain}"),
            _ => {}
        }
        match tree.max_connections {
            usize::MAX => write!(f, ", {}", plural(tree.connection_count, "connection"))?,
            max => write!(f, ", {} of {}", tree.connection_count, plural(max, "connection"))?,
        }
        let (tasks, background) = tree.task_counts;
        for (number, separator, what) in [(tasks, "; ", "task"), (background, ", ", "background task")] {
            if number > 0 {
                write!(f, "{}{}", if tasks == 0 { "; " } else { separator }, plural(number, what))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for TaskNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_background { "background task" } else { "task" })?;
        if let Some(name) = &self.name {
            write!(f, " `{}`", Label(name))?;
        }
        if let Some(at) = self.at {
            write!(f, " at {at}")?;
        }
        match self.age {
            Some(age) => write!(f, ", {} old", Span(age)),
            None => Ok(()),
        }
    }
}
