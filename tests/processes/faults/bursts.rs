//! Hundreds of signals in a moment, SIGTERM, SIGINT and SIGHUP mixed: while the server starts, serves and drains. The
//! meaning stays the documented one: what comes within 100 ms is one request; the first one drains, a second one cancels,
//! a third one exits with 128 and the signal's number; and SIGHUP, which the program takes, stops nothing.

use super::{Numbers, assert_ends, connect, say_and_hear, server};
use crate::support::process::{Ended, Process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

const SIGNALS: usize = 300;

/// Within this time, from before the first signal to after the last, a burst is certainly one request.
const ONE_REQUEST: Duration = Duration::from_millis(80);

/// Sends the signals. Returns how long that took. It is no error if the process ends meanwhile: it has not been waited
/// for, so its id stays its own.
fn burst(server: &Process) -> Duration {
    let id = Pid::from_raw(i32::try_from(server.id()).unwrap());
    let start = Instant::now();
    for n in 0..SIGNALS {
        let signal = [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT][n % 4];
        let _ = kill(id, signal);
    }
    start.elapsed()
}

/// Checks how the server has ended: status 0 with its numbers, or, if there may have been three requests, 128 and the
/// number of SIGINT or SIGTERM. Returns the numbers.
fn numbers(ended: &Ended, could_be_three: bool) -> Option<Numbers> {
    assert_eq!(ended.stderr, [""; 0], "{ended:?}");
    match ended.status.code() {
        Some(130 | 143) if could_be_three => None,
        code => {
            assert_eq!(code, Some(0), "{ended:?}");
            Some(Numbers::of(ended))
        }
    }
}

/// Runs it with one and with two executor threads, a few times each.
fn each_way(test: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for threads in [1, 2] {
            let test = &test;
            scope.spawn(move || (0..3).for_each(|_| test(threads)));
        }
    });
}

#[test]
fn a_burst_while_the_server_starts_ends_it_in_good_order() {
    each_way(|threads| {
        let server = Process::start(&mut server(&["hangups"], threads));
        server.wait_for("signals are taken"); // before that, SIGTERM has the effect of the system
        let took = burst(&server);
        let ended = server.wait();
        let accepted = numbers(&ended, took > ONE_REQUEST).map(|numbers| numbers.get("accepted"));
        assert!(accepted.is_none_or(|accepted| accepted == 0), "{ended:?}");
    });
}

#[test]
fn a_burst_while_the_server_serves_is_one_request_and_each_message_before_it_is_echoed() {
    each_way(|threads| {
        let server = Process::start(&mut server(&["hangups"], threads));
        let port = server.port();
        let mut clients: Vec<_> = (0..20).map(|_| connect(port).unwrap()).collect();
        for client in &mut clients {
            say_and_hear(client, b"hello").unwrap_or_else(|error| panic!("not served: {error}: {server}"));
        }
        let took = burst(&server);
        clients.iter_mut().for_each(|client| assert_ends(client, &server));
        let ended = server.wait();
        if let Some(numbers) = numbers(&ended, took > ONE_REQUEST) {
            assert_eq!(numbers.get("accepted"), 20, "{ended:?}");
            assert!(took > ONE_REQUEST || numbers.get("completed") == 20, "one request cancels nothing: {ended:?}");
        }
    });
}

#[test]
fn a_burst_during_the_drain_is_the_second_request_which_cancels() {
    each_way(|threads| {
        let server = Process::start(&mut server(&["hangups", "stubborn", "grace=60000"], threads));
        let port = server.port();
        let mut client = connect(port).unwrap();
        say_and_hear(&mut client, b"hello").unwrap();
        server.send(Signal::SIGTERM);
        server.wait_for("draining 1 connection");
        std::thread::sleep(Duration::from_millis(150)); // less than 100 ms apart, two signals are one request
        let (start, took) = (Instant::now(), burst(&server));
        assert_ends(&mut client, &server);
        let ended = server.wait();
        assert!(start.elapsed() < Duration::from_secs(20), "{ended:?}");
        if let Some(numbers) = numbers(&ended, took > ONE_REQUEST) {
            assert_eq!([numbers.get("accepted"), numbers.get("shutdown")], [1, 1], "{ended:?}");
        }
    });
}
