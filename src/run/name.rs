//! What a server is called in log lines, and the lines themselves.

use crate::address::Addresses;
use crate::sync::{Mutex, lock};
use std::fmt;
use std::sync::Arc;

/// What a server listens on, and what it is called.
#[derive(Debug)]
pub(crate) struct ServerName {
    pub(crate) addresses: Addresses,
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

/// The name that it was given, or its first address.
impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = lock(&self.given).clone(); // the formatter's writer is user code
        match given {
            Some(name) => f.pad(&name),
            None => self.addresses.first().fmt(f),
        }
    }
}

/// Logs a line of a run, which names its server: `run_line!(warn, run, [peer:% = peer], "text {value}")`. The level is
/// its name or an expression; the key-values are those of the `log` crate's macros.
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
