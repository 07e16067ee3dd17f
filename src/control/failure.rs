//! A failure that stopped a server, until there is a report to make an [`Error`](crate::Error) of the two.

use crate::address::Address;
use std::io;

/// Any error: what the errors of handlers and bodies convert into.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

#[derive(Debug)]
pub(crate) enum Failure {
    Listener {
        address: Address,
        source: io::Error,
    },
    Handler {
        peer: Address,
        source: BoxError,
    },
    HandlerPanicked {
        peer: Address,
        message: String,
    },
    /// The body of a scope returned this.
    Body {
        source: BoxError,
    },
    /// The body of a scope was dropped before its end.
    Stopped,
}
