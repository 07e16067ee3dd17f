//! Models of the registry: connections that enter and leave, against lists and against requests for one or for all of
//! them. The tests of `tests/behaviour/open_connections.rs` and `drain_one_connection.rs` mirror them.

use super::*;
use crate::run::record::DrainAlone;
use crate::sync::model::clock::at;
use futures_io::{AsyncRead, AsyncWrite};
use std::io;
use std::pin::Pin;
use std::task::Context;

/// Enters a connection whose client could send since `millis`.
fn enter(run: &Arc<Run>) -> (usize, Arc<ConnectionRecord>) {
    run.registry.enter(accepted(), Watch::default())
}

fn end(run: &Arc<Run>, (key, record): (usize, Arc<ConnectionRecord>)) {
    run.registry.leave(key);
    drop(record);
}

fn ids(records: &[Arc<ConnectionRecord>]) -> Vec<u64> {
    records.iter().map(|record| record.id.as_u64()).collect()
}

#[test]
fn connections_that_enter_and_leave_against_a_list_are_in_it_once_and_in_their_order() {
    model(|| {
        let (run, guard) = serving();
        let (leaves, stays) = (enter(&run), enter(&run)); // the place of the first is the next one's
        let comes = in_thread(&run, |run| enter(run));
        let goes = in_thread(&run, |run| end(run, leaves));
        let all = ids(&run.registry.all());
        assert!([&[1][..], &[0, 1], &[1, 2], &[0, 1, 2]].contains(&&all[..]), "{all:?}");
        let (first, number) = run.registry.first(1);
        assert!(ids(&first)[0] <= 1 && (1..=3).contains(&number), "{first:?} of {number}");
        let comes = comes.join().unwrap();
        goes.join().unwrap();
        assert_eq!(ids(&run.registry.all()), [1, 2]);
        end(&run, stays);
        end(&run, comes);
        assert_eq!(run.registry.len(), 0, "a connection that has ended is listed");
        drop(guard);
    });
}

#[test]
fn a_connection_that_is_cancelled_by_its_number_against_its_end_and_the_others_stay() {
    model(|| {
        let (run, guard) = serving();
        let (leaves, stays) = (enter(&run), enter(&run));
        let (id, weak) = (leaves.1.id, Arc::downgrade(&leaves.1));
        let task = in_thread(&run, move |run| {
            run.registry.leave(leaves.0);
            leaves.1.is_cancelled() // the last thing that its task may see
        });
        let was_open = Handle::new(Arc::clone(&run)).cancel_connection(id);
        let is_cancelled = task.join().unwrap();
        assert!(was_open || !is_cancelled);
        assert!(!Handle::new(Arc::clone(&run)).cancel_connection(id), "it is open after its end");
        assert!(weak.upgrade().is_none(), "the registry keeps it");
        assert!(!stays.1.is_cancelled() && run.registry.find(stays.1.id).is_some(), "another one was cancelled");
        end(&run, stays);
        drop(guard);
    });
}

#[test]
fn a_drain_by_number_against_a_cancel_of_all_hides_no_cancel_and_the_first_drain_stays() {
    bounded(2, || {
        let (run, guard) = serving();
        let connection = enter(&run);
        let record = Arc::clone(&connection.1);
        let drain = |millis| DrainAlone { deadline: at(millis), reason: end_reason::EndReason::DrainedById };
        let operator = in_thread(&run, move |run| {
            if let Some(record) = run.registry.find(ConnectionId::new(0)) {
                record.drain_alone(drain(10));
                record.drain_alone(drain(20));
            }
        });
        let exit = in_thread(&run, |run| {
            run.registry.all().iter().for_each(|record| record.abort(AbortReason::Exit)); // as the supervisor does
        });
        while !record.is_cancelled() {
            aborted(&record);
            if record.take_look() {
                assert_eq!(record.alone().map(|alone| alone.deadline), Some(at(10)));
            }
        }
        operator.join().unwrap();
        exit.join().unwrap();
        assert!(record.is_cancelled());
        drop(record);
        end(&run, connection);
        drop(guard);
    });
}

#[test]
fn r05_the_drain_of_all_against_the_end_of_one_notifies_the_others() {
    bounded(2, || {
        let (run, guard) = serving();
        let (leaves, stays) = (enter(&run), enter(&run));
        run.request(Cause::Shutdown);
        let task = in_thread(&run, |run| end(run, leaves));
        run.begin_drain(Duration::ZERO, Duration::ZERO);
        assert!(stays.1.draining.is_signalled(), "it was not notified");
        task.join().unwrap();
        end(&run, stays);
        assert_eq!(run.registry.len(), 0);
        drop(guard);
    });
}

/// Stream of user code whose destructor asks the server for its connections.
struct Asks(Handle);

impl Drop for Asks {
    fn drop(&mut self) {
        self.0.connection_count();
    }
}

impl AsyncRead for Asks {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(0))
    }
}

impl AsyncWrite for Asks {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn the_destructor_of_a_stream_may_ask_for_the_connections_whoever_drops_it() {
    model(|| {
        let (run, guard) = serving();
        let stream = Transport::boxed(Box::pin(Asks(Handle::new(Arc::clone(&run)))));
        let (key, record) = run.registry.enter(Accepted { transport: stream, ..accepted() }, Watch::default());
        drop(record); // only the registry has it now, and perhaps a list
        let lister = in_thread(&run, |run| drop(run.registry.all()));
        run.registry.leave(key);
        lister.join().unwrap();
        drop(guard);
    });
}
