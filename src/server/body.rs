//! The body of a [scope](crate::Server::scope): [`BodyOutput`], what it may return, and [`drive`], which polls it.
//!
//! If the server is closed before the body ends, the body has a limited time ([`Rest`]). An error or panic of the body
//! that has no other way out is logged ([`Unreported`]).

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

/// How long a body may run on after its server was closed by something else, if the grace period has no limit: the
/// default grace.
const LONGEST: Duration = super::config::GRACE;

/// After how long a warning reports that the body still runs.
const WARNING: Duration = Duration::from_secs(1);

/// Types that the body of a [scope](crate::Server::scope) may return; `T` is the value that `scope` then returns.
///
/// | the body returns | `scope` returns on success | if the server closes first, and the body is dropped |
/// |---|---|---|
/// | `()` | `((), report)` | the same |
/// | `!`: it loops forever | `((), report)` | the same |
/// | `Result<T, BoxError>` | `(value, report)` | an error of kind [`Stopped`](crate::ErrorKind::Stopped) |
///
/// The error type of a body is always [`BoxError`]. So `?` converts every error, and `Ok(value)` needs no annotation.
/// If the last call of a body returns another error type, end the body with `Ok(call.await?)`.
///
/// The trait is sealed: it cannot be implemented outside of this crate.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::{Connection, ErrorKind, Listener, Server};
///
/// async fn handler(_: Connection) {}
/// let server = || Server::new(Listener::memory().0);
///
/// // `()`: the server ends when the body does.
/// let ((), report) = server().scope(handler, async |_| {}).await?;
/// assert_eq!(report.accepted(), 0);
///
/// // A value.
/// let (answer, _report) = server().scope(handler, async |_| Ok(42)).await?;
/// assert_eq!(answer, 42);
///
/// // An error; `?` converts it.
/// let failing = server().scope(handler, async |_| Ok("no number".parse::<u16>()?));
/// assert_eq!(failing.await.unwrap_err().kind(), ErrorKind::Body);
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
///
/// A value without `Ok` does not compile:
///
/// ```compile_fail,E0277
/// # use ebbtide::{Connection, Server};
/// # async fn example(server: Server) -> Result<(), ebbtide::Error> {
/// let (answer, report) = server.scope(async |_: Connection| {}, async |_| 42).await?;
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "the body of a scope must return `()` or `Result<T, BoxError>`, not `{Self}`",
    label = "this body returns `{Self}`",
    note = "for a value: end the body with `Ok(value)`",
    note = "for a call that returns another error type: end the body with `Ok(call.await?)`; `?` converts every error",
    note = "for an error value: `Err(error.into())`; its type must implement `std::error::Error`, and be `Send + Sync`"
)]
pub trait BodyOutput<T>: sealed::Sealed<T> {}

pub(crate) mod sealed {
    use super::BoxError;

    pub trait Sealed<T>: Sized {
        /// Whether such a body may run on for a while after the server was closed by something else.
        const MAY_FINISH: bool = true;

        /// Converts what the body has returned into the result of `scope`.
        fn into_result(self) -> Result<T, BoxError>;

        /// Returns the value of a body that was dropped; `None` if such a body has no value.
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

// NOTE: the value is a parameter and not an associated type. With a projection of `O` in the future of `scope`, the
// compiler could not prove that this future is `Send`.
//
// This is the only implementation for a `Result`. As long as there is one candidate, the compiler infers the error type
// of a body from it. With a second one, or with one over all error types, every body that uses `?` or ends with
// `Ok(..)` would need an annotation. `tests/processes/diagnostics.rs` checks this.
#[diagnostic::do_not_recommend]
impl<T> BodyOutput<T> for Result<T, BoxError> {}

impl<T> sealed::Sealed<T> for Result<T, BoxError> {
    fn into_result(self) -> Result<T, BoxError> {
        self
    }
}

/// How a body ended. If an error or a panic has found no other way out by then, its drop logs it.
#[derive(Debug)]
pub(super) enum BodyEnd<T> {
    Returned(T),
    Failed(Unreported<BoxError>),
    Panicked(Unreported<Payload>),
    /// The server was closed by something else, and the body did not end in time.
    Dropped,
}

/// Polls the body until it ends. If the server closes first, the body has the rest of the grace; then it is dropped.
pub(super) async fn drive<F, O, T>(run: &Run, body: impl FnOnce() -> F) -> BodyEnd<T>
where
    F: Future<Output = O>,
    O: BodyOutput<T>,
{
    // On the heap, whatever its size: there is one body for each scope, and the future of `scope` stays small.
    let mut body = pin!(Some(catch_future(|| Box::pin(body()))));
    let mut over = run.over.listen();
    let mut cancelled = run.cancelled.listen();
    let mut rest: Option<Rest> = None;
    let ended = poll_fn(|cx| {
        // A task that waits in the body for the server's end has been woken before this one. So the first poll after
        // the end finds that wait ready, and the body can run what follows it.
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

/// The time that a body has left after its server was closed by something else.
struct Rest {
    /// When the body is dropped.
    end: Instant,
    /// Whether the warning has been logged.
    warned: bool,
    /// Wakes the task for the warning, then at the end.
    timer: Timer,
}

impl Rest {
    fn new(run: &Run, may_finish: bool) -> Self {
        let now = Instant::now();
        let end = if may_finish { run.deadline().unwrap_or(now + LONGEST) } else { now };
        Self { end, warned: false, timer: Timer::at(end.min(now + WARNING)) }
    }

    /// Ready once the time is over, or a cancel was requested.
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
    /// Requests the shutdown of the server because its body has ended.
    pub(super) fn request(&self, run: &std::sync::Arc<Run>) {
        match self {
            Self::Returned(_) => run.request(Cause::BodyReturned),
            Self::Failed(_) => run.request(Cause::BodyFailed),
            Self::Panicked(_) => run.request(Cause::BodyPanicked),
            Self::Dropped => {} // the server is closed
        }
    }
}

/// Drop guard of a body's error or panic on its way to the caller of `scope`. If the scope is dropped first, or fails
/// with another error, the drop logs it.
#[derive(Debug)]
pub(super) struct Unreported<T: Loggable>(Option<T>);

impl<T: Loggable> Unreported<T> {
    /// Disarms the guard: the value reaches the caller.
    pub(super) fn take(mut self) -> Option<T> {
        self.0.take()
    }
}

impl Unreported<Payload> {
    /// Continues the panic.
    pub(super) fn resume(self) -> ! {
        resume_unwind(self.take().unwrap_or_else(|| Box::new("the body panicked"))) // nothing else takes it
    }
}

impl<T: Loggable> Drop for Unreported<T> {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            value.log();
            drop_caught(value);
        }
    }
}

/// Errors and panics that can be logged as the lost end of a body.
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
