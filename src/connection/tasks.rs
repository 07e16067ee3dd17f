//! Tasks of a connection: `spawn`, `spawn_background`, `join_tasks`; and its label.
//!
//! The tasks are children of task groups in the connection's record (`run/tasks.rs`), so they end with the connection.
//! `last_words.rs` gives them time to write after the handler has returned.

use super::Connection;
use crate::group::{JoinHandle, Label, boxed_if_large, named};
use crate::run::completion::TaskGuard;
use crate::run::tasks::TaskKind;
use std::borrow::Cow;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

/// # Tasks
impl Connection {
    /// Starts a task of this connection.
    ///
    /// What happens to the tasks that are left when the handler ends:
    ///
    /// | the handler | its tasks |
    /// |---|---|
    /// | returned, `Ok` or `Err` | have the [task grace](crate::Server::task_grace), 1 second by default but never beyond the [`deadline`](Self::deadline), to finish their writes; then they are cancelled and joined, with a warning that names the line of this call |
    /// | panicked, or was cancelled | are cancelled and joined at once |
    ///
    /// During the task grace, reads on every clone return EOF, so a task that reads ends. To wait longer, the handler
    /// awaits the [`JoinHandle`], or [`join_tasks`](Self::join_tasks).
    ///
    /// A writer task usually ends with its queue, when the last sender is dropped. If a registry of the program keeps a
    /// sender, each connection costs the task grace and a warning.
    ///
    /// # Errors and panics of a task
    ///
    /// - An error that the task returns goes to its handle. Without a handle it is dropped, so log it in the task.
    /// - A task that panics after its handle was dropped ends the connection: the handler is dropped, and counted as
    ///   panicked.
    /// - If the handler returns while it holds the handle of a task that has panicked, and has not awaited it, the
    ///   panic is logged. The handler is counted by what it returned.
    /// - After the handler has ended, a task is refused: `future` is dropped without a poll, and the handle returns an
    ///   error that is [cancelled](crate::JoinError::is_cancelled).
    ///
    /// # Large futures
    ///
    /// As for a handler: see "Large handlers" at [`Server::serve`](crate::Server::serve).
    ///
    /// # Examples
    ///
    /// A writer beside the reader:
    ///
    /// ```
    /// use async_std::{channel, io, prelude::*};
    /// use ebbtide::Connection;
    ///
    /// async fn measure(conn: Connection) -> io::Result<()> {
    ///     let (lines, to_write) = channel::bounded::<String>(16);
    ///     let mut writer = conn.clone();
    ///     conn.spawn(async move {
    ///         while let Ok(line) = to_write.recv().await {
    ///             writer.write_all(line.as_bytes()).await?;
    ///         }
    ///         io::Result::Ok(())
    ///     });
    ///     let mut words = conn.lines();
    ///     while let Some(word) = words.next().await? {
    ///         let _ = lines.send(format!("{} bytes\n", word.len())).await;
    ///     }
    ///     if conn.is_draining() {
    ///         let _ = lines.send("goodbye\n".to_owned()).await;
    ///     }
    ///     Ok(()) // the goodbye is still written
    /// }
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # client.write_all(b"hello\n").await?;
    /// # Server::new(listener).scope(measure, async |_| {}).await?;
    /// # let mut text = String::new();
    /// # client.read_to_string(&mut text).await?;
    /// # assert_eq!(text, "5 bytes\ngoodbye\n");
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "nursery")]
    #[doc(alias = "start_soon")]
    #[doc(alias = "create_task")]
    #[doc(alias = "TaskTracker")]
    #[doc(alias = "JoinSet")]
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => self.spawn_as(TaskKind::Awaited, (Label::At(at), at), future))
    }

    /// Starts a task with a name, which log lines show beside the line of this call. Otherwise it is
    /// [`spawn`](Self::spawn).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let handler = async |conn: Connection| {
    ///     let lookup = conn.spawn_named("lookup", async { 42 });
    ///     assert_eq!(lookup.await.expect("it neither panics nor is cancelled"), 42);
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[track_caller]
    pub fn spawn_named<F>(&self, name: impl Into<Cow<'static, str>>, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => {
            let (label, future) = named(name.into(), at, future);
            self.spawn_as(TaskKind::Awaited, (label, at), future)
        })
    }

    /// Starts a task that ends with the handler: a heartbeat, a subscription.
    ///
    /// It is for work that never ends by itself and has nothing to write at the end. The task is cancelled when the
    /// handler returns, without the task grace, and is joined before the connection is closed. Otherwise it is
    /// [`spawn`](Self::spawn).
    ///
    /// # Examples
    ///
    /// ```
    /// use async_std::{io, prelude::*, task};
    /// use ebbtide::Connection;
    /// use std::time::Duration;
    ///
    /// async fn patient(mut conn: Connection) -> io::Result<()> {
    ///     let mut heart = conn.clone();
    ///     conn.spawn_background(async move {
    ///         loop {
    ///             task::sleep(Duration::from_secs(5)).await;
    ///             if heart.write_all(b"still working\n").await.is_err() {
    ///                 break;
    ///             }
    ///         }
    ///     });
    ///     task::sleep(Duration::from_millis(20)).await; // the work
    ///     conn.write_all(b"done\n").await
    /// }
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # let (_, report) = Server::new(listener).scope(patient, async |_| {}).await?;
    /// # let mut text = String::new();
    /// # client.read_to_string(&mut text).await?;
    /// # assert_eq!((text.as_str(), report.undelivered()), ("done\n", 0));
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "daemon")]
    #[track_caller]
    pub fn spawn_background<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => self.spawn_as(TaskKind::Background, (Label::At(at), at), future))
    }

    fn spawn_as<F>(
        &self,
        kind: TaskKind,
        (label, at): (Label, &'static Location<'static>),
        future: F,
    ) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        if self.record.has_returned() {
            return JoinHandle::refused(at, future);
        }
        let record = Arc::downgrade(&self.record);
        let arm = |guard: &mut TaskGuard| guard.arm(self.run());
        let executor = || self.run().executor();
        self.record.tasks.spawn((&record, &self.run().name), executor, kind, (label, at), future, arm)
    }

    /// Waits until no task of this connection is left, except those of [`spawn_background`](Self::spawn_background).
    ///
    /// It also waits for tasks that are spawned while it waits. It is for a handler with tasks that may take longer to
    /// write than the [task grace](crate::Server::task_grace) allows; the server's [`deadline`](Self::deadline) bounds
    /// it. First drop what the tasks wait for, such as the sending half of a channel. A task that awaits it waits for
    /// itself.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use async_std::{io, prelude::*};
    /// use ebbtide::Connection;
    ///
    /// async fn three(conn: Connection) -> io::Result<()> {
    ///     for part in [b"one", b"two", b"six"] {
    ///         let mut writer = conn.clone();
    ///         conn.spawn(async move { writer.write_all(part).await });
    ///     }
    ///     conn.join_tasks().await; // all three are written, in any order
    ///     Ok(())
    /// }
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let mut client = connector.connect().await?;
    /// # Server::new(listener).scope(three, async |_| {}).await?;
    /// # let mut text = String::new();
    /// # client.read_to_string(&mut text).await?;
    /// # assert_eq!(text.len(), 9);
    /// # io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "WaitGroup")]
    #[doc(alias = "wait")]
    #[doc(alias = "join_all")]
    pub async fn join_tasks(&self) {
        if let Some(tasks) = self.record.tasks.awaited() {
            tasks.settled().await;
        }
    }
}

/// # Labels
impl Connection {
    /// Describes what the connection is doing, in words for an operator: `SELECT …`, `upload of 3 GB`.
    ///
    /// The label is shown in [`Handle::connections`](crate::Handle::connections), in the report, and in log lines that
    /// name the connection, such as those of a drain that waits for it. A new label replaces the old one. Untrusted
    /// text is escaped where the label is shown, and cut after 100 characters.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # let _client = connector.connect().await?;
    /// let handler = async |conn: Connection| {
    ///     conn.label(format!("upload of {}", "photo.jpg"));
    ///     let listed = conn.server().connections();
    ///     assert_eq!(listed[0].label(), Some("upload of photo.jpg"));
    /// };
    /// let (_, report) = Server::new(listener).scope(handler, async |_| {}).await?;
    /// assert_eq!(report.completed(), 1);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn label(&self, label: impl Into<Cow<'static, str>>) {
        self.record.set_label(label.into());
    }
}
