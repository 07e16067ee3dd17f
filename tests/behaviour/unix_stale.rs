//! A bind to a path where a file exists already. A stale socket file is removed; a live socket is an error that names
//! it; a file that is not a socket is left alone. Programs that find the same stale file at the same moment do not take
//! the socket from each other.
#![cfg(unix)]

use crate::support::files::Folder;
use crate::support::*;
use async_std::task;
use ebbtide::{Connection, Listener, Server};
use futures_concurrency::prelude::*;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Leaves a socket file behind, as a process does that was killed.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(path.exists());
}

/// Checks that a bind fails with an error that names the path and the reason, and removes nothing.
fn is_taken(path: &Path, because: &str) {
    let error = Listener::unix(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("`{}`", path.display())) && text.contains(because), "{text}");
    assert!(path.symlink_metadata().is_ok(), "the file was removed");
}

#[test]
fn a_stale_file_is_replaced_and_that_is_logged() {
    test(async {
        let logs = logs::remember();
        let folder = Folder::new();
        let path = folder.path("stale.sock");
        leave_stale(&path);
        let server = Server::bind_unix(&path).await.unwrap();
        let client = UnixStream::connect(&path).unwrap();
        server.scope(|_: Connection| async {}, async |_| ()).await.unwrap();
        drop(client);
        assert_eq!(folder.names(), [""; 0]);
        let line = format!("removed the socket file `{}`", path.display());
        assert_eq!(logs.lines_with(&line).len(), 1);
        // A datagram socket that no process holds is stale, too.
        drop(UnixDatagram::bind(&path).unwrap());
        drop(Listener::unix(&path).unwrap());
    });
}

#[test]
fn a_live_socket_is_an_error_and_keeps_serving() {
    test(async {
        let folder = Folder::new();
        let path = folder.path("live.sock");
        let server = Server::bind_unix(&path).await.unwrap();
        is_taken(&path, "something listens there already: stop it, or choose another path");
        let handler = async |conn: Connection| {
            use async_std::io::WriteExt;
            let mut conn = conn;
            conn.write_all(b"still here").await
        };
        let client = path.clone();
        let body = async |_| {
            is_taken(&path, "something listens there already");
            let ask = move || io::read_to_string(UnixStream::connect(client).unwrap()).unwrap();
            Ok(task::spawn_blocking(ask).await)
        };
        let (reply, _) = server.scope(handler, body).await.unwrap();
        assert_eq!(reply, "still here");
        drop(Listener::unix(&path).unwrap());
    });
}

#[test]
fn a_live_socket_with_a_full_backlog_is_an_error_at_once() {
    on_thread(|| {
        let folder = Folder::new();
        let path = folder.path("full.sock");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let mut clients = Vec::new();
        loop {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            if client.connect(&SockAddr::unix(&path).unwrap()).is_err() || clients.len() > 10_000 {
                break;
            }
            clients.push(client);
        }
        is_taken(&path, "something listens there already");
    });
}

#[test]
fn a_file_that_is_no_stream_socket_is_left_alone() {
    let folder = Folder::new();
    let file = folder.path("file");
    std::fs::write(&file, "precious").unwrap();
    is_taken(&file, "a file that is no socket");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");

    let directory = folder.path("directory");
    std::fs::create_dir(&directory).unwrap();
    is_taken(&directory, "it is a folder");

    // The same for a link to a stale socket: neither the link nor its target is removed.
    let (stale, link) = (folder.path("stale.sock"), folder.path("link"));
    leave_stale(&stale);
    std::os::unix::fs::symlink(&stale, &link).unwrap();
    is_taken(&link, "a file that is no socket");
    assert!(stale.exists());

    let datagrams = folder.path("datagrams.sock");
    let _live = UnixDatagram::bind(&datagrams).unwrap();
    is_taken(&datagrams, "a socket of another type");
}

#[test]
fn a_socket_without_permission_to_connect_is_left_alone() {
    let folder = Folder::new();
    let path = folder.path("private.sock");
    let _live = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    if UnixStream::connect(&path).is_ok() {
        println!("skipped: this user may connect to every socket");
        return;
    }
    is_taken(&path, "a socket that this user may not connect to");
}

#[test]
fn exactly_one_of_many_threads_that_find_a_stale_file_binds() {
    on_thread(|| {
        let folder = Folder::new();
        exactly_one_wins(&folder, 100);
    });
}

/// If none of the threads gets the lock, each looks twice before it removes a file.
#[test]
fn exactly_one_of_many_threads_without_the_lock_binds() {
    on_thread(|| {
        let folder = Folder::new();
        let _locked = lock(&folder);
        exactly_one_wins(&folder, 10);
    });
}

fn exactly_one_wins(folder: &Folder, rounds: usize) {
    const THREADS: usize = 8;
    for round in 0..rounds {
        let path = folder.path(&format!("{round}.sock"));
        leave_stale(&path);
        let start = Barrier::new(THREADS);
        let results: Vec<_> = std::thread::scope(|scope| {
            let bind = || {
                start.wait();
                Listener::unix(&path)
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(bind)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, THREADS - 1), "{lost:?}");
        assert!(lost.iter().all(|error| error.as_ref().unwrap_err().kind() == ErrorKind::AddrInUse), "{lost:?}");
        UnixStream::connect(&path).expect("the winner listens at its path");
        drop(won);
        assert!(!path.exists());
    }
}

/// Locks the folder, as another program may do for a purpose of its own.
fn lock(folder: &Folder) -> nix::fcntl::Flock<std::fs::File> {
    let file = std::fs::File::open(folder.itself()).unwrap();
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap()
}

#[test]
fn a_folder_that_another_program_keeps_locked_does_not_keep_a_server_from_starting_or_stopping() {
    on_thread(|| {
        let logs = logs::remember();
        let folder = Folder::new();
        let path = folder.path("locked.sock");
        let _locked = lock(&folder);
        let warnings = || {
            let text = format!("another program keeps the folder of `{}` locked (`flock`)", path.display());
            logs.lines_with(&text).into_iter().map(|(level, _)| level).collect::<Vec<_>>()
        };
        // A bind takes 0.1 s, and 0.3 s with a stale file.
        let (start, at_most) = (Instant::now(), Duration::from_secs(5));
        let listener = Listener::unix(&path).unwrap();
        assert_eq!(warnings(), [log::Level::Warn]);
        is_taken(&path, "something listens there already");
        drop(listener);
        assert_eq!(folder.names(), [""; 0]);

        leave_stale(&path);
        drop(Listener::unix(&path).unwrap());
        assert_eq!(folder.names(), [""; 0]);
        assert_eq!(warnings(), [log::Level::Warn; 3]);
        assert!(start.elapsed() < at_most, "{:?}", start.elapsed());
    });
}

/// Between `bind` and `listen` a socket refuses clients, as a stale one does.
#[test]
fn without_the_lock_a_socket_that_is_about_to_listen_is_not_taken_for_stale() {
    on_thread(|| {
        let folder = Folder::new();
        let path = folder.path("starting.sock");
        let _locked = lock(&folder);
        let starting = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        starting.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        let tried = std::thread::scope(|scope| {
            let trying = scope.spawn(|| Listener::unix(&path));
            // The other thread tries for 100 ms to get the lock, sees a socket that refuses, and waits 100 ms more.
            std::thread::sleep(Duration::from_millis(150));
            starting.listen(1).unwrap();
            trying.join().unwrap()
        });
        // On a slow machine that thread begins after `listen`. The result is the same.
        let error = tried.unwrap_err();
        assert!(error.to_string().contains("something listens there already"), "{error}");
    });
}

#[test]
fn a_socket_file_is_removed_although_a_link_in_its_path_was_changed() {
    let folder = Folder::new();
    let [old, new, link] = ["old", "new", "current"].map(|name| folder.path(name));
    std::fs::create_dir(&old).unwrap();
    std::fs::create_dir(&new).unwrap();
    std::os::unix::fs::symlink(&old, &link).unwrap();
    let listener = Listener::unix(link.join("linked.sock")).unwrap();
    assert_eq!(listener.local_addr().path(), Some(link.join("linked.sock").as_path()), "the path as it was given");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&new, &link).unwrap();
    let next = Listener::unix(link.join("linked.sock")).unwrap();
    drop(listener);
    assert!(!old.join("linked.sock").exists(), "the file of the first listener was left behind");
    assert!(new.join("linked.sock").exists(), "the file of the second listener was removed");
    drop(next);
    assert!(!new.join("linked.sock").exists());
}

/// A thread for blocking work waits for the folder's lock.
#[test]
fn a_bind_to_a_locked_folder_blocks_no_other_task() {
    test(async {
        let folder = Folder::new();
        let _lock = lock(&folder);
        let ticks = AtomicUsize::new(0);
        let ticking = async {
            loop {
                task::sleep(Duration::from_millis(1)).await;
                ticks.fetch_add(1, Ordering::SeqCst);
            }
        };
        let binding = async { Server::bind_unix(folder.path("locked.sock")).await.unwrap() };
        let server = (binding, ticking).race().await;
        assert!(
            ticks.load(Ordering::SeqCst) > 5,
            "another task must run during the 0.1 s of the wait for the lock: {ticks:?} ticks"
        );
        drop(server);
    });
}
