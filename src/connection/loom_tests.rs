//! Models of a connection's task: its handler's begin against the drain, and the last words of its tasks against
//! everything that may cut them. The tests of `tests/behaviour/r03_last_words.rs`, `r05_newcomers.rs` and
//! `drain_one_connection.rs` mirror them.

use super::last_words::last_words;
use super::task::{ConnectionGuard, ConnectionTask, Policy, Service};
use super::*;
use crate::group::Executor;
use crate::limits::Attempt;
use crate::listener::{Accepted, Protocols};
use crate::panic::Kept;
use crate::run::completion::CompletionGuard;
use crate::run::end_reason::EndReason;
use crate::run::loom_tests::{serving, serving_on};
use crate::run::record::{AbortReason, DrainAlone, Watch};
use crate::run::report::Cause;
use crate::run::state::ConnectionState;
use crate::sync::event::Event;
use crate::sync::model::clock::{advance, at};
use crate::sync::model::{bounded, wait_for, wait_until};
use crate::sync::time;
use crate::transport::Transport;
use futures_io::{AsyncRead, AsyncWrite};
use loom::thread;
use std::future::pending;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::Context;

const MILLI: Duration = Duration::from_millis(1);

/// Client that has sent nothing, and closes once our side has. It checks that nothing is written after that.
#[derive(Default)]
struct Client {
    received: Arc<Mutex<Vec<u8>>>,
    is_half_closed: bool,
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.is_half_closed {
            true => Poll::Ready(Ok(0)),
            false => Poll::Pending,
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_half_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.received.lock().unwrap().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_half_closed = true;
        Poll::Ready(Ok(()))
    }
}

fn accepted(client: Client) -> Accepted {
    let transport = Transport::boxed(Box::pin(client));
    Accepted { transport, peer: Address::named("a peer"), local: None, protocols: Protocols::default() }
}

/// Returns the task of an accepted connection, which was not polled yet.
fn task_of<H, Fut>(run: &Arc<Run>, completion: CompletionGuard, handler: H) -> ConnectionTask<H, Fut>
where
    H: Fn(Connection) -> Fut,
    Fut: Future<Output = ()>,
{
    let policy = Policy {
        on_failure: crate::error::OnFailure::Isolate,
        opening: open::Limits::default(),
        idle_timeout: None,
        write_timeout: None,
        ack_timeout: None,
        max_age: None,
        own_grace: 1000 * MILLI,
        newcomer_time: 100 * MILLI,
        task_grace: Duration::ZERO,
        watch: Watch::default(),
    };
    let Attempt::Permit(permit) = run.limit.try_acquire() else { panic!("a permit is free") };
    let guard = ConnectionGuard::new(run, accepted(Client::default()), (permit, None), &policy, completion);
    ConnectionTask::new(Arc::new(Service { handler: Kept::new(handler), policy }), guard)
}

/// Drains the connection of this task, which begins on another thread, and notifies it when its newcomer time is over,
/// as the supervisor does. Returns when the run is closed.
fn drain(run: &Arc<Run>, completion: CompletionGuard, before: impl Fn(&ConnectionRecord)) {
    let begun = Arc::new(Event::default());
    let task = {
        let begun = Arc::clone(&begun);
        task_of(run, completion, move |conn: Connection| {
            begun.signal();
            async move {
                conn.draining().await;
                assert!(at(100) <= time::now(), "notified before its newcomer time was over");
            }
        })
    };
    for record in run.registry.all() {
        record.set_state(ConnectionState::Opening); // it is already: but see `Dialogue::default`
        before(&record);
    }
    let task = thread::spawn(move || wait_for(task));
    run.begin_drain(100 * MILLI, Duration::ZERO);
    wait_for(begun.wait());
    advance(100);
    let (mut notify, mut closed) = (pin!(run.newcomers.notify_when_due()), run.closed.listen());
    wait_until(|cx| {
        let _never = notify.as_mut().poll(cx);
        closed.poll(cx)
    });
    task.join().unwrap();
    assert_eq!(run.report().completed(), 1);
}

#[test]
fn r05_a_handler_that_begins_against_the_drain_is_notified_when_its_newcomer_time_is_over() {
    bounded(2, || {
        let (run, completion) = serving();
        run.request(Cause::Shutdown);
        drain(&run, completion, |_| {});
    });
}

/// The drain on request had spared the connection. If its handler began just when the drain of all had begun, it found
/// that no newcomer time was set yet, and was notified at once.
#[test]
fn a_newcomer_that_is_draining_on_request_is_still_a_newcomer_when_the_server_drains() {
    bounded(2, || {
        let (run, completion) = serving();
        run.request_within(None);
        let alone = DrainAlone { deadline: at(1000), reason: EndReason::DrainedById };
        drain(&run, completion, |record| record.drain_alone(alone));
    });
}

/// A connection whose handler has returned, with one task that is left, and the thread of an executor that runs it.
struct Left {
    run: Arc<Run>,
    completion: CompletionGuard,
    conn: Connection,
    received: Arc<Mutex<Vec<u8>>>,
    threads: Threads,
}

type Threads = Arc<Mutex<Vec<thread::JoinHandle<()>>>>;

impl Left {
    fn with_task<Fut: Future<Output = ()> + Send + 'static>(task: impl FnOnce(Connection) -> Fut) -> Self {
        let threads = Threads::default();
        let executor = {
            let threads = Arc::clone(&threads);
            Executor::new(move |job| threads.lock().unwrap().push(thread::spawn(|| wait_for(job))))
        };
        let (run, completion) = serving_on(executor);
        let client = Client::default();
        let received = Arc::clone(&client.received);
        let (_, record) = run.registry.enter(accepted(client), Watch::default());
        let conn = Connection::new(record, Arc::clone(&run));
        drop(conn.spawn(task(conn.clone())));
        Self { run, completion, conn, received, threads }
    }

    /// Runs the end of the connection as its task does, which is woken for a cancel. The task grace is one millisecond.
    /// `then` is called when it has begun.
    fn end(&self, then: impl FnOnce()) {
        let record = Arc::clone(&self.conn.record);
        let tasks = record.tasks.close().expect("there is a task");
        let mut ending = last_words(Arc::clone(&self.run), Arc::clone(&record), tasks, MILLI);
        let mut then = Some(then);
        wait_until(|cx| {
            record.draining.set_primary(cx.waker());
            let poll = ending.as_mut().poll(cx);
            then.take().into_iter().for_each(|then| then());
            poll
        });
        assert!(record.has_ended() && record.is_shut_down());
    }

    /// Returns whether the client has received the goodbye, and how many connections counted as undelivered.
    fn outcome(self) -> (bool, u64) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let arrived = *self.received.lock().unwrap() == b"bye";
        drop(self.completion);
        (arrived, self.run.counters.read().undelivered())
    }
}

/// Task that writes a goodbye, and ends.
async fn goodbye(mut conn: Connection) {
    let _cut = poll_fn(|cx| Pin::new(&mut conn).poll_write(cx, b"bye")).await;
}

#[test]
fn r03_every_goodbye_of_a_writer_task_arrives() {
    bounded(2, || {
        let left = Left::with_task(goodbye); // its executor runs it against the end; the task grace is never over
        left.end(|| {});
        assert_eq!(left.outcome(), (true, 0));
    });
}

#[test]
fn r03_a_goodbye_against_the_end_of_the_task_grace_arrives_or_counts_as_undelivered() {
    bounded(2, || {
        let left = Left::with_task(goodbye);
        let mut reactor = None;
        left.end(|| reactor = Some(thread::spawn(|| advance(1))));
        reactor.unwrap().join().unwrap();
        let (arrived, undelivered) = left.outcome();
        assert!(arrived || undelivered == 1, "a goodbye is lost, and does not count");
    });
}

#[test]
fn r03_a_task_that_never_ends_is_cut_after_the_task_grace_and_counts_once() {
    bounded(2, || {
        let left = Left::with_task(async |conn: Connection| {
            let _conn = conn;
            pending::<()>().await;
        });
        let mut reactor = None;
        left.end(|| reactor = Some(thread::spawn(|| advance(1))));
        assert_eq!(time::now(), at(1), "it was cut before the end of its grace");
        reactor.unwrap().join().unwrap();
        assert_eq!(left.outcome(), (false, 1));
    });
}

#[test]
fn r03_the_task_grace_ends_at_a_cancel() {
    bounded(2, || {
        let left = Left::with_task(async |conn: Connection| {
            let _conn = conn;
            pending::<()>().await;
        });
        let record = Arc::clone(&left.conn.record);
        let exit = thread::spawn(move || record.abort(AbortReason::Exit)); // as at the deadline of the drain
        left.end(|| {});
        exit.join().unwrap();
        assert_eq!(left.outcome(), (false, 1));
    });
}

#[test]
fn r03_a_task_that_panics_costs_not_the_last_bytes_of_other_tasks() {
    bounded(2, || {
        let left = Left::with_task(goodbye);
        let record = Arc::clone(&left.conn.record);
        let panics = thread::spawn(move || record.abort(AbortReason::TaskPanicked("a panic".to_owned())));
        left.end(|| {});
        panics.join().unwrap();
        assert_eq!(left.outcome(), (true, 0));
    });
}
