//! [`ServiceError`] of a group, with the reports of all its services.

use super::reports::ServiceReports;
use super::service::ServiceFailure;
use crate::panic::Chain;
use crate::run::report::BoxError;
use crate::text::{Escaped, escape};
use std::sync::Arc;
use std::{fmt, io};

/// Error of [`ServiceGroup::run`](crate::ServiceGroup::run): the first failure, and the reports of all services.
///
/// All services have ended when this error is returned. [`service`](Self::service) is the name of the one that failed
/// first, [`source`](std::error::Error::source) its error: an [`Error`](crate::Error) of a server, or what a task
/// returned. Later failures are in [`ServiceReports::failures`], and were logged.
///
/// `Display` is one sentence. `Debug`, which `main` and `unwrap` print, is that sentence, the errors behind it, and the
/// reports:
///
/// ```text
/// Error: the task `cleaner` failed: disk full (all services ended in 2ms; echo: closed in …; cleaner: failed: disk
/// full)
/// ```
///
/// `?` converts it into [`io::Error`], too.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{ServiceGroup, Stopping};
/// use std::error::Error;
///
/// let group = ServiceGroup::new().task("cleaner", async |_: Stopping| Err::<(), _>("disk full"));
/// let error = group.run().await.unwrap_err();
/// assert_eq!(error.to_string(), "the task `cleaner` failed");
/// assert_eq!(error.source().unwrap().to_string(), "disk full");
/// assert!(format!("{error:?}").starts_with("the task `cleaner` failed: disk full (all services ended in "));
/// # });
/// ```
pub struct ServiceError(Box<Parts>);

struct Parts {
    service: Arc<str>,
    what: What,
    source: Option<BoxError>,
    reports: ServiceReports,
}

enum What {
    Server,
    Task,
    /// With its message.
    Panicked(String),
    Dropped,
}

impl ServiceError {
    pub(super) fn new(service: Arc<str>, failure: ServiceFailure, reports: ServiceReports) -> Self {
        let (what, source) = match failure {
            ServiceFailure::Server(error) => (What::Server, Some(error.into())),
            ServiceFailure::Task(error) => (What::Task, Some(error)),
            ServiceFailure::TaskPanicked(message) => (What::Panicked(message), None),
            ServiceFailure::TaskDropped => (What::Dropped, None),
        };
        Self(Box::new(Parts { service, what, source, reports }))
    }

    /// Returns the name of the service that failed first.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping};
    ///
    /// let group = ServiceGroup::new().task("cleaner", async |_: Stopping| panic!("out of cheese"));
    /// assert_eq!(group.run().await.unwrap_err().service(), "cleaner");
    /// # });
    /// ```
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// Returns how all services ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, Stopping, TaskEnd};
    ///
    /// let group = ServiceGroup::new().task("cleaner", async |_: Stopping| panic!("out of cheese"));
    /// let error = group.run().await.unwrap_err();
    /// assert_eq!(error.reports().tasks().next(), Some(("cleaner", TaskEnd::Panicked)));
    /// # });
    /// ```
    pub fn reports(&self) -> &ServiceReports {
        &self.0.reports
    }

    /// Returns how all services ended, by value.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::{ServiceGroup, ServiceReports, Stopping};
    ///
    /// let group = ServiceGroup::new().task("cleaner", async |_: Stopping| Err::<(), _>("disk full"));
    /// let reports: ServiceReports = match group.run().await {
    ///     Ok(reports) => reports,
    ///     Err(error) => error.into_reports(),
    /// };
    /// assert_eq!(reports.tasks().count(), 1);
    /// # });
    /// ```
    pub fn into_reports(self) -> ServiceReports {
        self.0.reports
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = escape(&self.0.service);
        match &self.0.what {
            What::Server => write!(f, "the server `{name}` failed"),
            What::Task => write!(f, "the task `{name}` failed"),
            What::Panicked(message) => write!(f, "the task `{name}` panicked: {}", escape(message)),
            What::Dropped => write!(
                f,
                "the executor has dropped the task `{name}`, so all services were stopped: keep the executor, or its \
                 runtime, until `run` has returned"
            ),
        }
    }
}

/// One line for `main` and `unwrap`: the sentence of `Display`, the errors behind it, and the reports.
impl fmt::Debug for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", Escaped(Chain(self)))?;
        self.0.reports.write_line(f)?;
        f.write_str(")")
    }
}

impl std::error::Error for ServiceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// Wraps the error. Its [`kind`](io::Error::kind) is that of the listener's error if a listener failed, and
/// [`Other`](io::ErrorKind::Other) otherwise.
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{ServiceError, ServiceGroup, Stopping};
/// use std::io;
///
/// let group = ServiceGroup::new().task("cleaner", async |_: Stopping| Err::<(), _>("disk full"));
/// let error = io::Error::from(group.run().await.unwrap_err());
/// let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ServiceError>()).unwrap();
/// assert_eq!(inner.service(), "cleaner");
/// # });
/// ```
impl From<ServiceError> for io::Error {
    fn from(error: ServiceError) -> Self {
        let server = error.0.source.as_ref().and_then(|source| source.downcast_ref::<crate::Error>());
        let kind = server.map_or(io::ErrorKind::Other, crate::Error::io_kind);
        Self::new(kind, error)
    }
}
