//! The certificates of a server with TLS can be reloaded or replaced while it serves.
#![cfg(feature = "tls")]

use crate::support::certificates::Client;
use crate::support::secured::{TlsFixture, bind_tls};
use crate::support::{echo, test};
use ebbtide::Tls;
use std::io::{Read, Write};
use std::sync::Arc;

#[test]
fn a_certificate_is_reloaded_while_the_server_serves() {
    test(async {
        let house = TlsFixture::new();
        let tls = house.tls();
        let (_, report) = bind_tls(&tls)
            .await
            .scope(echo, async |server| {
                let mut old = house.client(server.local_addr());
                let ping = |client: &mut Client| {
                    client.write_all(b"ping").unwrap();
                    client.read_exact(&mut [0; 4]).unwrap();
                    client.conn.peer_certificates().unwrap()[0].clone()
                };
                let first = ping(&mut old);
                assert_eq!(ping(&mut house.client(server.local_addr())), first);

                std::fs::write(&house.server.key, "nonsense").unwrap();
                let error = tls.reload().unwrap_err();
                assert!(error.to_string().contains(house.server.key.to_str().unwrap()), "{error}");
                assert_eq!(ping(&mut house.client(server.local_addr())), first, "a failed reload changes nothing");

                house.authority.issue(&house.folder, "server", &["localhost"]);
                tls.clone().reload().unwrap();
                assert_ne!(ping(&mut house.client(server.local_addr())), first);
                ping(&mut old); // an open connection goes on
            })
            .await
            .unwrap();
        assert_eq!(report.accepted(), 4, "{report}");
    });
}

#[test]
fn a_custom_configuration_can_be_replaced_but_not_reloaded() {
    let house = TlsFixture::new();
    let config = ebbtide::rustls::ServerConfig::builder_with_provider(Arc::new(
        ebbtide::rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_cert_resolver(Arc::new(ebbtide::rustls::server::ResolvesServerCertUsingSni::new()));
    let tls = Tls::from_config(Arc::new(config));
    assert!(tls.reload().unwrap_err().to_string().contains("Tls::replace"));
    drop(house);
}
