//! An echo server for tests in which the system fails. It stops on SIGTERM and SIGINT.
//!
//! Arguments: the settings `grace=MS`, `idle=MS`, `first-byte=MS`, `write=MS` and `port=N`; `buffers=BYTES`, the size
//! of each connection's buffers in the kernel; `log=femme`; `hangups`, to take SIGHUP; `stubborn`, for handlers that do
//! not end in a drain; `clock`, to print how many days the wall clock has jumped. With `files=FOLDER` it prints nothing itself, since its output may be full: it writes the port and
//! its numbers into files.

use async_std::prelude::*;
use async_std::{io, task};
use ebbtide::{Connection, Counts, Server, signal};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime};

fn main() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    match given("log").as_deref() {
        Some("femme") => femme::with_level(femme::LevelFilter::Info),
        _ => ebbtide_test_programs::print_log(),
    }
    let time = |name: &str| number(name).map(Duration::from_millis);
    say("id", &format!("process {}", std::process::id()));
    task::block_on(async {
        let signals = signal::termination()?;
        if is_given("hangups") {
            let mut hangups = signal::hangup()?;
            task::spawn(async move { while hangups.next().await.is_some() {} });
        }
        say("taken", "signals are taken");
        if is_given("clock") {
            task::spawn(print_jumps());
        }
        let server = Server::bind(("127.0.0.1", number("port").unwrap_or(0) as u16)).await?.shutdown_on(signals);
        say("address", &server.to_string());
        let server = server
            .grace(time("grace").unwrap_or(Duration::from_secs(20)))
            .idle_timeout(time("idle"))
            .first_byte_timeout(time("first-byte"))
            .write_timeout(time("write"));
        let (buffers, stubborn) = (number("buffers"), is_given("stubborn"));
        let served = server.serve(move |conn| echo(conn, buffers, stubborn)).await;
        let report = match &served {
            Ok(report) => report,
            Err(error) => error.report(),
        };
        say("report", &report.to_string());
        say("numbers", &numbers(report.counts()));
        served?;
        Ok(())
    })
}

/// Prints how many days the wall clock is from where the monotonic clock would have it, whenever that has changed.
async fn print_jumps() {
    let (start, begin) = (SystemTime::now(), Instant::now());
    let mut last = 0;
    loop {
        let expected = start + begin.elapsed();
        let days = match SystemTime::now().duration_since(expected) {
            Ok(ahead) => (ahead.as_secs_f64() / 86400.0).round() as i64,
            Err(behind) => -(behind.duration().as_secs_f64() / 86400.0).round() as i64,
        };
        if std::mem::replace(&mut last, days) != days {
            say("clock", &format!("the wall clock has jumped by {days} days"));
        }
        task::sleep(Duration::from_millis(20)).await;
    }
}

async fn echo(mut conn: Connection, buffers: Option<u64>, stubborn: bool) -> io::Result<()> {
    if let Some(size) = buffers {
        let socket = socket2::SockRef::from(conn.tcp_stream().expect("it listens on TCP"));
        socket.set_send_buffer_size(size as usize)?;
        socket.set_recv_buffer_size(size as usize)?;
    }
    let mut buf = vec![0; 16 * 1024];
    while conn.more().await? {
        let n = conn.read(&mut buf).await?;
        conn.write_all(&buf[..n]).await?;
    }
    if stubborn && conn.is_draining() {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Returns `numbers: accepted=3 accept_errors=0 …`, with the reasons of the ends.
fn numbers(counts: &Counts) -> String {
    let mut text = format!("numbers: accepted={} accept_errors={}", counts.accepted(), counts.accept_errors());
    text += &format!(" undelivered={} open={}", counts.undelivered(), counts.open());
    for (reason, number) in counts.by_reason().filter(|(_, number)| *number > 0) {
        text += &format!(" {reason}={number}");
    }
    text
}

/// Prints a line, or writes it into the file with this name. It is no error if that is not possible.
fn say(file: &str, line: &str) {
    let _ = match given("files") {
        // Renamed, so that a reader never finds half of it.
        Some(folder) => std::fs::write(format!("{folder}/{file}.new"), line)
            .and_then(|()| std::fs::rename(format!("{folder}/{file}.new"), format!("{folder}/{file}"))),
        None => writeln!(std::io::stdout(), "{line}"),
    };
}

fn given(name: &str) -> Option<String> {
    std::env::args().find_map(|argument| Some(argument.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

fn is_given(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

fn number(name: &str) -> Option<u64> {
    given(name).map(|text| text.parse().expect("a number"))
}
