//! Custom listeners (`Listener::custom`), scripted by the tests: their errors are treated like a socket's, their panics
//! and destructors do not harm the server, and their clients are served and limited like all others.

use crate::support;
use crate::support::scripted::{Script, Step};
use crate::support::ways::rest;
use crate::support::*;
use async_std::channel::{Receiver, Sender, unbounded};
use async_std::prelude::*;
use async_std::task;
use ebbtide::{Accept, Address, Cause, Connection, Handle, Listener, MemoryStream, Server};
use std::future::{Future, pending, poll_fn, ready};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

async fn reply(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"served").await
}

/// Returns the log lines about this listener's back-off.
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
fn accept_errors_of_one_client_are_skipped_without_a_back_off() {
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
            Ok(server.accept_errors())
        };
        let (errors, report) = Server::new(listener).scope(reply, body).await.unwrap();
        assert_eq!((errors, report.accept_errors()), (if cfg!(unix) { 40 } else { 30 }, errors));
        assert_eq!(report.completed(), 1, "{report}");
        assert_eq!(pauses(&logs, "skips"), [""; 0]);
    });
}

#[cfg(unix)]
#[test]
fn the_back_off_grows_with_each_error_and_starts_anew_after_a_client() {
    test(async {
        let logs = logs::remember();
        let (listener, script) = Script::listener_at("tired");
        (0..4).for_each(|_| script.fail(io::Error::from_raw_os_error(EMFILE)));
        let mut first = script.client();
        script.fail(io::Error::other("nobody knows"));
        script.fail(ErrorKind::WouldBlock); // a correct listener is pending instead
        let mut second = script.client();
        let body = async |_| Ok((rest(&mut first).await, rest(&mut second).await));
        let (served, report) = Server::new(listener).scope(reply, body).await.unwrap();
        assert_eq!(served, ("served".to_owned(), "served".to_owned()));
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
fn a_shutdown_during_a_back_off_does_not_wait_for_its_end() {
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
        assert!(report.elapsed() < Duration::from_millis(900), "waited for the back-off of 1 s: {report}");
        assert!(script.is_gone());
    });
}

/// Serves a polite client over TCP and another one over a scripted listener, which then fails. Asserts that the server
/// drains both clients and returns an error that names the listener.
fn assert_fatal(step: Step, kind: ErrorKind, message: &str) {
    let message = message.to_owned();
    test(async move {
        let (listener, script) = Script::listener();
        let server = bind().await.add_listener(listener);
        let address = server.local_addr().clone();
        let handlers = Handlers::new();
        let mut over_tcp = order(&address, POLITE);
        let mut scripted = script.client();
        scripted.write_all(&[POLITE]).await.unwrap();
        let serving = task::spawn(server.serve(handlers.handler()));
        handlers.started(2).await;
        script.tell(step);
        let error = serving.await.unwrap_err();
        assert_eq!((error.kind(), error.address()), (ebbtide::ErrorKind::Listener, Some(&Address::named("scripted"))));
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
fn a_fatal_error_of_a_listener_drains_the_server_and_the_returned_error_names_the_listener() {
    assert_fatal(Step::Fail(io::Error::from_raw_os_error(EINVAL)), ErrorKind::InvalidInput, "os error 22");
    let kind = io::Error::from_raw_os_error(EBADF).kind();
    assert_fatal(Step::Fail(io::Error::from_raw_os_error(EBADF)), kind, "os error 9");
}

#[test]
fn an_error_of_kind_invalid_input_is_fatal_whatever_its_message_is() {
    let error = io::Error::new(ErrorKind::InvalidInput, "its own words");
    assert_fatal(Step::Fail(error), ErrorKind::InvalidInput, "its own words");
}

#[test]
fn a_panic_of_a_listener_is_fatal() {
    assert_fatal(Step::Panic("in an accept"), ErrorKind::InvalidInput, "the listener panicked: in an accept");
}

#[test]
fn after_an_accept_error_whose_destructor_panics_the_next_client_is_served() {
    const TEXT: &str = "in the destructor of an accept's error";
    for kind in [ErrorKind::ConnectionAborted, ErrorKind::Other] {
        let logs = logs::remember();
        test(async move {
            let (listener, script) = Script::listener();
            script.fail(io::Error::new(kind, Bomb(TEXT)));
            let mut client = script.client();
            let body = async |server: Handle| {
                assert_eq!(rest(&mut client).await, "served");
                Ok(server.is_serving())
            };
            let (is_serving, report) = Server::new(listener).scope(reply, body).await.unwrap();
            assert_eq!((is_serving, report.completed(), report.accept_errors()), (true, 1, 1), "{report}");
            assert_eq!(logs.lines_with(TEXT).len(), 1);
        });
    }
}

#[test]
fn an_error_in_the_last_sweep_of_the_backlog_ends_the_sweep_and_nothing_else() {
    for last in [Step::Fail(io::Error::other("too late")), Step::Panic("too late")] {
        test(async {
            let (listener, script) = Script::listener_that_forgets_its_waker();
            let mut served = script.client();
            // An error of one client: the sweep skips it.
            script.fail(io::Error::new(ErrorKind::ConnectionAborted, Bomb("in the sweep")));
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
            drop(script); // it holds the client that the listener did not take
            assert_eq!(rest(&mut lost).await, "");
        });
    }
}

type Accepted = io::Result<(MemoryStream, Address)>;

/// Listener whose accepts are the futures that a closure returns.
struct By<F>(F);

impl<F, Fut> Accept for By<F>
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Accepted> + Send,
{
    type Io = MemoryStream;

    fn accept(&mut self) -> impl Future<Output = Accepted> + Send {
        (self.0)()
    }
}

fn accept_by<F, Fut>(accept: F) -> Listener
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Accepted> + Send,
{
    Listener::custom(Address::named("accept by"), By(accept))
}

/// Puts clients into a queue; returns the clients' ends and both ends of the queue.
fn queue_of(clients: usize) -> (Vec<MemoryStream>, Sender<MemoryStream>, Receiver<MemoryStream>) {
    let (send, queue) = unbounded();
    let mut ends = Vec::new();
    for _ in 0..clients {
        let (ours, theirs) = MemoryStream::pair();
        send.try_send(theirs).unwrap();
        ends.push(ours);
    }
    (ends, send, queue)
}

/// Accepts the next client of the queue; pending once the queue is closed.
async fn next_of(queue: Receiver<MemoryStream>) -> Accepted {
    match queue.recv().await {
        Ok(stream) => Ok((stream, Address::named("queued"))),
        Err(_) => pending().await,
    }
}

#[test]
fn an_accept_is_polled_once_for_each_queued_client_and_once_more_to_wait() {
    test(async {
        let (calls, polls) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (mut clients, sender, queue) = queue_of(10);
        let counts = (Arc::clone(&calls), Arc::clone(&polls));
        let listener = accept_by(move || {
            counts.0.fetch_add(1, SeqCst);
            let (polls, mut next) = (Arc::clone(&counts.1), Box::pin(next_of(queue.clone())));
            poll_fn(move |cx| {
                let polled = next.as_mut().poll(cx);
                polls.fetch_add(1, SeqCst);
                polled
            })
        });
        let now = || (calls.load(SeqCst), polls.load(SeqCst));
        let body = async |_| {
            until(|| now() == (11, 11)).await;
            let (mut last, theirs) = MemoryStream::pair();
            sender.send(theirs).await.unwrap();
            until(|| now() == (12, 13)).await; // polled because of the client's wake, and once more to wait
            for client in clients.iter_mut().chain([&mut last]) {
                assert_eq!(rest(client).await, "served");
            }
            assert_eq!(now(), (12, 13));
        };
        let (_, report) = Server::new(listener).scope(reply, body).await.unwrap();
        assert_eq!((now(), report.completed()), ((12, 14), 11), "one more poll, in the last sweep: {report}");
    });
}

/// Returns a listener that needs three parts for each client, and the sender of the parts. A client's address is its
/// three parts, joined.
fn in_three_parts() -> (Listener, Sender<&'static str>) {
    let (parts, next) = unbounded::<&str>();
    let listener = accept_by(move || {
        let next = next.clone();
        async move {
            let mut name = String::new();
            while name.len() < 3 {
                name += next.recv().await.map_err(io::Error::other)?;
            }
            Ok((MemoryStream::pair().0, Address::named(name)))
        }
    });
    (listener, parts)
}

#[test]
fn an_accept_that_has_begun_is_not_dropped_between_polls_or_during_a_pause() {
    test(async {
        let (listener, parts) = in_three_parts();
        let (send, names) = unbounded();
        let handler = move |conn: Connection| {
            send.try_send(conn.peer_addr().to_string()).unwrap();
            async {}
        };
        let body = async |server: Handle| {
            let taken = async |part| {
                parts.send(part).await.unwrap();
                until(|| parts.is_empty()).await;
            };
            taken("a").await;
            taken("b").await;
            taken("c").await;
            assert_eq!(names.recv().await, Ok("abc".to_owned()));
            taken("d").await;
            server.pause();
            parts.send("e").await.unwrap();
            task::sleep(Duration::from_millis(20)).await; // the accept is woken while the server is paused
            server.resume();
            taken("f").await;
            assert_eq!(names.recv().await, Ok("def".to_owned()));
            taken("g").await; // the third client never gets its other parts
        };
        let (_, report) = Server::new(listener).scope(handler, body).await.unwrap();
        assert_eq!((report.accepted(), report.completed()), (2, 2), "{report}");
    });
}

#[test]
fn an_accept_that_has_begun_may_return_its_client_in_the_last_sweep() {
    test_alone(async {
        let (listener, parts) = in_three_parts();
        let body = async |server: Handle| {
            for part in ["a", "b"] {
                parts.send(part).await.unwrap();
                until(|| parts.is_empty()).await;
            }
            let _held = hold_executor(); // so that the accept loop sees the shutdown before the last part
            drop(server.shutdown());
            parts.send("c").await.unwrap();
        };
        let handler = async |conn: Connection| assert_eq!(conn.peer_addr(), &Address::named("abc"));
        let (_, report) = Server::new(listener).scope(handler, body).await.unwrap();
        assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}");
    });
}

#[test]
fn a_client_that_an_accept_takes_in_one_poll_and_returns_in_the_next_is_not_lost() {
    use futures_concurrency::prelude::*;
    test(async {
        let (clients, _sender, queue) = queue_of(100);
        let listener = accept_by(move || {
            let next = next_of(queue.clone());
            async move {
                let client = next.await;
                task::yield_now().await;
                client
            }
        });
        let body = async |server: Handle| {
            let served = async {
                for mut client in clients {
                    assert_eq!(rest(&mut client).await, "served");
                }
            };
            let pausing = async {
                loop {
                    server.pause();
                    task::yield_now().await;
                    server.resume();
                    task::yield_now().await;
                }
            };
            (served, pausing).race().await;
        };
        let (_, report) = Server::new(listener).max_connections(1).scope(reply, body).await.unwrap();
        assert_eq!((report.accepted(), report.completed()), (100, 100), "{report}");
    });
}

#[test]
fn a_cancel_at_any_moment_loses_no_client_that_an_accept_has_returned() {
    for at in [1, 2, 3, 63, 64, 65, 127, 128, 129] {
        test(async move {
            let (mut clients, sender, queue) = queue_of(200);
            let own = Arc::new(Mutex::new(None::<Handle>));
            let (theirs, mut given) = (Arc::clone(&own), 0);
            let listener = accept_by(move || {
                given += 1;
                if given == at {
                    drop(theirs.lock().unwrap().take().unwrap().cancel());
                }
                next_of(queue.clone())
            });
            let server = Server::new(listener);
            *own.lock().unwrap() = Some(server.handle());
            let report = server.serve(reply).await.unwrap();
            let given = clients.len() - sender.len();
            drop(sender);
            assert_eq!(report.accepted(), given as u64, "cancelled with client {at}: {report}");
            assert_adds_up(&report);
            for client in &mut clients {
                rest(client).await; // every client sees EOF
            }
        });
    }
}

#[test]
fn a_panic_in_the_call_or_in_any_poll_of_an_accept_ends_the_server() {
    type Next = std::pin::Pin<Box<dyn Future<Output = Accepted> + Send>>;
    let ways: [fn() -> Next; 3] = [
        || panic!("as ordered"), // in the call itself
        || Box::pin(async { panic!("as ordered") }),
        || {
            Box::pin(async {
                task::yield_now().await;
                panic!("as ordered")
            })
        },
    ];
    for way in ways {
        test(async move {
            let mut clients = 0;
            let listener = accept_by(move || {
                clients += 1;
                match clients {
                    1 => Box::pin(async { Ok((MemoryStream::pair().0, Address::named("the first"))) }),
                    _ => way(),
                }
            });
            let error = Server::new(listener).serve(async |_: Connection| {}).await.unwrap_err();
            assert_eq!((error.kind(), error.report().completed()), (ebbtide::ErrorKind::Listener, 1), "{error:?}");
            assert_eq!(error.address(), Some(&Address::named("accept by")));
            let source = error.downcast::<io::Error>().unwrap();
            assert_eq!(source.to_string(), "the listener panicked: as ordered");
        });
    }
}

#[test]
fn a_listener_that_is_always_ready_neither_starves_other_tasks_nor_delays_a_shutdown() {
    test(async {
        let accepted = Arc::new(AtomicUsize::new(0));
        let server = Server::new(accept_by({
            let accepted = Arc::clone(&accepted);
            move || {
                accepted.fetch_add(1, SeqCst); // there is always one more client
                ready(Ok((MemoryStream::pair().0, Address::named("one more"))))
            }
        }));
        let body = async |server: Handle| {
            while accepted.load(SeqCst) < 1_000 {
                task::yield_now().await;
            }
            drop(server.shutdown());
            Ok(accepted.load(SeqCst))
        };
        let (before, report) = server.scope(|_: Connection| async {}, body).await.unwrap();
        println!("{} at the request, {} in all", before, report.accepted());
        assert_eq!(report.accepted(), accepted.load(SeqCst) as u64, "{report}");
        assert_eq!(report.accepted(), report.completed() + report.cancelled(), "{report}");
    });
}

#[test]
fn the_limit_per_ip_address_applies_to_clients_of_a_custom_listener() {
    test(async {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let listener = accept_by(move || {
            let n = counted.fetch_add(1, SeqCst);
            async move {
                if n >= 3 {
                    return pending().await;
                }
                let address = std::net::SocketAddr::from(([192, 0, 2, 1], n as u16));
                Ok((MemoryStream::pair().0, address.into()))
            }
        });
        let handler = async |conn: Connection| conn.until_draining(pending::<()>()).await.unwrap_or(());
        let body = async |_| {
            while asked.load(SeqCst) < 4 {
                task::yield_now().await;
            }
        };
        let (_, report) = Server::new(listener).max_connections_per_ip(2).scope(handler, body).await.unwrap();
        assert_eq!((report.accepted(), report.refused()), (2, 1), "{report}");
    });
}

#[test]
fn the_limit_per_ip_address_counts_a_network_of_ipv6_as_one_client() {
    test(async {
        // Clients of two networks of 64 bits, which are in one of 48 bits. The last two are in one network.
        let clients = ["2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:2::2"];
        for (bits, accepted) in [(None, 2), (Some(48), 1), (Some(64), 2), (Some(128), 3), (Some(255), 3)] {
            let asked = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&asked);
            let listener = accept_by(move || {
                let n = counted.fetch_add(1, SeqCst);
                async move {
                    let Some(ip) = clients.get(n) else { return pending().await };
                    let address = std::net::SocketAddr::from((ip.parse::<std::net::Ipv6Addr>().unwrap(), 1));
                    Ok((MemoryStream::pair().0, address.into()))
                }
            });
            let handler = async |conn: Connection| conn.until_draining(pending::<()>()).await.unwrap_or(());
            let body = async |_| until(|| asked.load(SeqCst) > clients.len()).await;
            let server = Server::new(listener).max_connections_per_ip(1);
            let server = match bits {
                Some(bits) => server.ipv6_prefix(bits),
                None => server,
            };
            let (_, report) = server.scope(handler, body).await.unwrap();
            assert_eq!((report.accepted(), report.refused()), (accepted, 3 - accepted), "{bits:?}: {report}");
        }
    });
}

/// Listener without clients. Its destructor runs a closure.
struct OnDrop(Option<Box<dyn FnOnce() + Send>>);

impl OnDrop {
    fn listener(on_drop: impl FnOnce() + Send + 'static) -> Listener {
        Listener::custom(Address::named("on drop"), Self(Some(Box::new(on_drop))))
    }
}

impl Accept for OnDrop {
    type Io = MemoryStream;

    async fn accept(&mut self) -> Accepted {
        pending().await
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(on_drop) = self.0.take() {
            on_drop();
        }
    }
}

#[test]
fn a_listener_whose_destructor_panics_does_not_harm_the_server() {
    test(async {
        let server = bind().await.add_listener(OnDrop::listener(|| panic!("in a destructor")));
        let address = server.local_addr().clone();
        let (value, report) = server.scope(reply, async |_| Ok(1)).await.unwrap();
        assert_eq!((value, report.cause(), refuses(&address)), (1, Cause::BodyReturned, true));
        drop(Server::new(OnDrop::listener(|| panic!("unserved")))); // never served: no panic either
        drop(OnDrop::listener(|| panic!("without a server")));
    });
}

/// Returns a listener without clients. When the future of its first accept is dropped, it runs a closure.
fn on_drop_of_an_accept(on_drop: impl FnOnce() + Send + 'static) -> Listener {
    let mut on_drop = Some(OnDrop(Some(Box::new(on_drop))));
    accept_by(move || {
        let on_drop = on_drop.take();
        async move {
            let _on_drop = on_drop;
            pending().await
        }
    })
}

#[test]
fn an_accept_that_panics_when_it_is_dropped_does_not_harm_the_server() {
    test(async {
        let server = bind().await.add_listener(on_drop_of_an_accept(|| panic!("in a destructor")));
        let address = server.local_addr().clone();
        let mut client = connect(&address);
        let served = async |_| Ok(task::spawn_blocking(move || support::rest(&mut client)).await);
        let (value, report) = server.scope(reply, served).await.unwrap();
        assert_eq!((value.as_str(), report.cause(), refuses(&address)), ("served", Cause::BodyReturned, true));
    });
}

#[test]
fn a_listeners_destructor_may_use_the_handle_of_its_own_server() {
    for served in [true, false] {
        test(async move {
            let own = Arc::new(Mutex::new(None::<Handle>));
            let (theirs, (saw, seen)) = (Arc::clone(&own), mpsc::channel());
            let server = bind().await.add_listener(OnDrop::listener(move || {
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
            assert_ne!(seen.recv_timeout(NET).unwrap(), ebbtide::Phase::Closed, "closed while a listener is alive");
            assert_eq!(handle.phase(), ebbtide::Phase::Closed);
        });
    }
}

#[test]
fn the_drop_of_an_unserved_server_waits_for_another_thread_that_is_closing_its_listeners() {
    test(async {
        let (closing, is_closing) = mpsc::channel();
        let live = Live::default();
        let alive = live.guard();
        let server = Server::new(OnDrop::listener(move || {
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
fn r04_a_custom_listener_is_dropped_before_the_drain_begins() {
    dropped_before_the_drain(|alive| OnDrop::listener(move || drop(alive)));
}

#[test]
fn r04_the_future_of_an_accept_is_dropped_before_the_drain_begins() {
    dropped_before_the_drain(|alive| on_drop_of_an_accept(move || drop(alive)));
}

/// Asserts that the listener's guard has been dropped when a handler is notified of the drain.
fn dropped_before_the_drain(listener: fn(LiveGuard) -> Listener) {
    test(async move {
        let live = Live::default();
        let server = bind().await.add_listener(listener(live.guard()));
        let mut client = order(server.local_addr(), b'x');
        let (send, seen) = async_std::channel::unbounded();
        let counted = live.clone();
        let handler = move |conn: Connection| {
            let (send, live) = (send.clone(), counted.clone());
            async move {
                send.send(live.count()).await.unwrap();
                conn.until_draining(pending::<()>()).await;
                send.send(live.count()).await.unwrap();
            }
        };
        let (before, _) = server.scope(handler, async |_| Ok(seen.recv().await?)).await.unwrap();
        assert_eq!((before, seen.recv().await), (1, Ok(0)));
        assert_eq!(support::rest(&mut client), "");
    });
}
