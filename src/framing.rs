//! Messages in a connection's bytes: [`Lines`] and [`Frames`]; and [`EofOnDrain`], which reads EOF in a drain.
//!
//! They are built on [`Connection`]. `read_ahead` is the buffer below lines and frames.
//!
//! [`Connection`]: crate::Connection

mod eof_on_drain;
mod frames;
mod lines;
mod read_ahead;

pub use eof_on_drain::EofOnDrain;
pub use frames::Frames;
pub use lines::Lines;
