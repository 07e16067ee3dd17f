//! The example `kv` with Redis's own programs, redis-cli and redis-benchmark, and with a client that checks every byte
//! of its replies while the server drains. The tests with Redis's programs are skipped, with a note, if these are not
//! installed.
#![cfg(unix)]

use crate::support::process::{ANY_PORT, PATIENCE, Process, example, with_each_executor};
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::thread;

/// Returns the command for a program of Redis, `None` with a note if it is not installed.
fn program(name: &str, port: u16) -> Option<Command> {
    if !Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no {name}");
        return None;
    }
    let mut command = Command::new(name);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    Some(command)
}

fn connect(port: u16) -> TcpStream {
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Reads until EOF. A reset fails the test.
fn rest(mut client: impl Read) -> String {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the client reads EOF");
    String::from_utf8(rest).unwrap()
}

/// Ends the server by a signal, and checks its report: so many clients completed, and none failed.
fn ends(server: Process, completed: u64) {
    server.send(Signal::SIGTERM);
    ends_by_itself(server, completed);
}

/// Checks the report of a server that has its signal already.
fn ends_by_itself(server: Process, completed: u64) {
    let ended = server.wait();
    assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(0), &[][..]), "{ended:?}");
    assert_eq!(ended.stdout.len(), 2, "a warning: {ended:?}");
    assert_eq!(ended.stdout[1], format!("{completed} completed, 0 failed"), "{ended:?}");
}

#[test]
fn redis_cli_sets_gets_counts_and_deletes() {
    with_each_executor(|start| {
        let server = start(example("kv").arg(ANY_PORT));
        let commands: [(&[&str], &str); 10] = [
            (&["PING"], "PONG"),
            (&["SET", "greeting", "hello, \r\n world"], "OK"),
            (&["GET", "greeting"], "hello, \r\n world"),
            (&["get", "nothing"], ""), // lower case; the reply is nil
            (&["INCR", "n"], "1"),
            (&["INCR", "n"], "2"),
            (&["INCR", "greeting"], "ERR value is not an integer or out of range\n"),
            (&["DEL", "greeting", "n", "nothing"], "2"),
            (&["DEL"], "ERR unknown command, or wrong number of arguments\n"),
            (&["FLUSHALL"], "ERR unknown command, or wrong number of arguments\n"),
        ];
        for (arguments, reply) in commands {
            let Some(mut cli) = program("redis-cli", server.port()) else { return };
            let output = cli.args(arguments).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{reply}\n"), "{arguments:?}: {output:?}");
            assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{arguments:?}: {output:?}");
        }
        ends(server, 10);
    });
}

#[test]
fn redis_cli_in_its_interactive_form_and_with_resp3_gets_its_replies() {
    with_each_executor(|start| {
        let server = start(example("kv").arg(ANY_PORT));
        for arguments in [&[][..], &["-3"]] {
            let Some(mut cli) = program("redis-cli", server.port()) else { return };
            let mut cli = Process::start(cli.args(arguments));
            cli.say("SET a 1");
            cli.wait_for("OK");
            cli.say("INCR a");
            cli.wait_for("2");
        }
        server.send(Signal::SIGTERM);
        assert_eq!(server.wait().status.code(), Some(0));
    });
}

#[test]
fn redis_benchmark_runs_to_its_end_without_an_error() {
    with_each_executor(|start| {
        let server = start(example("kv").arg(ANY_PORT));
        let Some(mut benchmark) = program("redis-benchmark", server.port()) else { return };
        benchmark.args(["-t", "ping,set,get,incr", "-n", "20000", "-P", "16", "-q"]);
        let ended = Process::start(&mut benchmark).wait();
        assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(0), &[][..]), "{ended:?}");
        let printed = ended.stdout.join("\n");
        for test in ["PING_INLINE: ", "PING_MBULK: ", "SET: ", "GET: ", "INCR: "] {
            let done = |line: &str| line.starts_with(test) && line.contains(" requests per second");
            assert!(printed.split(['\r', '\n']).any(done), "no result of `{test}`: {ended:?}");
        }
        assert!(!printed.to_lowercase().contains("err") && !printed.contains("WARN"), "{ended:?}");
        server.send(Signal::SIGTERM);
        let report = server.wait();
        assert_eq!(report.status.code(), Some(0), "{report:?}");
        assert!(report.stdout[1].ends_with(" completed, 0 failed"), "{report:?}");
    });
}

/// Bulk strings, as a client library sends them.
fn resp(words: &[&str]) -> String {
    let bulks: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{bulks}", words.len())
}

/// Each client sends batches, and counts with a key of its own: the reply to its `n`th command is `n`. The server
/// closes the connection after a whole reply, and answers a batch whole or not at all.
#[test]
fn a_drain_in_a_pipelined_load_closes_between_two_commands() {
    const CLIENTS: usize = 6;
    with_each_executor(|start| {
        let server = start(example("kv").arg(ANY_PORT));
        let (port, halfway) = (server.port(), std::sync::Barrier::new(CLIENTS + 1));
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let halfway = &halfway;
                scope.spawn(move || {
                    let mut client = connect(port);
                    let mut replies = BufReader::new(client.try_clone().unwrap());
                    let batch = resp(&["INCR", &format!("key of client {number}")]).repeat(1 + 37 * number);
                    let (mut sent, mut answered) = (0, 0);
                    let is_closed = |error: &std::io::Error| {
                        matches!(error.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset)
                    };
                    'load: for round in 0.. {
                        if round == 20 {
                            halfway.wait();
                        }
                        match client.write_all(batch.as_bytes()) {
                            Ok(()) => sent += 1 + 37 * number,
                            Err(error) => {
                                assert!(is_closed(&error), "{error}");
                                break;
                            }
                        }
                        while answered < sent {
                            let mut line = String::new();
                            match replies.read_line(&mut line) {
                                Ok(0) => break 'load,
                                // It had sent a batch when the server had closed already.
                                Err(error) if is_closed(&error) && line.is_empty() => break 'load,
                                Err(error) => panic!("after {answered} replies and {line:?}: {error}"),
                                Ok(_) => answered += 1,
                            }
                            assert_eq!(line, format!(":{answered}\r\n"), "half a reply, or another one");
                        }
                    }
                    assert_eq!(answered % (1 + 37 * number), 0, "a batch that has arrived is answered whole");
                });
            }
            halfway.wait();
            server.send(Signal::SIGTERM);
        });
        let ended = server.wait();
        assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(0), &[][..]), "{ended:?}");
        assert!(ended.stdout[1].ends_with(" 0 failed"), "{ended:?}");
    });
}

/// The commands are less than the first window of a socket, so all of them have arrived when they are written.
#[test]
fn every_command_that_has_arrived_before_a_drain_is_answered() {
    const COMMANDS: usize = 2_000;
    with_each_executor(|start| {
        let server = start(example("kv").arg(ANY_PORT));
        let mut client = connect(server.port());
        client.write_all(resp(&["INCR", "n"]).repeat(COMMANDS).as_bytes()).unwrap();
        let mut replies = BufReader::new(client);
        let mut first = String::new();
        replies.read_line(&mut first).unwrap();
        server.send(Signal::SIGTERM);
        let expected: String = (1..=COMMANDS).map(|n| format!(":{n}\r\n")).collect();
        assert!(first + &rest(replies) == expected, "{server}");
        ends_by_itself(server, 1);
    });
}

/// Half a line, half a bulk string, and a command between two of its bulk strings.
#[test]
fn half_a_command_at_a_drain_is_waited_for_and_answered() {
    with_each_executor(|start| {
        let server = start(example("kv").arg(ANY_PORT));
        let whole = resp(&["SET", "key", "value"]);
        let places = [1, 3, 7, 9, whole.len() - 9, whole.len() - 4, whole.len() - 1];
        let clients = places.map(|place| {
            let mut client = connect(server.port());
            client.write_all(format!("PING\r\n{}", &whole[..place]).as_bytes()).unwrap();
            let mut pong = [0; 7];
            client.read_exact(&mut pong).unwrap(); // this reply does not wait for the rest of the next command
            assert_eq!(&pong, b"+PONG\r\n");
            (place, client)
        });
        let idle = connect(server.port());
        (&idle).write_all(b"PING\r\n").unwrap();
        let mut pong = [0; 7];
        (&idle).read_exact(&mut pong).unwrap();
        server.send(Signal::SIGTERM);
        assert_eq!(rest(&idle), "", "an idle client is disconnected: {server}");
        for (place, mut client) in clients {
            client.write_all(&whole.as_bytes()[place..]).unwrap();
            assert_eq!(rest(client), "+OK\r\n", "cut after {place} bytes: {server}");
        }
        ends_by_itself(server, 8);
    });
}

/// What is wrong with the protocol gets an error after the replies so far, and the connection ends. Nothing is logged
/// at warn.
#[test]
fn input_that_is_not_resp_gets_an_error_and_ends_its_connection() {
    let long = "x".repeat(100 * 1024);
    let large = resp(&["SET", "key", &"x".repeat(512 * 1024)]);
    let wrong: [&[u8]; 11] = [
        b"*one\r\n",
        b"*-1\r\n",
        b"*1000000\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n:4\r\n",
        b"*1\r\n$99999999999999999999\r\nPING\r\n",
        b"*1\r\n$4\r\nPINGPONG\r\n",
        b"*1\r\n*1\r\n*1\r\n$4\r\nPING\r\n",
        b"\xff\xfe\r\n",
        long.as_bytes(),
        large.as_bytes(),
    ];
    with_each_executor(|start| {
        let server = start(example("kv").arg(ANY_PORT));
        for bytes in wrong {
            let client = connect(server.port());
            (&client).write_all(&[b"PING\r\n", bytes].concat()).unwrap();
            let replies = rest(&client);
            let start: String = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into();
            let error = replies.strip_prefix("+PONG\r\n-ERR Protocol error: ").unwrap_or_else(|| panic!("{replies:?}"));
            assert!(error.ends_with("\r\n") && error.lines().count() == 1, "{start:?}: {replies:?}");
        }
        ends(server, 0); // the clients' faults
    });
}

#[test]
fn a_large_value_fits_and_a_client_that_leaves_inside_a_command_is_no_failure() {
    with_each_executor(|start| {
        let server = start(example("kv").arg(ANY_PORT));
        let large = "x".repeat(500 * 1024);
        let client = connect(server.port());
        thread::scope(|scope| {
            scope.spawn(|| (&client).write_all((resp(&["SET", "key", &large]) + &resp(&["GET", "key"])).as_bytes()));
            let expected = format!("+OK\r\n${}\r\n{large}\r\n", large.len());
            let mut replies = vec![0; expected.len()];
            (&client).read_exact(&mut replies).unwrap();
            assert!(replies == expected.as_bytes());
        });
        (&client).write_all(b"*2\r\n$3\r\nGET\r\n$3\r\nke").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&client), "", "{server}");
        ends(server, 0);
    });
}
