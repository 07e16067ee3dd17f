//! What is between a listener's sockets and the handler.

use crate::address::Address;
#[cfg(feature = "proxy-protocol")]
use crate::proxy::ProxyProtocol;
use crate::stream::Stream;
#[cfg(feature = "tls")]
use crate::tls::Tls;
#[cfg(feature = "proxy-protocol")]
use std::sync::Arc;

/// What the connections of a listener begin with, before the handler is called. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    #[cfg(feature = "proxy-protocol")]
    pub(crate) proxy: Option<Arc<ProxyProtocol>>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
}

impl Layers {
    /// Whether the handler gets the socket's own bytes, from the first on.
    pub(crate) fn is_empty(&self) -> bool {
        #[cfg(feature = "proxy-protocol")]
        if self.proxy.is_some() {
            return false;
        }
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

    /// Whether who the client is will be known only once a proxy, which is this peer, has said it.
    pub(crate) fn name_client_of(&self, peer: &Address) -> bool {
        #[cfg(feature = "proxy-protocol")]
        if let Some(proxy) = &self.proxy {
            return proxy.trusts(peer);
        }
        let _ = peer;
        false
    }
}
