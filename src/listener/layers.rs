//! What is between a listener's sockets and the handler.

use crate::stream::Stream;
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// What the connections of a listener begin with, before the handler is called. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
}

impl Layers {
    /// Whether the handler gets the socket's own bytes, from the first on.
    pub(crate) fn is_empty(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return false;
        }
        true
    }

    /// Makes an accepted stream ready for what is to be laid over it.
    pub(crate) fn prepare(&self, stream: Stream) -> Stream {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return stream.awaiting_tls();
        }
        stream
    }
}
