//! A server with TLS, and clients that trust its certificate.

use super::certificates::{Authority, Client, Identity, secure};
use super::files::Folder;
use super::{connect, loopback};
use async_std::{io, prelude::*};
use ebbtide::{Address, Connection, ListenOptions, Server, Tls};
use std::io::Read as _;

/// What a TLS test begins with: a certificate authority, and a server certificate that it has issued for `localhost`.
pub struct TlsFixture {
    pub folder: Folder,
    pub authority: Authority,
    pub server: Identity,
}

impl TlsFixture {
    pub fn new() -> Self {
        let (folder, authority) = (Folder::new(), Authority::new("a test's own"));
        let server = authority.issue(&folder, "server", &["localhost"]);
        Self { folder, authority, server }
    }

    pub fn tls(&self) -> Tls {
        Tls::from_pem_files(&self.server.certificates, &self.server.key).unwrap()
    }

    pub async fn bind(&self) -> Server {
        bind_tls(&self.tls()).await
    }

    pub fn client(&self, server: &Address) -> Client {
        secure(connect(server), self.authority.client(None))
    }
}

pub async fn bind_tls(tls: &Tls) -> Server {
    Server::bind_with(loopback(), &ListenOptions::new().tls(tls)).await.unwrap()
}

/// Reads until EOF. An EOF without `close_notify` is an error.
pub fn rest(client: &mut Client) -> std::io::Result<String> {
    let mut rest = String::new();
    client.read_to_string(&mut rest).map(|_| rest)
}
