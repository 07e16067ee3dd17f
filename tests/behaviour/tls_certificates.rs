//! The certificates of a server with TLS are read from files, or refused with the reason, and changed while serving.
#![cfg(feature = "tls")]

use crate::support::certificates::Client;
use crate::support::secured::{House, bind_tls};
use crate::support::{echo, test};
use ebbtide::Tls;
use std::io::{Read, Write};
use std::sync::Arc;

#[test]
fn an_error_names_the_file_and_the_reason() {
    let house = House::new();
    let (folder, server) = (&house.folder, &house.server);
    let other = house.authority.issue(folder, "other", &["localhost"]);
    let nowhere = folder.path("nowhere.pem");
    let empty = folder.write("empty.pem", "");
    let garbage = folder.write("garbage.pem", "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n");
    let no_certificate = folder.write("no.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let encrypted = folder
        .write("encrypted.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let table = [
        ((&nowhere, &server.key), &nowhere, "No such file"),
        ((&server.certificates, &nowhere), &nowhere, "No such file"),
        ((&empty, &server.key), &empty, "no `BEGIN CERTIFICATE`"),
        ((&server.key, &server.key), &server.key, "no `BEGIN CERTIFICATE`"),
        ((&garbage, &server.key), &garbage, "base64"),
        ((&no_certificate, &server.key), &no_certificate, "cannot use the certificate"),
        ((&server.certificates, &empty), &empty, "no `BEGIN PRIVATE KEY`"),
        ((&server.certificates, &encrypted), &encrypted, "it is encrypted"),
        ((&server.certificates, &other.key), &other.key, "is not the one of the first certificate"),
    ];
    for ((certificates, key), named, reason) in table {
        let error = Tls::from_pem_files(certificates, key).unwrap_err().to_string();
        assert!(error.contains(&format!("`{}`", named.display())) && error.contains(reason), "{error}");
    }
    let error = Tls::files(&server.certificates, &server.key).client_ca(&empty).load().unwrap_err().to_string();
    assert!(error.contains("empty.pem"), "{error}");
}

#[test]
fn a_certificate_is_changed_while_serving() {
    test(async {
        let house = House::new();
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
                ping(&mut old); // goes on
            })
            .await
            .unwrap();
        assert_eq!(report.accepted(), 4, "{report}");
    });
}

#[test]
fn a_configuration_of_ones_own_is_replaced_and_not_reloaded() {
    let house = House::new();
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
