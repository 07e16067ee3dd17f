//! The body of a scope: what it may return, and how it is driven.

use crate::handler::Never;
use crate::panic::{self, Chain, Payload, catch_future, drop_caught, log_line};
use crate::run::Run;
use crate::run::name::run_line;
use crate::run::report::{BoxError, Cause};
use crate::span::Span;
use async_io::Timer;
use std::future::{Future, poll_fn};
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long a body may run on after its server was closed by others, if the grace period has no limit: the default
/// grace.
const LONGEST: Duration = super::config::GRACE;

/// How long until a warning says that the body still runs.
const WARNING: Duration = Duration::from_secs(1);

/// What the body of a [scope](crate::Server::scope) may return; `T` is the value that `scope` then gives.
///
/// | the body returns | `scope` gives on success | if the server is stopped by others, and the body dropped |
/// |---|---|---|
/// | `()` | `((), report)` | the same |
/// | `!`: it loops for ever | `((), report)` | the same |
/// | `Result<T, BoxError>` | `(value, report)` | an error of kind [`Stopped`](crate::ErrorKind::Stopped) |
///
/// The error of a body is always [`BoxError`], so that `?` converts every error and `Ok(value)` needs no annotation. A
/// body that ends with a call which returns another error type ends with `Ok(call.await?)`.
///
/// You do not implement this trait: it is sealed.
///
/// ```compile_fail,E0277
/// # use ebbtide::{Connection, Server};
/// # async fn example(server: Server) -> Result<(), ebbtide::Error> {
/// let (answer, report) = server.scope(async |_: Connection| {}, async |_| 42).await?;
/// # Ok(()) }
/// ```
///
/// ```no_run
/// # use ebbtide::{Connection, Server};
/// # async fn example(server: Server) -> Result<(), ebbtide::Error> {
/// let (answer, report) = server.scope(async |_: Connection| {}, async |_| Ok(42)).await?;
/// assert_eq!(answer, 42);
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "the body of a scope must return `()` or `Result<T, BoxError>`, not `{Self}`",
    label = "this body returns `{Self}`",
    note = "for a value: end the body with `Ok(value)`",
    note = "for a call that returns another error type: end the body with `Ok(call.await?)`; `?` converts every error"
)]
pub trait BodyOutput<T>: sealed::Sealed<T> {}

pub(crate) mod sealed {
    use super::BoxError;

    pub trait Sealed<T>: Sized {
        /// It may go on for a while after the server was closed by others.
        const MAY_FINISH: bool = true;

        fn into_result(self) -> Result<T, BoxError>;

        /// The value of a body that was dropped, if that has one.
        fn of_dropped() -> Option<T> {
            None
        }
    }
}

#[diagnostic::do_not_recommend]
impl BodyOutput<()> for () {}

impl sealed::Sealed<()> for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }

    fn of_dropped() -> Option<()> {
        Some(())
    }
}

#[diagnostic::do_not_recommend]
impl BodyOutput<()> for Never {}

impl sealed::Sealed<()> for Never {
    const MAY_FINISH: bool = false;

    fn into_result(self) -> Result<(), BoxError> {
        self
    }

    fn of_dropped() -> Option<()> {
        Some(())
    }
}

// NOTE: the value is a parameter and not an associated type, because the compiler could not see that the future of
// `scope` is `Send` if that had a projection of `O` in it.
//
// This is the only implementation for a `Result`. As long as there is one candidate, the compiler infers the error type
// of a body from it; with a second, or with one over all error types, every body that uses `?` or ends with `Ok(..)`
// needs an annotation. `tests/processes/diagnostics.rs` keeps it so.
#[diagnostic::do_not_recommend]
impl<T> BodyOutput<T> for Result<T, BoxError> {}

impl<T> sealed::Sealed<T> for Result<T, BoxError> {
    fn into_result(self) -> Result<T, BoxError> {
        self
    }
}

/// How a body ended. Whatever has no other way out by the time of its drop is logged there.
#[derive(Debug)]
pub(super) enum BodyEnd<T> {
    Returned(T),
    Failed(Unreported<BoxError>),
    Panicked(Unreported<Payload>),
    /// The server was closed by others, and the body did not end in time.
    Dropped,
}

/// Drives the body until it ends. If the server closes first, the body has the rest of the grace; then it is dropped.
pub(super) async fn drive<F, O, T>(run: &Run, body: impl FnOnce() -> F) -> BodyEnd<T>
where
    F: Future<Output = O>,
    O: BodyOutput<T>,
{
    // On the heap, whatever its size: there is one for each scope, whose own future is small then.
    let mut body = pin!(Some(catch_future(|| Box::pin(body()))));
    let mut over = run.over.listen();
    let mut cancelled = run.cancelled.listen();
    let mut rest: Option<Rest> = None;
    let ended = poll_fn(|cx| {
        // A task that waits in the body for the server's end has been woken before this one. So the poll that follows
        // the end finds it ready, and the body gets to say what comes after.
        loop {
            if let Some(Poll::Ready(result)) = body.as_mut().as_pin_mut().map(|body| body.poll(cx)) {
                return Poll::Ready(Some(result));
            }
            match &mut rest {
                None if over.poll(cx).is_pending() => return Poll::Pending,
                None => rest = Some(Rest::new(run, O::MAY_FINISH)),
                Some(rest) => return rest.poll(run, cancelled.poll(cx).is_ready(), cx).map(|()| None),
            }
        }
    })
    .await;
    if let Err(payload) = panic::catch(|| body.set(None)) {
        log_line!(error, "the destructor of a scope's body panicked: {}", panic::message(&payload));
        panic::discard(payload);
    }
    match ended.map(|result| result.map(O::into_result)) {
        Some(Ok(Ok(value))) => BodyEnd::Returned(value),
        Some(Ok(Err(error))) => BodyEnd::Failed(Unreported(Some(error))),
        Some(Err(payload)) => BodyEnd::Panicked(Unreported(Some(payload))),
        None => BodyEnd::Dropped,
    }
}

/// The time that a body has after its server was closed by others.
struct Rest {
    end: Instant,
    warned: bool,
    timer: Timer,
}

impl Rest {
    fn new(run: &Run, may_finish: bool) -> Self {
        let now = Instant::now();
        let end = if may_finish { run.deadline().unwrap_or(now + LONGEST) } else { now };
        Self { end, warned: false, timer: Timer::at(end.min(now + WARNING)) }
    }

    /// Ready once it is over.
    fn poll(&mut self, run: &Run, is_cancelled: bool, cx: &mut std::task::Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            if is_cancelled || self.end <= now {
                return Poll::Ready(());
            }
            if Pin::new(&mut self.timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
            if !self.warned && now < self.end {
                self.warned = true;
                run_line!(
                    warn,
                    run,
                    [],
                    "the server is closed, and the body of its scope still runs: it is dropped in {}. Let it end when \
                     `Handle::closed` does",
                    Span(self.end - now)
                );
            }
            self.timer.set_at(self.end);
        }
    }
}

impl<T> BodyEnd<T> {
    /// Requests the end of the server, as the end of its body does.
    pub(super) fn request(&self, run: &std::sync::Arc<Run>) {
        match self {
            Self::Returned(_) => run.request(Cause::BodyReturned),
            Self::Failed(_) => run.request(Cause::BodyFailed),
            Self::Panicked(_) => run.request(Cause::BodyPanicked),
            Self::Dropped => {} // the server is closed
        }
    }
}

/// What a body ended with, on its way out. If the scope is dropped first, or fails with another error, it is logged.
#[derive(Debug)]
pub(super) struct Unreported<T: Loggable>(Option<T>);

impl<T: Loggable> Unreported<T> {
    /// For a way out of its own.
    pub(super) fn take(mut self) -> Option<T> {
        self.0.take()
    }
}

impl Unreported<Payload> {
    /// Lets the panic go on.
    pub(super) fn resume(self) -> ! {
        resume_unwind(self.take().unwrap_or_else(|| Box::new("the body panicked"))) // nothing else takes it
    }
}

impl<T: Loggable> Drop for Unreported<T> {
    fn drop(&mut self) {
        if let Some(it) = self.0.take() {
            it.log();
            drop_caught(it);
        }
    }
}

pub(super) trait Loggable {
    fn log(&self);
}

impl Loggable for BoxError {
    fn log(&self) {
        log_line!(
            warn,
            "the body of a scope failed, and another error or a drop ended the scope: {}",
            Chain(self.as_ref())
        );
    }
}

impl Loggable for Payload {
    fn log(&self) {
        log_line!(
            error,
            "the body of a scope panicked, and the scope was dropped before the panic could go on: {}",
            panic::message(self)
        );
    }
}
