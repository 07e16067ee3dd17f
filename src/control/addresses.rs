//! Where a server listens: a list that only grows, so that handles can lend what is in it.

use crate::address::Address;
use std::sync::OnceLock;

/// A non-empty list of addresses.
#[derive(Debug)]
pub(crate) struct Addresses {
    first: Address,
    rest: OnceLock<Box<Addresses>>,
}

impl Addresses {
    pub(crate) fn new(first: Address) -> Self {
        Self { first, rest: OnceLock::new() }
    }

    pub(crate) fn first(&self) -> &Address {
        &self.first
    }

    pub(crate) fn push(&self, address: Address) {
        let mut node = self;
        let mut new = Box::new(Self::new(address));
        while let Err(again) = node.rest.set(new) {
            new = again;
            node = node.rest.get().expect("it was just found set");
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Address> {
        std::iter::successors(Some(self), |node| node.rest.get().map(Box::as_ref)).map(|node| &node.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn it_keeps_the_order() {
        let port = |port| Address::from(SocketAddr::from(([127, 0, 0, 1], port)));
        let addresses = Addresses::new(port(1));
        addresses.push(port(2));
        addresses.push(port(3));
        assert_eq!(addresses.iter().cloned().collect::<Vec<_>>(), [port(1), port(2), port(3)]);
    }
}
