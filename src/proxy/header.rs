//! [`ProxyHeader`]: what a parsed PROXY header says of the client.

use crate::address::Address;

/// What a proxy has said of its client: see [`Connection::proxy_header`](crate::Connection::proxy_header). Needs the
/// feature `proxy-protocol`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    pub(super) version: u8,
    /// The client's, and the one that it connected to.
    pub(super) addresses: Option<(Address, Address)>,
    /// The fields as they came, of which it is known that they are well-formed.
    pub(super) tlvs: Box<[u8]>,
}

impl ProxyHeader {
    /// The version of the protocol: 1 or 2.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// The client's address; `None` where the proxy names no client: the connection is its own, such as a health check,
    /// or the client's family is not known to it.
    pub fn source(&self) -> Option<&Address> {
        self.addresses.as_ref().map(|(source, _)| source)
    }

    /// The address that the client connected to, if there is a [`source`](Self::source).
    pub fn destination(&self) -> Option<&Address> {
        self.addresses.as_ref().map(|(_, destination)| destination)
    }

    /// The further fields (type and value) of version 2, in their order, as they came. Their number is at most about
    /// 1,300, their length together less than 4 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// use ebbtide::Connection;
    ///
    /// /// The name that the client asked a TLS proxy for (`PP2_TYPE_AUTHORITY`).
    /// fn authority(conn: &Connection) -> Option<&str> {
    ///     let (_, value) = conn.proxy_header()?.tlvs().find(|(kind, _)| *kind == 0x02)?;
    ///     std::str::from_utf8(value).ok()
    /// }
    /// ```
    pub fn tlvs(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest = &*self.tlvs;
        std::iter::from_fn(move || {
            let (&[kind, high, low], after) = rest.split_first_chunk()?;
            let (value, after) = after.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            rest = after;
            Some((kind, value))
        })
    }
}
