//! What may cross threads, said by the compiler.

use async_std::io;
use ebbtide::{
    Address, Cause, Closed, Connection, ConnectionInfo, Error, Handle, Listener, OnFailure, Phase, Report, Server,
    Spawner, TaskGroup,
};

fn send<T: Send + 'static>() {}
fn sync<T: Sync>() {}
fn unpin<T: Unpin>() {}
fn value_is_send<T: Send>(_: &T) {}

#[test]
fn whatever_is_shared_is_send_and_sync() {
    macro_rules! send_and_sync {
        ($($name:ty),*) => { $(send::<$name>(); sync::<$name>();)* };
    }
    send_and_sync!(TaskGroup, Spawner, Handle, Connection, Closed, Report, Error, Address, ConnectionInfo);
    send_and_sync!(Cause, Phase, OnFailure, Listener);
    send::<Server>();
    unpin::<(Connection, Handle, TaskGroup, Spawner)>();
}

#[test]
fn the_futures_of_the_public_functions_are_send() {
    async fn handler(_: Connection) -> io::Result<()> {
        Ok(())
    }

    let group = TaskGroup::new();
    value_is_send(&group.join());
    value_is_send(&Server::bind("127.0.0.1:0"));
    let _not_run = |server: Server| value_is_send(&server.serve(handler));
    let _not_run = |server: Server| value_is_send(&server.scope(handler, async |_| ()));
}
