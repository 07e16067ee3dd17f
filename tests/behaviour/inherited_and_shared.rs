//! An inherited socket that another process holds too, and makes blocking while the server serves.
//!
//! The story: the blocking mode belongs to the socket, so every holder shares it. When another holder left, it set the
//! socket back to blocking, as it had found it. The server's next accept then blocked a thread of the executor, and
//! with it the shutdown, until a client connected.
#![cfg(unix)]

use crate::support;
use crate::support::{Handlers, REPLIES, hold_executor, loopback, order, rest};
use ebbtide::{Address, Listener, Server};
use socket2::SockRef;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

#[test]
fn the_server_does_not_block_when_another_holder_makes_the_socket_blocking() {
    support::test_alone(async {
        let socket = TcpListener::bind(loopback()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = Address::from(socket.local_addr().unwrap());
        let handlers = Handlers::new();
        let server = Server::new(Listener::try_from(socket.try_clone().unwrap()).unwrap());
        let handle = server.handle();
        let serving = async_std::task::spawn(server.serve(handlers.handler()));
        assert_eq!(rest(&mut order(&address, REPLIES)), "whole reply");
        let held = hold_executor(); // so that no accept is running
        socket.set_nonblocking(false).unwrap();
        drop(held);
        // After this client the accept loop tries to accept one more. That accept must not block.
        assert_eq!(rest(&mut order(&address, REPLIES)), "whole reply");
        let report = handle.shutdown().await;
        assert_eq!(report.completed(), 2, "{report}");
        serving.await.unwrap();
        assert!(
            !SockRef::from(&socket).nonblocking().unwrap(),
            "the server must leave the mode that the other holder has set"
        );
    });
}

#[test]
fn no_accept_blocks_at_whatever_moment_another_holder_makes_the_socket_blocking() {
    support::test(async {
        let socket = TcpListener::bind(loopback()).unwrap();
        let address = Address::from(socket.local_addr().unwrap());
        let handlers = Handlers::new();
        let server = Server::new(Listener::try_from(socket.try_clone().unwrap()).unwrap());
        let handle = server.handle();
        let serving = async_std::task::spawn(server.serve(handlers.handler()));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let stop = SetOnDrop(&over);
            let over = stop.0;
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    socket.set_nonblocking(false).unwrap();
                }
            });
            for client in 0..300 {
                assert_eq!(rest(&mut order(&address, REPLIES)), "whole reply", "client {client}");
            }
            drop(stop);
        });
        assert_eq!(handle.shutdown().await.completed(), 300);
        serving.await.unwrap();
    });
}

/// Sets the flag when it is dropped, also by a panic: otherwise the scope would wait for its thread forever.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
