//! Limits on the number of connections: in all and for each IP address, changed while the server serves. Also `pause`
//! and `resume`.

use crate::support::logs;
use crate::support::*;
use async_std::prelude::*;
use async_std::task;
use ebbtide::{Connection, Handle, Listener};
use std::io::Read as _;
use std::net::TcpStream;

/// Handler that writes a byte to show that it has begun, and ends when the client sends a byte or closes.
async fn hold(conn: Connection) -> std::io::Result<()> {
    (&conn).write_all(b"!").await?;
    conn.until_draining((&conn).read(&mut [0])).await.transpose().map(drop)
}

/// Waits until the client's handler has begun.
async fn begun(client: &TcpStream) {
    let mut client = client.try_clone().unwrap();
    task::spawn_blocking(move || client.read_exact(&mut [0]).unwrap()).await;
}

/// Asserts that the client's handler has not begun after 20 ms.
async fn still_waits(client: &TcpStream) {
    for _ in 0..20 {
        task::sleep(std::time::Duration::from_millis(1)).await;
    }
    client.set_nonblocking(true).unwrap();
    assert_eq!((&*client).read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
}

#[test]
fn clients_above_the_limit_wait_and_each_connection_that_ends_admits_one() {
    test(async {
        let server = bind().await.max_connections(3);
        let clients: Vec<_> = (0..8).map(|_| connect(server.local_addr())).collect();
        let body = async |server: Handle| {
            for client in &clients[..3] {
                begun(client).await;
            }
            assert_eq!(server.connection_count(), 3);
            for (leaving, next) in clients.iter().zip(&clients[3..]) {
                still_waits(next).await;
                leaving.shutdown(std::net::Shutdown::Both).unwrap();
                begun(next).await;
                assert_eq!(server.connection_count(), 3);
            }
        };
        let (_, report) = server.scope(hold, body).await.unwrap();
        assert_eq!((report.accepted(), report.completed()), (8, 8), "{report}");
    });
}

#[test]
fn a_shutdown_at_the_limit_leaves_no_client_hanging() {
    test(async {
        let server = bind().await.max_connections(1);
        let address = server.local_addr().clone();
        let mut clients: Vec<_> = (0..5).map(|_| connect(&address)).collect();
        let (_, report) = server.scope(hold, async |_| begun(&clients[0]).await).await.unwrap();
        assert_eq!(report.accepted(), 1, "there is one permit: {report}");
        assert!(refuses(&address));
        assert_eq!(rest(&mut clients[0]), "");
        for client in &mut clients[1..] {
            // Never served: the server closes them, or the kernel resets what is left in the backlog.
            assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
        }
    });
}

#[test]
fn the_limit_can_be_raised_and_lowered_while_serving() {
    test(async {
        let server = bind().await.max_connections(1);
        let clients: Vec<_> = (0..4).map(|_| connect(server.local_addr())).collect();
        let body = async |server: Handle| {
            begun(&clients[0]).await;
            still_waits(&clients[1]).await;
            server.set_max_connections(3);
            assert_eq!(server.max_connections(), 3);
            begun(&clients[1]).await;
            begun(&clients[2]).await;
            still_waits(&clients[3]).await;
            // A lower limit ends no connection, and admits no client until enough connections have ended.
            server.set_max_connections(1);
            assert_eq!(server.connection_count(), 3);
            clients[0].shutdown(std::net::Shutdown::Both).unwrap();
            clients[1].shutdown(std::net::Shutdown::Both).unwrap();
            until(|| server.connection_count() == 1).await;
            still_waits(&clients[3]).await;
            clients[2].shutdown(std::net::Shutdown::Both).unwrap();
            begun(&clients[3]).await;
            server.set_max_connections(usize::MAX);
        };
        let (_, report) = server.scope(hold, body).await.unwrap();
        assert_eq!(report.completed(), 4, "{report}");
    });
}

#[test]
fn a_paused_server_accepts_no_client_and_a_resumed_one_accepts_all_that_wait() {
    test(async {
        let server = bind().await;
        let handle = server.handle();
        handle.pause();
        let clients: Vec<_> = (0..3).map(|_| connect(server.local_addr())).collect();
        let body = async |server: Handle| {
            assert!(server.is_serving() && !server.is_ready());
            still_waits(&clients[0]).await;
            server.resume();
            assert!(server.is_ready());
            for client in &clients {
                begun(client).await;
            }
            server.pause();
            let late = connect(server.local_addr());
            still_waits(&late).await;
            assert_eq!(server.connection_count(), 3, "a pause ends no connection");
            server.resume();
            begun(&late).await;
        };
        let (_, report) = server.scope(hold, body).await.unwrap();
        assert_eq!(report.completed(), 4, "{report}");
    });
}

#[test]
fn no_wake_up_is_lost_while_the_limit_and_the_pause_change_all_the_time() {
    test(async {
        let server = bind().await.max_connections(2);
        let (address, handle) = (server.local_addr().clone(), server.handle());
        let serving = task::spawn(server.serve(hold));
        let moving = {
            let handle = handle.clone();
            task::spawn(async move {
                for n in 0..2000 {
                    handle.set_max_connections(n % 4);
                    handle.pause();
                    task::yield_now().await;
                    handle.resume();
                }
                handle.set_max_connections(2);
            })
        };
        let clients = task::spawn_blocking(move || {
            for _ in 0..300 {
                let mut client = connect(&address);
                client.read_exact(&mut [0]).expect("every client is served");
            }
        });
        clients.await;
        moving.await;
        until(|| handle.connection_count() == 0).await;
        let report = handle.shutdown().await;
        assert_eq!((report.accepted(), report.cancelled()), (300, 0), "{report}");
        serving.await.unwrap();
    });
}

#[test]
fn an_idle_listener_holds_no_permit_that_another_listener_needs() {
    test(async {
        let server = bind().await.add_listener(Listener::tcp(loopback()).unwrap()).max_connections(1);
        let addresses: Vec<_> = server.local_addrs().cloned().collect();
        let body = async |_| {
            for _ in 0..10 {
                for address in &addresses {
                    let client = connect(address);
                    begun(&client).await;
                }
            }
        };
        let (_, report) = server.scope(hold, body).await.unwrap();
        assert_eq!(report.accepted(), 20, "{report}");
    });
}

#[test]
fn a_client_above_the_limit_of_its_ip_address_is_closed_and_counted_as_refused() {
    test(async {
        let server = bind().await.max_connections_per_ip(2);
        let address = server.local_addr().clone();
        let (one, two) = (connect(&address), connect(&address));
        let body = async |server: Handle| {
            begun(&one).await;
            begun(&two).await;
            let mut three = connect(&address);
            assert_eq!(three.read(&mut [0]).unwrap(), 0, "an EOF and no reset, since the client has sent nothing");
            one.shutdown(std::net::Shutdown::Both).unwrap();
            until(|| server.connection_count() == 1).await;
            begun(&connect(&address)).await;
            #[cfg(target_os = "linux")]
            {
                // Another address has its own limit.
                let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                other.bind(&std::net::SocketAddr::from(([127, 99, 99, 99], 0)).into()).unwrap();
                other.connect(&tcp(&address).into()).unwrap();
                begun(&other.into()).await;
            }
        };
        let (_, report) = server.scope(hold, body).await.unwrap();
        assert_eq!(report.refused(), 1, "{report}");
        assert_eq!(report.accepted(), report.completed());
        assert!(report.to_string().ends_with("; 1 refused"), "{report}");
    });
}

#[test]
fn the_default_limit_leaves_descriptors_for_the_rest_of_the_program() {
    test(async {
        let max = bind().await.handle().max_connections();
        #[cfg(unix)]
        {
            use nix::sys::resource::{Resource, getrlimit};
            let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            assert!((max as u64) < soft && max >= 1, "{max} of {soft}");
        }
        assert!(max >= 1);
    });
}

#[test]
fn reaching_the_limit_is_logged_once_with_its_number_and_the_remedy() {
    test(async {
        let logs = logs::remember();
        let server = bind().await.name("at its limit").max_connections(2);
        let clients: Vec<_> = (0..9).map(|_| connect(server.local_addr())).collect();
        let body = async |server: Handle| {
            for client in &clients {
                begun(client).await;
                client.shutdown(std::net::Shutdown::Both).unwrap();
            }
            until(|| server.connection_count() == 0).await;
            server.pause(); // a paused server has not reached its limit
            let _waits = connect(server.local_addr());
            server.resume();
        };
        server.scope(hold, body).await.unwrap();
        let lines = logs.lines_with("at its limit: all 2 of `max_connections` are in use: ");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].0 == log::Level::Warn && lines[0].1.contains("raise it"), "{lines:?}");
    });
}

/// Serves listeners that have these numbers of clients in their backlogs, with at most `max` connections at a time.
/// Returns the index of each accepted client's listener, in the order of the accepts.
async fn accepted_in_order(max: usize, queued: &[usize]) -> Vec<usize> {
    let mut server = bind().await.max_connections(max);
    for _ in 1..queued.len() {
        server = server.add_listener(Listener::tcp(loopback()).unwrap());
    }
    let addresses: Vec<_> = server.local_addrs().cloned().collect();
    let client = |address| {
        let client = connect(address);
        client.shutdown(std::net::Shutdown::Write).unwrap(); // so that its connection does not linger
        client
    };
    let queues = addresses.iter().zip(queued).map(|(address, n)| (0..*n).map(|_| client(address)).collect::<Vec<_>>());
    let clients: Vec<_> = queues.collect();
    let (send, receive) = async_std::channel::unbounded();
    let handler = move |conn: Connection| {
        let (send, id, local) = (send.clone(), conn.id(), conn.local_addr().clone());
        async move { send.send((id, local)).await.unwrap() }
    };
    let body = async |_| {
        let mut order = Vec::new();
        while order.len() < queued.iter().sum() {
            let (id, local) = receive.recv().await.unwrap();
            order.push((id, addresses.iter().position(|address| *address == local).unwrap()));
        }
        order.sort();
        Ok(order.into_iter().map(|(_, listener)| listener).collect::<Vec<_>>())
    };
    let (order, report) = server.scope(handler, body).await.unwrap();
    assert_eq!(report.refused(), 0, "{report}");
    drop(clients);
    order
}

#[test]
fn a_busy_listener_does_not_starve_another_one_at_a_small_limit() {
    test(async {
        for max in [1, 2] {
            for queued in [&[100, 10][..], &[10, 100], &[100, 10, 10]] {
                // A thread may be preempted before its accept loop has begun, or before an accepted client has its
                // number. Then the test tries another round. Without fair turns no round would pass.
                let mut rounds: Vec<Vec<usize>> = Vec::new();
                while !rounds.last().is_some_and(|order| is_in_turns(order, queued)) {
                    assert!(
                        rounds.len() < 10,
                        "no round was fair, with {max} at a time, {queued:?} clients: {rounds:?}"
                    );
                    rounds.push(accepted_in_order(max, queued).await);
                }
            }
        }
    });
}

/// Returns whether the accepts were fair: nearly all clients of the small backlogs (10) are accepted in turns with
/// those of the other listeners, long before the large backlogs are empty.
fn is_in_turns(order: &[usize], queued: &[usize]) -> bool {
    queued.iter().enumerate().filter(|(_, n)| **n == 10).all(|(listener, n)| {
        let turns: Vec<_> = (0..order.len()).filter(|at| order[*at] == listener).collect();
        turns[n - 3] < 2 * n * queued.len()
    })
}
