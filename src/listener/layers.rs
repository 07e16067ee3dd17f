//! What is between a listener's sockets and the handler.

/// What the connections of a listener begin with, before the handler is called. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {}

impl Layers {
    /// Whether the handler gets the socket's own bytes, from the first on.
    pub(crate) fn is_empty(&self) -> bool {
        let Self {} = self;
        true
    }
}
