//! HTTP with other clients: curl, openssl and h2load, with TLS and without. Each test is skipped, with a note, if its
//! client is not installed.
#![cfg(feature = "http")]

use crate::support::http::paths;
use crate::support::{loopback, tcp, test};
use async_std::task::spawn_blocking;
use ebbtide::{ListenOptions, Report, Server};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

/// Runs `client` against a server. `None` if the client is not installed.
fn with_server(
    options: &ListenOptions,
    client: impl FnOnce(SocketAddr) -> Command + Send + 'static,
) -> Option<(Output, Report)> {
    let options = options.clone();
    test(async move {
        let server = Server::bind_with(loopback(), &options).await.unwrap();
        let body = async |server: ebbtide::Handle| {
            let mut command = client(tcp(server.local_addr()));
            command.stdin(Stdio::null());
            Ok(spawn_blocking(move || match command.output() {
                Ok(output) => Some(output),
                Err(error) => {
                    println!("skipped: cannot run {:?}: {error}", command.get_program());
                    None
                }
            })
            .await)
        };
        let (output, report) = server.scope(ebbtide::http::Http::new().handler(paths()), body).await.unwrap();
        output.map(|output| (output, report))
    })
}

/// curl, which prints the version of the protocol behind the answer.
fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "50", "--noproxy", "*", "-w", " HTTP/%{http_version}"]);
    command.args(arguments);
    command
}

#[test]
fn curl_speaks_each_version_without_tls() {
    for (option, version) in [
        ("--http1.0", "1"),
        ("--http1.1", "1.1"),
        ("--http2", "1.1"), // curl asks for an upgrade to HTTP/2, which RFC 9113 has removed
        ("--http2-prior-knowledge", "2"),
    ] {
        let client = move |address: SocketAddr| {
            // curl 7.88 cannot send a second request on a connection of HTTP/2 with prior knowledge.
            let paths = if version == "2" { &["a"][..] } else { &["a", "b"] };
            let urls: Vec<_> = paths.iter().map(|path| format!("http://{address}/{path}")).collect();
            let mut command = curl(&[option]);
            command.args(urls);
            command
        };
        let Some((output, report)) = with_server(&ListenOptions::new(), client) else { return };
        let text = String::from_utf8(output.stdout).unwrap();
        let expected = match version {
            "2" => "/a HTTP/2".to_owned(),
            _ => format!("/a HTTP/{version}/b HTTP/{version}"),
        };
        assert_eq!(text, expected, "{option}");
        assert_eq!(report.accepted(), report.completed(), "{report}");
    }
}

#[test]
fn h2load_gets_every_answer() {
    let client = |address: SocketAddr| {
        let mut command = Command::new("h2load");
        command.args(["-n", "2000", "-c", "10", "-m", "20", &format!("http://{address}/a")]);
        command
    };
    let Some((output, report)) = with_server(&ListenOptions::new(), client) else { return };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    // h2load closes without reading what is left, so some of its connections are reset.
    assert_eq!((report.accepted(), report.completed() + report.disconnected()), (10, 10), "{report}");
}

#[cfg(feature = "tls")]
mod tls {
    use super::*;
    use crate::support::secured::TlsFixture;
    use ebbtide::Tls;

    /// Returns options with a certificate and these protocols, and the file of the authority.
    fn secured(house: &TlsFixture, protocols: &[&str]) -> (ListenOptions, String) {
        let authorities = house.folder.write("authorities.pem", house.authority.pem());
        let tls = Tls::files(&house.server.certificates, &house.server.key).alpn(protocols).load().unwrap();
        (ListenOptions::new().tls(&tls), authorities.to_str().unwrap().to_owned())
    }

    #[test]
    fn alpn_picks_the_protocol_for_curl() {
        let both = &["h2", "http/1.1"][..];
        for (option, protocols, version) in [
            ("--http1.1", both, "1.1"),
            ("--http2", both, "2"),
            ("--http2", &["http/1.1"], "1.1"),
            ("--http2", &[], "1.1"),
            ("--no-alpn", both, "1.1"),
        ] {
            let house = TlsFixture::new();
            let (options, authorities) = secured(&house, protocols);
            let client = move |address: SocketAddr| {
                let port = address.port();
                let resolve = format!("localhost:{port}:{}", address.ip());
                let url = format!("https://localhost:{port}/a");
                curl(&[option, "--cacert", &authorities, "--resolve", &resolve, &url])
            };
            let Some((output, report)) = with_server(&options, client) else { return };
            let text = String::from_utf8(output.stdout.clone()).unwrap();
            assert_eq!(text, format!("/a HTTP/{version}"), "{option} with {protocols:?}: {output:?}");
            assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
        }
    }

    #[test]
    fn openssl_is_told_which_protocol_was_chosen() {
        for (offered, line) in [("h2,http/1.1", "ALPN protocol: h2"), ("http/1.1", "ALPN protocol: http/1.1")] {
            let house = TlsFixture::new();
            let (options, authorities) = secured(&house, &["h2", "http/1.1"]);
            let client = move |address: SocketAddr| {
                let mut command = Command::new("openssl");
                command.args(["s_client", "-connect", &address.to_string(), "-servername", "localhost"]);
                command.args(["-alpn", offered, "-CAfile", &authorities]);
                command
            };
            let Some((output, report)) = with_server(&options, client) else { return };
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(line), "{offered}: {text}");
            assert_eq!(report.failed() + report.panicked(), 0, "{report}");
        }
    }
}
