//! What a server is called in log lines, and the lines themselves.

use crate::address::Addresses;
use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

/// What a server listens on, and what it is called.
#[derive(Debug)]
pub(crate) struct ServerName {
    pub(crate) addresses: Addresses,
    given: OnceLock<Cow<'static, str>>,
}

impl ServerName {
    pub(super) fn new(addresses: Addresses) -> Self {
        Self { addresses, given: OnceLock::new() }
    }

    /// The first name counts.
    pub(crate) fn give(&self, name: Cow<'static, str>) {
        let _ = self.given.set(name);
    }
}

/// The name that it was given, or its first address.
impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.given.get() {
            Some(name) => f.pad(name),
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
