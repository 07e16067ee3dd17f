//! [`ProxyHeader`]: a parsed PROXY header, with the client's address and further fields.

use crate::address::Address;

/// PROXY header of a connection, returned by [`Connection::proxy_header`](crate::Connection::proxy_header) (feature
/// `proxy-protocol`).
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// # use async_std::prelude::*;
/// # use ebbtide::{Connection, Listener, Server};
/// # let (listener, connector) = Listener::memory();
/// # use ebbtide::ProxyProtocol;
/// # let server = Server::new(listener.proxy_protocol(ProxyProtocol::required().trust_local()));
/// let handler = async |mut conn: Connection| {
///     let header = conn.proxy_header().expect("it is required").clone();
///     let (source, destination) = (header.source().unwrap(), header.destination().unwrap());
///     let reply = format!("version {} from {source} to {destination}", header.version());
///     conn.write_all(reply.as_bytes()).await
/// };
/// # let (reply, _report) = server
/// #     .scope(handler, async |_| {
/// #         let mut client = connector.connect().await?;
/// #         client.write_all(b"PROXY TCP4 203.0.113.7 198.51.100.2 56324 443\r\n").await?;
/// #         let mut reply = String::new();
/// #         client.read_to_string(&mut reply).await?;
/// #         Ok(reply)
/// #     })
/// #     .await?;
/// // The proxy sent `PROXY TCP4 203.0.113.7 198.51.100.2 56324 443\r\n`.
/// assert_eq!(reply, "version 1 from 203.0.113.7:56324 to 198.51.100.2:443");
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The version of the protocol.
    pub(super) version: u8,
    /// The client's address, and the one that it connected to.
    pub(super) addresses: Option<(Address, Address)>,
    /// The fields (TLVs) as they were sent; the parser has checked their form.
    pub(super) tlvs: Box<[u8]>,
}

impl ProxyHeader {
    /// Returns the version of the protocol: 1 or 2.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # use ebbtide::ProxyProtocol;
    /// # let server = Server::new(listener.proxy_protocol(ProxyProtocol::required().trust_local()));
    /// let handler = async |mut conn: Connection| {
    ///     let version = conn.proxy_header().map(|header| header.version());
    ///     conn.write_all(format!("{version:?}").as_bytes()).await
    /// };
    /// # let (reply, _report) = server
    /// #     .scope(handler, async |_| {
    /// #         let mut client = connector.connect().await?;
    /// #         client.write_all(b"PROXY TCP4 203.0.113.7 198.51.100.2 56324 443\r\n").await?;
    /// #         let mut reply = String::new();
    /// #         client.read_to_string(&mut reply).await?;
    /// #         Ok(reply)
    /// #     })
    /// #     .await?;
    /// assert_eq!(reply, "Some(1)");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Returns the client's address; `None` if the header has none.
    ///
    /// That is so for the proxy's own connections, such as health checks, and for clients of an address family that the
    /// proxy does not know. [`Connection::peer_addr`](crate::Connection::peer_addr) is the proxy's address then.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # use ebbtide::ProxyProtocol;
    /// # let server = Server::new(listener.proxy_protocol(ProxyProtocol::required().trust_local()));
    /// let handler = async |mut conn: Connection| {
    ///     let is_health_check = conn.proxy_header().is_some_and(|header| header.source().is_none());
    ///     conn.write_all(if is_health_check { b"healthy" } else { b"hello" }).await
    /// };
    /// # let (reply, _report) = server
    /// #     .scope(handler, async |_| {
    /// #         let mut client = connector.connect().await?;
    /// #         client.write_all(b"PROXY UNKNOWN\r\n").await?;
    /// #         let mut reply = String::new();
    /// #         client.read_to_string(&mut reply).await?;
    /// #         Ok(reply)
    /// #     })
    /// #     .await?;
    /// // The proxy sent `PROXY UNKNOWN\r\n`.
    /// assert_eq!(reply, "healthy");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn source(&self) -> Option<&Address> {
        self.addresses.as_ref().map(|(source, _)| source)
    }

    /// Returns the address that the client connected to; `None` if there is no [`source`](Self::source).
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # use ebbtide::ProxyProtocol;
    /// # let server = Server::new(listener.proxy_protocol(ProxyProtocol::required().trust_local()));
    /// let handler = async |mut conn: Connection| {
    ///     let port = conn.proxy_header().and_then(|header| header.destination()?.port());
    ///     conn.write_all(if port == Some(443) { b"https" } else { b"http" }).await
    /// };
    /// # let (reply, _report) = server
    /// #     .scope(handler, async |_| {
    /// #         let mut client = connector.connect().await?;
    /// #         client.write_all(b"PROXY TCP4 203.0.113.7 198.51.100.2 56324 443\r\n").await?;
    /// #         let mut reply = String::new();
    /// #         client.read_to_string(&mut reply).await?;
    /// #         Ok(reply)
    /// #     })
    /// #     .await?;
    /// assert_eq!(reply, "https");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub fn destination(&self) -> Option<&Address> {
        self.addresses.as_ref().map(|(_, destination)| destination)
    }

    /// Returns the further fields (TLVs: type and value) of version 2, in the order in which they were sent.
    ///
    /// There are at most about 1,300, of less than 4 KiB in all. A header of version 1 has none. Section 2.2 of the
    /// specification lists the types.
    ///
    /// # Examples
    ///
    /// The server name that the client of a TLS proxy asked for (`PP2_TYPE_AUTHORITY`):
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// # use async_std::prelude::*;
    /// # use ebbtide::{Connection, Listener, Server};
    /// # let (listener, connector) = Listener::memory();
    /// # use ebbtide::ProxyProtocol;
    /// # let server = Server::new(listener.proxy_protocol(ProxyProtocol::required().trust_local()));
    /// let handler = async |mut conn: Connection| {
    ///     let mut fields = conn.proxy_header().into_iter().flat_map(|header| header.tlvs());
    ///     let name = fields.find(|(kind, _)| *kind == 0x02).map_or(Vec::new(), |(_, value)| value.to_vec());
    ///     drop(fields);
    ///     conn.write_all(&name).await
    /// };
    /// # let (reply, _report) = server
    /// #     .scope(handler, async |_| {
    /// #         let mut client = connector.connect().await?;
    /// #         client.write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x1a").await?;
    /// #         client.write_all(b"\xcb\0\x71\x07\xc6\x33\x64\x02\xdc\x04\x01\xbb\x02\0\x0bexample.org").await?;
    /// #         let mut reply = String::new();
    /// #         client.read_to_string(&mut reply).await?;
    /// #         Ok(reply)
    /// #     })
    /// #     .await?;
    /// assert_eq!(reply, "example.org");
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "PP2_TYPE_AUTHORITY")]
    #[doc(alias = "PP2_TYPE_SSL")]
    #[doc(alias = "PP2_TYPE_ALPN")]
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
