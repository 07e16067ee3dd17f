//! Behind a proxy: a connection's addresses are those in its PROXY header, and the handler gets every byte after the
//! header.
#![cfg(feature = "proxy-protocol")]

use crate::support::proxied::*;
use crate::support::*;
use async_std::{prelude::*, task};
use ebbtide::{Address, Connection, Handle, ListenOptions, ProxyProtocol, Server};
use std::io::Write as _;

fn required() -> ProxyProtocol {
    trusting(ProxyProtocol::required())
}

/// Asserts that a client that sends these bytes gets this answer, for each kind of listener.
fn assert_answer(bytes: Vec<u8>, expected: &'static str) {
    for way in WAYS {
        let bytes = bytes.clone();
        let report = serve(
            *way,
            required(),
            |server| server,
            move |door, _| {
                assert_eq!(door.client().ask(&bytes), expected, "{way:?}");
            },
        );
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{way:?}: {report}");
    }
}

#[test]
fn the_peer_address_is_the_source_in_the_header_in_both_versions() {
    assert_answer(V1.to_vec(), ANSWER);
    assert_answer(V2.to_vec(), ANSWER);
}

#[test]
fn the_first_bytes_may_arrive_in_one_piece_with_the_header() {
    assert_answer([V1, b"hello"].concat(), "192.0.2.1:56324 to 198.51.100.2:443: hello");
    assert_answer([V2, b"hello"].concat(), "192.0.2.1:56324 to 198.51.100.2:443: hello");
}

#[test]
fn a_second_header_is_passed_to_the_handler_as_bytes_of_the_client() {
    assert_answer(
        [V1, V1].concat(),
        "192.0.2.1:56324 to 198.51.100.2:443: PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
    );
    assert_answer(
        [V2, V1].concat(),
        "192.0.2.1:56324 to 198.51.100.2:443: PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
    );
}

#[test]
fn a_header_may_arrive_byte_by_byte() {
    for header in [V1, V2] {
        for way in WAYS {
            serve(
                *way,
                required(),
                |server| server,
                move |door, _| {
                    let mut client = door.client();
                    for byte in [header, b"hello"].concat() {
                        client.send(&[byte]);
                    }
                    client.finish();
                    assert_eq!(client.rest(), format!("{ANSWER}hello"), "{way:?}");
                },
            );
        }
    }
}

/// The server may read the first piece before the second is sent: it must not expect the header in one segment.
#[test]
fn a_header_may_arrive_in_two_pieces_cut_anywhere() {
    for header in [V1, V2] {
        serve(
            Way::Memory,
            required(),
            |server| server,
            move |door, _| {
                for cut in 1..header.len() {
                    let mut client = door.client();
                    client.send(&header[..cut]);
                    task::block_on(task::yield_now());
                    client.send(&header[cut..]);
                    client.send(b"hello");
                    client.finish();
                    assert_eq!(client.rest(), format!("{ANSWER}hello"), "cut after {cut} bytes");
                }
            },
        );
    }
}

#[test]
fn a_long_message_after_a_header_arrives_whole() {
    for way in WAYS {
        serve(
            *way,
            required(),
            |server| server,
            move |door, _| {
                let message = "0123456789abcdef".repeat(2048);
                let answer = door.client().ask(&[V1, message.as_bytes()].concat());
                assert!(answer.strip_prefix(ANSWER) == Some(&*message), "{way:?}: {} bytes", answer.len());
            },
        );
    }
}

#[test]
fn a_header_without_addresses_leaves_the_addresses_of_the_socket() {
    let datagram = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb";
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN 1.1.1.1 2.2.2.2 3 4\r\n", LOCAL, datagram] {
        serve(
            Way::Tcp,
            required(),
            |server| server,
            move |door, handle| {
                let mut client = door.client();
                let expected = format!("{} to {}: hello", client.address(), handle.local_addr());
                assert_eq!(client.ask(&[header, b"hello"].concat()), expected);
            },
        );
    }
}

#[cfg(unix)]
#[test]
fn the_path_of_a_unix_client_in_the_header_is_its_address() {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8".to_vec();
    header.resize(16 + 216, 0);
    header[16..16 + 11].copy_from_slice(b"/run/client");
    header[16 + 108..16 + 108 + 7].copy_from_slice(b"\0server");
    assert_answer([&header[..], b"hello"].concat(), "/run/client to @server: hello");
}

#[test]
fn a_connection_also_has_the_addresses_of_its_socket_and_the_whole_header() {
    test(async {
        let handler = async |mut conn: Connection| {
            let header = conn.proxy_header().expect("the client has sent a header");
            let said = format!(
                "{} {} v{} {:?} {:?}",
                conn.socket_peer_addr(),
                conn.socket_local_addr(),
                header.version(),
                header.source().map(Address::to_string),
                header.tlvs().map(|(kind, value)| (kind, value.escape_ascii().to_string())).collect::<Vec<_>>()
            );
            conn.write_all(said.as_bytes()).await
        };
        let (server, door) = Door::open(Way::Tcp, required()).await;
        let body = async |handle: Handle| {
            let mut client = door.client();
            let socket = format!("{} {}", client.address(), handle.local_addr());
            let mut header = [V2, b"\x02\0\x07example", b"\x04\0\0"].concat();
            header[15] += 13;
            let answer = task::spawn_blocking(move || client.ask(&header)).await;
            assert_eq!(answer, format!("{socket} v2 Some(\"192.0.2.1:56324\") [(2, \"example\"), (4, \"\")]"));
        };
        server.scope(handler, body).await.unwrap();
    });
}

#[test]
fn the_list_of_connections_and_the_log_show_the_client_address_of_the_header() {
    let logs = logs::remember();
    let report = serve(
        Way::Tcp,
        required(),
        |server| server,
        |door, handle| {
            let mut client = door.client();
            client.send(b"PROXY TCP4 203.0.113.77 198.51.100.2 56324 443\r\n");
            let client_is = |info: &ebbtide::ConnectionInfo| info.peer_addr().to_string() == "203.0.113.77:56324";
            while !handle.connections().iter().any(client_is) {
                std::thread::yield_now();
            }
            assert_eq!(handle.connections()[0].local_addr().unwrap().to_string(), "198.51.100.2:443");
            client.finish();
            client.rest();
        },
    );
    assert_eq!(report.completed(), 1, "{report}");
    while logs.lines_with("peer=203.0.113.77:56324").is_empty() {
        std::thread::yield_now(); // until the line about its end is logged
    }
}

#[test]
fn one_server_can_have_an_inherited_listener_with_the_protocol_and_another_without_it() {
    test(async {
        let inherited = std::net::TcpListener::bind(loopback()).unwrap();
        let behind = inherited.local_addr().unwrap();
        let listener = ebbtide::Listener::try_from(inherited).unwrap().proxy_protocol(required());
        let server = Server::bind_with(loopback(), &ListenOptions::new()).await.unwrap().add_listener(listener);
        let body = async |handle: Handle| {
            task::spawn_blocking(move || {
                let ask = |address: &Address, bytes: &[u8]| {
                    let mut client = connect(address);
                    client.write_all(bytes).unwrap();
                    client.shutdown(std::net::Shutdown::Write).unwrap();
                    (client.local_addr().unwrap(), rest(&mut client))
                };
                assert_eq!(ask(&behind.into(), &[V1, b"hello"].concat()).1, format!("{ANSWER}hello"));
                let (client, answer) = ask(handle.local_addr(), b"hello");
                assert_eq!(answer, format!("{client} to {}: hello", handle.local_addr()));
            })
            .await;
        };
        server.scope(who, body).await.unwrap();
    });
}
