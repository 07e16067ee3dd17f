//! Takes Ctrl-C and Ctrl-Break on Windows, through `ctrlc`, for the life of the process.

use super::{Note, Signal, lock, on_signal};
use crate::text::{explained, explained_by};
use std::io;
use std::sync::Mutex;

/// Whether the handler is installed. The lock is held during an installation, so that there is one at a time.
static TAKEN: Mutex<bool> = Mutex::new(false);

pub(super) fn take(_only_one: &[Signal]) -> (io::Result<()>, Vec<Note>) {
    let mut taken = lock(&TAKEN);
    let result = match *taken {
        true => Ok(()),
        false => ctrlc::try_set_handler(|| on_signal(Signal::Interrupt)),
    };
    *taken |= result.is_ok();
    (result.map_err(explain), Vec::new())
}

fn explain(error: ctrlc::Error) -> io::Error {
    match error {
        ctrlc::Error::MultipleHandlers => {
            let text = "cannot take Ctrl-C: the program already has a handler for it, set through the crate `ctrlc`; \
                        remove it, or let it feed a stream of your own";
            explained(io::ErrorKind::AlreadyExists, text)
        }
        ctrlc::Error::System(error) => {
            let text = format!("cannot take Ctrl-C: {error}");
            explained_by(error, text)
        }
        error => explained(io::ErrorKind::Other, error),
    }
}

/// Does nothing: on Windows no signal is taken that was not asked for.
pub(super) fn default_effect(_: Signal) {}

/// Does nothing: Windows has no forks.
pub(super) fn take_again_if_forked() -> io::Result<()> {
    Ok(())
}
