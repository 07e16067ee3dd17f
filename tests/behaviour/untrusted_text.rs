//! Untrusted text cannot forge a log line, or send escape sequences to a terminal. It may be in the path of a client's
//! socket, a PROXY header, the text of a handler's error or panic, or a label.

use crate::support::*;
use async_std::channel::unbounded;
use async_std::task;
use ebbtide::{Connection, Handle, Listener, OnFailure, Server};
use std::future::pending;
use std::io;

/// Forges a line, clears the screen, reverses the direction of the text, returns to the start of the line, and sets a
/// colour by an 8-bit control.
const EVIL: &str = "evil\n[ERROR] forged\u{1b}[2J\u{202e}gnp\u{2028}\r\u{9b}31m\u{7f}\u{feff}";

/// The same text as it must be shown.
const SHOWN: &str = r"evil\n[ERROR] forged\u{1b}[2J\u{202e}gnp\u{2028}\r\u{9b}31m\u{7f}\u{feff}";

fn is_clean(text: &str) -> bool {
    let is_bad = |c: char| c.is_control() || ['\u{202e}', '\u{2028}', '\u{feff}'].contains(&c);
    !text.chars().any(is_bad)
}

/// Checks all log lines, also those of tests that run beside this one: all of them must be clean.
fn assert_clean(logs: &logs::Logs, at_least: &[&str]) {
    let lines = logs.lines_with("");
    for (_, line) in &lines {
        assert!(is_clean(line), "{}", line.escape_debug());
    }
    for text in at_least {
        assert!(lines.iter().any(|(_, line)| line.contains(text)), "not logged: {text}\n{lines:#?}");
    }
}

/// Sets a label. Then, by the connection's number, fails, panics, has a task that panics, or waits.
async fn handler(conn: Connection) -> io::Result<()> {
    conn.label(EVIL);
    let n = conn.id().as_u64();
    match n {
        0 => Err(io::Error::other(EVIL)),
        1 => panic!("{EVIL}"),
        2 => {
            let error = conn.spawn(async { panic!("{EVIL}") }).await.unwrap_err();
            assert!(is_clean(&error.to_string()) && is_clean(&format!("{error:?}")), "{error}");
            assert!(error.to_string().contains(SHOWN), "{error}");
            Err(error.into())
        }
        _ => pending().await,
    }
}

#[test]
fn texts_of_handlers_and_tasks_are_escaped_in_the_log_and_in_lists() {
    test(async {
        let logs = logs::remember();
        let server = bind().await.name(EVIL).grace(std::time::Duration::ZERO);
        let clients: Vec<_> = (0..4).map(|_| connect(server.local_addr())).collect();
        let body = async |server: Handle| {
            until(|| server.connections().iter().any(|it| it.id().as_u64() == 3 && it.label().is_some())).await;
            until(|| server.connection_count() == 1).await;
            let info = &server.connections()[0];
            assert!(is_clean(&info.to_string()) && is_clean(&format!("{server:?}")), "{info}");
            assert_eq!(info.label(), Some(EVIL), "the program gets the label unescaped");
            Err::<(), _>(EVIL.into())
        };
        let error = server.scope(handler, body).await.unwrap_err();
        assert!(is_clean(&error.to_string()) && is_clean(&format!("{error:?}")), "{error:?}");
        assert!(format!("{error:?}").contains(SHOWN), "{error:?}");
        drop(clients);
        assert_clean(&logs, &[&format!("failed: {SHOWN}"), &format!("panicked: {SHOWN}"), &format!("server={SHOWN}")]);
    });
}

#[test]
fn a_failure_that_shuts_the_server_down_is_escaped_in_its_error() {
    test(async {
        let logs = logs::remember();
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).on_failure(OnFailure::Shutdown);
        let panics = async |_: Connection| panic!("{EVIL}");
        let body = async |server: Handle| {
            let _client = connector.connect().await?;
            server.until_draining(pending::<()>()).await;
            Ok(())
        };
        let error = server.scope(panics, body).await.unwrap_err();
        for text in [error.to_string(), format!("{error:?}"), io::Error::from(error).to_string()] {
            assert!(is_clean(&text) && text.contains(SHOWN), "{}", text.escape_debug());
        }
        assert_clean(&logs, &[]);
    });
}

#[cfg(unix)]
#[test]
fn the_path_of_a_clients_socket_is_escaped() {
    test(async {
        let logs = logs::remember();
        let folder = files::Folder::new();
        let path = folder.path(EVIL);
        let server = Server::bind_unix(folder.path("server")).await.unwrap();
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        client.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        client.connect(&socket2::SockAddr::unix(folder.path("server")).unwrap()).unwrap();
        let (send, receive) = unbounded();
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                let peer = conn.peer_addr();
                send.send((peer.to_string(), format!("{peer:?} {conn:?}"), peer.path().map(Into::into))).await.unwrap();
            }
        };
        let body = async |_| Ok(receive.recv().await.unwrap());
        let ((shown, debug, raw), _) = server.scope(handler, body).await.unwrap();
        assert!(shown.ends_with(SHOWN) && is_clean(&debug), "{shown} {debug}");
        assert_eq!(raw, Some(path), "the program gets the path unescaped");
        let error = Server::bind_unix(folder.path("missing").join(EVIL)).await.unwrap_err();
        assert!(is_clean(&error.to_string()) && is_clean(&format!("{error:?}")), "{error:?}");
        assert_clean(&logs, &["forged"]);
    });
}

#[cfg(feature = "proxy-protocol")]
#[test]
fn the_text_of_a_proxy_header_is_escaped() {
    test(async {
        let logs = logs::remember();
        let proxy = ebbtide::ProxyProtocol::required().trust_local();
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener.proxy_protocol(proxy));
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8".to_vec();
        for path in [EVIL, ""] {
            let mut field = [0; 108];
            field[..path.len()].copy_from_slice(path.as_bytes());
            header.extend(field);
        }
        let mut malformed = b"PROXY ".to_vec();
        malformed.extend(EVIL.as_bytes());
        let (send, receive) = unbounded();
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move { send.send(format!("{} {conn:?} {:?}", conn.peer_addr(), conn.proxy_header())).await.unwrap() }
        };
        let body = async |_| {
            use async_std::io::WriteExt;
            for bytes in [&malformed, &header] {
                let mut client = connector.connect().await?;
                client.write_all(bytes).await?;
                let _end = async_std::io::ReadExt::read(&mut client, &mut [0]).await;
            }
            Ok(receive.recv().await.unwrap())
        };
        let (shown, _) = server.scope(handler, body).await.unwrap();
        assert!(is_clean(&shown) && shown.contains(SHOWN), "{}", shown.escape_debug());
        assert_clean(&logs, &["malformed", "forged"]);
    });
}

#[test]
fn the_texts_of_a_custom_listener_are_escaped() {
    /// Fails once, and panics the next time, which ends the listener.
    struct Evil(u8);

    impl ebbtide::Accept for Evil {
        type Io = ebbtide::MemoryStream;

        async fn accept(&mut self) -> io::Result<(Self::Io, ebbtide::Address)> {
            self.0 += 1;
            match self.0 {
                1 => Err(io::Error::other(EVIL)),
                _ => panic!("{EVIL}"),
            }
        }
    }

    test(async {
        let logs = logs::remember();
        let server = Server::new(Listener::custom(ebbtide::Address::named(EVIL), Evil(0)));
        assert!(is_clean(&server.to_string()) && is_clean(&format!("{server:?}")), "{server}");
        let error = server.serve(async |_: Connection| {}).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(is_clean(&shown) && shown.contains(SHOWN), "{}", shown.escape_debug());
        task::yield_now().await;
        assert_clean(&logs, &[&format!("cannot accept connections on `{SHOWN}`"), &format!("listener={SHOWN}")]);
    });
}
