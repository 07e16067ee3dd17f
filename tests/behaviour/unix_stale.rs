//! What lies in the place of a Unix socket: a stale file is removed, a live one is an error that names it, and what is
//! no socket is left alone. Programs that find the same stale file at the same moment do not take the socket from each
//! other. Behaviour 35.
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

/// As a process leaves it that was killed.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(path.exists());
}

/// It cannot be had: the error names it and says why, and nothing was removed.
fn is_taken(path: &Path, because: &str) {
    let error = Listener::unix(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("`{}`", path.display())) && text.contains(because), "{text}");
    assert!(path.symlink_metadata().is_ok(), "it was removed");
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
        // A datagram socket that nobody has any more is as stale.
        drop(UnixDatagram::bind(&path).unwrap());
        drop(Listener::unix(&path).unwrap());
    });
}

#[test]
fn a_live_socket_is_an_error_and_none_the_worse_for_being_tried() {
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
fn a_live_socket_with_a_full_queue_is_one_that_lives_and_is_not_waited_for() {
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
fn what_is_no_socket_of_ours_is_left_alone() {
    let folder = Folder::new();
    let file = folder.path("file");
    std::fs::write(&file, "precious").unwrap();
    is_taken(&file, "a file that is no socket");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");

    let directory = folder.path("directory");
    std::fs::create_dir(&directory).unwrap();
    is_taken(&directory, "it is a folder");

    // A link to a stale socket, too: neither the link nor what it leads to is removed.
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
fn a_socket_that_may_not_be_tried_is_left_alone() {
    let folder = Folder::new();
    let path = folder.path("private.sock");
    let _live = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    if UnixStream::connect(&path).is_ok() {
        println!("skipped: this user may do everything");
        return;
    }
    is_taken(&path, "a socket that this user may not connect to");
}

#[test]
fn of_many_threads_that_find_a_stale_file_exactly_one_wins() {
    on_thread(|| {
        let folder = Folder::new();
        exactly_one_wins(&folder, 100);
    });
}

/// Where none of them gets the lock, they look twice before they remove a file.
#[test]
fn of_many_threads_without_the_lock_exactly_one_wins() {
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
        UnixStream::connect(&path).expect("the winner listens where it said");
        drop(won);
        assert!(!path.exists());
    }
}

/// As another program may keep it, for whatever it means by that.
fn lock(folder: &Folder) -> nix::fcntl::Flock<std::fs::File> {
    let file = std::fs::File::open(folder.itself()).unwrap();
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap()
}

#[test]
fn a_folder_that_another_keeps_locked_keeps_nobody_from_starting_or_stopping() {
    on_thread(|| {
        let logs = logs::remember();
        let folder = Folder::new();
        let path = folder.path("locked.sock");
        let _locked = lock(&folder);
        let warnings = || {
            let text = format!("another program keeps the folder of `{}` locked (`flock`)", path.display());
            logs.lines_with(&text).into_iter().map(|(level, _)| level).collect::<Vec<_>>()
        };
        let (start, at_most) = (Instant::now(), Duration::from_secs(5)); // it takes 0.1 s, and 0.3 s if one is stale
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

/// Between a bind and the call that listens a socket refuses, as a stale one does.
#[test]
fn a_server_that_is_just_starting_is_not_taken_for_a_stale_one_without_the_lock() {
    on_thread(|| {
        let folder = Folder::new();
        let path = folder.path("starting.sock");
        let _locked = lock(&folder);
        let starting = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        starting.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        let tried = std::thread::scope(|scope| {
            let trying = scope.spawn(|| Listener::unix(&path));
            // It has tried for the lock 100 ms, sees a socket that refuses, and waits 100 ms more.
            std::thread::sleep(Duration::from_millis(150));
            starting.listen(1).unwrap();
            trying.join().unwrap()
        });
        // On a slow machine it has begun after the call, and sees the same.
        let error = tried.unwrap_err();
        assert!(error.to_string().contains("something listens there already"), "{error}");
    });
}

#[test]
fn a_file_below_a_link_that_is_moved_on_is_removed() {
    let folder = Folder::new();
    let [old, new, link] = ["old", "new", "current"].map(|name| folder.path(name));
    std::fs::create_dir(&old).unwrap();
    std::fs::create_dir(&new).unwrap();
    std::os::unix::fs::symlink(&old, &link).unwrap();
    let listener = Listener::unix(link.join("linked.sock")).unwrap();
    assert_eq!(listener.local_addr().path(), Some(link.join("linked.sock").as_path()), "as it was given");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&new, &link).unwrap();
    let next = Listener::unix(link.join("linked.sock")).unwrap();
    drop(listener);
    assert!(!old.join("linked.sock").exists(), "it was left behind");
    assert!(new.join("linked.sock").exists(), "that of the next release was removed");
    drop(next);
    assert!(!new.join("linked.sock").exists());
}

/// The folder's lock is waited for by a thread for blocking work.
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
        assert!(ticks.load(Ordering::SeqCst) > 5, "it waits a tenth of a second for the lock: {ticks:?}");
        drop(server);
    });
}
