//! [`ToBindAddrs`]: the addresses that a server can be bound to.

use crate::address::Address;
use async_std::net::ToSocketAddrs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Addresses that a server can be bound to: for [`Server::bind`](crate::Server::bind).
///
/// | you have | you write |
/// |---|---|
/// | an address or a name with a port | `"127.0.0.1:8888"`, `"localhost:8888"`, a `String` |
/// | a name and a port | `("localhost", port)`, `("::1", port)` |
/// | an IP address and a port | `(Ipv4Addr::LOCALHOST, port)`, `([127, 0, 0, 1], port)` |
/// | socket addresses | one [`SocketAddr`], or a slice, an array or a `Vec` of them |
/// | the address of another server | its [`Address`], by reference |
///
/// You do not implement this trait: it is sealed. Names are resolved when the server is bound, without blocking the
/// executor.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an address to listen on",
    label = "not an address",
    note = "give `\"127.0.0.1:8888\"`, `(\"localhost\", 8888)`, a `SocketAddr`, or a slice of them",
    note = "for a Unix socket: `Server::bind_unix(path)`"
)]
pub trait ToBindAddrs: sealed::Sealed {}

pub(crate) mod sealed {
    use super::BindAddrs;

    pub trait Sealed {
        fn into_bind_addrs(self) -> BindAddrs;
    }
}

/// What is to be bound.
#[derive(Debug)]
pub struct BindAddrs(AddrsKind);

#[derive(Debug)]
enum AddrsKind {
    /// `host:port`.
    Text(String),
    HostAndPort(String, u16),
    Resolved(Vec<SocketAddr>),
    Wrong(io::Error),
}

impl BindAddrs {
    fn resolved(addresses: impl Into<Vec<SocketAddr>>) -> Self {
        Self(AddrsKind::Resolved(addresses.into()))
    }

    pub(crate) async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
        match self.0 {
            AddrsKind::Text(text) => Ok(text.as_str().to_socket_addrs().await?.collect()),
            AddrsKind::HostAndPort(host, port) => Ok((host.as_str(), port).to_socket_addrs().await?.collect()),
            AddrsKind::Resolved(addresses) => Ok(addresses),
            AddrsKind::Wrong(error) => Err(error),
        }
    }
}

/// `$value`, of type `$from`, as what is to be bound.
macro_rules! to_bind_addrs {
    ($($from:ty $(where [$($generics:tt)*])?: $value:pat => $bind_addrs:expr;)*) => { $(
        impl $(<$($generics)*>)? ToBindAddrs for $from {}

        impl $(<$($generics)*>)? sealed::Sealed for $from {
            fn into_bind_addrs(self) -> BindAddrs {
                let $value = self;
                $bind_addrs
            }
        }
    )* };
}

to_bind_addrs! {
    &str: text => BindAddrs(AddrsKind::Text(text.to_owned()));
    String: text => BindAddrs(AddrsKind::Text(text));
    &String: text => BindAddrs(AddrsKind::Text(text.clone()));
    (&str, u16): (host, port) => BindAddrs(AddrsKind::HostAndPort(host.to_owned(), port));
    (String, u16): (host, port) => BindAddrs(AddrsKind::HostAndPort(host, port));
    (IpAddr, u16): address => BindAddrs::resolved([address.into()]);
    (Ipv4Addr, u16): address => BindAddrs::resolved([address.into()]);
    (Ipv6Addr, u16): address => BindAddrs::resolved([address.into()]);
    ([u8; 4], u16): address => BindAddrs::resolved([address.into()]);
    SocketAddr: address => BindAddrs::resolved([address]);
    &SocketAddr: address => BindAddrs::resolved([*address]);
    SocketAddrV4: address => BindAddrs::resolved([address.into()]);
    SocketAddrV6: address => BindAddrs::resolved([address.into()]);
    &[SocketAddr]: addresses => BindAddrs::resolved(addresses);
    Vec<SocketAddr>: addresses => BindAddrs::resolved(addresses);
    &Vec<SocketAddr>: addresses => BindAddrs::resolved(addresses.as_slice());
    [SocketAddr; N] where [const N: usize]: addresses => BindAddrs::resolved(addresses);
    &[SocketAddr; N] where [const N: usize]: addresses => BindAddrs::resolved(addresses.as_slice());
    &Address: address => match address.tcp() {
        Ok(address) => BindAddrs::resolved([address]),
        Err(error) => BindAddrs(AddrsKind::Wrong(error)),
    };
}

#[cfg(test)]
mod tests {
    use super::sealed::Sealed;
    use super::*;

    fn resolve(addresses: impl ToBindAddrs) -> Vec<SocketAddr> {
        async_std::task::block_on(addresses.into_bind_addrs().resolve()).unwrap()
    }

    #[test]
    fn each_form_means_the_address_that_it_says() {
        let expected = [SocketAddr::from(([127, 0, 0, 1], 80))];
        let v4 = Ipv4Addr::LOCALHOST;
        assert_eq!(resolve("127.0.0.1:80"), expected);
        assert_eq!(resolve(String::from("127.0.0.1:80")), expected);
        let text = String::from("127.0.0.1:80");
        assert_eq!((resolve(&text), text.len()), (expected.to_vec(), 12));
        assert_eq!(resolve(("127.0.0.1", 80)), expected);
        assert_eq!(resolve((String::from("127.0.0.1"), 80)), expected);
        assert_eq!(resolve((IpAddr::from(v4), 80)), expected);
        assert_eq!(resolve((v4, 80)), expected);
        assert_eq!(resolve(([127, 0, 0, 1], 80)), expected);
        assert_eq!(resolve(expected[0]), expected);
        let by_reference = [&expected[0]];
        assert_eq!(resolve(by_reference[0]), expected);
        assert_eq!(resolve(SocketAddrV4::new(v4, 80)), expected);
        assert_eq!(resolve(&expected[..]), expected);
        assert_eq!(resolve(expected.to_vec()), expected);
        let list = expected.to_vec();
        assert_eq!((resolve(&list), list.len()), (expected.to_vec(), 1));
        assert_eq!(resolve(expected), expected);
        let array = &expected;
        assert_eq!(resolve(array), expected);
        assert_eq!(resolve(&Address::from(expected[0])), expected);

        let v6 = [SocketAddr::from((Ipv6Addr::LOCALHOST, 80))];
        assert_eq!(resolve(("::1", 80)), v6); // without brackets, as `std` has it
        assert_eq!(resolve((Ipv6Addr::LOCALHOST, 80)), v6);
        assert_eq!(resolve(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 0, 0)), v6);
    }

    #[test]
    fn an_address_that_is_not_tcp_is_an_error_that_names_it() {
        let memory = Address::named("memory");
        let error = async_std::task::block_on((&memory).into_bind_addrs().resolve()).unwrap_err();
        assert!(error.to_string().contains("`memory`"), "{error}");
    }
}
