//! Decides whether a handler's error is the peer's fault: it is if the connection's own stream has returned that error,
//! unless the system had run out of something.

use crate::panic::{self, DEEPEST};
use crate::run::end_reason::EndReason;
use crate::run::record::ConnectionRecord;
use crate::run::report::BoxError;
use std::error::Error;
use std::io;
use std::sync::Arc;

/// Returns the reason by which the end of a handler that returned `error` is counted.
///
/// The record remembers the kinds of the errors that the stream has returned, and EOF. An error in the chain of sources
/// that has such a kind counts as that error: a library may wrap it, or make its own error of the same kind. A reset of
/// another connection, for example a database's, is not the peer's fault: this stream has returned none.
pub(super) fn reason_of(error: &BoxError, record: &ConnectionRecord) -> EndReason {
    // `Error::source` is user code.
    let found = panic::catch(|| kinds(error.as_ref()).find_map(|kind| record.given(kind)));
    match found {
        Ok(Some(reason)) => reason,
        Ok(None) => EndReason::Failed,
        Err(payload) => {
            panic::discard(payload);
            EndReason::Failed
        }
    }
}

/// Returns whether the system has run out of something, such as memory for sockets: then the error is not the peer's
/// fault.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(error);
        let exhausted = [Errno::NOMEM, Errno::NOBUFS, Errno::MFILE, Errno::NFILE, Errno::NOSPC];
        errno.is_some_and(|errno| exhausted.contains(&errno))
    }
    #[cfg(not(unix))]
    {
        error.raw_os_error() == Some(10055) || error.kind() == io::ErrorKind::OutOfMemory // WSAENOBUFS
    }
}

/// Returns the kinds of the `io::Error`s in the chain of sources.
fn kinds<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = io::ErrorKind> + 'a {
    std::iter::successors(Some(error), |error| next(*error)).take(DEEPEST).filter_map(|error| {
        let shared = || error.downcast_ref::<Arc<io::Error>>().map(Arc::as_ref);
        error.downcast_ref::<io::Error>().or_else(shared).map(io::Error::kind)
    })
}

/// Returns the next error of the chain. `io::Error::source` skips the error that it wraps, so that one is asked for.
fn next<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return Some(inner);
    }
    error.source()
}

#[cfg(test)]
mod tests {
    use super::*;
    use io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, Other};
    use std::fmt;

    #[derive(Debug)]
    struct Wrapped(Option<BoxError>);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("wrapped")
        }
    }

    impl Error for Wrapped {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.0.as_deref().map(|error| error as &(dyn Error + 'static))
        }
    }

    #[derive(Debug)]
    struct Endless;

    impl fmt::Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("endless")
        }
    }

    impl Error for Endless {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(self)
        }
    }

    fn found(error: &(dyn Error + 'static)) -> Vec<io::ErrorKind> {
        kinds(error).collect()
    }

    #[test]
    fn every_io_error_of_the_chain_is_found() {
        let reset = || io::Error::from(ConnectionReset);
        assert_eq!(found(&reset()), [ConnectionReset]);
        assert_eq!(found(&Wrapped(Some(Box::new(Wrapped(Some(Box::new(reset()))))))), [ConnectionReset]);
        assert_eq!(found(&io::Error::other(reset())), [Other, ConnectionReset], "the error that an `io::Error` wraps");
        let deep = io::Error::new(InvalidData, Wrapped(Some(Box::new(io::Error::other(io::Error::from(BrokenPipe))))));
        assert_eq!(found(&deep), [InvalidData, Other, BrokenPipe]);
        assert_eq!(found(&Wrapped(Some(Box::new(Arc::new(reset()))))), [ConnectionReset], "shared");
        assert_eq!(found(&Wrapped(None)), []);
        assert_eq!(found(&Endless), [], "the search ends");
    }
}
