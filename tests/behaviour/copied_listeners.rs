//! `Listener::try_clone_fd`: another process may have the socket too, so the server leaves its backlog and its file.
#![cfg(unix)]

use crate::support::files::Folder;
use crate::support::*;
use async_std::task;
use ebbtide::{Connection, Handle, ListenOptions, Listener, Server};
use socket2::SockRef;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;

/// Serves nobody, with a client in the backlog at the shutdown. Returns how many were accepted.
async fn ends_with_a_client_in_the_backlog(listener: Listener) -> u64 {
    let body = async |server: Handle| {
        server.shutdown();
        Ok(())
    };
    let server = Server::new(listener);
    server.handle().pause();
    let (_, report) = server.scope(async |_: Connection| {}, body).await.unwrap();
    report.accepted() + report.refused()
}

#[test]
fn the_backlog_is_left_to_the_holder_of_the_copy() {
    test(async {
        let mut listener = Listener::tcp(loopback()).unwrap();
        let address = listener.local_addr().clone();
        let copy = listener.try_clone_fd().unwrap();
        let mut queued = order(&address, REPLIES);
        assert_eq!(ends_with_a_client_in_the_backlog(listener).await, 0);
        let body = async |_| Ok(task::spawn_blocking(move || rest(&mut queued)).await);
        let (reply, report) = Server::new(Listener::try_from(copy).unwrap()).scope(speaks, body).await.unwrap();
        assert_eq!((reply.as_str(), report.completed()), ("whole reply", 1));
        assert!(refuses(&address), "no holder is left, so the socket is closed");
    });
}

#[test]
fn the_file_of_a_unix_socket_is_left_to_the_holder_of_the_copy() {
    test(async {
        let folder = Folder::new();
        let path = folder.path("copied.sock");
        let mut listener = Listener::unix(&path).unwrap();
        let copy = listener.try_clone_fd().unwrap();
        assert_eq!(ends_with_a_client_in_the_backlog(listener).await, 0);
        let mut client = UnixStream::connect(&path).expect("the file must still be there");
        client.write_all(&[REPLIES]).unwrap();
        let body = async |_| Ok(task::spawn_blocking(move || io::read_to_string(&mut client)).await?);
        let (reply, _) = Server::new(Listener::try_from(copy).unwrap()).scope(speaks, body).await.unwrap();
        assert_eq!(reply, "whole reply");
        assert!(path.exists(), "neither of the two may remove it");
    });
}

#[test]
fn a_server_with_a_copied_listener_serves_with_the_options_that_it_was_bound_with() {
    test(async {
        let options = ListenOptions::new().nodelay(false);
        let mut listener = Listener::tcp_with(loopback(), &options).unwrap();
        let copy = listener.try_clone_fd().unwrap();
        assert!(!SockRef::from(&copy).tcp_nodelay().unwrap());
        assert!(SockRef::from(&listener.socket_fd().unwrap()).nonblocking().unwrap());
        // A holder that makes the socket blocking must not block the server: the mode is checked before each accept.
        SockRef::from(&copy).set_nonblocking(false).unwrap();
        let address = listener.local_addr().clone();
        let body = async |_| {
            for _ in 0..3 {
                let mut client = order(&address, REPLIES);
                assert_eq!(task::spawn_blocking(move || rest(&mut client)).await, "whole reply");
            }
            Ok(())
        };
        let (_, report) = Server::new(listener).scope(speaks, body).await.unwrap();
        assert_eq!(report.completed(), 3, "{report}");
        assert!(!SockRef::from(&copy).nonblocking().unwrap(), "it must leave the mode that the other holder has set");
    });
}

#[test]
fn a_listener_without_a_socket_has_no_descriptor_and_says_so() {
    let (mut listener, _connector) = Listener::memory();
    assert!(listener.socket_fd().is_none());
    let error = listener.try_clone_fd().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("the listener `memory`: it is not a socket"), "{error}");
}
