//! Tests of waiting for bytes, on real sockets, one poll at a time.

use super::*;
use futures_concurrency::prelude::*;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::task::Waker;

const KIB: usize = 1024;

/// A client, and the server's side of its connection.
fn pair() -> (TcpStream, Transport) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    (client, Transport::nonblocking_tcp(server).unwrap())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let late = async {
        Timer::after(Duration::from_secs(60)).await;
        panic!("still waiting after a minute")
    };
    async_io::block_on((future, late).race())
}

async fn arrived(transport: &Transport) -> io::Result<usize> {
    poll_fn(|cx| transport.poll_arrived(cx)).await
}

async fn read(transport: &Transport, buf: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| transport.poll_read(cx, buf)).await
}

/// Reads exactly so many bytes, with a buffer of the given length.
async fn read_all(transport: &Transport, mut n: usize, length: usize) {
    let mut buf = vec![0; length];
    while n > 0 {
        let most = length.min(n);
        n -= read(transport, &mut buf[..most]).await.unwrap();
    }
}

/// Reads so much at once that the next wait only looks.
async fn read_much(client: &mut TcpStream, transport: &Transport) {
    client.write_all(&[0; 16 * KIB]).unwrap();
    let mut left = 16 * KIB;
    while left > 0 {
        // Loopback delivers in order, so bytes are there as a whole once the last one is.
        let mut buf = [0; 16 * KIB];
        while transport.plain_peek(&mut buf) < left {
            Timer::after(Duration::from_millis(1)).await;
        }
        left -= read(transport, &mut buf).await.unwrap();
    }
    assert!(transport.reads_much.load(Ordering::Relaxed));
}

impl Transport {
    /// Returns how many bytes lie in the socket.
    fn plain_peek(&self, buf: &mut [u8]) -> usize {
        self.as_tcp().unwrap().peek(buf).unwrap_or_default()
    }
}

#[test]
fn small_messages_are_read_by_the_wait_itself() {
    run(async {
        let (mut client, transport) = pair();
        for n in [1, 100, 16 * KIB - 1, 5] {
            client.write_all(&vec![7; n]).unwrap();
            let first = arrived(&transport).await.unwrap();
            assert_eq!(transport.pushed_back(), Some(first), "with {n} bytes");
            read_all(&transport, n, 64 * KIB).await;
        }
    });
}

#[test]
fn after_a_long_read_the_wait_leaves_the_bytes_in_the_socket_for_a_buffer_of_any_length() {
    run(async {
        let (mut client, transport) = pair();
        read_much(&mut client, &transport).await;
        client.write_all(&[1; 40 * KIB]).unwrap();
        let mut buf = vec![0; 64 * KIB];
        while transport.plain_peek(&mut buf) < 40 * KIB {
            Timer::after(Duration::from_millis(1)).await;
        }
        assert!(arrived(&transport).await.unwrap() > 0);
        assert_eq!(transport.pushed_back(), None);
        assert_eq!(read(&transport, &mut buf).await.unwrap(), 40 * KIB, "all at once");
        // A short message ends it: the wait after it reads again.
        client.write_all(b"short").unwrap();
        assert!(arrived(&transport).await.unwrap() > 0);
        read_all(&transport, 5, 64 * KIB).await;
        client.write_all(b"next").unwrap();
        let first = arrived(&transport).await.unwrap();
        assert_eq!(transport.pushed_back(), Some(first));
        read_all(&transport, 4, 64 * KIB).await;
    });
}

#[test]
fn a_reader_with_a_small_buffer_never_pays_for_a_look() {
    run(async {
        let (mut client, transport) = pair();
        for _ in 0..4 {
            client.write_all(&[1; 40 * KIB]).unwrap();
            let mut left = 40 * KIB;
            while left > 0 {
                let there = arrived(&transport).await.unwrap();
                assert_eq!(transport.pushed_back(), Some(there));
                let mut buf = [0; KIB];
                left -= read(&transport, &mut buf).await.unwrap();
            }
        }
    });
}

#[test]
fn eof_a_reset_and_a_wait_are_seen_by_a_look_too() {
    run(async {
        let (mut client, transport) = pair();
        read_much(&mut client, &transport).await;
        let mut wait = pin!(arrived(&transport));
        for _ in 0..3 {
            // The first poll yields, the next one asks the reactor.
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(transport.pushed_back(), None);
        drop(client);
        assert_eq!(wait.await.unwrap(), 0, "EOF");
        assert_eq!(read(&transport, &mut [0; 8]).await.unwrap(), 0, "and the read behind it");

        let (mut client, transport) = pair();
        read_much(&mut client, &transport).await;
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(arrived(&transport).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn in_a_drain_one_poll_finds_what_has_arrived_by_a_look_too() {
    run(async {
        let (mut client, transport) = pair();
        read_much(&mut client, &transport).await;
        // A longer buffer than there are bytes: so the next read expects to wait.
        client.write_all(&[0; 20 * KIB]).unwrap();
        let mut buf = vec![0; 64 * KIB];
        while transport.plain_peek(&mut buf) < 20 * KIB {
            Timer::after(Duration::from_millis(1)).await;
        }
        assert_eq!(read(&transport, &mut buf).await.unwrap(), 20 * KIB);
        client.write_all(b"last").unwrap();
        while transport.plain_peek(&mut buf) < 4 {
            Timer::after(Duration::from_millis(1)).await;
        }
        transport.be_eager();
        let poll = transport.poll_arrived(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(poll, Poll::Ready(Ok(1..))), "{poll:?}");
        read_all(&transport, 4, 8).await;
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_urgent_byte_that_only_a_look_has_passed_is_taken() {
    for closes in [true, false] {
        run(async {
            let (mut client, transport) = pair();
            read_much(&mut client, &transport).await;
            socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
            Timer::after(Duration::from_millis(50)).await;
            if closes {
                client.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(arrived(&transport).await.unwrap(), 0);
            } else {
                let mut wait = pin!(arrived(&transport));
                for _ in 0..3 {
                    assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                }
            }
            assert_eq!(transport.is_ready(rustix::event::PollFlags::PRI), Some(false), "closes: {closes}");
        });
    }
}
