//! A failure that stopped a server, until there is a report to make an error of the two.

use crate::address::Address;
use std::io;

/// Any error a handler may return.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

#[derive(Debug)]
pub(crate) enum Failure {
    Listener { address: Address, source: io::Error },
    Handler { peer: Address, source: BoxError },
    HandlerPanicked { peer: Address, message: String },
}
