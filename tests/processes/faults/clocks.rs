//! Clocks. All time limits count from the monotonic clock (`tests/behaviour/claims.rs` checks the source), so a jump of
//! the wall clock does not concern them. A time namespace shows that it may begin anywhere, and libfaketime lets the
//! wall clock of one process jump.

use super::{Numbers, assert_ends, connect, say_and_hear, server};
use crate::support::files::Folder;
use crate::support::process::{Process, send};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
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
        send(super::id(&server), Signal::SIGTERM);
        let ended = server.wait();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let numbers = Numbers::of(&ended);
        assert_eq!(["idle_timeout", "first_byte_timeout"].map(|end| numbers.get(end)), [1, 1], "{ended:?}");
    }
}

/// Returns the library that gives one process a wall clock of its own, if it is installed.
fn libfaketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

/// The wall clock of one process.
struct WallClock {
    folder: Folder,
}

impl WallClock {
    fn new(command: &mut Command, library: &Path) -> Self {
        let this = Self { folder: Folder::new() };
        this.jump("+0");
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", this.file()).env("FAKETIME_NO_CACHE", "1");
        // The monotonic clock stays the kernel's. The first name is that of versions before 0.9.9.
        command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        this
    }

    fn file(&self) -> PathBuf {
        self.folder.path("clock")
    }

    /// Sets the clock to so many seconds from the system's.
    fn jump(&self, seconds: &str) {
        let new = self.folder.path("new");
        std::fs::write(&new, seconds).unwrap();
        std::fs::rename(new, self.file()).unwrap(); // so that it never reads half of it
    }
}

#[test]
fn a_wall_clock_that_jumps_by_days_ends_no_limit_early_or_late() {
    let Some(library) = libfaketime() else {
        println!("skipped: there is no libfaketime");
        return;
    };
    let (first_byte, idle, grace) = (1_500, 4_000, 1_000);
    let limits = [format!("first-byte={first_byte}"), format!("idle={idle}"), format!("grace={grace}")];
    let arguments: Vec<_> = limits.iter().map(String::as_str).chain(["clock", "stubborn"]).collect();
    let mut command = server(&arguments, 2);
    let clock = WallClock::new(&mut command, &library);
    let server = Process::start(&mut command);
    let jump = |seconds: &str, n: usize, days: &str| {
        clock.jump(seconds);
        server.wait_for_nth(n, &format!("the wall clock has jumped by {days} days"));
    };
    let start = Instant::now();
    let mut silent = connect(server.port()).unwrap();
    let mut idler = connect(server.port()).unwrap();
    say_and_hear(&mut idler, b"hello").unwrap();
    let mut busy = connect(server.port()).unwrap();
    for (seconds, days) in [("+86400", "1"), ("-86400", "-1"), ("+864000", "10"), ("-864000", "-10")] {
        jump(seconds, 1, days);
        say_and_hear(&mut busy, b"and on").unwrap();
    }
    assert_ends(&mut silent, &server);
    assert!(start.elapsed() >= Duration::from_millis(first_byte), "{server}");
    say_and_hear(&mut busy, b"and on").unwrap();
    assert_ends(&mut idler, &server);
    assert!(start.elapsed() >= Duration::from_millis(idle), "{server}");

    // In the drain: these handlers do not end before the deadline.
    let mut last = connect(server.port()).unwrap();
    for client in [&mut busy, &mut last] {
        say_and_hear(client, b"hello").unwrap();
    }
    let asked = Instant::now();
    send(super::id(&server), Signal::SIGTERM);
    server.wait_for("draining");
    jump("+86400", 2, "1");
    jump("-86400", 2, "-1");
    let ended = server.wait();
    assert!(asked.elapsed() >= Duration::from_millis(grace), "{ended:?}");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let numbers = Numbers::of(&ended);
    assert_eq!(["first_byte_timeout", "idle_timeout", "shutdown"].map(|end| numbers.get(end)), [1, 1, 2], "{ended:?}");
}
