//! Which public types and futures are `Send`, `Sync` and `Unpin`. The compiler checks it.

use async_std::io;
use ebbtide::{
    Address, Cause, Closed, Connection, ConnectionId, ConnectionInfo, Error, ErrorKind, Handle, JoinError, JoinHandle,
    Listener, OnFailure, Phase, Report, Server, Spawner, TaskGroup, TaskSet,
};
use std::cell::Cell;

fn send<T: Send + 'static>() {}
fn sync<T: Sync>() {}
fn unpin<T: Unpin>() {}
fn value_is_send<T: Send>(_: &T) {}

#[test]
fn the_public_types_are_send_and_sync() {
    macro_rules! send_and_sync {
        ($($name:ty),*) => { $(send::<$name>(); sync::<$name>();)* };
    }
    send_and_sync!(TaskGroup, Spawner, Handle, Connection, Closed, Report, Error, Address, ConnectionInfo);
    send_and_sync!(Cause, Phase, OnFailure, Listener, ConnectionId, ErrorKind);
    send_and_sync!(JoinHandle<Cell<()>>, JoinError, TaskSet<Cell<()>>); // although the result is only `Send`
    send::<Server>();
    unpin::<(Connection, Handle, TaskGroup, Spawner, JoinHandle<()>, TaskSet<()>)>();
}

#[test]
fn the_futures_of_the_public_functions_are_send() {
    async fn handler(_: Connection) -> io::Result<()> {
        Ok(())
    }

    let group = TaskGroup::new();
    value_is_send(&group.join());
    value_is_send(&TaskSet::<Cell<()>>::new().next());
    value_is_send(&Server::bind("127.0.0.1:0"));
    let _not_run = |server: Server| value_is_send(&server.serve(handler));
    let _not_run = |server: Server| value_is_send(&server.scope(handler, async |_| ()));
    let _not_run = |server: Server| value_is_send(&server.scope(handler, async |_| Ok(7)));
    let _not_run = |server: Server| {
        value_is_send(&async { server.scope(handler, async |_| Ok(7)).await }); // inside another future
    };
}
