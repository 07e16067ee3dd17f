//! `SO_REUSEPORT`: several servers listen on one address, and start and stop independently.
#![cfg(target_os = "linux")]

use crate::support::*;
use async_std::{prelude::*, task};
use ebbtide::{Address, Connection, Handle, ListenOptions, Server};
use std::collections::HashMap;
use std::io::{self, ErrorKind};

async fn bind(address: impl Into<Address>, reuse: bool) -> io::Result<Server> {
    Server::bind_with(tcp(&address.into()), &ListenOptions::new().reuse_port(reuse)).await
}

async fn first(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"first").await
}

async fn second(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"second").await
}

/// Connects this many clients, and returns how often each answer arrived.
async fn ask(address: &Address, clients: usize) -> HashMap<String, usize> {
    let address = address.clone();
    let asking = task::spawn_blocking(move || {
        let mut answers = HashMap::new();
        for _ in 0..clients {
            *answers.entry(rest(&mut connect(&address))).or_default() += 1;
        }
        answers
    });
    asking.await
}

#[test]
fn the_kernel_spreads_the_clients_and_the_last_server_gets_all_of_them() {
    test(async {
        let one = bind(loopback(), true).await.unwrap();
        let address = one.local_addr().clone();
        let two = bind(address.clone(), true).await.unwrap();
        let body = async |_| {
            let body = async |_| Ok(ask(&address, 200).await);
            let (answers, report) = two.scope(second, body).await.unwrap();
            assert_eq!(answers["first"] + answers["second"], 200, "each client has one answer");
            assert_eq!(report.completed(), answers["second"] as u64, "{report}");
            assert_eq!(ask(&address, 50).await, HashMap::from([("first".to_owned(), 50)]));
        };
        one.scope(first, body).await.unwrap();
        assert!(refuses(&address));
    });
}

#[test]
fn an_address_is_shared_only_if_all_servers_set_reuse_port() {
    test(async {
        for (earlier, later) in [(true, false), (false, true), (false, false)] {
            let server = bind(loopback(), earlier).await.unwrap();
            let error = bind(server.local_addr().clone(), later).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{earlier} and then {later}");
        }
    });
}

#[test]
fn a_server_that_stops_serves_its_own_backlog_first() {
    test(async {
        let [one, two] = {
            let one = bind(loopback(), true).await.unwrap();
            let two = bind(one.local_addr().clone(), true).await.unwrap();
            [one, two]
        };
        let address = one.local_addr().clone();
        // Each of these clients is in the backlog of one of the two servers.
        let mut clients: Vec<_> = (0..100).map(|_| connect(&address)).collect();
        let (_, report) = two.scope(second, async |server: Handle| drop(server.shutdown())).await.unwrap();
        assert_ne!(report.completed(), 0, "{report}");
        let body = async |_| Ok(task::spawn_blocking(move || clients.iter_mut().map(rest).collect::<Vec<_>>()).await);
        let (answers, of_the_first) = one.scope(first, body).await.unwrap();
        let by_the_second = answers.iter().filter(|answer| *answer == "second").count() as u64;
        assert_eq!((by_the_second, of_the_first.completed()), (report.completed(), 100 - report.completed()));
    });
}
