//! Tasks of a connection, as its handler starts them.

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
    /// When the handler has returned, well or with an error, the tasks that are left have the [task
    /// grace](crate::Server::task_grace), 1 second by default, to finish what they write, such as the last messages of
    /// a queue; reads on every clone give EOF by then, so a task that reads ends. What still runs after that is
    /// cancelled and joined, with a warning that names the line of this call. To wait longer, a handler awaits the
    /// [`JoinHandle`], or [`join_tasks`](Self::join_tasks). After a panic of the handler, and at a cancel, the tasks
    /// are cancelled at once.
    ///
    /// A writer task ends when its queue does: when the last sender is dropped. One that a registry of the program
    /// keeps costs each connection the task grace, and a warning. An error that a task returns goes to its handle; if
    /// that is gone it is dropped, so log it in the task.
    ///
    /// Once the handler has ended the task is refused: `future` has been dropped without being polled, and the handle
    /// gives a [cancelled](crate::JoinError::is_cancelled) error. A task that panics while its handle is gone ends the
    /// connection: the handler is dropped, and counted as panicked. If the handler returns with the handle of a task
    /// that has panicked, without having awaited it, the panic is logged, and the handler counts by what it returned.
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
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let at = Location::caller();
        boxed_if_large!(future: F => self.spawn_as(TaskKind::Awaited, (Label::At(at), at), future))
    }

    /// The same with a name, which log lines show beside the line of this call.
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

    /// Starts a task that ends with the handler: it is cancelled when the handler returns, without the task grace, and
    /// joined before the connection is closed. For what never ends by itself and has no last words: a heartbeat, a
    /// subscription.
    ///
    /// Everything else is as with [`spawn`](Self::spawn).
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
    ///         while heart.write_all(b"still at it\n").await.is_ok() {
    ///             task::sleep(Duration::from_secs(5)).await;
    ///         }
    ///     });
    ///     task::sleep(Duration::from_secs(60)).await; // the work
    ///     conn.write_all(b"done\n").await
    /// }
    /// ```
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
        self.record.tasks.spawn((&record, &self.run().name), kind, (label, at), future, arm)
    }

    /// Waits until no task of this connection is left, those of [`spawn_background`](Self::spawn_background) aside, and
    /// counting those that are spawned meanwhile: for a handler whose tasks may have more to write than the
    /// [task grace](crate::Server::task_grace) has room for. Drop first what they wait for, such as the sending half of
    /// a channel.
    ///
    /// It waits as long as they take, within the server's [`deadline`](Self::deadline). A task that awaits it waits for
    /// itself.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping the future.
    ///
    /// # Examples
    ///
    /// ```
    /// use async_std::{io, prelude::*};
    /// use ebbtide::Connection;
    ///
    /// async fn three(conn: Connection) -> io::Result<()> {
    ///     for part in [b"one", b"two", b"six"] {
    ///         let mut conn = conn.clone();
    ///         conn.clone().spawn(async move { conn.write_all(part).await });
    ///     }
    ///     conn.join_tasks().await; // all three are written
    ///     Ok(())
    /// }
    /// ```
    pub async fn join_tasks(&self) {
        if let Some(tasks) = self.record.tasks.awaited() {
            tasks.settled().await;
        }
    }
}

/// # Labels
impl Connection {
    /// Sets what the connection is doing, in words for an operator: `SELECT …`, `upload of 3 GB`. Shown in the lists of
    /// [`Handle::connections`](crate::Handle::connections), in the report, and in log lines that name the connection,
    /// such as those of a drain that waits for it. The latest label counts. A stranger's text in it is escaped where it
    /// is shown, and cut after 100 characters.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::Connection;
    /// use std::io;
    ///
    /// async fn upload(conn: Connection, name: &str) -> io::Result<()> {
    ///     conn.label(format!("upload of {name}"));
    ///     // …
    ///     conn.label("idle");
    ///     Ok(())
    /// }
    /// ```
    pub fn label(&self, label: impl Into<Cow<'static, str>>) {
        self.record.set_label(label.into());
    }
}
