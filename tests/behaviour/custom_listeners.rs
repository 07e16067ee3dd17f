//! Listeners that users write, and that fail as a test tells them: their errors are treated as a socket's, their panics
//! and destructors take nothing down, and their clients are a server's like all others. Behaviours 28, 29 and 30
//! without sockets.

use crate::support;
use crate::support::scripted::{Script, Step};
use crate::support::ways::rest;
use crate::support::*;
use async_std::prelude::*;
use async_std::task;
use ebbtide::{Accept, Address, BoxedStream, Cause, Connection, Error, Handle, Listener, MemoryStream, Server};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

async fn reply(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"served").await
}

/// The lines about pauses of this listener.
fn pauses(logs: &logs::Logs, listener: &str) -> Vec<String> {
    let lines = logs.lines_with("trying again in ");
    lines.into_iter().map(|(_, line)| line).filter(|line| line.contains(&format!("listener={listener}"))).collect()
}

#[cfg(unix)]
mod numbers {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const EBADF: i32 = 9;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const EMFILE: i32 = 24;
}
#[cfg(unix)]
use numbers::*;

#[test]
fn errors_of_one_client_are_skipped_without_a_pause() {
    test(async {
        let logs = logs::remember();
        let (listener, script) = Script::listener_at("skips");
        let mut client = None;
        for _ in 0..10 {
            script.fail(ErrorKind::ConnectionAborted);
            script.fail(ErrorKind::ConnectionReset);
            script.fail(ErrorKind::Interrupted);
            #[cfg(unix)]
            script.fail(io::Error::from_raw_os_error(EPERM));
        }
        client.replace(script.client());
        let body = async |server: Handle| {
            assert_eq!(rest(client.as_mut().unwrap()).await, "served");
            server.accept_errors()
        };
        let (errors, report) = Server::new(listener).scope(reply, body).await.unwrap();
        assert_eq!((errors, report.accept_errors()), (Some(if cfg!(unix) { 40 } else { 30 }), errors.unwrap()));
        assert_eq!(report.completed(), 1, "{report}");
        assert_eq!(pauses(&logs, "skips"), [""; 0]);
    });
}

#[cfg(unix)]
#[test]
fn exhaustion_is_waited_for_longer_each_time_and_forgotten_after_a_client() {
    test(async {
        let logs = logs::remember();
        let (listener, script) = Script::listener_at("tired");
        (0..4).for_each(|_| script.fail(io::Error::from_raw_os_error(EMFILE)));
        let mut first = script.client();
        script.fail(io::Error::other("nobody knows"));
        script.fail(ErrorKind::WouldBlock); // a listener says `Pending` instead
        let mut second = script.client();
        let body = async |_| (rest(&mut first).await, rest(&mut second).await);
        let (served, report) = Server::new(listener).scope(reply, body).await.unwrap();
        assert_eq!(served.unwrap(), ("served".to_owned(), "served".to_owned()));
        assert_eq!(report.accept_errors(), 6, "{report}");
        let pauses = pauses(&logs, "tired");
        let steps: Vec<_> = pauses.iter().map(|line| line.split("again in ").nth(1).unwrap()).collect();
        let steps: Vec<_> = steps.iter().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(steps, ["5ms", "10ms", "20ms", "40ms", "5ms", "10ms"]);
        assert!(pauses[0].contains("ulimit -n") && pauses[4].contains("nobody knows"), "{pauses:?}");
    });
}

#[cfg(unix)]
#[test]
fn a_shutdown_during_the_pause_does_not_wait_for_its_end() {
    test(async {
        let logs = logs::remember();
        let (listener, script) = Script::listener_at("resting");
        (0..20).for_each(|_| script.fail(io::Error::from_raw_os_error(EMFILE)));
        let body = async |_| {
            while !pauses(&logs, "resting").iter().any(|line| line.contains("again in 1s")) {
                task::sleep(Duration::from_millis(5)).await;
            }
        };
        let (_, report) = Server::new(listener).scope(reply, body).await.unwrap();
        assert!(report.elapsed() < Duration::from_millis(900), "the pause lasts a second: {report}");
        assert!(script.is_gone());
    });
}

/// Serves a polite client over TCP and another over a scripted listener, which then fails like this.
fn fails_for_good(step: Step, kind: ErrorKind, message: &str) {
    let message = message.to_owned();
    test(async move {
        let (listener, script) = Script::listener();
        let server = bind().await.listen(listener);
        let address = server.local_addr().clone();
        let handlers = Handlers::new();
        let mut over_tcp = order(&address, POLITE);
        let mut scripted = script.client();
        scripted.write_all(&[POLITE]).await.unwrap();
        let serving = task::spawn(server.serve(handlers.handler()));
        handlers.started(2).await;
        script.tell(step);
        let error = serving.await.unwrap_err();
        assert!(
            matches!(&error, Error::Listener { address, .. } if *address == Address::other("scripted")),
            "{error:?}"
        );
        assert!(error.to_string().contains("`scripted`"), "{error}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(&message), "{source}");
        let report = error.report();
        assert_eq!((report.cause(), report.completed(), report.drained()), (Cause::ListenerFailed, 2, 2), "{report}");
        assert_eq!(io::Error::from(error).kind(), kind);
        assert_eq!(task::spawn_blocking(move || support::rest(&mut over_tcp)).await, "bye");
        assert_eq!(rest(&mut scripted).await, "bye");
        assert!(refuses(&address) && script.is_gone());
    });
}

#[cfg(unix)]
#[test]
fn a_listener_that_fails_for_good_drains_the_server_and_is_named_by_its_error() {
    fails_for_good(Step::Fail(io::Error::from_raw_os_error(EINVAL)), ErrorKind::InvalidInput, "os error 22");
    let kind = io::Error::from_raw_os_error(EBADF).kind();
    fails_for_good(Step::Fail(io::Error::from_raw_os_error(EBADF)), kind, "os error 9");
}

#[test]
fn a_listener_that_says_it_can_never_go_on_is_believed() {
    let error = io::Error::new(ErrorKind::InvalidInput, "its own words");
    fails_for_good(Step::Fail(error), ErrorKind::InvalidInput, "its own words");
}

#[test]
fn a_listener_that_panics_can_never_go_on() {
    fails_for_good(Step::Panic("in an accept"), ErrorKind::InvalidInput, "the listener panicked: in an accept");
}

#[test]
fn an_error_while_the_queue_is_emptied_ends_that_and_nothing_else() {
    for last in [Step::Fail(io::Error::other("too late")), Step::Panic("too late")] {
        test(async {
            let (listener, script) = Script::listener_at_the_end();
            let mut served = script.client();
            script.fail(ErrorKind::ConnectionAborted);
            let mut after_one_that_left = script.client();
            script.tell(last);
            let mut lost = script.client();
            let body = async |_| script.asked().await;
            let (_, report) = Server::new(listener).scope(reply, body).await.expect("the shutdown came first");
            assert_eq!((report.completed(), report.accept_errors()), (2, 2), "{report}");
            assert_eq!(
                (rest(&mut served).await, rest(&mut after_one_that_left).await),
                ("served".into(), "served".into())
            );
            drop(script); // which has what the listener did not take
            assert_eq!(rest(&mut lost).await, "");
        });
    }
}

/// There is always one more client.
struct Flood(Arc<AtomicUsize>);

impl Accept for Flood {
    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<(BoxedStream, Address)>> {
        self.0.fetch_add(1, SeqCst);
        Poll::Ready(Ok((Box::pin(MemoryStream::pair().0), Address::other("one more"))))
    }
}

#[test]
fn a_listener_that_never_says_pending_starves_nobody_and_holds_no_exit_up() {
    test(async {
        let accepted = Arc::new(AtomicUsize::new(0));
        let server = Server::new(Listener::custom(Address::other("flood"), Flood(Arc::clone(&accepted))));
        let body = async |server: Handle| {
            while accepted.load(SeqCst) < 1_000 {
                task::yield_now().await;
            }
            drop(server.shutdown());
            accepted.load(SeqCst)
        };
        let (before, report) = server.scope(|_: Connection| async {}, body).await.unwrap();
        println!("{} at the request, {} in all", before.unwrap(), report.accepted());
        assert_eq!(report.accepted(), accepted.load(SeqCst) as u64, "{report}");
        assert_eq!(report.accepted(), report.completed() + report.cancelled(), "{report}");
    });
}

#[test]
fn a_custom_listeners_clients_with_ip_addresses_are_limited_like_others() {
    struct FromOne(Arc<AtomicUsize>);
    impl Accept for FromOne {
        fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<(BoxedStream, Address)>> {
            let n = self.0.fetch_add(1, SeqCst);
            if n >= 3 {
                return Poll::Pending;
            }
            let address = std::net::SocketAddr::from(([192, 0, 2, 1], n as u16));
            Poll::Ready(Ok((Box::pin(MemoryStream::pair().0), address.into())))
        }
    }
    test(async {
        let asked = Arc::new(AtomicUsize::new(0));
        let listener = Listener::custom(Address::other("one"), FromOne(Arc::clone(&asked)));
        let handler = async |conn: Connection| conn.until_draining(std::future::pending::<()>()).await.unwrap_or(());
        let body = async |_| {
            while asked.load(SeqCst) < 4 {
                task::yield_now().await;
            }
        };
        let (_, report) = Server::new(listener).max_connections_per_ip(2).scope(handler, body).await.unwrap();
        assert_eq!((report.accepted(), report.refused()), (2, 1), "{report}");
    });
}

/// Nobody comes; and its destructor does this.
struct Last(Option<Box<dyn FnOnce() + Send>>);

impl Last {
    fn listener(at_the_end: impl FnOnce() + Send + 'static) -> Listener {
        Listener::custom(Address::other("last words"), Self(Some(Box::new(at_the_end))))
    }
}

impl Accept for Last {
    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<(BoxedStream, Address)>> {
        Poll::Pending
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

#[test]
fn a_listener_whose_destructor_panics_takes_nothing_down() {
    test(async {
        let server = bind().await.listen(Last::listener(|| panic!("in a destructor")));
        let address = server.local_addr().clone();
        let (value, report) = server.scope(reply, async |_| 1).await.unwrap();
        assert_eq!((value, report.cause(), refuses(&address)), (Some(1), Cause::BodyReturned, true));
        drop(Server::new(Last::listener(|| panic!("unserved")))); // nor where it is never served
        drop(Last::listener(|| panic!("without a server")));
    });
}

#[test]
fn a_listeners_destructor_may_use_the_handle_of_its_own_server() {
    for served in [true, false] {
        test(async move {
            let own = Arc::new(Mutex::new(None::<Handle>));
            let (theirs, (saw, seen)) = (Arc::clone(&own), mpsc::channel());
            let server = bind().await.listen(Last::listener(move || {
                let server = theirs.lock().unwrap().take().unwrap();
                drop((server.shutdown(), server.cancel()));
                saw.send(server.phase()).unwrap();
            }));
            let handle = server.handle();
            *own.lock().unwrap() = Some(handle.clone());
            match served {
                true => drop(server.scope(reply, async |_| ()).await.unwrap()),
                false => drop(server),
            }
            assert_ne!(seen.recv_timeout(NET).unwrap(), ebbtide::Phase::Closed, "while a listener lives it is not");
            assert_eq!(handle.phase(), ebbtide::Phase::Closed);
        });
    }
}

#[test]
fn who_closes_an_unserved_server_waits_for_another_who_is_closing_its_listeners() {
    test(async {
        let (closing, is_closing) = mpsc::channel();
        let live = Live::default();
        let alive = live.guard();
        let server = Server::new(Last::listener(move || {
            closing.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            drop(alive);
        }));
        let handle = server.handle();
        let other = std::thread::spawn(move || drop(handle.shutdown()));
        is_closing.recv_timeout(NET).unwrap();
        let handle = server.handle();
        drop(server);
        assert_eq!((live.count(), handle.phase()), (0, ebbtide::Phase::Closed));
        other.join().unwrap();
    });
}

#[test]
fn r04_a_custom_listener_is_gone_before_the_drain_begins() {
    test(async {
        let live = Live::default();
        let alive = live.guard();
        let server = bind().await.listen(Last::listener(move || drop(alive)));
        let mut client = order(server.local_addr(), b'x');
        let (send, seen) = async_std::channel::unbounded();
        let counted = live.clone();
        let handler = move |conn: Connection| {
            let (send, live) = (send.clone(), counted.clone());
            async move {
                send.send(live.count()).await.unwrap();
                conn.until_draining(std::future::pending::<()>()).await;
                send.send(live.count()).await.unwrap();
            }
        };
        let (before, _) = server.scope(handler, async |_| seen.recv().await).await.unwrap();
        assert_eq!((before, seen.recv().await), (Some(Ok(1)), Ok(0)));
        assert_eq!(support::rest(&mut client), "");
    });
}
