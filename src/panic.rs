//! User code that may panic: [`catch`] and [`catch_future`], values with destructors that may panic ([`Kept`]), and
//! logging (`log_line!`).
//!
//! A panic of user code stays where it happens. A logger is user code too, and some loggers panic. One that prints to
//! standard output panics when standard output is gone: exactly when a terminal was closed and the server has to stop.
//! So a panic of the logger loses its line and nothing else. (The panic hook still prints.)

use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// Logs with the target `ebbtide`: `log_line!(info, phase:% = phase; "text {value}")`.
///
/// The first argument is the level, by its name or as an expression. The rest is as in the `log` crate's macros. The
/// text, and every value with `:%`, is [`Escaped`](crate::text::Escaped), since it may contain untrusted text.
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

/// Expands to the value of a key-value pair in a log line, escaped if it is shown by `:%`.
macro_rules! log_value {
    (% $value:expr) => {
        $crate::text::Escaped(&$value)
    };
    ($value:expr) => {
        $value
    };
}

pub(crate) use {log_line, log_value};

/// The payload of a panic.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs `work` and catches its panic.
///
/// `AssertUnwindSafe` is right for every caller: a value that has panicked is never used again, only dropped.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Payload> {
    catch_unwind(AssertUnwindSafe(work))
}

/// Returns the text of a panic, as the default panic hook prints it.
pub(crate) fn message(payload: &Payload) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a value that is not text"
    }
}

/// Drops a payload. Its destructor is user code too. If that panics, the second payload is leaked.
pub(crate) fn discard(payload: Payload) {
    if let Err(again) = catch(|| drop(payload)) {
        std::mem::forget(again);
    }
}

/// Makes a future with `make` and awaits it. A panic of either is returned as an error.
///
/// If the future's destructor panics after the future has ended, the panic is logged. The result stays the same.
pub(crate) async fn catch_future<F: Future>(make: impl FnOnce() -> F) -> Result<F::Output, Payload> {
    let future = catch(make)?;
    let mut future = pin!(Some(future));
    let result = poll_fn(|cx| {
        let Some(future) = future.as_mut().as_pin_mut() else {
            return Poll::Pending; // not reached: it is not polled again after it has ended
        };
        match catch(|| future.poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => Poll::Ready(Err(payload)),
        }
    })
    .await;
    destroy(|| future.set(None));
    result
}

/// Holds a handler, or another value of the user's. It may be dropped in any place, by its last owner. If its
/// destructor panics, the panic is logged, and that place goes on.
#[derive(Debug)]
pub(crate) struct Kept<T>(Option<T>);

impl<T> Kept<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(crate) fn get(&self) -> &T {
        self.0.as_ref().expect("the value is there until the drop")
    }

    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("the value is there until the drop")
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("the value is there until the drop")
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        drop_caught(self.0.take());
    }
}

/// Drops a value of the user's. A panic of its destructor is logged.
pub(crate) fn drop_caught<T>(value: T) {
    destroy(|| drop(value));
}

/// Runs a destructor of the user's, for a value that is dropped in its place. Its panic is logged.
pub(crate) fn destroy(work: impl FnOnce()) {
    if let Err(payload) = catch(work) {
        log_line!(error, "a destructor panicked: {}", message(&payload));
        discard(payload);
    }
}

/// Returns a text that the user's `Display` makes, or a substitute if that panics.
pub(crate) fn text(make: impl FnOnce() -> String) -> String {
    catch(make).unwrap_or_else(|payload| {
        discard(payload);
        "an error whose text cannot be shown: its `Display` panicked".to_owned()
    })
}

/// Runs one call of the logger. If the logger panics, the line is lost.
pub(crate) fn shielded(line: impl FnOnce()) {
    if let Err(payload) = catch(line) {
        discard(payload);
    }
}

/// Shows an error and its sources in one line, for logs.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

/// How many sources of an error are followed. A longer chain is taken for one that contains itself.
pub(crate) const DEEPEST: usize = 64;

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.to_string();
        f.write_str(&shown)?;
        let mut cause = self.0.source();
        for _ in 0..DEEPEST {
            let Some(error) = cause else { break };
            let text = error.to_string();
            if !shown.contains(&text) {
                write!(f, ": {text}")?; // many errors include the text of their source
                shown = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}
