//! Placeholder page.
#![forbid(unsafe_code)]

mod address;
mod connection;
mod control;
mod error;
mod group;
mod handler;
mod listener;
mod server;
pub mod signal;
mod stream;
mod sync;
mod unwind;
mod wakers;

pub use address::Address;
pub use connection::Connection;
pub use control::handle::{Closed, Handle};
pub use control::phase::Phase;
pub use control::registry::ConnectionInfo;
pub use control::report::{Cause, Report};
pub use error::{BoxError, Error, OnFailure};
pub use group::{Spawner, TaskGroup};
pub use handler::HandlerOutput;
pub use listener::Listener;
pub use server::Server;
