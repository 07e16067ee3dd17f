//! A required PROXY header that is malformed, cut off, too long, late or missing closes its connection. The reason is
//! in the log, the handler is not called, and the server and its other connections go on.
#![cfg(feature = "proxy-protocol")]

use crate::support::proxied::*;
use crate::support::*;
use ebbtide::{Handle, Listener, OnFailure, ProxyProtocol, Report, Server};
use log::Level;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(50);

/// Makes a handler's failure stop the server, to check that a bad header is not such a failure.
fn strict(server: Server) -> Server {
    server.on_failure(OnFailure::Shutdown)
}

fn required() -> ProxyProtocol {
    trusting(ProxyProtocol::required())
}

/// Asserts that the server goes on: a client with a valid header is served.
fn assert_still_serves(door: &Door, handle: &Handle) {
    assert!(handle.is_serving());
    assert_eq!(door.client().ask(&[V1, b"hello"].concat()), format!("{ANSWER}hello"));
}

/// Waits until the line is logged once more than `before` times: it may be logged after the client has seen EOF.
fn wait_for_line(logs: &logs::Logs, line: &str, before: usize) {
    let start = Instant::now();
    while logs.lines_with(line).len() == before {
        assert!(start.elapsed() < NET / 2, "not logged: {line}\n{:#?}", logs.lines_with("closed the connection"));
        std::thread::yield_now();
    }
}

/// Asserts that one connection was completed, and these many others were rejected.
fn assert_one_completed(report: &Report, failed: u64) {
    let counts = (report.accepted(), report.rejected(), report.completed(), report.cancelled(), report.panicked());
    assert_eq!(counts, (failed + 1, failed, 1, 0, 0), "{report}");
}

#[test]
fn r14_a_required_header_from_no_trusted_proxy_is_warned_of() {
    on_thread(|| {
        let logs = logs::remember();
        let (first, second) = (Listener::tcp(loopback()).unwrap(), Listener::tcp(loopback()).unwrap());
        let lines = |listener: &Listener| {
            let address = listener.local_addr();
            logs.lines_with(&format!("trusts no proxy, so every client of `{address}` will be closed"))
        };
        let first = first.proxy_protocol(ProxyProtocol::required());
        let lines_of_first = lines(&first);
        assert!(matches!(&lines_of_first[..], [(Level::Warn, _)]), "{lines_of_first:?}");
        let second = second.proxy_protocol(required());
        assert_eq!(lines(&second), []);
    });
}

#[test]
fn every_malformed_header_closes_its_connection_and_the_log_shows_what_is_wrong() {
    let logs = logs::remember();
    let mut oversized = V2[..16].to_vec();
    oversized[14..].copy_from_slice(&[0x10, 0]); // these bytes never arrive, and the server must not wait for them
    let table: Vec<(Vec<u8>, String)> = [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], r"it sent no PROXY header, but `GET / HTTP/1.1\r\n`; let the proxy send one"),
        (b"\x16\x03\x01\0\xa5", r"it sent no PROXY header, but `\x16\x03\x01\x00\xa5`; let the proxy"),
        (
            b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4\n",
            r"its PROXY header is malformed: its line does not end with CR LF: `PROXY TCP4 1.1.1.1 2.2.2.2 3 4\n`",
        ),
        (
            b"PROXY TCP4 300.1.1.1 2.2.2.2 3 4\r\n",
            r"malformed: its source is no IP address: `PROXY TCP4 300.1.1.1 2.2.2.2 3 4…`",
        ),
        (&oversized, "it says that 4096 bytes follow, which makes it longer than 4096 bytes: `"),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02xx",
            r"it says that 2 bytes follow, and its addresses take 12: `\r\n\r\n\x00\r\nQUIT\n!",
        ),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x55\0\0", "there is no family and protocol `0x55`: `"),
        (b"\r\n\r\n\0\r\nQUIT\n\x71\x11\0\0", "its version and command are `0x71`, not 0x20 or 0x21: `"),
    ]
    .into_iter()
    .map(|(bytes, line)| (bytes.to_vec(), line.to_owned()))
    .chain([([b"PROXY UNKNOWN ", [b'f'; 100].as_slice()].concat(), "its line is longer than 107 bytes: `".to_owned())])
    .collect();
    for way in WAYS {
        for (n, (bytes, line)) in table.clone().into_iter().enumerate() {
            let logs = logs.clone();
            let report = serve(*way, required(), strict, move |door, handle| {
                let before = logs.lines_with(&line).len();
                let mut client = door.client();
                client.send(&bytes); // no half-close: the server must not wait for one
                assert_eq!(client.rest(), "", "{n}");
                wait_for_line(&logs, &line, before);
                assert!(logs.lines_with(&line).iter().all(|(level, _)| *level == Level::Warn), "{n}");
                assert_still_serves(door, handle);
            });
            assert_one_completed(&report, 1);
        }
    }
}

#[test]
fn a_header_that_is_cut_off_by_eof_anywhere_closes_its_connection() {
    let logs = logs::remember();
    for way in WAYS {
        for header in [V1, V2] {
            let report = serve(*way, required(), strict, move |door, handle| {
                for end in 0..header.len() {
                    assert_eq!(door.client().ask(&header[..end]), "", "{way:?}: after {end} bytes");
                }
                assert_still_serves(door, handle);
            });
            assert_one_completed(&report, header.len() as u64);
        }
    }
    for line in
        [r"it left before it sent a PROXY header", r"it left in the middle of its PROXY header: `PROXY TCP4 192`"]
    {
        assert!(logs.lines_with(line).iter().all(|(level, _)| *level == Level::Debug), "{line}");
        assert!(!logs.lines_with(line).is_empty(), "{line}");
    }
}

#[test]
fn a_header_that_stops_anywhere_closes_its_connection_at_the_timeout() {
    let logs = logs::remember();
    for way in WAYS {
        for header in [V1, V2] {
            let report = serve(*way, required().timeout(SHORT), strict, move |door, handle| {
                let mut silent: Vec<_> = (0..header.len())
                    .map(|end| {
                        let mut client = door.client();
                        client.send(&header[..end]);
                        client
                    })
                    .collect();
                silent.iter_mut().for_each(|client| assert_eq!(client.rest(), "", "{way:?}"));
                assert!(handle.is_serving());
            });
            assert_eq!((report.accepted(), report.rejected()), (header.len() as u64, header.len() as u64), "{report}");
        }
    }
    for line in
        ["it sent no PROXY header for 50ms; let the", "its PROXY header was not complete after 50ms: `PROXY TCP4 192`"]
    {
        assert!(logs.lines_with(line).iter().all(|(level, _)| *level == Level::Warn), "{line}");
        assert!(!logs.lines_with(line).is_empty(), "{line}");
    }
}

#[test]
fn an_untrusted_peer_is_closed_although_its_header_is_valid() {
    let logs = logs::remember();
    let (elsewhere, here) = ("10.0.0.0/8", "127.0.0.0/8");
    let nobody = ProxyProtocol::required();
    let others = ProxyProtocol::required().trust(elsewhere).unwrap().trust("::/0").unwrap().trust_local();
    for (way, proxy, line) in [
        (
            Way::Tcp,
            nobody.clone(),
            "it is not a trusted proxy; if it should be one, name its network: `ProxyProtocol::trust`",
        ),
        (Way::Tcp, others, "it is not a trusted proxy; if it should be one, name its network: `ProxyProtocol::trust`"),
        (
            Way::Memory,
            nobody.trust(here).unwrap(),
            "it is not a trusted proxy, and has no IP address; if it should be one: `",
        ),
    ] {
        let report = serve(way, proxy, strict, |door, handle| {
            for bytes in [V1, V2, b"hello"] {
                assert_eq!(door.client().ask(bytes), "");
            }
            let mut silent = door.client(); // closed at once, not at the timeout
            assert_eq!(silent.rest(), "");
            assert!(handle.is_serving());
        });
        assert_eq!((report.accepted(), report.rejected()), (4, 4), "{report}");
        let lines = logs.lines_with(line);
        // The first one of each server may be the proxy itself, which the operator has to trust: logged at info.
        let is_first = |level: &Level, line: &str| *level == Level::Info && line.contains(": closed connection 0 ");
        let quiet = lines.iter().all(|(level, line)| *level == Level::Debug || is_first(level, line));
        assert!(!lines.is_empty() && quiet, "{lines:?}");
    }
}

/// A load balancer checks the server every few seconds. If each check were a warning, the operator would miss others.
#[test]
fn a_load_balancers_health_check_logs_no_warning_however_it_ends() {
    test(async {
        let logs = logs::remember();
        let options = ebbtide::ListenOptions::new().proxy_protocol(required());
        let server = strict(Server::bind_with(loopback(), &options).await.unwrap()).name("checked by a balancer");
        let address = tcp(server.local_addr());
        let checks = [&b""[..], b"PROXY", &V1[..20], &V2[..14], b"PROXY UNKNOWN\r\n", LOCAL];
        let body = async |handle: Handle| {
            async_std::task::spawn_blocking(move || {
                for check in checks {
                    for resets in [false, true] {
                        let mut client = std::net::TcpStream::connect(address).unwrap();
                        std::io::Write::write_all(&mut client, check).unwrap();
                        if resets {
                            // HAProxy's checks end with a reset, so that no TIME_WAIT is left.
                            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                        }
                        drop(client);
                    }
                }
            })
            .await;
            until(|| handle.connection_count() == 0 && handle.is_serving()).await;
        };
        let idle = async |mut conn: ebbtide::Connection| {
            // Ignores the error of a reset: this test is about the checks, not about how handlers treat errors.
            let _ = async_std::io::ReadExt::read(&mut conn, &mut [0]).await;
        };
        let (_, report) = server.scope(idle, body).await.unwrap();
        assert!(report.accepted() > 0, "{report}");
        let lines = logs.lines_with("checked by a balancer");
        let warnings: Vec<_> = lines.iter().filter(|(level, _)| *level <= Level::Warn).collect();
        assert!(warnings.is_empty() && lines.len() > checks.len(), "{lines:#?}");
        assert!(lines.iter().any(|(_, line)| line.contains("it left in the middle of its PROXY header")), "{lines:#?}");
    });
}
