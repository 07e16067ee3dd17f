//! [`ServerName`], which begins each log line of a run, and `run_line!`, the macro that logs such a line.

use crate::address::Addresses;
use crate::sync::{Mutex, lock};
use std::fmt;
use std::sync::Arc;

/// Addresses that a server listens on, and its name in log lines.
#[derive(Debug)]
pub(crate) struct ServerName {
    pub(crate) addresses: Addresses,
    /// The name of `Server::name`. `None`: the first address is the name.
    given: Mutex<Option<Arc<str>>>,
}

impl ServerName {
    pub(super) fn new(addresses: Addresses) -> Self {
        Self { addresses, given: Mutex::default() }
    }

    pub(crate) fn give(&self, name: &str) {
        *lock(&self.given) = Some(name.into());
    }
}

/// The given name, or the first address.
impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = lock(&self.given).clone(); // the formatter's writer is user code, so not under the lock
        match given {
            Some(name) => f.pad(&name),
            None => self.addresses.first().fmt(f),
        }
    }
}

/// Logs a line that begins with the server's name: `run_line!(warn, run, [peer:% = peer], "text {value}")`.
///
/// The level is a name (`warn`) or an expression of type `Level`. The key-values have the form of the `log` crate's
/// macros.
macro_rules! run_line {
    ($level:ident, $run:expr, [$($pairs:tt)*], $($text:tt)+) => {
        $crate::run::name::run_line!(@ [$level] $run, [$($pairs)*], $($text)+)
    };
    ($level:expr, $run:expr, [$($pairs:tt)*], $($text:tt)+) => {
        $crate::run::name::run_line!(@ [$level] $run, [$($pairs)*], $($text)+)
    };
    (@ [$($level:tt)+] $run:expr, [], $($text:tt)+) => {{
        let name = &$run.name;
        $crate::panic::log_line!($($level)+, server:% = name; "{name}: {}", ::std::format_args!($($text)+))
    }};
    (@ [$($level:tt)+] $run:expr, [$($pairs:tt)+], $($text:tt)+) => {{
        let name = &$run.name;
        $crate::panic::log_line!(
            $($level)+, server:% = name, $($pairs)+; "{name}: {}", ::std::format_args!($($text)+)
        )
    }};
}

pub(crate) use run_line;
