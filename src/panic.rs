//! User code that may panic: catching it, values that are dropped with care, and logging.
//!
//! A panic of user code stays where it happens. A logger is user code, too, and some panic: one that prints panics when
//! standard output is gone, which is just when a terminal was closed and the server is to stop. So a line that cannot
//! be logged is lost, and nothing else with it. (The panic hook still prints.)

use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// Logs with target `ebbtide`: `log_line!(info, phase:% = phase; "text {value}")`. The first argument is the level, by
/// its name or as an expression; what follows is as in the `log` crate's macros.
///
/// The text, and every value with `:%`, is [`Escaped`](crate::text::Escaped): there may be a stranger's text in it.
macro_rules! log_line {
    ($level:ident, $text:literal $($arguments:tt)*) => {
        $crate::panic::shielded(|| ::log::$level!(
            target: "ebbtide", "{}", $crate::text::Escaped(::std::format_args!($text $($arguments)*))
        ))
    };
    ($level:ident, $($key:ident $(: $as:tt)? = $value:expr),+; $($text:tt)+) => {
        $crate::panic::shielded(|| ::log::$level!(
            target: "ebbtide", $($key $(: $as)? = $crate::panic::log_value!($($as)? $value)),+;
            "{}", $crate::text::Escaped(::std::format_args!($($text)+))
        ))
    };
    ($level:expr, $text:literal $($arguments:tt)*) => {
        $crate::panic::shielded(|| ::log::log!(
            target: "ebbtide", $level, "{}", $crate::text::Escaped(::std::format_args!($text $($arguments)*))
        ))
    };
    ($level:expr, $($key:ident $(: $as:tt)? = $value:expr),+; $($text:tt)+) => {
        $crate::panic::shielded(|| ::log::log!(
            target: "ebbtide", $level, $($key $(: $as)? = $crate::panic::log_value!($($as)? $value)),+;
            "{}", $crate::text::Escaped(::std::format_args!($($text)+))
        ))
    };
}

/// The value of a pair of a log line.
macro_rules! log_value {
    (% $value:expr) => {
        $crate::text::Escaped(&$value)
    };
    ($value:expr) => {
        $value
    };
}

pub(crate) use {log_line, log_value};

/// What a panic carries.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs `work` and catches its panic.
///
/// Asserting unwind safety is right wherever this is used: what has panicked is never used again, only destroyed.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Payload> {
    catch_unwind(AssertUnwindSafe(work))
}

/// The text of a panic, as the default panic hook would print it.
pub(crate) fn message(payload: &Payload) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a value that is not text"
    }
}

/// Drops a payload. Its destructor is user code too, and may panic in its turn; that second payload is leaked.
pub(crate) fn discard(payload: Payload) {
    if let Err(again) = catch(|| drop(payload)) {
        std::mem::forget(again);
    }
}

/// Makes a future with `make` and drives it; a panic of either is its result.
///
/// A destructor that panics after the future has ended is logged, and changes nothing about the result.
pub(crate) async fn catch_future<F: Future>(make: impl FnOnce() -> F) -> Result<F::Output, Payload> {
    let future = catch(make)?;
    let mut future = pin!(Some(future));
    let result = poll_fn(|cx| {
        let Some(future) = future.as_mut().as_pin_mut() else {
            return Poll::Pending; // never polled again once it has ended
        };
        match catch(|| future.poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => Poll::Ready(Err(payload)),
        }
    })
    .await;
    if let Err(payload) = catch(|| future.set(None)) {
        log_line!(error, "a destructor panicked: {}", message(&payload));
        discard(payload);
    }
    result
}

/// A handler, or another value of the user's, that is dropped wherever its last owner goes: its destructor may panic,
/// and must not take that place down.
#[derive(Debug)]
pub(crate) struct Kept<T>(Option<T>);

impl<T> Kept<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(crate) fn get(&self) -> &T {
        self.0.as_ref().expect("it is there until its drop")
    }

    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("it is there until its drop")
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is there until its drop")
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        drop_caught(self.0.take());
    }
}

/// Drops a value of the user's: a panic of its destructor is logged.
pub(crate) fn drop_caught<T>(value: T) {
    if let Err(payload) = catch(|| drop(value)) {
        log_line!(error, "a destructor panicked: {}", message(&payload));
        discard(payload);
    }
}

/// A text that the user's code makes, its `Display`, which may panic.
pub(crate) fn text(make: impl FnOnce() -> String) -> String {
    catch(make).unwrap_or_else(|payload| {
        discard(payload);
        "an error whose text cannot be shown: its `Display` panicked".to_owned()
    })
}

pub(crate) fn shielded(line: impl FnOnce()) {
    if let Err(payload) = catch(line) {
        discard(payload);
    }
}

/// An error and the errors behind it, in one line: for logs.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

/// How far an error is followed to its source. A chain that is longer is one that bites its own tail.
pub(crate) const DEEPEST: usize = 64;

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        for _ in 0..DEEPEST {
            let Some(error) = cause else { break };
            let text = error.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?; // many errors have the text of their cause in their own
                said = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}
