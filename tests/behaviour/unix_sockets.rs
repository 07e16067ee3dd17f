//! Unix sockets and their files. A file exists while its server serves. On every way out the server removes it, if it
//! is still the one that the server made.
#![cfg(unix)]

use crate::support::files::Folder;
use crate::support::*;
use async_std::{future, prelude::*, task};
use ebbtide::{Connection, Handle, ListenOptions, Listener, Phase, Server};
use std::future::pending;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

async fn waits(conn: Connection) {
    conn.until_draining(pending::<()>()).await;
}

/// Sends one byte, and returns the reply.
fn ask(path: &Path) -> String {
    let mut client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(NET)).unwrap();
    client.write_all(&[REPLIES]).unwrap();
    io::read_to_string(&mut client).unwrap()
}

#[test]
fn a_client_is_served_and_addresses_are_shown_as_paths() {
    test(async {
        let folder = Folder::new();
        let path = folder.path("a.sock");
        let server = Server::bind_unix(&path).await.unwrap();
        assert_eq!(server.to_string(), format!("Server listening on {}", path.display()));
        assert_eq!(server.local_addr().path(), Some(path.as_path()));
        let handler = async |mut conn: Connection| {
            assert!(conn.tcp_stream().is_none());
            let text = format!("{} at {}", conn.peer_addr(), conn.local_addr());
            conn.write_all(text.as_bytes()).await
        };
        let client = path.clone();
        let body = async |_| Ok(task::spawn_blocking(move || ask(&client)).await);
        let (reply, _) = server.scope(handler, body).await.unwrap();
        assert_eq!(reply, format!("unix:unnamed at {}", path.display()));
    });
}

/// Checks that the file exists while `leave` has the server, and is gone when `leave` has ended.
fn gone_after(leave: impl AsyncFnOnce(Server) + Send + 'static) {
    on_thread(move || {
        let folder = Folder::new();
        let path = folder.path("gone.sock");
        let server = task::block_on(Server::bind_unix(&path)).unwrap();
        assert!(path.exists());
        let handle = server.handle();
        let _client = UnixStream::connect(&path).unwrap();
        let _ = catch_unwind(AssertUnwindSafe(|| task::block_on(leave(server))));
        assert_eq!(handle.phase(), Phase::Closed);
        assert_eq!(folder.names(), [""; 0], "the folder must be empty after the exit");
    });
}

#[test]
fn the_socket_file_is_removed_on_every_way_out() {
    gone_after(async |server| drop(server.scope(waits, async |_| ()).await.unwrap()));
    gone_after(async |server| drop(server.scope(waits, async |_| Err::<(), _>("an error".into())).await.unwrap_err()));
    gone_after(async |server| drop(server.scope(waits, async |_| panic!("the body's own")).await));
    gone_after(async |server| {
        drop(server.scope(waits, async |server: Handle| drop(server.shutdown().await)).await.unwrap())
    });
    gone_after(async |server| {
        drop(server.scope(waits, async |server: Handle| drop(server.cancel().await)).await.unwrap())
    });
    gone_after(async |server| drop(server.shutdown_when(async {}).serve(waits).await.unwrap()));
    gone_after(async |server| {
        let serving = server.scope(waits, async |_| pending::<()>().await);
        future::timeout(Duration::from_millis(20), serving).await.unwrap_err();
    });
    gone_after(async |server| {
        let handle = server.handle();
        let serving = task::spawn(server.serve(waits));
        while !handle.is_serving() {
            task::yield_now().await;
        }
        serving.cancel().await;
    });
    gone_after(async |server| {
        let mut serving = std::pin::pin!(server.serve(waits));
        let _ = future::timeout(Duration::from_millis(20), serving.as_mut()).await;
        panic!("around the server");
    });
    gone_after(async |server| {
        server.handle().shutdown().await; // never served
    });
    gone_after(async |server| drop(server));
    gone_after(async |server| drop(server.serve(waits))); // never polled
    on_thread(|| {
        let folder = Folder::new();
        drop(Listener::unix(folder.path("no server.sock")).unwrap());
        assert_eq!(folder.names(), [""; 0]);
    });
}

#[test]
fn r04_the_file_is_removed_before_the_drain_begins_and_earlier_clients_are_served() {
    test_alone(async {
        let folder = Folder::new();
        let path = folder.path("queue.sock");
        let server = Server::bind_unix(&path).await.unwrap();
        let mut queued: Vec<_> = (0..50).map(|_| UnixStream::connect(&path).unwrap()).collect();
        for client in &mut queued {
            client.set_read_timeout(Some(NET)).unwrap();
            client.write_all(&[REPLIES]).unwrap();
        }
        let mut held = Some(hold_executor());
        let body = async |server: Handle| {
            drop(server.shutdown());
            held.take();
            server.until_draining(pending::<()>()).await;
            assert!(!path.exists() && !server.is_serving());
            assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::NotFound);
        };
        let (_, report) = server.scope(speaks, body).await.unwrap();
        assert_eq!(report.completed(), 50, "{report}");
        for client in queued {
            assert_eq!(io::read_to_string(client).unwrap(), "whole reply");
        }
    });
}

#[test]
fn a_socket_file_that_was_already_removed_gives_no_warning() {
    test(async {
        let folder = Folder::new();
        let path = folder.path("taken.sock");
        let body = async |_| std::fs::remove_file(&path).unwrap();
        let logs = logs::remember();
        Server::bind_unix(&path).await.unwrap().scope(waits, body).await.unwrap();
        assert_eq!(logs.lines_with("taken.sock").iter().filter(|(level, _)| *level <= log::Level::Warn).count(), 0);
    });
}

#[test]
fn a_file_that_has_replaced_the_servers_is_kept() {
    test(async {
        let folder = Folder::new();
        let path = folder.path("replaced.sock");
        let body = async |_| {
            std::fs::remove_file(&path).unwrap();
            Ok(UnixListener::bind(&path)?)
        };
        let (other, _) = Server::bind_unix(&path).await.unwrap().scope(waits, body).await.unwrap();
        assert!(path.exists(), "the file of another socket must be kept");
        let client = UnixStream::connect(&path).unwrap();
        drop((other.accept().unwrap(), client));

        // The other socket is renamed over the file, as careful programs do it.
        std::fs::remove_file(&path).unwrap();
        let body = async |_| {
            let other = UnixListener::bind(folder.path("new.sock")).unwrap();
            std::fs::rename(folder.path("new.sock"), &path).unwrap();
            Ok(other)
        };
        let (_other, _) = Server::bind_unix(&path).await.unwrap().scope(waits, body).await.unwrap();
        assert!(path.exists(), "the file of another socket must be kept");
    });
}

#[test]
fn a_socket_file_that_was_moved_is_not_removed() {
    test(async {
        let folder = Folder::new();
        let body = async |_| std::fs::rename(folder.path("here.sock"), folder.path("there.sock")).unwrap();
        Server::bind_unix(folder.path("here.sock")).await.unwrap().scope(waits, body).await.unwrap();
        assert_eq!(folder.names(), ["there.sock"]);
    });
}

#[test]
fn the_mode_of_the_file_is_the_given_one_or_follows_the_umask() {
    test(async {
        let folder = Folder::new();
        for mode in [0o600, 0o660, 0o666, 0o777] {
            let path = folder.path("mode.sock");
            let options = ListenOptions::new().mode(mode);
            let server = Server::bind_unix_with(&path, &options).await.unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
            drop(server);
        }
        // Without `mode`, the file has the same mode as one of the standard library, which sets none.
        let (ours, theirs) = (folder.path("ours.sock"), folder.path("theirs.sock"));
        let _both = (Listener::unix(&ours).unwrap(), UnixListener::bind(&theirs).unwrap());
        assert_eq!(std::fs::metadata(ours).unwrap().mode(), std::fs::metadata(theirs).unwrap().mode());
    });
}

#[test]
fn no_client_can_connect_before_the_mode_is_set() {
    const ROUNDS: usize = 1_000; // a wrong order would not show each time, but in some of the rounds
    on_thread(|| {
        let folder = Folder::new();
        let path = folder.path("guarded.sock");
        let step = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            // Connects as soon as it can, each time, and looks at the file then.
            let looking = scope.spawn(|| {
                let mut modes = Vec::new();
                for _ in 0..ROUNDS {
                    while UnixStream::connect(&path).is_err() {}
                    modes.push(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777);
                    step.wait(); // the file may be removed
                    step.wait(); // the file has been removed
                }
                modes
            });
            for _ in 0..ROUNDS {
                let listener = Listener::unix_with(&path, &ListenOptions::new().mode(0o600)).unwrap();
                step.wait();
                drop(listener);
                step.wait();
            }
            assert_eq!(looking.join().unwrap(), [0o600; ROUNDS]);
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_needs_no_file_and_is_free_after_the_exit() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    test(async {
        let name = format!("ebbtide\0{}", std::process::id()).into_bytes();
        let client = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = Listener::unix_abstract(&name).unwrap();
        let shown = format!(r"@ebbtide\x00{}", std::process::id());
        assert!(listener.local_addr().is_unix());
        assert_eq!((listener.local_addr().path(), listener.local_addr().to_string()), (None, shown));
        let taken = Listener::unix_abstract(&name).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        assert!(
            taken.to_string().contains(r"`@ebbtide\x00")
                && taken.to_string().contains("something listens there already"),
            "{taken}"
        );
        let body = async |_| {
            let mut stream = UnixStream::connect_addr(&client).unwrap();
            stream.write_all(&[REPLIES]).unwrap();
            Ok(task::spawn_blocking(move || io::read_to_string(stream)).await?)
        };
        let (reply, _) = Server::new(listener).scope(speaks, body).await.unwrap();
        assert_eq!(reply, "whole reply");
        assert_eq!(UnixStream::connect_addr(&client).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        drop(Listener::unix_abstract(&name).unwrap());
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_invalid_abstract_name_is_an_error() {
    assert_eq!(Listener::unix_abstract("").unwrap_err().kind(), ErrorKind::InvalidInput);
    let long = format!("{:0108}", std::process::id());
    let error = Listener::unix_abstract(&long).unwrap_err();
    assert!(error.to_string().contains("at most 107") && error.to_string().contains(&long), "{error}");
    drop(Listener::unix_abstract(&long[1..]).unwrap());
}

#[test]
fn an_invalid_path_is_an_error_that_names_it_and_the_remedy() {
    test(async {
        let folder = Folder::new();
        let long = folder.path(&"x".repeat(108));
        let missing = folder.path("no such folder").join("a.sock");
        let table = [
            (long.clone(), ErrorKind::InvalidInput, "at most 107"),
            (missing, ErrorKind::NotFound, "does not exist: make it first"),
            ("".into(), ErrorKind::InvalidInput, "the path is empty"),
            ("with a\0zero".into(), ErrorKind::InvalidInput, "there is a zero byte in the path"),
        ];
        for (path, kind, hint) in table {
            let error = Server::bind_unix(&path).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            let shown = path.to_string_lossy().replace('\0', r"\u{0}");
            assert!(error.to_string().contains(&format!("`{shown}`")), "{error}");
            assert!(error.to_string().contains(hint), "{error}");
        }
        assert_eq!(folder.names(), [""; 0]);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn the_path_of_a_clients_socket_forges_no_log_line_and_sends_no_escape_to_a_terminal() {
    let logs = logs::remember();
    test(async move {
        let folder = Folder::new();
        let server = Server::bind_unix(folder.path("a.sock")).await.unwrap();
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        client.bind(&socket2::SockAddr::unix(folder.path("b\n[ERROR] forged \u{1b}[31m")).unwrap()).unwrap();
        client.connect(&socket2::SockAddr::unix(folder.path("a.sock")).unwrap()).unwrap();
        let (send, names) = async_std::channel::bounded(1);
        let handler = move |conn: Connection| {
            send.try_send(conn.peer_addr().to_string()).unwrap();
            async { Err::<(), _>(io::Error::other("as ordered")) }
        };
        let (name, _) = server.scope(handler, async |_| Ok(names.recv().await?)).await.unwrap();
        let escaped = r"b\n[ERROR] forged \u{1b}[31m";
        assert_eq!(name, folder.path(escaped).display().to_string());
        let lines = logs.lines_with("[ERROR] forged");
        assert!(lines.iter().any(|(_, line)| line.contains("failed: as ordered")), "{lines:?}");
        for (_, line) in lines {
            assert!(line.contains(escaped) && !line.contains(['\n', '\u{1b}']), "{line:?}");
        }
    });
}
