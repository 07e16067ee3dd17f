//! Destructors of user values that panic while the crate drops these values: the panic is logged, and nothing else
//! changes. `tests/processes/second_panics.rs` has the cases in which a second panic would abort the process.

use crate::support::*;
use async_std::channel::bounded;
use ebbtide::{BoxError, Cause, Connection, ErrorKind, Handle, OnFailure, Phase, TaskGroup, TaskSet};
use std::future::{Future, pending};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Returns a pending future whose destructor panics with this text.
fn bomb(text: &'static str) -> impl Future<Output = ()> + Send + 'static {
    let bomb = Bomb(text);
    async move {
        let _bomb = bomb;
        pending().await
    }
}

#[test]
fn a_group_or_a_set_refuses_a_child_whose_destructor_panics_like_any_other() {
    const TEXT: &str = "refused by a group";
    let logs = logs::remember();
    test(async move {
        let group = TaskGroup::new();
        let spawner = group.spawner();
        group.cancel();
        assert!(group.spawn(bomb(TEXT)).await.unwrap_err().is_cancelled());
        assert!(spawner.spawn(bomb(TEXT)).await.unwrap_err().is_cancelled());
        drop(group);
        assert!(spawner.spawn(bomb(TEXT)).await.unwrap_err().is_cancelled());

        let mut set = TaskSet::new();
        set.cancel();
        set.spawn(bomb(TEXT));
        assert!(set.next().await.unwrap().unwrap_err().is_cancelled());
        assert_eq!((set.next().await.is_none(), logs.lines_with(TEXT).len()), (true, 4));
    });
}

#[test]
fn a_connection_or_a_server_refuses_a_task_whose_destructor_panics_like_any_other() {
    const TEXT: &str = "refused by a server";
    let logs = logs::remember();
    test(async move {
        let server = bind().await;
        let client = connect(server.local_addr());
        let (send, receive) = bounded(1);
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move { send.send(conn).await.unwrap() }
        };
        let body = async |server: Handle| {
            let conn = receive.recv().await?;
            drop(client); // so that it does not linger
            until(|| server.connection_count() == 0).await;
            assert!(conn.spawn(bomb(TEXT)).await.unwrap_err().is_cancelled());
            Ok((conn, server))
        };
        let ((conn, handle), report) = server.scope(handler, body).await.unwrap();
        assert_eq!((report.completed(), handle.phase()), (1, Phase::Closed), "{report}");
        assert!(conn.spawn(bomb(TEXT)).await.unwrap_err().is_cancelled());
        assert!(handle.spawn(bomb(TEXT)).await.unwrap_err().is_cancelled());
        assert_eq!(logs.lines_with(TEXT).len(), 3);
    });
}

#[test]
fn a_scope_returns_the_handlers_error_although_the_destructor_of_the_bodys_value_panics() {
    let logs = logs::remember();
    test(async move {
        let server = bind().await.on_failure(OnFailure::Shutdown);
        let _client = connect(server.local_addr());
        let body = async |server: Handle| {
            until(|| server.phase() != Phase::Serving).await; // the handler has failed
            Ok(Bomb("the value of a body"))
        };
        let handler = async |_: Connection| Err::<(), _>(io::Error::other("the handler's own"));
        let error = server.scope(handler, body).await.expect_err("the handler's error came first");
        assert_eq!(error.kind(), ErrorKind::Handler);
        assert_eq!(error.downcast::<io::Error>().unwrap().to_string(), "the handler's own");
        assert_eq!(logs.lines_with("the value of a body").len(), 1);
    });
}

#[test]
fn a_dropped_body_whose_destructor_panics_still_gives_an_error_of_kind_stopped() {
    let logs = logs::remember();
    test(async move {
        let body = async |server: Handle| -> Result<(), BoxError> {
            let _bomb = Bomb("a body that is dropped");
            drop(server.cancel());
            pending().await
        };
        let error = bind().await.scope(async |_: Connection| {}, body).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped, "{error:?}");
        assert_eq!(logs.lines_with("a body that is dropped").len(), 1);
    });
}

#[test]
fn the_drop_of_an_unserved_server_does_not_panic_although_its_shutdown_streams_destructors_do() {
    test(async {
        let server = bind().await.shutdown_on(BombStream).shutdown_on(BombStream);
        let handle = server.handle();
        assert!(catch_unwind(AssertUnwindSafe(|| drop(server))).is_ok());
        assert_eq!(handle.closed().await.cause(), Cause::Dropped);
    });
}

/// Shutdown stream without items. Its destructor panics.
struct BombStream;

impl async_std::stream::Stream for BombStream {
    type Item = ();

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<()>> {
        Poll::Pending
    }
}

impl Drop for BombStream {
    fn drop(&mut self) {
        panic!("a shutdown stream's destructor");
    }
}
