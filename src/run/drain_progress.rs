//! [`DrainProgress`]: how far a drain has come.

use crate::span::Span;
use crate::text::plural;
use std::fmt;
use std::time::{Duration, Instant};

/// The state of a run when its drain began.
#[derive(Clone, Copy, Debug)]
pub(super) struct DrainStart {
    pub(super) at: Instant,
    /// How many connections were open.
    pub(super) connections: usize,
}

/// Snapshot of a drain: what is left, and how much of its time. For progress bars and status lines.
///
/// [`Handle::drain_progress`](crate::Handle::drain_progress) returns it. `Display` is one line for a person:
/// `3 of 120 connections and 1 task left, 2s of 8s`.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// # use ebbtide::{Connection, Listener, Phase, Server};
/// # use std::time::Duration;
/// # let (listener, connector) = Listener::memory();
/// # let _client = connector.connect().await?;
/// let server = Server::new(listener).grace(Duration::from_secs(30));
/// # let server = server.newcomer_time(Duration::ZERO);
/// let handle = server.handle();
/// let observed = handle.clone();
/// handle.spawn(async move {
///     observed.reached(Phase::Draining).await;
///     let drain = observed.drain_progress().expect("the drain has begun");
///     assert!(drain.connections_left() <= drain.connections_at_start());
///     println!("{drain}"); // 0 of 1 connection and 1 task left, 0s of 30s
///     # assert_eq!(drain.tasks_left(), 1);
///     # assert!(drain.to_string().contains(" of 1 connection and 1 task left, "), "{drain}");
/// });
/// let (_, report) = server.scope(async |conn: Connection| conn.draining().await, async |_| {}).await?;
/// # assert_eq!(report.completed(), 1);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainProgress {
    connections_at_start: usize,
    connections_left: usize,
    tasks_left: usize,
    elapsed: Duration,
    limit: Option<Duration>,
}

impl DrainProgress {
    pub(super) fn new(start: DrainStart, deadline: Option<Instant>, connections: usize, tasks: usize) -> Self {
        Self {
            connections_at_start: start.connections,
            connections_left: connections,
            tasks_left: tasks,
            elapsed: start.at.elapsed(),
            limit: deadline.map(|deadline| deadline.saturating_duration_since(start.at)),
        }
    }

    /// Returns how many connections were open when the drain began.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Server};
    /// # let server = Server::bind("127.0.0.1:0").await?;
    /// # let handle = server.handle();
    /// # server.scope(async |_: Connection| {}, async |_| {}).await?;
    /// assert_eq!(handle.drain_progress().unwrap().connections_at_start(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn connections_at_start(&self) -> usize {
        self.connections_at_start
    }

    /// Returns how many connections are open.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Server};
    /// # let server = Server::bind("127.0.0.1:0").await?;
    /// # let handle = server.handle();
    /// # server.scope(async |_: Connection| {}, async |_| {}).await?;
    /// assert_eq!(handle.drain_progress().unwrap().connections_left(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn connections_left(&self) -> usize {
        self.connections_left
    }

    /// Returns how many tasks of [`Handle::spawn`](crate::Handle::spawn) the drain still waits for.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Server};
    /// # let server = Server::bind("127.0.0.1:0").await?;
    /// # let handle = server.handle();
    /// # server.scope(async |_: Connection| {}, async |_| {}).await?;
    /// assert_eq!(handle.drain_progress().unwrap().tasks_left(), 0);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn tasks_left(&self) -> usize {
        self.tasks_left
    }

    /// Returns how long ago the drain began.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Server};
    /// # let server = Server::bind("127.0.0.1:0").await?;
    /// # let handle = server.handle();
    /// # server.scope(async |_: Connection| {}, async |_| {}).await?;
    /// assert!(handle.drain_progress().unwrap().elapsed() < std::time::Duration::from_secs(60));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Returns how long the drain may last in all, from its beginning to the [deadline](crate::Connection::deadline).
    /// `None`: it has no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Server};
    /// # let server = Server::bind("127.0.0.1:0").await?;
    /// # let handle = server.handle();
    /// # server.scope(async |_: Connection| {}, async |_| {}).await?;
    /// assert!(handle.drain_progress().unwrap().limit() <= Some(std::time::Duration::from_secs(8)));
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }
}

impl fmt::Display for DrainProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections_at_start, connections_left, tasks_left, .. } = self;
        write!(f, "{connections_left} of {}", plural(*connections_at_start, "connection"))?;
        if *tasks_left > 0 {
            write!(f, " and {}", plural(*tasks_left, "task"))?;
        }
        write!(f, " left, {}", Span(self.elapsed))?;
        match self.limit {
            // The drain begins a moment after the request, from which the deadline counts: 8 s less that are 8 s.
            Some(limit) => write!(f, " of {}", Span(limit.saturating_add(Duration::from_millis(5)))),
            None => Ok(()),
        }
    }
}
