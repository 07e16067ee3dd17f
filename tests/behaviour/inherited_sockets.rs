//! Inherited sockets: they were listening before the server got them, and other processes may hold them too. The server
//! takes over only what it can serve, and leaves each socket as it was: listening, in its blocking mode, its file kept.
#![cfg(unix)]

use crate::support::files::Folder;
use crate::support::*;
use async_std::{future, task};
use ebbtide::{Address, Cause, Handle, Listener, Server};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

fn dup<T: From<OwnedFd>>(socket: &impl std::os::fd::AsFd) -> T {
    T::from(socket.as_fd().try_clone_to_owned().unwrap())
}

fn is_nonblocking(socket: &impl std::os::fd::AsFd) -> bool {
    SockRef::from(socket).nonblocking().unwrap()
}

fn listens(socket: &impl std::os::fd::AsFd) -> bool {
    !cfg!(target_os = "linux") || SockRef::from(socket).is_listener().unwrap()
}

#[test]
fn a_tcp_listener_of_the_standard_library_can_be_served() {
    test(async {
        let socket = TcpListener::bind(loopback()).unwrap();
        let address = Address::from(socket.local_addr().unwrap());
        let mut queued = order(&address, REPLIES); // waits in the backlog
        let listener = Listener::try_from(socket).unwrap();
        assert_eq!(listener.local_addr(), &address);
        let body = async |_| Ok(task::spawn_blocking(move || rest(&mut queued)).await);
        let (reply, _) = Server::new(listener).scope(speaks, body).await.unwrap();
        assert_eq!(reply, "whole reply");
        assert!(refuses(&address), "no other holder is left, so the socket is closed");
    });
}

#[test]
fn a_unix_listener_of_the_standard_library_can_be_served_and_its_file_is_kept() {
    test(async {
        let folder = Folder::new();
        let path = folder.path("std.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let listener = Listener::try_from(socket).unwrap();
        assert_eq!(listener.local_addr().path(), Some(path.as_path()));
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(&[REPLIES]).unwrap();
        let body = async |_| Ok(task::spawn_blocking(move || io::read_to_string(&mut client)).await?);
        let (reply, _) = Server::new(listener).scope(speaks, body).await.unwrap();
        assert_eq!(reply, "whole reply");
        assert!(path.exists(), "the server must not remove a file that it has not made");
    });
}

#[test]
fn a_raw_descriptor_of_a_tcp_or_a_unix_socket_can_be_served() {
    test(async {
        let folder = Folder::new();
        let path = folder.path("raw.sock");
        let tcp = TcpListener::bind(loopback()).unwrap();
        let address = Address::from(tcp.local_addr().unwrap());
        let listener = Listener::try_from(OwnedFd::from(tcp)).unwrap();
        let unix = UnixListener::bind(&path).unwrap();
        let server = Server::new(listener).add_listener(Listener::try_from(OwnedFd::from(unix)).unwrap());
        assert_eq!(server.to_string(), format!("Server listening on {address}, {}", path.display()));
        let mut over_tcp = order(&address, REPLIES);
        let mut over_unix = UnixStream::connect(&path).unwrap();
        over_unix.write_all(&[REPLIES]).unwrap();
        let body = async |_| {
            let read = move || (rest(&mut over_tcp), io::read_to_string(&mut over_unix).unwrap());
            Ok(task::spawn_blocking(read).await)
        };
        let (replies, report) = server.scope(speaks, body).await.unwrap();
        assert_eq!(replies, ("whole reply".to_owned(), "whole reply".to_owned()));
        assert_eq!(report.completed(), 2, "{report}");
    });
}

/// Asserts that the descriptor is refused, with an error that names it and contains this reason.
fn assert_refused(fd: impl Into<OwnedFd>, because: &str) {
    let fd = fd.into();
    let number = fd.as_raw_fd();
    let error = Listener::try_from(fd).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("descriptor {number}:")) && text.contains(because), "{text}");
}

#[test]
fn the_error_for_a_descriptor_that_cannot_be_served_names_it_and_the_reason() {
    on_thread(|| {
        let folder = Folder::new();
        assert_refused(std::fs::File::create(folder.path("a file")).unwrap(), "no socket");
        assert_refused(UdpSocket::bind(loopback()).unwrap(), "no stream socket");
        assert_refused(UnixStream::pair().unwrap().0, "does not listen");
        assert_refused(std::os::unix::net::UnixDatagram::unbound().unwrap(), "no stream socket");

        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind(&loopback().into()).unwrap();
        assert_refused(bound, "does not listen; call `listen`");

        let server = TcpListener::bind(loopback()).unwrap();
        assert_refused(TcpStream::connect(server.local_addr().unwrap()).unwrap(), "does not listen");

        // The listener types of the standard library can hold such descriptors too.
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind(&loopback().into()).unwrap();
        let error = Listener::try_from(TcpListener::from(bound)).unwrap_err();
        assert!(error.to_string().contains("does not listen"), "{error}");
        let error =
            Listener::try_from(UnixListener::from(OwnedFd::from(UdpSocket::bind(loopback()).unwrap()))).unwrap_err();
        assert!(error.to_string().contains("no stream socket"), "{error}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_of_another_family_or_a_packet_socket_is_refused() {
    // Without vsock in the kernel there is nothing to test.
    if let Ok(vsock) = Socket::new(Domain::VSOCK, Type::STREAM, None) {
        assert_refused(vsock, "neither a TCP nor a Unix socket");
    }
    let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    assert_refused(packets, "no stream socket");
}

/// Runs a server on a duplicate of the socket and leaves it in the given way. Asserts that the other holder then finds
/// the socket in its former blocking mode, and still listening.
async fn assert_left_as_found<S: std::os::fd::AsFd>(socket: &S, leave: Leave) {
    for nonblocking in [false, true] {
        SockRef::from(socket).set_nonblocking(nonblocking).unwrap();
        let listener = Listener::try_from(dup::<OwnedFd>(socket)).unwrap();
        assert!(is_nonblocking(socket), "non-blocking while the server has it");
        let server = Server::new(listener);
        let handle = server.handle();
        match leave {
            Leave::Return => drop(server.scope(speaks, async |_| ()).await.unwrap()),
            Leave::Cancel => {
                let serving = task::spawn(server.serve(speaks));
                handle.cancel().await;
                serving.await.unwrap();
            }
            Leave::DropServing => {
                let serving = task::spawn(server.serve(speaks));
                while !handle.is_serving() {
                    task::yield_now().await;
                }
                serving.cancel().await;
            }
            Leave::DropUnserved => drop(server),
        }
        assert!(!handle.is_serving(), "{leave:?}: `is_serving` is false although the socket is still open");
        assert_eq!(is_nonblocking(socket), nonblocking, "{leave:?}");
        assert!(listens(socket), "{leave:?}");
    }
}

/// Way out of a server.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Return,
    Cancel,
    DropServing,
    DropUnserved,
}

#[test]
fn every_way_out_leaves_an_inherited_socket_as_it_was_found() {
    test(async {
        let folder = Folder::new();
        let path = folder.path("kept.sock");
        let tcp = TcpListener::bind(loopback()).unwrap();
        let unix = UnixListener::bind(&path).unwrap();
        for leave in [Leave::Return, Leave::Cancel, Leave::DropServing, Leave::DropUnserved] {
            assert_left_as_found(&tcp, leave).await;
            assert_left_as_found(&unix, leave).await;
            assert!(path.exists(), "{leave:?}");
        }
    });
}

#[test]
fn a_listener_that_is_dropped_without_a_server_leaves_its_socket_as_it_was_found() {
    on_thread(|| {
        let socket = TcpListener::bind(loopback()).unwrap();
        drop(Listener::try_from(dup::<TcpListener>(&socket)).unwrap());
        assert!(!is_nonblocking(&socket) && listens(&socket));
    });
}

#[test]
fn r04_the_clients_in_the_backlog_of_a_shared_socket_are_left_to_its_other_holders() {
    test(async {
        let socket = TcpListener::bind(loopback()).unwrap();
        let address = Address::from(socket.local_addr().unwrap());
        let server = Server::new(Listener::try_from(dup::<TcpListener>(&socket)).unwrap());
        server.handle().pause(); // so that these clients stay in the backlog
        let mut queued: Vec<_> = (0..5).map(|_| order(&address, b'?')).collect();
        let (_, report) = server.scope(speaks, async |server: Handle| drop(server.shutdown())).await.unwrap();
        assert_eq!((report.accepted(), report.cause()), (0, Cause::Shutdown), "{report}");
        let accepting = std::thread::spawn(move || {
            for _ in 0..5 {
                let (mut client, _) =
                    socket.accept().expect("the socket blocks again, and the clients are still in its backlog");
                client.write_all(b"by the other").unwrap();
                client.read_exact(&mut [0]).unwrap();
            }
        });
        for client in &mut queued {
            assert_eq!(rest(client), "by the other");
        }
        accepting.join().unwrap();
        assert!(refuses(&address));
    });
}

#[test]
fn a_server_that_is_restarted_on_one_socket_again_and_again_loses_no_client() {
    test(async {
        let socket = TcpListener::bind(loopback()).unwrap();
        let address = Address::from(socket.local_addr().unwrap());
        let clients = {
            let address = address.clone();
            task::spawn_blocking(move || {
                for n in 0..500 {
                    assert_eq!(rest(&mut order(&address, REPLIES)), "whole reply", "client {n}");
                }
            })
        };
        let mut clients = std::pin::pin!(clients);
        let mut served = 0;
        loop {
            let server = Server::new(Listener::try_from(dup::<TcpListener>(&socket)).unwrap());
            let body = async |_| Ok(future::timeout(Duration::from_millis(5), clients.as_mut()).await.is_ok());
            let (done, report) = server.scope(speaks, body).await.unwrap();
            served += report.completed();
            if done {
                break;
            }
        }
        assert_eq!(served, 500);
    });
}

#[test]
fn two_servers_on_one_socket_do_not_disturb_each_other() {
    test(async {
        let socket = TcpListener::bind(loopback()).unwrap();
        let address = Address::from(socket.local_addr().unwrap());
        let [first, second] =
            [(); 2].map(|()| Server::new(Listener::try_from(dup::<TcpListener>(&socket)).unwrap()).grace(NET));
        let served = async || {
            let mut client = order(&address, REPLIES);
            assert_eq!(task::spawn_blocking(move || rest(&mut client)).await, "whole reply");
        };
        let body = async |second: Handle| {
            served().await;
            drop(first); // makes the socket blocking again, as it was: for the second server too
            served().await;
            assert!(second.is_serving());
            // The accept loop has tried to accept one more client. That accept must not block.
        };
        let (_, report) = second.scope(speaks, body).await.unwrap();
        assert_eq!(report.completed(), 2, "{report}");
        assert!(!is_nonblocking(&socket), "blocking, as it was found");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_inherited_descriptor_is_not_passed_on_to_programs_that_this_one_starts() {
    test(async {
        let socket = std::net::TcpListener::bind(loopback()).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&socket);
        socket2::SockRef::from(&socket).set_cloexec(false).unwrap();
        let listener = Listener::try_from(socket).unwrap();
        let link = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let flags = link.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & 0o2_000_000, 0, "O_CLOEXEC: {flags:o}");
        drop(listener);
    });
}
