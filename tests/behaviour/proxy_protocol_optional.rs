//! An optional PROXY header: bytes that are not a header reach the handler, every one of them.
#![cfg(feature = "proxy-protocol")]

use crate::support::proxied::*;
use crate::support::*;
use ebbtide::{ConnectionState, OnFailure, ProxyProtocol};
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(50);

fn optional() -> ProxyProtocol {
    trusting(ProxyProtocol::optional())
}

/// Returns an answer without the addresses at its beginning: the bytes that the handler has read.
fn message(answer: &str) -> &str {
    answer.split_once(": ").unwrap_or_else(|| panic!("not an answer of the handler: `{answer}`")).1
}

#[test]
fn a_header_is_read_and_clients_without_one_are_served_too() {
    for way in WAYS {
        let report = serve(
            *way,
            optional(),
            |server| server,
            |door, _| {
                for header in [V1, V2] {
                    assert_eq!(door.client().ask(&[header, b"hello"].concat()), format!("{ANSWER}hello"));
                }
                for bytes in [
                    "hello",
                    "P",
                    "PROXY",
                    "PROXYTCP4",
                    "PROXY\r\n",
                    "\r\n\r\n",
                    "\r\n\r\n\0\r\nQUIT",
                    "\r\n\r\nhello",
                    "",
                ] {
                    assert_eq!(message(&door.client().ask(bytes.as_bytes())), bytes);
                }
                let long = "PROXZ".repeat(10_000);
                assert!(message(&door.client().ask(long.as_bytes())) == long);
            },
        );
        assert_eq!((report.accepted(), report.completed()), (12, 12), "{way:?}: {report}");
    }
}

#[test]
fn a_client_whose_bytes_may_still_become_a_header_is_served_after_the_timeout() {
    for way in WAYS {
        let proxy = optional().timeout(SHORT);
        let report = serve(
            *way,
            proxy,
            |server| server,
            |door, handle| {
                for beginning in [&b""[..], b"PROXY", &V2[..11]] {
                    let mut client = door.client();
                    beginning.iter().for_each(|byte| client.send(&[*byte]));
                    while !handle.connections().iter().any(|info| info.state() == ConnectionState::Serving) {
                        std::thread::yield_now();
                    }
                    client.send(b" and more"); // before the timeout this would be a malformed header
                    client.finish();
                    assert_eq!(message(&client.rest()).as_bytes(), [beginning, b" and more"].concat());
                    while handle.connection_count() > 0 {
                        std::thread::yield_now();
                    }
                }
            },
        );
        assert_eq!(report.completed(), 3, "{way:?}: {report}");
    }
}

#[test]
fn a_silent_client_gets_the_greeting_of_a_server_that_speaks_first() {
    use async_std::prelude::*;
    test(async {
        let (server, door) = Door::open(Way::Tcp, optional().timeout(SHORT)).await;
        let greet = async |mut conn: ebbtide::Connection| conn.write_all(b"welcome").await;
        let body = async |_: ebbtide::Handle| {
            let mut clients = [door.client(), door.client()];
            clients[1].send(b"PROXY"); // only these five bytes
            let rests = move || clients.iter_mut().map(Client::rest).collect::<Vec<_>>();
            Ok(async_std::task::spawn_blocking(rests).await)
        };
        let (answers, report) = server.scope(greet, body).await.unwrap();
        assert_eq!(answers, ["welcome", "welcome"]);
        assert_eq!(report.completed(), 2, "{report}");
    });
}

#[test]
fn a_connection_that_begins_with_a_malformed_or_incomplete_header_is_closed() {
    for way in WAYS {
        let proxy = optional().timeout(SHORT);
        let report = serve(
            *way,
            proxy,
            |server| server.on_failure(OnFailure::Shutdown),
            |door, handle| {
                assert_eq!(door.client().ask(b"PROXY please\r\n"), "");
                assert_eq!(door.client().ask(b"PROXY TCP4 192.0.2.1"), "");
                assert_eq!(door.client().ask(&V2[..12]), "");
                let mut silent = door.client();
                silent.send(b"PROXY ");
                assert_eq!(silent.rest(), "");
                assert!(handle.is_serving());
            },
        );
        assert_eq!((report.accepted(), report.rejected()), (4, 4), "{way:?}: {report}");
    }
}

#[test]
fn a_header_from_an_untrusted_peer_is_passed_to_the_handler_as_bytes() {
    for way in WAYS {
        let proxy = ProxyProtocol::optional().trust("10.0.0.0/8").unwrap();
        serve(
            *way,
            proxy,
            |server| server,
            |door, _| {
                let header = std::str::from_utf8(V1).unwrap();
                let answer = door.client().ask(V1);
                assert!(!answer.starts_with("192.0.2.1") && message(&answer) == header, "{answer}");
            },
        );
    }
}
