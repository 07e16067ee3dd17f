//! Messages in a stream of bytes: lines, frames, and reads that end with the drain. On top of [`Connection`], with
//! nothing that a user of the crate could not write.
//!
//! [`Connection`]: crate::Connection

mod eof_on_drain;
mod frames;
mod lines;
mod read_ahead;

pub use eof_on_drain::EofOnDrain;
pub use frames::Frames;
pub use lines::Lines;
