//! The examples as processes: what they print, how they end, and what their clients see.
//!
//! Each runs with the executor's usual threads and with one. `cargo test` builds the examples first; `cargo test --test
//! examples` does not.

/// For the tests at its end: `cargo test` builds examples without theirs.
#[allow(dead_code, reason = "its `main` is run as a process")]
#[path = "../../examples/in_memory.rs"]
mod in_memory;

use crate::support::files;
use crate::support::process::{ANY_PORT, Ended, PATIENCE, Process, example, with_each_executor};
#[cfg(unix)]
use std::io::{BufRead, BufReader};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

const README: &str = include_str!("../../examples/README.md");

const THREE_LINES: &[&str] =
    &["Server listening on 127.0.0.1:8888", "Shutting down...", "Server closed: serving=false"];

/// What each example prints on standard output.
const OUTPUTS: &[(&str, &[&str])] = &[
    ("cancel", THREE_LINES),
    ("sigint", THREE_LINES),
    (
        "clients",
        &[
            "Server listening on 127.0.0.1:8888",
            "Client connected",
            "Client connected",
            "Client connected",
            "Shutting down...",
            "Server closed: serving=false",
        ],
    ),
    ("client", &["Connecting...", "Connected", "Shutting down..."]),
    ("one_expression", THREE_LINES),
    ("by_hand", THREE_LINES),
    (
        "dropped",
        &[
            "Server listening on 127.0.0.1:8888",
            "Clients connected: 3",
            "Live handlers before the drop: 3",
            "Live handlers after the drop: 0",
            "Server closed: serving=false",
            "Clients disconnected: 3",
        ],
    ),
    (
        "panic",
        &[
            "Server listening on 127.0.0.1:8888",
            "Clients connected: 3",
            "The body panics",
            "A handler has said goodbye",
            "A handler has said goodbye",
            "A handler has said goodbye",
            "The panic goes on: serving=false, connections=0",
        ],
    ),
    (
        "commonest_mistake",
        &[
            "Right: await serve in main",
            "  Server listening on 127.0.0.1:8888",
            "  handler: working",
            "  handler: cleaned up",
            "  client: the reply is `done`",
            "Right: keep the handle, and await the shutdown",
            "  Server listening on 127.0.0.1:8888",
            "  handler: working",
            "  handler: cleaned up",
            "  client: the reply is `done`",
            "Wrong: return from main while serve lives in a spawned task",
            "  Server listening on 127.0.0.1:8888",
            "  handler: working",
            "main returns, and the reply and the cleanup are lost",
        ],
    ),
    (
        "limits",
        &[
            "Server listening on 127.0.0.1:8888",
            "10 clients came, and 3 are served",
            "The limit is raised, and 5 are served",
            "Paused, and one has left: 4 are served",
            "Resumed, and 5 are served",
            "All have their answer",
            "One that said nothing has been closed",
            "10 completed, 1 rejected, 0 cancelled",
        ],
    ),
    (
        "lame_duck",
        &[
            "Server listening on 127.0.0.1:8888",
            "ready=true serving=true: a client that comes now is told `hello`",
            "Shutting down...",
            "ready=false serving=true: a client that comes now is told `hello`",
            "ready=false serving=false: a client that comes now is refused",
        ],
    ),
    ("goodbye", &["Server listening on 127.0.0.1:8888", "2 joined, and 2 of them stayed to the end"]),
    (
        "proxy",
        &[
            "Server listening on 127.0.0.1:8888",
            "The idle client has asked `hello` and read `HELLO`",
            "The busy client has asked `and now?`",
            "Shutting down...",
            "The idle client reads `` and EOF",
            "The busy client reads `AND NOW?` and EOF",
            "2 completed, 0 failed",
        ],
    ),
    #[cfg(unix)]
    (
        "unix",
        &[
            "Server listening on /tmp/ebbtide.sock",
            "The file is there: true",
            "A client is told: you are a part of this very process",
            "Shutting down...",
            "Server closed, and the file is there: false",
            "1 accepted, 1 completed",
        ],
    ),
    #[cfg(unix)]
    (
        "many_listeners",
        &[
            "Server listening on 127.0.0.1:8888, and in 3 more ways",
            "TCP: hello, client number 0",
            "TCP: hello, client number 1",
            "Unix socket: hello, client number 2",
            "Memory: hello, client number 3",
            "Shutting down...",
            "4 accepted, 4 completed",
            "Server closed: memory refuses=true, the socket's file is there=false",
        ],
    ),
    (
        "in_memory",
        &[
            r#"A client that says `hello` and `world` hears "HELLO\nWORLD\n""#,
            "100 clients at a time all hear it: true; 100 completed",
            r#"One that stops in the middle of a line hears ""; 1 disconnected"#,
            "One that comes after the end is refused: true",
        ],
    ),
    #[cfg(feature = "tls")]
    (
        "tls",
        &[
            "Server listening on 127.0.0.1:8888",
            "HELLO! says localhost",
            "HELLO! says localhost",
            "Who trusts only the old certificate does not trust the new one",
            "2 completed, 1 rejected",
        ],
    ),
    #[cfg(all(unix, feature = "tls"))]
    (
        "reload",
        &[
            "Server listening on 127.0.0.1:8888",
            "The certificate is renewed, and SIGHUP is sent",
            "The files are read again: new connections get the new certificate",
            "Shutting down...",
            "Server closed",
        ],
    ),
    #[cfg(feature = "proxy-protocol")]
    (
        "proxy_protocol",
        &[
            "Server listening on 127.0.0.1:8888",
            "version 1: you are 192.0.2.1:56324, and asked `who am I now`",
            "version 2: you are 192.0.2.1:56324, and asked `who am I now`",
            "a health check: you are 127.0.0.1, and asked `who am I now`",
            "no header: the answer is ``",
            "3 completed, 1 rejected",
        ],
    ),
];

/// The examples that listen: all but `client`.
const SERVERS: &[&str] = &[
    "cancel",
    "sigint",
    "clients",
    "one_expression",
    "by_hand",
    "dropped",
    "panic",
    "echo",
    "commonest_mistake",
    "limits",
    "lame_duck",
    "goodbye",
    "proxy",
    #[cfg(unix)]
    "many_listeners",
    #[cfg(feature = "tls")]
    "tls",
    #[cfg(all(unix, feature = "tls"))]
    "reload",
    #[cfg(feature = "proxy-protocol")]
    "proxy_protocol",
];

/// Far above what an example takes, also on a busy machine.
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
fn commonest_mistake_loses_the_reply_and_the_cleanup_of_the_wrong_one_only() {
    runs_to_its_end("commonest_mistake", 0, seconds(3));
}

#[test]
fn limits_holds_under_more_clients_than_it_takes() {
    runs_to_its_end("limits", 0, seconds(2));
}

#[test]
fn lame_duck_accepts_until_it_is_over() {
    runs_to_its_end("lame_duck", 0, seconds(2));
}

#[cfg(feature = "tls")]
#[test]
fn tls_changes_its_certificate_while_it_serves() {
    runs_to_its_end("tls", 0, Duration::ZERO);
}

#[cfg(all(unix, feature = "tls"))]
#[test]
fn reload_reads_its_files_again_at_sighup() {
    runs_to_its_end("reload", 0, seconds(2));
}

#[cfg(all(unix, feature = "tls"))]
#[test]
fn reload_serves_the_new_certificate_after_a_sighup_and_keeps_the_old_one_if_it_cannot() {
    use crate::support::certificates::{Authority, secure};
    let issue = |folder: &files::Folder| {
        let authority = Authority::new("a test's own");
        let identity = authority.issue(folder, "cert", &["localhost"]);
        std::fs::rename(identity.key, folder.path("key.pem")).unwrap();
        authority
    };
    let greets = |server: &Process, authority: &Authority| {
        let mut greeting = String::new();
        let mut client = secure(connect(server.port()), authority.client(None));
        client.read_to_string(&mut greeting).is_ok_and(|_| greeting == "hello\n")
    };
    with_each_executor(|start| {
        let folder = files::Folder::new();
        let old = issue(&folder);
        let server = start(example("reload").arg(ANY_PORT).arg(folder.itself()));
        assert!(greets(&server, &old), "{server}");

        let new = issue(&folder);
        assert!(greets(&server, &old) && !greets(&server, &new), "nobody has told it yet: {server}");
        server.send(nix::sys::signal::Signal::SIGHUP);
        server.wait_for("The files are read again");
        assert!(greets(&server, &new) && !greets(&server, &old), "{server}");

        folder.write("cert.pem", "no certificate");
        server.send(nix::sys::signal::Signal::SIGHUP);
        server.wait_for("The old certificate stays: ");
        assert!(greets(&server, &new), "{server}");
        server.send(nix::sys::signal::Signal::SIGTERM);
        let ended = server.wait();
        let last = ended.stdout.last().map(String::as_str);
        assert_eq!((ended.status.code(), last), (Some(0), Some("Server closed")), "{ended:?}");
    });
}

/// An example that has made a socket file removes it, whenever it is told to stop.
#[cfg(unix)]
#[test]
fn unix_leaves_no_file_behind_at_a_sigterm() {
    with_each_executor(|start| {
        let folder = files::Folder::new();
        let path = folder.path("example.sock");
        let server = start(example("unix").arg(&path));
        server.wait_for("Server listening on "); // it does not serve yet, or has just begun to
        server.send(nix::sys::signal::Signal::SIGTERM);
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
fn goodbye_tells_its_members_that_the_server_closes() {
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
        // Whoever was accepted first is number 0.
        let (zero, one) = if line(0) == "you are number 0\n" { (0, 1) } else { (1, 0) };
        assert_eq!(line(1), format!("you are number {}\n", usize::from(one == 1)));
        members[zero].1.write_all(b"hello, every").unwrap();
        members[zero].1.write_all(b"body\n").unwrap();
        let mut heard = String::new();
        members[one].0.read_line(&mut heard).unwrap();
        assert_eq!(heard, "0: hello, everybody\n");
        server.send(nix::sys::signal::Signal::SIGINT);
        for (mut reader, _) in members {
            let mut rest = String::new();
            reader.read_to_string(&mut rest).expect("it reads the end");
            assert_eq!(rest, "the server closes: goodbye\n", "{server}");
        }
        assert_ends("goodbye", 0, seconds(0), &server.wait());
    });
}

#[cfg(unix)]
#[test]
fn goodbye_has_no_member_wait_for_one_that_does_not_read() {
    with_each_executor(|start| {
        let server = start(example("goodbye").arg(ANY_PORT));
        let [silent, mut talker, listener] = [(); 3].map(|()| connect(server.port()));
        let mut heard = BufReader::new(listener).lines().map(Result::unwrap);
        assert!(heard.next().unwrap().starts_with("you are number "));
        // More than the sockets and the queue of the silent one hold; each line is heard before the next is said.
        let words = "x".repeat(4000);
        for n in 0..4000 {
            writeln!(talker, "{n} {words}").unwrap();
            assert!(heard.next().unwrap().contains(&format!(": {n} x")), "line {n}: {server}");
        }
        server.send(nix::sys::signal::Signal::SIGINT);
        assert_eq!(heard.collect::<Vec<_>>(), ["the server closes: goodbye"], "{server}");
        let ended = server.wait();
        assert_eq!(ended.stdout.last().unwrap(), "3 joined, and 3 of them stayed to the end", "{ended:?}");
        drop(silent);
    });
}

#[test]
fn proxy_answers_the_request_in_flight_of_its_own_client() {
    runs_to_its_end("proxy", 0, seconds(2));
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
        proxy.send(nix::sys::signal::Signal::SIGINT);

        // Idle: the upstream reads EOF while the other request is in flight, and its own EOF is passed on.
        assert_eq!(read_to_end(&idle.1), b"", "{proxy}");
        drop(idle.1);
        assert_eq!(read_to_end(&idle.0), b"", "{proxy}");

        // In flight: the rest of the question still passes, and so does an answer that comes in parts.
        pass(&busy.0, &busy.1, "and the rest");
        pass(&busy.1, &busy.0, "half an answer, ");
        assert_eq!(read_to_end(&busy.1), b"", "{proxy}");
        (&busy.1).write_all(b"and the rest").unwrap();
        drop(busy.1);
        assert_eq!(read_to_end(&busy.0), b"and the rest", "{proxy}");

        let ended = proxy.wait();
        assert_eq!(ended.stdout.last().unwrap(), "2 completed, 0 failed", "{ended:?}");
        assert_eq!((ended.stdout.len(), ended.status.code()), (2, Some(0)), "{ended:?}");
        assert!(ended.took < seconds(6), "it waits for its deadline: {ended:?}");
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
        proxy.send(nix::sys::signal::Signal::SIGINT);
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
        proxy.send(nix::sys::signal::Signal::SIGINT);
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
fn client_says_that_nobody_listens() {
    let (_bound, address) = refusing();
    let ended = Process::start(example("client").arg(&address)).wait();
    assert_eq!(ended.stdout, ["Connecting..."], "{ended:?}");
    assert_says(&ended, &format!("error: cannot connect to `{address}`: "));
}

#[cfg(unix)]
#[test]
fn echo_sends_back_what_it_gets_and_lets_an_idle_client_go_at_ctrl_c() {
    with_each_executor(|start| {
        let server = start(example("echo").arg(ANY_PORT));
        let mut client = connect(server.port());
        for message in ["hello", "and once more"] {
            client.write_all(message.as_bytes()).unwrap();
            let mut echoed = vec![0; message.len()];
            client.read_exact(&mut echoed).unwrap();
            assert_eq!(echoed, message.as_bytes());
        }
        server.send(nix::sys::signal::Signal::SIGINT);
        assert_eq!(read_to_end(client), b"", "{server}");
        assert_reports(&server.wait(), "1 accepted, 1 completed");
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
        server.send(nix::sys::signal::Signal::SIGINT);
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

#[cfg(target_os = "linux")] // elsewhere nobody tells who the client is
#[test]
fn unix_tells_its_client_who_it_is_and_leaves_no_file() {
    with_each_executor(|start| {
        let folder = files::Folder::new();
        let path = folder.path("unix.sock");
        let program = start(example("unix").arg(&path));
        program.wait_for("A client is told");
        let another = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let told = std::io::read_to_string(another).unwrap();
        assert!(["you are the administrator", "you are another process of this user"].contains(&&*told), "{told}");
        let mut ended = program.wait();
        for line in &mut ended.stdout {
            *line = line.replace(path.to_str().unwrap(), "/tmp/ebbtide.sock").replace("2 accepted, 2", "1 accepted, 1");
        }
        assert_ends("unix", 0, seconds(2), &ended);
        assert_eq!(folder.names(), [""; 0]);
    });
}

#[cfg(unix)]
#[test]
fn unix_says_that_its_path_is_taken_and_exits_with_status_1() {
    let folder = files::Folder::new();
    let path = folder.path("taken.sock");
    let _live = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let ended = Process::start(example("unix").arg(&path)).wait();
    assert_says(&ended, &format!("error: cannot listen on `{}`: something listens there already", path.display()));
    let ended = Process::start(example("unix").arg("--fast")).wait();
    assert_says(&ended, "error: unknown option `--fast`; there are `--verbose` and an address (`/tmp/ebbtide.sock`)");
}

#[cfg(unix)]
#[test]
fn many_listeners_serves_four_ways_in_and_closes_them_all() {
    runs_to_its_end("many_listeners", 0, seconds(0));
}

#[test]
fn in_memory_needs_no_sockets() {
    runs_to_its_end("in_memory", 0, seconds(0));
}

#[test]
fn each_server_says_that_its_port_is_taken_and_exits_with_status_1() {
    let taken = TcpListener::bind(ANY_PORT).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for name in SERVERS {
        let ended = Process::start(example(name).arg(&address)).wait();
        assert_says(&ended, &format!("error: cannot listen on `{address}`: "));
        assert!(!ended.stdout.iter().any(|line| line.contains("listening")), "{ended:?}");
    }
}

#[test]
fn each_server_says_that_its_address_is_none_and_exits_with_status_1() {
    for name in SERVERS {
        let ended = Process::start(example(name).arg("nonsense")).wait();
        assert_says(&ended, "error: ");
        assert!(ended.stderr[0].contains("nonsense"), "{ended:?}");
    }
}

#[test]
fn an_unknown_option_is_refused() {
    for name in SERVERS.iter().chain(&["client"]) {
        let ended = Process::start(example(name).arg("--fast")).wait();
        assert_says(&ended, "error: unknown option `--fast`");
        assert_eq!(ended.stdout, [""; 0], "{ended:?}");
    }
}

#[test]
fn verbose_shows_the_log() {
    let ended = Process::start(example("dropped").args(["--verbose", ANY_PORT])).wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    for text in ["serving on 127.0.0.1:", "opened", "3 cancelled"] {
        assert!(ended.stdout.iter().any(|line| line.contains(text)), "no `{text}` in {ended:?}");
    }
}

#[test]
fn the_readme_shows_what_each_example_prints() {
    for (name, output) in OUTPUTS {
        let section = README.split("\n## ").find(|section| section.lines().next() == Some(*name));
        let section = section.unwrap_or_else(|| panic!("examples/README.md has no section `{name}`"));
        let shown: Vec<_> = block(section, "```text\n", 0).lines().collect();
        assert_eq!(shown, *output, "the section `{name}` of examples/README.md");
    }
}

/// An example that needs nobody else.
fn runs_to_its_end(name: &str, status: i32, at_least: Duration) {
    with_each_executor(|start| assert_ends(name, status, at_least, &start(example(name).arg(ANY_PORT)).wait()));
}

fn assert_ends(name: &str, status: i32, at_least: Duration, ended: &Ended) {
    assert_output(name, ended);
    assert_eq!(ended.status.code(), Some(status), "{ended:?}");
    assert_eq!(ended.stderr, [""; 0], "{ended:?}");
    assert!(ended.took >= at_least, "too early: {ended:?}");
    assert!(ended.took < AT_MOST, "too late: {ended:?}");
}

fn assert_output(name: &str, ended: &Ended) {
    let (_, expected) = OUTPUTS.iter().find(|(known, _)| *known == name).expect("its output is in the table");
    let printed: Vec<_> = ended.stdout.iter().map(|line| with_the_usual_port(line)).collect();
    assert_eq!(printed, *expected, "{name}: {ended:?}");
}

/// The tests run on whatever port is free; the texts have the default one.
fn with_the_usual_port(line: &str) -> String {
    match line.split_once("127.0.0.1:") {
        Some((before, after)) => {
            format!("{before}127.0.0.1:8888{}", after.trim_start_matches(|digit: char| digit.is_ascii_digit()))
        }
        None => line.to_owned(),
    }
}

/// One line on standard error, and status 1.
fn assert_says(ended: &Ended, beginning: &str) {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.len() == 1 && ended.stderr[0].starts_with(beginning), "no `{beginning}`: {ended:?}");
}

/// The last line of `echo`, after its log.
#[cfg(unix)]
fn assert_reports(ended: &Ended, counts: &str) {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stderr, [""; 0], "{ended:?}");
    let report = ended.stdout.last().map_or("", String::as_str);
    assert!(report.starts_with("closed in "), "{ended:?}");
    assert!(report.contains(&format!("because SIGINT came: {counts}")), "{ended:?}");
    assert!(ended.stdout[1].contains("serving on 127.0.0.1:"), "it logs: {ended:?}");
}

fn connect(port: u16) -> TcpStream {
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// An address that refuses connections: it is bound, so that no other process can have the port, and does not listen.
fn refusing() -> (socket2::Socket, String) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&ANY_PORT.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    (socket, address)
}

/// Sends a text into one end of the proxy, and reads it at the other.
#[cfg(unix)]
fn pass(mut from: &TcpStream, mut to: &TcpStream, text: &str) {
    from.write_all(text.as_bytes()).unwrap();
    let mut passed = vec![0; text.len()];
    to.read_exact(&mut passed).unwrap();
    assert_eq!(passed, text.as_bytes());
}

/// What is still to come, until the server closes. A reset is a failure here.
fn read_to_end(mut client: impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the client reads the end");
    rest
}

/// The `n`th Python client of the README, which waits to be told the port: Python takes its time to start, and a server
/// its own to stop. `None`, with a note, where there is no Python.
fn python_of_the_readme(n: usize) -> Option<Process> {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no python3");
        return None;
    }
    let script = r#"import asyncio, sys; print("ready"); exec(sys.argv[1].replace("8888", input()))"#;
    let client = block(README, "```python\n", n);
    let process = Process::start(Command::new("python3").args(["-I", "-S", "-u", "-c", script, client]));
    assert!(process.prints_within(4 * PATIENCE, "ready"), "Python does not start: {process}");
    Some(process)
}

/// The `n`th block that opens with `fence`.
fn block<'a>(text: &'a str, fence: &str, n: usize) -> &'a str {
    let after = text.split(fence).nth(n + 1).unwrap_or_else(|| panic!("there is no {fence}number {n}"));
    after.split("```").next().unwrap_or_default()
}
