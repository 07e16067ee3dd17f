//! Clocks. All time limits count from the monotonic clock (`tests/behaviour/claims.rs` checks the source), so a jump of
//! the wall clock does not concern them. A time namespace shows that it may begin anywhere.

use super::{Numbers, assert_ends, connect, say_and_hear, server};
use crate::support::process::Process;
use nix::sys::signal::Signal;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn limits_are_as_long_as_ever_where_the_monotonic_clock_begins_in_the_far_future() {
    // 68 years: 31 bits of seconds. And 1,000 days.
    for offset in ["2147483647", "86400000"] {
        let clock = ["--time", "--monotonic", offset, "--boottime", offset];
        let works = Command::new("unshare").args(clock).args(["--fork", "true"]).output();
        if !works.is_ok_and(|output| output.status.success()) {
            println!("skipped: there is no `unshare` with time namespaces, or it is not permitted");
            return;
        }
        let program = server(&["idle=700", "first-byte=400"], 2);
        let mut command = Command::new("unshare");
        command.args(clock).arg(program.get_program()).args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let server = Process::start(&mut command);
        let start = Instant::now();
        let mut idle = connect(server.port()).unwrap();
        let mut silent = connect(server.port()).unwrap();
        say_and_hear(&mut idle, b"hello").unwrap();
        assert_ends(&mut silent, &server);
        assert!(start.elapsed() >= Duration::from_millis(400), "{server}");
        assert_ends(&mut idle, &server);
        assert!(start.elapsed() >= Duration::from_millis(700), "{server}");
        crate::support::process::send(super::id(&server), Signal::SIGTERM);
        let ended = server.wait();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let numbers = Numbers::of(&ended);
        assert_eq!(["idle_timeout", "first_byte_timeout"].map(|end| numbers.get(end)), [1, 1], "{ended:?}");
    }
}
