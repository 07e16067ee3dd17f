//! One inherited socket, two who have it. Whether accepting blocks is a property of the socket, and the other, when it
//! leaves the socket as it had found it, used to make it blocking under us: our next accept then blocked a thread of
//! the executor, and with it the shutdown, until a client came.
#![cfg(unix)]

use crate::support;
use crate::support::{Handlers, SPEAKS, hold_executor, loopback, order, rest};
use ebbtide::{Address, Listener, Server};
use socket2::SockRef;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

#[test]
fn another_who_makes_the_socket_blocking_does_not_make_us_block() {
    support::test_alone(async {
        let socket = TcpListener::bind(loopback()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = Address::from(socket.local_addr().unwrap());
        let handlers = Handlers::new();
        let server = Server::new(Listener::try_from(socket.try_clone().unwrap()).unwrap());
        let handle = server.handle();
        let serving = async_std::task::spawn(server.serve(handlers.handler()));
        assert_eq!(rest(&mut order(&address, SPEAKS)), "whole reply");
        let held = hold_executor(); // so that nobody is in the middle of an accept
        socket.set_nonblocking(false).unwrap();
        drop(held);
        // Having had this one, the accept loop looks whether there is one more.
        assert_eq!(rest(&mut order(&address, SPEAKS)), "whole reply");
        let report = handle.shutdown().await;
        assert_eq!(report.completed(), 2, "{report}");
        serving.await.unwrap();
        assert!(!SockRef::from(&socket).nonblocking().unwrap(), "it is left as the other wanted it");
    });
}

#[test]
fn at_whatever_moment_the_other_makes_it_blocking_nobody_blocks() {
    support::test(async {
        let socket = TcpListener::bind(loopback()).unwrap();
        let address = Address::from(socket.local_addr().unwrap());
        let handlers = Handlers::new();
        let server = Server::new(Listener::try_from(socket.try_clone().unwrap()).unwrap());
        let handle = server.handle();
        let serving = async_std::task::spawn(server.serve(handlers.handler()));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let over = Until(&over);
            let over_yet = over.0;
            scope.spawn(|| {
                while !over_yet.load(SeqCst) {
                    socket.set_nonblocking(false).unwrap();
                }
            });
            for client in 0..300 {
                assert_eq!(rest(&mut order(&address, SPEAKS)), "whole reply", "client {client}");
            }
            drop(over);
        });
        assert_eq!(handle.shutdown().await.completed(), 300);
        serving.await.unwrap();
    });
}

/// Dropped, it is over: on a panic too, or the scope would wait for ever.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
