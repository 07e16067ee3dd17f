//! [`ServiceReports`]: how each service of a group ended.

use crate::run::report::Report;
use crate::span::Span;
use crate::text::{Escaped, escape};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Summary of a [`ServiceGroup`](crate::ServiceGroup): the [`Report`] of each server, and how each task ended.
///
/// [`ServiceGroup::run`](crate::ServiceGroup::run) returns it; so does
/// [`ServiceError::reports`](crate::ServiceError::reports) after a failure. All its parts are in the order in which the
/// services were added. `Display` has a line for each service.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Cause, Connection, Server, ServiceGroup, Stopping};
///
/// let server = Server::bind("127.0.0.1:0").await?.name("echo");
/// let handle = server.handle();
/// let reports = ServiceGroup::new()
///     .server(server.serve(async |_: Connection| {}))
///     .task("once", async move |_: Stopping| {
///         handle.shutdown();
///     })
///     .run()
///     .await?;
/// assert_eq!(reports.report("echo").unwrap().cause(), Cause::Shutdown);
/// println!("{reports}");
/// // echo: closed in 1ms because a shutdown was requested: 0 accepted, …
/// // once: completed
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct ServiceReports {
    pub(super) ends: Vec<(Arc<str>, ServiceEnd)>,
    /// Each failure, with its service. The first is the error of the group, the others are in the order in which they
    /// were noticed.
    pub(super) failures: Vec<(Arc<str>, String)>,
    /// From the first request to the last end.
    pub(super) elapsed: Duration,
}

/// How one service ended.
#[derive(Clone, Debug)]
pub(super) enum ServiceEnd {
    /// `None`: its future has panicked. Then no caller gets the reports, because the panic continues.
    Server(Option<Box<Report>>),
    Task(TaskEnd),
}

impl ServiceReports {
    /// Returns the name and the report of each server.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{Connection, Listener, Server, ServiceGroup};
    ///
    /// let (first, second) = (Server::new(Listener::memory().0), Server::new(Listener::memory().0));
    /// let handle = first.handle();
    /// let group = ServiceGroup::new()
    ///     .server(first.name("first").serve(async |_: Connection| {}))
    ///     .server(second.name("second").serve(async |_: Connection| {}));
    /// handle.shutdown();
    /// let reports = group.run().await?;
    /// let names: Vec<_> = reports.servers().map(|(name, _report)| name).collect();
    /// assert_eq!(names, ["first", "second"]);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn servers(&self) -> impl Iterator<Item = (&str, &Report)> {
        self.ends.iter().filter_map(|(name, end)| match end {
            ServiceEnd::Server(report) => Some((&**name, report.as_deref()?)),
            ServiceEnd::Task(_) => None,
        })
    }

    /// Returns the report of the first server with this [name](crate::Server::name). `None` if there is none.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::ServiceGroup;
    /// let reports = ServiceGroup::new().run().await?;
    /// assert!(reports.report("echo").is_none());
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    pub fn report(&self, name: &str) -> Option<&Report> {
        self.servers().find(|(server, _)| *server == name).map(|(_, report)| report)
    }

    /// Returns the name of each task, and how it ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping, TaskEnd};
    ///
    /// let reports = ServiceGroup::new().task("once", async |_: Stopping| {}).run().await?;
    /// assert_eq!(reports.tasks().next(), Some(("once", TaskEnd::Completed)));
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    pub fn tasks(&self) -> impl Iterator<Item = (&str, TaskEnd)> {
        self.ends.iter().filter_map(|(name, end)| match end {
            ServiceEnd::Task(end) => Some((&**name, *end)),
            ServiceEnd::Server(_) => None,
        })
    }

    /// Returns the name of each service that failed, and the text of its failure, in the order in which they failed.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping};
    ///
    /// let group = ServiceGroup::new().task("cleaner", async |_: Stopping| Err::<(), _>("disk full"));
    /// let error = group.run().await.unwrap_err();
    /// assert_eq!(error.reports().failures().next(), Some(("cleaner", "disk full")));
    /// # });
    /// ```
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.failures.iter().map(|(name, failure)| (&**name, failure.as_str()))
    }

    /// Returns how long the exit took: from the request, or the failure, until the last service had ended. Zero if
    /// nothing has stopped the group, because all tasks ended by themselves.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use ebbtide::ServiceGroup;
    /// let reports = ServiceGroup::new().run().await?;
    /// assert!(reports.elapsed().is_zero());
    /// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
    /// ```
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Returns a text for each service.
    fn lines(&self) -> impl Iterator<Item = String> {
        self.ends.iter().map(|(name, end)| {
            let failure = self.failures.iter().find(|(failed, _)| Arc::ptr_eq(failed, name));
            let failure = failure.map(|(_, text)| format!(": {}", escape(text))).unwrap_or_default();
            let name = escape(name);
            match end {
                ServiceEnd::Server(Some(report)) if failure.is_empty() => format!("{name}: {report}"),
                ServiceEnd::Server(Some(report)) => format!("{name}: failed{failure} ({report})"),
                ServiceEnd::Server(None) => format!("{name}: panicked"),
                ServiceEnd::Task(end) => format!("{name}: {end}{failure}"),
            }
        })
    }

    /// Returns all of it in one line.
    pub(super) fn line(&self) -> String {
        struct Line<'a>(&'a ServiceReports);
        impl fmt::Display for Line<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write_line(f)
            }
        }
        Line(self).to_string()
    }

    /// Shows all of it in one line.
    pub(super) fn write_line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all services ended in {}", Span(self.elapsed))?;
        self.lines().try_for_each(|line| write!(f, "; {}", Escaped(line)))
    }
}

/// A line for each service, without a line break at the end.
impl fmt::Display for ServiceReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, line) in self.lines().enumerate() {
            let line_break = if n == 0 { "" } else { "\n" };
            write!(f, "{line_break}{line}")?;
        }
        Ok(())
    }
}

/// Ways in which a task of a [`ServiceGroup`](crate::ServiceGroup) can end.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{ServiceGroup, Stopping, TaskEnd};
/// use std::time::Duration;
///
/// let group = ServiceGroup::new()
///     .grace(Duration::ZERO)
///     .shutdown_when(async {})
///     .task("stuck", async |_: Stopping| std::future::pending::<()>().await);
/// let reports = group.run().await?;
/// assert_eq!(reports.tasks().next(), Some(("stuck", TaskEnd::Cancelled)));
/// # Ok::<_, ebbtide::ServiceError>(()) }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskEnd {
    /// It returned `()` or `Ok(())`.
    Completed,
    /// It returned an error.
    Failed,
    /// It panicked.
    Panicked,
    /// It was dropped before it ended: at the deadline, by a cancel, or because its turn to start never came.
    Cancelled,
}

impl fmt::Display for TaskEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Cancelled => "cancelled",
        })
    }
}
