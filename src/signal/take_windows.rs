//! Takes Ctrl-C and Ctrl-Break, for the life of the process.

use super::{Note, Signal, lock, on_signal};
use std::io;
use std::sync::Mutex;

/// Whether that is done. Held during an installation, so that there is one at a time.
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
            io::Error::new(io::ErrorKind::AlreadyExists, text)
        }
        ctrlc::Error::System(error) => io::Error::new(error.kind(), format!("cannot take Ctrl-C: {error}")),
        error => io::Error::other(error),
    }
}

/// Nothing is taken that was not asked for.
pub(super) fn default_effect(_: Signal) {}
