//! The list of open connections, closing one of them by its number, and the connections in a report that the exit has
//! cut.

use crate::support::*;
use async_std::task;
use ebbtide::{Connection, ConnectionId, ConnectionState, Handle, Server};
use std::time::Duration;

#[test]
fn connections_are_listed_with_id_peer_address_age_and_state() {
    test(async {
        // The server has a wildcard address. The local address of a connection is the specific one.
        let server = Server::bind("0.0.0.0:0").await.unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], tcp(server.local_addr()).port())).into();
        let handlers = Handlers::new();
        let mut clients: Vec<_> = (0..3).map(|_| order(&address, POLITE)).collect();
        let body = async |server: Handle| {
            handlers.started(3).await;
            let listed = server.connections();
            let mut peers: Vec<_> = listed.iter().map(|it| tcp(it.peer_addr())).collect();
            let mut expected: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
            peers.sort();
            expected.sort();
            assert_eq!(peers, expected);
            assert_eq!(listed.iter().map(|it| it.id().as_u64()).collect::<Vec<_>>(), [0, 1, 2]);
            for it in &listed {
                assert_eq!(it.local_addr(), Some(&address));
                assert_eq!(it.state(), ConnectionState::Serving);
                assert!(it.age() < NET);
                assert!(it.to_string().starts_with(&format!("connection {} from 127.0.0.1:", it.id())), "{it}");
            }
        };
        server.scope(handlers.handler(), body).await.unwrap();
        for client in &mut clients {
            assert_eq!(rest(client), "bye");
        }
    });
}

#[test]
fn one_connection_is_closed_by_its_number_and_the_others_stay() {
    test(async {
        let server = bind().await;
        let handlers = Handlers::new();
        let mut clients: Vec<_> = (0..3).map(|_| order(server.local_addr(), POLITE)).collect();
        let body = async |server: Handle| {
            handlers.started(3).await;
            let which = &server.connections()[1];
            assert!(server.cancel_connection(which.id()));
            while server.connection_count() > 2 {
                task::yield_now().await;
            }
            assert_eq!(handlers.live.count(), 2);
            assert!(!server.cancel_connection(which.id()), "the connection is closed already");
            assert!(!server.cancel_connection("99".parse().unwrap()), "there never was a connection 99");
            Ok(tcp(which.peer_addr()))
        };
        let (closed, report) = server.scope(handlers.handler(), body).await.unwrap();
        assert_eq!((report.completed(), report.cancelled()), (2, 1), "{report}");
        for client in &mut clients {
            let is_closed = client.local_addr().unwrap() == closed;
            assert_eq!(rest(client), if is_closed { "" } else { "bye" });
        }
    });
}

#[test]
fn a_report_lists_at_most_32_connections_that_the_exit_cut() {
    test(async {
        let server = bind().await.grace(Duration::from_millis(10));
        let handlers = Handlers::new();
        let clients: Vec<_> = (0..40).map(|_| order(server.local_addr(), STUBBORN)).collect();
        let (_, report) = server.scope(handlers.handler(), async |_| handlers.started(40).await).await.unwrap();
        assert_eq!((report.cancelled(), report.cancelled_connections().len()), (40, 32), "{report}");
        let peers: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap().into()).collect();
        assert!(report.cancelled_connections().iter().all(|it| peers.contains(it.peer_addr())));
    });
}

#[test]
fn a_report_lists_no_connection_if_all_ended_by_themselves() {
    test(async {
        let server = bind().await;
        let handlers = Handlers::new();
        let _clients = [order(server.local_addr(), POLITE), order(server.local_addr(), FAILS)];
        let (_, report) = server.scope(handlers.handler(), async |_| handlers.started(2).await).await.unwrap();
        assert_eq!((report.completed(), report.failed()), (1, 1), "{report}");
        assert!(report.cancelled_connections().is_empty());
    });
}

#[test]
fn a_connection_that_is_closed_on_request_is_not_a_failure() {
    test(async {
        let server = bind().await.on_failure(ebbtide::OnFailure::Shutdown);
        let _client = connect(server.local_addr());
        let body = async |server: Handle| {
            while !server.cancel_connection("0".parse().unwrap()) {
                task::yield_now().await;
            }
            while server.connection_count() > 0 {
                task::yield_now().await;
            }
            assert!(server.is_serving());
        };
        let never = |conn: Connection| async move {
            conn.until_draining(std::future::pending::<()>()).await;
        };
        let (_, report) = server.scope(never, body).await.unwrap();
        assert_eq!((report.cancelled(), report.failed()), (1, 0), "{report}");
        assert!(report.cancelled_connections().is_empty(), "the connection was cut on request, not by the exit");
    });
}

#[test]
fn a_connection_that_is_cut_on_request_and_one_that_the_exit_cuts_have_a_line_each() {
    test(async {
        let logs = logs::remember();
        let server = bind().await.grace(Duration::ZERO);
        let handlers = Handlers::new();
        let clients = [0, 1].map(|_| order(server.local_addr(), STUBBORN));
        let peers = clients.each_ref().map(|client| client.local_addr().unwrap());
        let body = async |server: Handle| {
            handlers.started(2).await;
            let mut open = server.connections();
            open.sort_unstable_by_key(|one| tcp(one.peer_addr()) != peers[0]);
            assert!(server.cancel_connection(open[0].id()));
            until(|| server.connection_count() == 1).await;
            Ok(open.into_iter().map(|one| one.id()).collect::<Vec<_>>())
        };
        let (ids, report) = server.scope(handlers.handler(), body).await.unwrap();
        assert_eq!(report.cancelled(), 2, "{report}");
        let ends = [(log::Level::Info, " on request"), (log::Level::Debug, "")];
        for ((id, peer), (level, why)) in ids.iter().zip(peers).zip(ends) {
            let begin = format!("cancelled connection {id} from `{peer}`");
            let lines = logs.lines_with(&begin);
            assert!(lines.len() == 1 && lines[0].0 == level, "{lines:?}");
            assert!(lines[0].1.contains(&format!(": {begin}{why} server=")), "{lines:?}");
        }
    });
}

#[test]
fn a_connection_can_be_closed_by_its_number_in_the_log() {
    let logs = logs::remember();
    test(async move {
        let server = bind().await;
        let handlers = Handlers::new();
        let mut clients: Vec<_> = (0..3).map(|_| order(server.local_addr(), POLITE)).collect();
        let body = async |server: Handle| {
            handlers.started(3).await;
            // As for an operator with only the log line.
            let peer = clients[1].local_addr().unwrap();
            let lines = logs.lines_with(&format!("peer={peer}"));
            let (_, after) = lines[0].1.split_once("connection=").expect("the line has the number");
            let id: ConnectionId = after.split(' ').next().unwrap().parse()?;
            let listed = server.connections().into_iter().find(|it| it.id() == id).expect("the connection is open");
            assert_eq!((tcp(listed.peer_addr()), id.to_string()), (peer, id.as_u64().to_string()));
            assert!(server.cancel_connection(id));
            until(|| server.connection_count() == 2).await;
            Ok(())
        };
        let ((), report) = server.scope(handlers.handler(), body).await.unwrap();
        assert_eq!((report.completed(), report.cancelled()), (2, 1), "{report}");
        for (client, expected) in clients.iter_mut().zip(["bye", "", "bye"]) {
            assert_eq!(rest(client), expected);
        }
        for text in ["", "x", "-1", "1.0", " 1", "18446744073709551616"] {
            assert!(text.parse::<ConnectionId>().is_err(), "{text:?}");
        }
    });
}
