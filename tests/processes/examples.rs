//! Runs the examples as processes: what they print, how they end, and what their clients read.
//!
//! The expected output of an example is the `text` block of its own header; examples/README.md must show the same. Each
//! example runs with the usual number of executor threads and with one. `cargo test` builds the examples first;
//! `cargo test --test processes` does not.

/// Runs the tests at the end of the file: `cargo test` builds examples without their tests.
#[allow(dead_code, reason = "its `main` runs as a process")]
#[path = "../../examples/in_memory.rs"]
mod in_memory;

use crate::pasted::{blocks, header, matches, normalised};
#[cfg(all(unix, feature = "tls"))]
use crate::support::certificates::{Authority, secure};
use crate::support::files;
use crate::support::process::{ANY_PORT, Ended, PATIENCE, Process, example, with_each_executor};
#[cfg(unix)]
use nix::sys::signal::Signal;
#[cfg(unix)]
use std::io::{BufRead, BufReader};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const README: &str = include_str!("../../examples/README.md");

/// The examples whose first argument is a TCP address, and that need no files.
const SERVERS: &[&str] = &[
    "cancel",
    "sigint",
    "clients",
    "one_expression",
    "by_hand",
    "dropped",
    "panic",
    "echo",
    "state",
    "lines",
    "common_mistake",
    "limits",
    "lame_duck",
    "services",
    #[cfg(unix)]
    "progress",
    #[cfg(feature = "admin")]
    "admin",
    "goodbye",
    "kv",
    "proxy",
    "inside_tokio",
    #[cfg(feature = "smol")]
    "smol",
    #[cfg(unix)]
    "many_listeners",
    #[cfg(all(unix, feature = "upgrade"))]
    "hand_over",
    #[cfg(feature = "proxy-protocol")]
    "proxy_protocol",
];

/// Limit for each example: far more than it takes, even on a busy machine.
const AT_MOST: Duration = Duration::from_secs(25);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn cancel_stops_its_server_after_two_seconds() {
    runs_to_its_end("cancel", 0, seconds(2));
}

#[cfg(unix)]
#[test]
fn sigint_ends_with_status_0() {
    runs_to_its_end("sigint", 0, seconds(2));
}

#[cfg(unix)]
#[test]
fn sigint_disconnects_an_idle_client_at_once() {
    with_each_executor(|start| {
        let server = start(example("sigint").arg(ANY_PORT));
        let mut client = connect(server.port());
        pass(&client, &client, "hello");
        assert_eq!(read_to_end(&mut client), b"", "{server}");
        let ended = server.wait();
        assert_ends("sigint", 0, seconds(2), &ended);
        assert!(ended.took < seconds(8), "it waited for its deadline: {ended:?}");
    });
}

#[test]
fn one_expression_serves_while_its_body_runs() {
    runs_to_its_end("one_expression", 0, seconds(2));
}

#[test]
fn by_hand_does_what_the_scope_does() {
    runs_to_its_end("by_hand", 0, seconds(2));
}

#[test]
fn dropped_leaves_no_live_handler() {
    runs_to_its_end("dropped", 0, seconds(1));
}

#[test]
fn panic_drains_and_then_exits_with_status_101() {
    with_each_executor(|start| {
        let ended = start(example("panic").arg(ANY_PORT)).wait();
        assert_output("panic", &ended);
        assert_eq!(ended.status.code(), Some(101), "{ended:?}");
        assert!(ended.stderr.iter().any(|line| line == "something went wrong in the body"), "{ended:?}");
    });
}

#[test]
fn common_mistake_loses_the_reply_and_the_cleanup_of_the_wrong_one_only() {
    runs_to_its_end("common_mistake", 0, seconds(2));
}

#[test]
fn limits_holds_under_more_clients_than_it_takes() {
    runs_to_its_end("limits", 0, seconds(2));
}

#[test]
fn lame_duck_accepts_until_it_is_over() {
    runs_to_its_end("lame_duck", 0, seconds(2));
}

#[test]
fn services_keeps_its_health_server_until_the_main_server_has_drained() {
    runs_to_its_end("services", 0, seconds(2));
}

#[cfg(unix)]
#[test]
fn progress_reports_its_drain_and_prints_a_tree_at_a_signal() {
    with_each_executor(|start| {
        let server = start(example("progress").arg(ANY_PORT));
        server.wait_for("Server listening");
        server.send(Signal::SIGUSR1);
        let ended = server.wait();
        assert_output("progress", &ended);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        // Without a terminal there is no bar. The signal may have come before the clients.
        assert!(ended.stderr[0].contains(" of ") && ended.stderr[0].ends_with("2 background tasks"), "{ended:?}");
        assert!(ended.stderr[1..].iter().all(|line| line.starts_with(['├', '└'])), "{ended:?}");
    });
}

/// The counterpart of the test above, in which standard error is a pipe and there is no bar.
#[cfg(target_os = "linux")]
#[test]
fn progress_shows_a_bar_of_its_drain_on_a_terminal() {
    let size = nix::pty::Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = nix::pty::openpty(&size, None).unwrap();
    let mut program = example("progress");
    program.arg(ANY_PORT).env("TERM", "xterm").stdout(std::process::Stdio::null()).stderr(terminal.slave);
    let mut child = program.spawn().unwrap();
    drop(program); // with its copy of the terminal, so that the end of the program is the end of the reads
    let (mut shown, mut buf, mut reader) = (Vec::new(), [0; 4096], std::fs::File::from(terminal.master));
    let bar = loop {
        let n = reader.read(&mut buf).unwrap_or(0);
        shown.extend_from_slice(&buf[..n]);
        let text = String::from_utf8_lossy(&shown);
        if n == 0 || text.contains(" of 20 connections left, ") {
            break text.into_owned();
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(bar.contains("draining ") && bar.contains(" of 20 connections left, "), "{bar:?}");
}

#[cfg(all(unix, feature = "admin"))]
#[test]
fn admin_is_answered_until_its_server_has_drained() {
    let curl = |url: &str| Command::new("curl").args(["-s", "-m", "10", url]).output();
    if curl("file:///dev/null").is_err() {
        println!("skipped: there is no curl");
        return;
    }
    with_each_executor(|start| {
        let server = start(example("admin").args([ANY_PORT, ANY_PORT]));
        let page = server.wait_for("Admin on ").trim_start_matches("Admin on ").to_owned();
        let clients = ["one\n", "two\n"].map(|label| {
            let mut client = connect(server.port());
            client.write_all(label.as_bytes()).unwrap();
            client
        });
        let get = |path: &str| String::from_utf8(curl(&format!("{page}{path}")).unwrap().stdout).unwrap();
        let wait_for = |path: &str, text: &str| {
            let started = std::time::Instant::now();
            while !get(path).contains(text) {
                assert!(started.elapsed() < AT_MOST, "`{text}` is not in {}: {server}", get(path));
            }
        };
        for label in ["(`one`)", "(`two`)"] {
            wait_for("tree", label);
        }
        assert!(get("ready").starts_with("ready\n"), "{server}");
        server.send(Signal::SIGINT);
        wait_for("ready", ": draining, not ready, 2 of 2 connections left, ");
        drop(clients);
        assert_ends("admin", 0, Duration::ZERO, &server.wait());
    });
}

/// Writes a certificate to `cert.pem` and its key to `key.pem`, as the example `tls` reads them.
#[cfg(all(unix, feature = "tls"))]
fn issue(folder: &files::Folder) -> Authority {
    let authority = Authority::new("test authority");
    let identity = authority.issue(folder, "cert", &["localhost"]);
    std::fs::rename(identity.key, folder.path("key.pem")).unwrap();
    authority
}

#[cfg(all(unix, feature = "tls"))]
fn greets(server: &Process, authority: &Authority) -> bool {
    let mut greeting = String::new();
    let mut client = secure(connect(server.port()), authority.client(None));
    client.read_to_string(&mut greeting).is_ok_and(|_| greeting == "hello\n")
}

#[cfg(all(unix, feature = "tls"))]
#[test]
fn tls_serves_the_new_certificate_after_a_sighup() {
    with_each_executor(|start| {
        let folder = files::Folder::new();
        let old = issue(&folder);
        let server = start(example("tls").arg(ANY_PORT).arg(folder.itself()));
        assert!(greets(&server, &old), "{server}");
        let new = issue(&folder);
        assert!(greets(&server, &old) && !greets(&server, &new), "before the signal: {server}");
        server.send(Signal::SIGHUP);
        server.wait_for("Certificate reloaded");
        assert!(greets(&server, &new) && !greets(&server, &old), "{server}");
        server.send(Signal::SIGTERM);
        assert_ends("tls", 0, Duration::ZERO, &server.wait());
    });
}

#[cfg(all(unix, feature = "tls"))]
#[test]
fn tls_keeps_the_old_certificate_if_it_cannot_read_the_new_one() {
    with_each_executor(|start| {
        let folder = files::Folder::new();
        let authority = issue(&folder);
        let server = start(example("tls").arg(ANY_PORT).arg(folder.itself()));
        server.wait_for("Server listening");
        folder.write("cert.pem", "no certificate");
        server.send(Signal::SIGHUP);
        server.wait_for("The old certificate stays: ");
        assert!(greets(&server, &authority), "{server}");
        server.send(Signal::SIGTERM);
        let ended = server.wait();
        let last = ended.stdout.last().map(String::as_str);
        assert_eq!((ended.status.code(), last), (Some(0), Some("Server closed")), "{ended:?}");
    });
}

#[cfg(all(unix, feature = "tls"))]
#[test]
fn tls_names_the_file_that_is_missing() {
    let folder = files::Folder::new();
    let ended = Process::start(example("tls").arg(ANY_PORT).arg(folder.itself())).wait();
    let file = folder.path("cert.pem");
    assert_fails(&ended, &format!("cannot read the certificate file `{}`", file.display()));
}

/// The example takes its signals before it binds, so that no signal leaves the socket file behind.
#[cfg(unix)]
#[test]
fn unix_leaves_no_file_behind_at_a_sigterm() {
    with_each_executor(|start| {
        let folder = files::Folder::new();
        let path = folder.path("example.sock");
        let server = start(example("unix").arg(&path));
        server.wait_for("Server listening on "); // it does not serve yet, or only just
        server.send(Signal::SIGTERM);
        let ended = server.wait();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), None, "{ended:?}");
        assert!(!path.exists(), "{ended:?}");
    });
}

#[cfg(feature = "proxy-protocol")]
#[test]
fn proxy_protocol_knows_its_clients_by_their_headers() {
    runs_to_its_end("proxy_protocol", 0, Duration::ZERO);
}

#[cfg(unix)]
#[test]
fn state_is_shared_by_all_clients() {
    with_each_executor(|start| {
        let server = start(example("state").arg(ANY_PORT));
        for visitor in 1..=2 {
            let greeting = read_to_end(connect(server.port()));
            assert_eq!(String::from_utf8_lossy(&greeting), format!("hello, visitor {visitor}\n"), "{server}");
        }
        server.send(Signal::SIGINT);
        assert_ends("state", 0, Duration::ZERO, &server.wait());
    });
}

#[cfg(unix)]
#[test]
fn lines_drains_between_two_lines_and_never_inside_one() {
    with_each_executor(|start| {
        let server = start(example("lines").arg(ANY_PORT));
        let [mut idle, mut busy] = [(); 2].map(|()| connect(server.port()));
        let [mut idle_reads, mut busy_reads] =
            [&idle, &busy].map(|client| BufReader::new(client.try_clone().unwrap()).lines().map(Result::unwrap));
        idle.write_all(b"1 2 3\n").unwrap();
        assert_eq!(idle_reads.next().unwrap(), "6");
        busy.write_all(b"one\n4 ").unwrap();
        assert_eq!(busy_reads.next().unwrap(), "error: invalid float literal");
        server.send(Signal::SIGINT);
        assert_eq!(idle_reads.collect::<Vec<_>>(), ["goodbye"], "{server}");
        busy.write_all(b"5\n").unwrap();
        assert_eq!(busy_reads.collect::<Vec<_>>(), ["9", "goodbye"], "{server}");
        assert_ends("lines", 0, Duration::ZERO, &server.wait());
    });
}

#[test]
fn crawl_stops_at_the_first_error() {
    with_each_executor(|start| assert_ends("crawl", 0, Duration::ZERO, &start(&mut example("crawl")).wait()));
}

#[cfg(unix)]
#[test]
fn goodbye_sends_its_members_a_last_line() {
    with_each_executor(|start| {
        let server = start(example("goodbye").arg(ANY_PORT));
        let mut members = [(); 2].map(|()| {
            let member = connect(server.port());
            (BufReader::new(member.try_clone().unwrap()), member)
        });
        let mut line = |n: usize| {
            let mut line = String::new();
            members[n].0.read_line(&mut line).unwrap();
            line
        };
        // The client that was accepted first is number 0.
        let (zero, one) = if line(0) == "you are number 0\n" { (0, 1) } else { (1, 0) };
        assert_eq!(line(1), format!("you are number {}\n", usize::from(one == 1)));
        members[one].1.write_all(b"half a li").unwrap(); // its rest never follows
        members[zero].1.write_all(b"hello, every").unwrap();
        members[zero].1.write_all(b"body\n").unwrap();
        let mut line = String::new();
        members[one].0.read_line(&mut line).unwrap();
        assert_eq!(line, "0: hello, everybody\n");
        server.send(Signal::SIGINT);
        for (mut reader, _) in members {
            let mut rest = String::new();
            reader.read_to_string(&mut rest).expect("the member reads EOF");
            assert_eq!(rest, "the server closes: goodbye\n", "{server}");
        }
        let ended = server.wait();
        assert_ends("goodbye", 0, seconds(0), &ended);
        assert!(ended.took < seconds(6), "it waited for the rest of the line: {ended:?}");
    });
}

/// The slow member begins to read after the drain has begun, and takes longer than the task grace.
#[cfg(unix)]
#[test]
fn goodbye_does_not_slow_down_for_a_slow_member_and_the_slow_member_reads_its_goodbye_too() {
    with_each_executor(|start| {
        let server = start(example("goodbye").arg(ANY_PORT));
        let [mut slow, mut talker, listener] = [(); 3].map(|()| connect(server.port()));
        let mut lines = BufReader::new(listener).lines().map(Result::unwrap);
        assert!(lines.next().unwrap().starts_with("you are number "));
        // More than fits into the sockets and the queue of the slow member. Each line arrives before the next one.
        let words = "x".repeat(4000);
        for n in 0..4000 {
            writeln!(talker, "{n} {words}").unwrap();
            assert!(lines.next().unwrap().contains(&format!(": {n} x")), "line {n}: {server}");
        }
        server.send(Signal::SIGINT);
        assert_eq!(lines.collect::<Vec<_>>(), ["the server closes: goodbye"], "{server}");
        let mut text = String::new();
        loop {
            std::thread::sleep(Duration::from_millis(400));
            if Read::by_ref(&mut slow).take(1 << 20).read_to_string(&mut text).expect("the member reads EOF") == 0 {
                break;
            }
        }
        assert_eq!(text.lines().last().unwrap(), "the server closes: goodbye", "{server}");
        assert!(text.lines().count() < 4000, "its queue was full");
        let ended = server.wait();
        assert_eq!(ended.stdout.last().unwrap(), "3 joined, 3 stayed to the end", "{ended:?}");
    });
}

#[cfg(unix)]
#[test]
fn proxy_loses_nothing_in_a_drain() {
    with_each_executor(|start| {
        let upstream = TcpListener::bind(ANY_PORT).unwrap();
        let proxy = start(example("proxy").args([ANY_PORT, &upstream.local_addr().unwrap().to_string()]));
        let [idle, busy] = [(); 2].map(|()| {
            let client = connect(proxy.port());
            let (server, _) = upstream.accept().unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            (client, server)
        });
        pass(&idle.0, &idle.1, "question");
        pass(&idle.1, &idle.0, "answer");
        pass(&busy.0, &busy.1, "half a question, ");
        proxy.send(Signal::SIGINT);

        // Idle: the upstream reads EOF while the other request is in flight, and its own EOF is passed on.
        assert_eq!(read_to_end(&idle.1), b"", "{proxy}");
        drop(idle.1);
        assert_eq!(read_to_end(&idle.0), b"", "{proxy}");

        // In flight: the rest of the question still passes, and so does an answer in two parts.
        pass(&busy.0, &busy.1, "and the rest");
        pass(&busy.1, &busy.0, "half an answer, ");
        assert_eq!(read_to_end(&busy.1), b"", "{proxy}");
        (&busy.1).write_all(b"and the rest").unwrap();
        drop(busy.1);
        assert_eq!(read_to_end(&busy.0), b"and the rest", "{proxy}");

        let ended = proxy.wait();
        assert_ends("proxy", 0, Duration::ZERO, &ended);
        assert!(ended.took < seconds(6), "it waited for its deadline: {ended:?}");
    });
}

#[cfg(unix)]
#[test]
fn proxy_passes_a_half_close_on() {
    with_each_executor(|start| {
        let upstream = TcpListener::bind(ANY_PORT).unwrap();
        let proxy = start(example("proxy").args([ANY_PORT, &upstream.local_addr().unwrap().to_string()]));
        let client = connect(proxy.port());
        let (server, _) = upstream.accept().unwrap();
        (&client).write_all(b"all of it").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&server), b"all of it", "{proxy}");
        (&server).write_all(b"the answer").unwrap();
        drop(server);
        assert_eq!(read_to_end(&client), b"the answer", "{proxy}");
        proxy.send(Signal::SIGINT);
        assert_eq!(proxy.wait().stdout.last().unwrap(), "1 completed, 0 failed");
    });
}

#[cfg(unix)]
#[test]
fn proxy_logs_which_upstream_it_cannot_reach() {
    let (_bound, address) = refusing();
    with_each_executor(|start| {
        let proxy = start(example("proxy").args([ANY_PORT, &address]));
        assert_eq!(read_to_end(&connect(proxy.port())), b"", "{proxy}");
        proxy.wait_for(&format!("cannot connect to the upstream `{address}`: "));
        proxy.send(Signal::SIGINT);
        assert_eq!(proxy.wait().stdout.last().unwrap(), "0 completed, 1 failed");
    });
}

#[test]
fn clients_disconnects_every_client_when_it_is_cancelled() {
    with_each_executor(|start| {
        let server = start(example("clients").arg(ANY_PORT));
        let clients = [(); 3].map(|()| connect(server.port()));
        server.wait_for_nth(3, "Client connected");
        for client in clients {
            assert_eq!(read_to_end(client), b"", "{server}");
        }
        assert_ends("clients", 0, seconds(5), &server.wait());
    });
}

#[test]
fn client_waits_for_the_close_of_the_server() {
    with_each_executor(|start| {
        let server = start(example("clients").arg(ANY_PORT));
        let client = start(example("client").arg(format!("127.0.0.1:{}", server.port())));
        server.wait_for("Client connected");
        let server = server.wait();
        assert_ends("client", 0, seconds(1), &client.wait());
        assert_eq!(server.status.code(), Some(0), "{server:?}");
        assert_eq!(server.stdout.last().map(String::as_str), Some("Server closed: serving=false"), "{server:?}");
    });
}

#[test]
fn client_gives_up_after_ten_seconds() {
    with_each_executor(|start| {
        let silent = TcpListener::bind(ANY_PORT).unwrap();
        let client = start(example("client").arg(silent.local_addr().unwrap().to_string()));
        let _kept_open = silent.accept().unwrap();
        assert_ends("client", 0, seconds(10), &client.wait());
    });
}

#[test]
fn client_names_the_address_that_refuses_it() {
    let (_bound, address) = refusing();
    let ended = Process::start(example("client").arg(&address)).wait();
    assert_eq!(ended.stdout, ["Connecting..."], "{ended:?}");
    assert_fails(&ended, &format!("cannot connect to `{address}`: "));
}

#[cfg(unix)]
#[test]
fn echo_sends_back_what_it_reads_and_disconnects_idle_clients_at_ctrl_c() {
    with_each_executor(|start| {
        let server = start(example("echo").arg(ANY_PORT));
        let clients = [(); 2].map(|()| connect(server.port()));
        for message in ["hello", "and once more"] {
            for mut client in &clients {
                client.write_all(message.as_bytes()).unwrap();
                let mut echoed = vec![0; message.len()];
                client.read_exact(&mut echoed).unwrap();
                assert_eq!(echoed, message.as_bytes());
            }
        }
        server.send(Signal::SIGINT);
        for client in clients {
            assert_eq!(read_to_end(client), b"", "{server}");
        }
        let ended = server.wait();
        assert_reports(&ended, "2 accepted, 2 completed");
        assert_ends("echo", 0, Duration::ZERO, &ended);
    });
}

#[cfg(unix)]
#[test]
fn echo_talks_with_the_python_client_of_the_readme() {
    with_each_executor(|start| {
        let Some(mut client) = python_of_the_readme(0) else { return };
        let server = start(example("echo").arg(ANY_PORT));
        client.say(&server.port().to_string());
        client.wait_for(r"b'two\n'");
        server.send(Signal::SIGINT);
        let client = client.wait();
        assert_eq!(client.stdout, ["ready", r"b'one\n'", r"b'two\n'", "b''"], "{client:?}");
        assert_eq!(client.status.code(), Some(0), "{client:?}");
        assert_reports(&server.wait(), "1 accepted, 1 completed");
    });
}

#[test]
fn clients_talks_with_the_python_client_of_the_readme() {
    with_each_executor(|start| {
        let Some(mut client) = python_of_the_readme(1) else { return };
        let server = start(example("clients").arg(ANY_PORT));
        client.say(&server.port().to_string());
        server.wait_for("Client connected");
        let client = client.wait();
        assert_eq!(client.stdout, ["ready", "b''"], "{client:?}");
        assert_eq!(client.status.code(), Some(0), "{client:?}");
        assert_eq!(server.wait().status.code(), Some(0));
    });
}

#[cfg(target_os = "linux")] // other systems do not know the process of a peer
#[test]
fn unix_knows_its_peers_and_leaves_no_file() {
    with_each_executor(|start| {
        let folder = files::Folder::new();
        let path = folder.path("unix.sock");
        let program = start(example("unix").arg(&path));
        program.wait_for("A client reads");
        let another = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(std::io::read_to_string(another).unwrap(), format!("user {}", nix::unistd::geteuid()));
        let mut ended = program.wait();
        for line in &mut ended.stdout {
            *line = line.replace(path.to_str().unwrap(), "/tmp/ebbtide.sock");
        }
        assert_ends("unix", 0, seconds(2), &ended);
        assert_eq!(folder.names(), [""; 0]);
    });
}

#[cfg(unix)]
#[test]
fn unix_fails_if_another_server_listens_at_its_path() {
    let folder = files::Folder::new();
    let path = folder.path("taken.sock");
    let _live = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let ended = Process::start(example("unix").arg(&path)).wait();
    assert_fails(&ended, &format!("cannot listen on `{}`: something listens there already", path.display()));
}

#[cfg(unix)]
#[test]
fn many_listeners_serves_four_ways_in_and_closes_them_all() {
    runs_to_its_end("many_listeners", 0, seconds(0));
}

#[cfg(all(unix, feature = "upgrade"))]
#[test]
fn hand_over_is_ready_before_the_old_generation_drains() {
    runs_to_its_end("hand_over", 0, seconds(2));
}

#[test]
fn in_memory_needs_no_sockets() {
    with_each_executor(|start| assert_ends("in_memory", 0, Duration::ZERO, &start(&mut example("in_memory")).wait()));
}

#[test]
fn each_server_reports_in_one_line_that_its_port_is_taken() {
    let taken = TcpListener::bind(ANY_PORT).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for name in SERVERS {
        let ended = Process::start(example(name).arg(&address)).wait();
        assert_fails(&ended, &format!("cannot listen on `{address}`: "));
        assert!(!ended.stdout.iter().any(|line| line.contains("listening")), "{ended:?}");
        if cfg!(target_os = "linux") {
            assert!(README.contains(&normalised(&ended.stderr[0])), "examples/README.md shows this error: {ended:?}");
        }
    }
}

#[test]
fn each_server_reports_in_one_line_that_its_address_is_wrong() {
    for name in SERVERS {
        let ended = Process::start(example(name).arg("nonsense")).wait();
        assert_fails(&ended, "nonsense");
    }
}

/// These six are quoted elsewhere, so their output is fixed.
#[test]
fn the_output_of_the_first_six_is_as_ever() {
    const THREE: &str = "Server listening on 127.0.0.1:8888\nShutting down...\nServer closed: serving=false\n";
    let connected = "Client connected\n".repeat(3);
    let clients = THREE.replacen("Shutting down", &format!("{connected}Shutting down"), 1);
    let client = "Connecting...\nConnected\nShutting down...\n";
    let all = sources();
    for name in ["cancel", "sigint", "clients", "client", "one_expression", "by_hand"] {
        let (_, source) = all.iter().find(|(known, _)| known == name).expect("there is such an example");
        let expected = match name {
            "clients" => &clients,
            "client" => client,
            _ => THREE,
        };
        assert_eq!(output(source), expected, "{name}");
    }
}

#[test]
fn the_readme_shows_each_example_and_what_it_prints() {
    for (name, source) in sources() {
        let section = README.split("\n## ").find(|section| section.lines().next() == Some(&*name));
        let section = section.unwrap_or_else(|| panic!("examples/README.md has no section `{name}`"));
        let shown = blocks(section).find(|block| block.info == "text").map(|block| block.text);
        assert_eq!(shown, Some(output(&source)), "the section `{name}` of examples/README.md");
        assert!(README.contains(&format!("| [`{name}`](")), "`{name}` is in the table of examples/README.md");
    }
}

/// Returns the name and the source of each example.
pub(crate) fn sources() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let file = if entry.is_dir() { entry.join("main.rs") } else { entry.clone() };
        // `apps` is a package of its own, with its own tests.
        if file.extension().is_some_and(|extension| extension == "rs") && file.exists() {
            let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
            sources.push((name, std::fs::read_to_string(file).unwrap()));
        }
    }
    sources.sort();
    sources
}

#[test]
fn inside_tokio_handlers_use_tokio() {
    runs_to_its_end("inside_tokio", 0, seconds(0));
}

#[cfg(feature = "smol")]
#[test]
fn smol_needs_no_async_std() {
    runs_to_its_end("smol", 0, seconds(0));
}

/// Returns the output that the header of an example shows.
fn output(source: &str) -> String {
    let header = header(source);
    let block = blocks(&header).find(|block| block.info == "text");
    block.expect("the header shows the output").text
}

/// Runs an example that needs no other program.
fn runs_to_its_end(name: &str, status: i32, at_least: Duration) {
    with_each_executor(|start| assert_ends(name, status, at_least, &start(example(name).arg(ANY_PORT)).wait()));
}

/// Checks the output of an example, its exit status, and how long it took.
fn assert_ends(name: &str, status: i32, at_least: Duration, ended: &Ended) {
    assert_output(name, ended);
    assert_eq!(ended.status.code(), Some(status), "{ended:?}");
    assert_eq!(ended.stderr, [""; 0], "{ended:?}");
    assert!(ended.took >= at_least, "too early: {ended:?}");
    assert!(ended.took < AT_MOST, "too late: {ended:?}");
}

fn assert_output(name: &str, ended: &Ended) {
    let (_, source) = sources().into_iter().find(|(known, _)| known == name).expect("there is such an example");
    let printed: Vec<_> = ended.stdout.iter().map(|line| normalised(line)).collect();
    let expected = output(&source);
    let expected: Vec<_> = expected.lines().collect();
    assert!(matches(&printed, &expected), "{name} prints {printed:#?} instead of {expected:#?}: {ended:?}");
}

/// Checks that `main` returned an error: one line on standard error, and exit status 1.
fn assert_fails(ended: &Ended, text: &str) {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let [line] = &ended.stderr[..] else { panic!("one line on standard error: {ended:?}") };
    assert!(line.starts_with("Error: ") && line.contains(text), "no `{text}`: {ended:?}");
}

/// Checks the log of `echo`, and its last line.
#[cfg(unix)]
fn assert_reports(ended: &Ended, counts: &str) {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stderr, [""; 0], "{ended:?}");
    let report = ended.stdout.last().map_or("", String::as_str);
    assert!(report.starts_with("closed in "), "{ended:?}");
    assert!(report.contains(&format!("because SIGINT was received: {counts}")), "{ended:?}");
    assert!(ended.stdout[1].contains("serving on 127.0.0.1:"), "no log: {ended:?}");
}

fn connect(port: u16) -> TcpStream {
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Returns an address that refuses connections: the socket keeps other processes from the port, and does not listen.
fn refusing() -> (socket2::Socket, String) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&ANY_PORT.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    (socket, address)
}

/// Sends a text on one socket, and reads it on another one, or on the same.
#[cfg(unix)]
fn pass(mut from: &TcpStream, mut to: &TcpStream, text: &str) {
    from.write_all(text.as_bytes()).unwrap();
    let mut passed = vec![0; text.len()];
    to.read_exact(&mut passed).unwrap();
    assert_eq!(passed, text.as_bytes());
}

/// Reads until EOF. A reset fails the test.
fn read_to_end(mut client: impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the client reads EOF");
    rest
}

/// Starts the `n`th Python client of the README. It waits for the port on its standard input, because Python may start
/// more slowly than the server of a test stops. `None`, with a note, if there is no Python.
fn python_of_the_readme(n: usize) -> Option<Process> {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no python3");
        return None;
    }
    let script = r#"import asyncio, sys; print("ready"); exec(sys.argv[1].replace("8888", input()))"#;
    let client = &blocks(README).filter(|block| block.info == "python").nth(n).expect("a Python client").text;
    let process = Process::start(Command::new("python3").args(["-I", "-S", "-u", "-c", script, client]));
    assert!(process.prints_within(4 * PATIENCE, "ready"), "Python does not start: {process}");
    Some(process)
}
