//! [`ToBindAddrs`]: the types that can be given to [`Server::bind`](crate::Server::bind) as addresses.
//!
//! Each converts into [`BindAddrs`], which [`BindAddrs::resolve`] turns into socket addresses. The messages about
//! malformed texts are in `host_port`.

pub(crate) mod host_port;

use crate::address::Address;
use crate::runtime;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs};

/// Types that [`Server::bind`](crate::Server::bind) accepts as addresses.
///
/// | you have | you write |
/// |---|---|
/// | an address or a name with a port | `"127.0.0.1:8888"`, `"localhost:8888"`, a `String` |
/// | a name and a port | `("localhost", port)`, `("::1", port)` |
/// | an IP address and a port | `(Ipv4Addr::LOCALHOST, port)`, `([127, 0, 0, 1], port)` |
/// | socket addresses | one [`SocketAddr`], or a slice, an array or a `Vec` of them |
/// | several texts | `["0.0.0.0:80", "[::]:80"]`, a slice or a `Vec<String>` |
/// | the address of another server | its [`Address`], by reference |
///
/// Names are resolved when the server is bound, without blocking the executor. A link-local IPv6 address needs its
/// interface, by number, or by name if the system's resolver supports that: `"[fe80::1%eth0]:80"`.
///
/// The trait is sealed: it cannot be implemented outside of this crate.
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// use ebbtide::Server;
/// use std::net::Ipv4Addr;
///
/// let server = Server::bind("127.0.0.1:0").await?;
/// let by_name = Server::bind(("localhost", 0)).await?;
/// let by_ip = Server::bind((Ipv4Addr::LOCALHOST, 0)).await?;
/// let several = Server::bind(["127.0.0.1:0", "[::1]:0"]).await?;
///
/// let error = Server::bind("8080").await.unwrap_err(); // the error names the right form
/// assert!(error.to_string().contains("it is a port without a host: write `0.0.0.0:8080`"));
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "ToSocketAddrs")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an address to listen on",
    label = "not an address",
    note = "give `\"127.0.0.1:8888\"`, `(\"localhost\", 8888)` (the port as `u16`), a `SocketAddr`, or a slice of them",
    note = "for a Unix socket: `Server::bind_unix(path)`"
)]
pub trait ToBindAddrs: sealed::Sealed {}

pub(crate) mod sealed {
    use super::BindAddrs;

    pub trait Sealed {
        /// Converts the addresses, without resolving names.
        fn into_bind_addrs(self) -> BindAddrs;
    }
}

/// The addresses to bind, not resolved yet.
#[derive(Debug)]
pub struct BindAddrs(AddrsKind);

#[derive(Debug)]
enum AddrsKind {
    /// Each is `host:port`.
    Texts(Vec<String>),
    HostAndPort(String, u16),
    /// Nothing to resolve.
    Resolved(Vec<SocketAddr>),
    /// No address: resolving returns the error.
    Wrong(io::Error),
}

impl BindAddrs {
    fn resolved(addresses: impl Into<Vec<SocketAddr>>) -> Self {
        Self(AddrsKind::Resolved(addresses.into()))
    }

    fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self(AddrsKind::Texts(texts.into_iter().map(Into::into).collect()))
    }

    /// Resolves the addresses. The error names the address, what is wrong with it, and what to write.
    pub(crate) async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
        match self.0 {
            AddrsKind::Texts(texts) => {
                let mut addresses = Vec::new();
                for text in texts {
                    match text.parse::<SocketAddr>() {
                        Ok(address) => addresses.push(address),
                        Err(_) => {
                            let (host, port) = host_port::split(&text)?;
                            addresses.extend(look_up(&host, port).await?);
                        }
                    }
                }
                Ok(addresses)
            }
            AddrsKind::HostAndPort(host, port) => {
                host_port::check_host(&host, port)?;
                Ok(look_up(&host, port).await?.collect())
            }
            AddrsKind::Resolved(addresses) => Ok(addresses),
            AddrsKind::Wrong(error) => Err(error),
        }
    }
}

/// Resolves a name, on a thread for blocking work.
async fn look_up(host: &str, port: u16) -> io::Result<impl Iterator<Item = SocketAddr>> {
    let name = host.to_owned();
    let found = runtime::unblock(move || (name.as_str(), port).to_socket_addrs()).await;
    found.map_err(|error| host_port::unresolved(host, port, &error))
}

/// Implements [`ToBindAddrs`] for each type `$from`. The expression converts its `$value` into [`BindAddrs`].
macro_rules! to_bind_addrs {
    ($($from:ty $(where [$($generics:tt)*])?: $value:pat => $bind_addrs:expr;)*) => { $(
        #[diagnostic::do_not_recommend] // the notes of the trait list the types, the likeliest first
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
    &str: text => BindAddrs::texts([text]);
    String: text => BindAddrs::texts([text]);
    &String: text => BindAddrs::texts([text]);
    &[&str]: texts => BindAddrs::texts(texts.iter().copied());
    [&str; N] where [const N: usize]: texts => BindAddrs::texts(texts);
    &[&str; N] where [const N: usize]: texts => BindAddrs::texts(texts.iter().copied());
    Vec<&str>: texts => BindAddrs::texts(texts);
    &[String]: texts => BindAddrs::texts(texts);
    Vec<String>: texts => BindAddrs::texts(texts);
    &Vec<String>: texts => BindAddrs::texts(texts);
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
        futures_lite::future::block_on(addresses.into_bind_addrs().resolve()).unwrap()
    }

    #[test]
    fn each_form_resolves_to_its_address() {
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
        let texts = ["127.0.0.1:80"];
        assert_eq!(resolve(texts), expected);
        assert_eq!((resolve(&texts[..]), resolve(texts.to_vec())), (expected.to_vec(), expected.to_vec()));
        let by_reference = &texts;
        assert_eq!(resolve(by_reference), expected);
        let texts = vec![text.clone()];
        assert_eq!(
            (resolve(&texts), resolve(&texts[..]), resolve(texts)),
            (vec![expected[0]; 1], expected.to_vec(), expected.to_vec())
        );

        let v6 = [SocketAddr::from((Ipv6Addr::LOCALHOST, 80))];
        assert_eq!(resolve(("::1", 80)), v6); // without brackets, as in `std`
        assert_eq!(resolve((Ipv6Addr::LOCALHOST, 80)), v6);
        assert_eq!(resolve(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 0, 0)), v6);
    }

    #[test]
    fn an_interface_can_be_given_by_its_number_and_by_its_name() {
        let scope = |text: &str| match resolve(text)[..] {
            [SocketAddr::V6(address)] => address.scope_id(),
            ref other => panic!("{other:?}"),
        };
        assert_eq!(scope("[fe80::1%3]:80"), 3);
        #[cfg(target_os = "linux")]
        assert_eq!(scope("[fe80::1%lo]:80"), 1);
        let error = futures_lite::future::block_on("[fe80::1%no-such]:80".into_bind_addrs().resolve()).unwrap_err();
        assert!(error.to_string().contains("an interface of this machine"), "{error}");
    }

    #[test]
    fn an_address_that_is_not_tcp_is_an_error_that_names_it() {
        let memory = Address::named("memory");
        let error = futures_lite::future::block_on((&memory).into_bind_addrs().resolve()).unwrap_err();
        assert!(error.to_string().contains("`memory`"), "{error}");
    }
}
