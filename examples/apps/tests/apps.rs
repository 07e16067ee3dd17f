//! Runs the applications, and uses them with curl and a client of WebSockets.
//!
//! Without curl its tests are skipped, with a note.
#![cfg(unix)]

#[path = "../../../tests/support/process.rs"]
#[allow(dead_code, unreachable_pub)]
mod process;

use nix::sys::signal::Signal;
use process::{ANY_PORT, Ended, Process};
use std::io::{Read, Write};
use std::process::Command;
use std::{net::TcpStream, time::Duration};
use tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

const AXUM: &str = env!("CARGO_BIN_EXE_axum");
const CHAT: &str = env!("CARGO_BIN_EXE_chat");
const TIDE: &str = env!("CARGO_BIN_EXE_tide_app");
#[cfg(feature = "tokio")]
const AXUM_ON_TOKIO: &str = env!("CARGO_BIN_EXE_axum_on_tokio");

/// The applications of axum that this build has.
#[cfg(not(feature = "tokio"))]
const ALL: [&str; 1] = [AXUM];
#[cfg(feature = "tokio")]
const ALL: [&str; 2] = [AXUM, AXUM_ON_TOKIO];

/// How many seconds a client waits for its answer: a safety net.
const PATIENCE: &str = "20";

/// An application that is running.
struct App {
    process: Process,
    url: String,
}

impl App {
    fn start(path: &str) -> Self {
        let process = Process::start(Command::new(path).arg(ANY_PORT).env("RUST_BACKTRACE", "0"));
        let url = format!("http://127.0.0.1:{}", process.port());
        Self { process, url }
    }

    /// Starts curl with the path of a URL, and with other arguments.
    fn curl(&self, path: &str, args: &[&str]) -> Process {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--include", "--no-buffer", "--noproxy", "*", "--max-time", PATIENCE]);
        Process::start(curl.args(args).arg(format!("{}{path}", self.url)))
    }

    /// Runs curl, and returns the lines of the answer: the status, the fields of the head in lower case, and the body.
    fn get(&self, path: &str, args: &[&str]) -> Answer {
        Answer::new(self.curl(path, args).wait())
    }

    /// Waits until the application has logged the request.
    fn has_begun(&self, path: &str) {
        self.process.wait_for(&format!("{path} version=HTTP/"));
    }

    /// Sends SIGTERM, and waits until the application has begun to drain.
    fn terminate(&self) {
        self.process.send(Signal::SIGTERM);
        self.process.wait_for("draining 1 connection");
    }

    /// Waits for the end of the application, and checks the last line that it prints, which is the report.
    fn assert_reports(self, counts: &str) {
        let ended = self.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert_eq!(ended.stderr, [""; 0], "{ended:?}");
        let report = ended.stdout.last().expect("it has printed");
        assert!(report.starts_with("closed in ") && report.contains(counts), "no `{counts}`: {ended:?}");
        assert!(report.contains("because SIGTERM was received"), "{ended:?}");
    }
}

impl App {
    /// Ends the application as Ctrl-C does, and compares what it prints with the header of its source: `…` in a line
    /// stands for any text, and as a line for any lines.
    fn assert_prints(self, source: &str) {
        self.process.send(Signal::SIGINT);
        let ended = self.process.wait();
        let expected = output(source);
        let [first, "…", last] = expected.lines().collect::<Vec<_>>()[..] else { panic!("three lines: {expected}") };
        let port = self.url.rsplit(':').next().expect("it has a port");
        assert_eq!(ended.stdout[0].replace(port, "8080"), first, "{ended:?}");
        let mut rest = &**ended.stdout.last().expect("it has printed");
        for (i, part) in last.split('…').enumerate() {
            let at = rest.find(part).unwrap_or_else(|| panic!("no `{part}` in its place: {ended:?}"));
            assert!(i > 0 || at == 0, "it does not start with `{part}`: {ended:?}");
            rest = &rest[at + part.len()..];
        }
        assert!(last.ends_with('…') || rest.is_empty(), "it ends with `{rest}`: {ended:?}");
        assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(0), &[] as &[String]), "{ended:?}");
    }
}

/// What curl has printed.
#[derive(Debug)]
struct Answer {
    status: String,
    head: Vec<String>,
    body: String,
    code: Option<i32>,
    errors: Vec<String>,
}

impl Answer {
    fn new(ended: Ended) -> Self {
        let mut lines = ended.stdout.iter().map(|line| line.trim_end_matches('\r').to_owned()).peekable();
        let mut status = lines.next().unwrap_or_default();
        while status.contains(" 100 ") {
            // `100 Continue`, an empty line, and the status of the answer
            status = lines.nth(1).unwrap_or_default();
        }
        let head = lines.by_ref().take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
        let body = lines.collect::<Vec<_>>().join("\n");
        Self { status, head, body, code: ended.status.code(), errors: ended.stderr }
    }

    #[track_caller]
    fn assert(&self, status: &str, fields: &[&str], body: &str) {
        assert!(self.status.trim_end().starts_with(status), "no `{status}`: {self:?}");
        for field in fields {
            assert!(self.head.iter().any(|line| line == field), "no `{field}`: {self:?}");
        }
        assert_eq!(self.body, body, "{self:?}");
        assert_eq!((self.code, &self.errors[..]), (Some(0), &[] as &[String]), "{self:?}");
    }
}

/// Returns whether curl is installed and knows HTTP/2.
fn has_curl() -> bool {
    let version = Command::new("curl").arg("--version").output();
    let has = version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("HTTP2"));
    if !has {
        eprintln!("curl with HTTP/2 is not installed (Debian: `apt install curl`): this test is skipped");
    }
    has
}

const NOTE: &str = r#"{"text":"a note"}"#;
const JSON: &str = "content-type: application/json";

#[test]
fn json_goes_in_and_out_on_both_versions_of_http() {
    for app in ALL.into_iter().filter(|_| has_curl()) {
        let app = App::start(app);
        app.get("/notes", &["--header", JSON, "--data", NOTE]).assert("HTTP/1.1 201", &[JSON], NOTE);
        let both = format!("[{NOTE},{NOTE}]");
        let http2 = "--http2-prior-knowledge";
        app.get("/notes", &[http2, "--header", JSON, "--data", NOTE]).assert("HTTP/2 201", &[JSON], NOTE);
        app.get("/notes", &[http2]).assert("HTTP/2 200", &[JSON], &both);
        app.get("/notes", &[]).assert("HTTP/1.1 200", &[JSON, "access-control-allow-origin: *"], &both);
        app.get("/notes", &["--compressed"]).assert("HTTP/1.1 200", &["content-encoding: gzip"], &both);
        let slow = app.get("/slow/0", &[]);
        slow.assert("HTTP/1.1 200", &["content-length: 5"], "slow");
        assert!(slow.head.iter().any(|line| line.starts_with("x-millis: ")), "no middleware: {slow:?}");
        app.process.send(Signal::SIGTERM);
        app.assert_reports("6 accepted, 6 completed, 0 failed, 0 panicked, 0 cancelled");
    }
}

#[test]
fn what_axum_refuses_is_refused_and_cors_is_answered() {
    for app in ALL.into_iter().filter(|_| has_curl()) {
        let app = App::start(app);
        app.get("/nothing", &[]).assert("HTTP/1.1 404", &["content-length: 0"], "");
        app.get("/notes", &["--request", "DELETE"]).assert("HTTP/1.1 405", &["allow: get,head,post"], "");
        let malformed = app.get("/notes", &["--header", JSON, "--data", "{"]);
        assert!(malformed.status.starts_with("HTTP/1.1 400"), "{malformed:?}");
        let plain = app.get("/notes", &["--data", NOTE]);
        assert!(plain.status.starts_with("HTTP/1.1 415"), "{plain:?}");
        let preflight = ["--request", "OPTIONS", "--header", "origin: http://a.example", "--header"];
        let preflight = [&preflight[..], &["access-control-request-method: POST"]].concat();
        let allowed = ["access-control-allow-origin: *", "access-control-allow-methods: *"];
        app.get("/notes", &preflight).assert("HTTP/1.1 200", &allowed, "");
        app.process.send(Signal::SIGTERM);
        app.assert_reports("5 accepted, 5 completed, 0 failed, 0 panicked, 0 cancelled");
    }
}

#[test]
fn a_request_in_progress_at_sigterm_is_answered() {
    for app in ALL.into_iter().filter(|_| has_curl()) {
        for (version, status, fields) in [
            ("--http1.1", "HTTP/1.1 201", &["connection: close"][..]), // it tells the client to send no other request
            ("--http2-prior-knowledge", "HTTP/2 201", &[]),
        ] {
            let app = App::start(app);
            // The handler waits for the body, which is what this test writes to curl's standard input.
            let mut curl = app.curl("/notes", &[version, "--request", "POST", "--header", JSON, "--upload-file", "-"]);
            app.has_begun("/notes");
            app.terminate();
            curl.say(NOTE);
            curl.close_stdin();
            Answer::new(curl.wait()).assert(status, fields, NOTE);
            app.assert_reports("1 accepted, 1 completed, 0 failed, 0 panicked, 0 cancelled; of these, 1 ended");
        }
    }
}

/// The grace period bounds it, and then the client sees that the answer is not complete.
#[test]
fn a_stream_of_events_without_an_end_is_cut_at_the_end_of_the_grace_period() {
    if has_curl() {
        let app = App::start(AXUM);
        let curl = app.curl("/ticks", &[]);
        curl.wait_for("data: tick 2");
        app.terminate();
        let curl = curl.wait();
        assert_eq!(curl.status.code(), Some(18), "a partial answer: {curl:?}");
        assert_eq!(curl.stdout[0].trim_end(), "HTTP/1.1 200 OK");
        app.assert_reports("1 accepted, 0 completed, 0 failed, 0 panicked, 1 cancelled");
    }
}

#[cfg(feature = "tokio")]
#[test]
fn on_tokio_a_stream_of_events_ends_when_its_connection_drains() {
    if has_curl() {
        for (version, status) in [("--http1.1", "HTTP/1.1 200"), ("--http2-prior-knowledge", "HTTP/2 200")] {
            let app = App::start(AXUM_ON_TOKIO);
            let curl = app.curl("/ticks", &[version]);
            curl.wait_for("data: tick 1");
            app.terminate();
            let answer = Answer::new(curl.wait());
            assert!(answer.code == Some(0) && answer.status.starts_with(status), "{answer:?}");
            assert!(answer.body.starts_with("data: tick 1\n"), "{answer:?}");
            app.assert_reports("1 accepted, 1 completed, 0 failed, 0 panicked, 0 cancelled");
        }
    }
}

#[cfg(feature = "tokio")]
#[test]
fn on_tokio_a_request_that_takes_too_long_is_answered_with_504() {
    if has_curl() {
        let app = App::start(AXUM_ON_TOKIO);
        app.get("/slow/600", &[]).assert("HTTP/1.1 504", &["content-length: 0"], "");
        app.get("/slow/600", &["--http2-prior-knowledge"]).assert("HTTP/2 504", &["content-length: 0"], "");
        app.process.send(Signal::SIGTERM);
        app.assert_reports("2 accepted, 2 completed, 0 failed, 0 panicked, 0 cancelled");
    }
}

/// Connects a client of WebSockets, and waits until it is sent what it says.
fn web_socket(app: &App, path: &str) -> tungstenite::WebSocket<TcpStream> {
    let stream = TcpStream::connect(app.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let url = format!("{}{path}", app.url.replace("http://", "ws://"));
    let (mut socket, answer) = tungstenite::client(url, stream).expect("the handshake succeeds");
    assert_eq!(answer.status(), 101);
    socket.send("hello".into()).unwrap();
    assert_eq!(socket.read().unwrap(), "hello".into());
    socket
}

#[cfg(feature = "tokio")]
#[test]
fn on_tokio_a_web_socket_gets_its_echo_and_at_the_drain_a_close_frame() {
    let app = App::start(AXUM_ON_TOKIO);
    let mut socket = web_socket(&app, "/echo");
    let mut other = web_socket(&app, "/echo");
    other.close(None).unwrap(); // a client that leaves by itself
    while other.read().is_ok() {}
    drop(other);

    app.process.send(Signal::SIGTERM);
    assert_is_told(&mut socket);
    app.assert_reports("2 accepted, 2 completed, 0 failed, 0 panicked, 0 cancelled");
}

#[cfg(feature = "tokio")]
#[test]
fn on_tokio_a_web_socket_whose_client_is_silent_ends_with_the_grace_period() {
    let app = App::start(AXUM_ON_TOKIO);
    let _silent = web_socket(&app, "/echo");
    app.terminate();
    app.assert_reports("1 accepted, 0 completed, 0 failed, 0 panicked, 1 cancelled");
}

/// Waits for the Close frame of a drain, and for the end of the connection.
#[track_caller]
fn assert_is_told(socket: &mut tungstenite::WebSocket<TcpStream>) {
    let away = CloseFrame { code: CloseCode::Away, reason: "the server shuts down".into() };
    assert_eq!(socket.read().unwrap(), tungstenite::Message::Close(Some(away)));
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
}

/// The test `browser` uses its page.
#[test]
fn chat_sends_what_a_member_says_to_its_room_and_tells_all_members_of_the_drain() {
    let app = App::start(CHAT);
    let mut tea = web_socket(&app, "/room/tea");
    let mut coffee = web_socket(&app, "/room/coffee");
    let mut other = web_socket(&app, "/room/tea");
    assert_eq!(tea.read().unwrap(), "hello".into());
    other.send("with <b>milk</b>".into()).unwrap();
    for member in [&mut tea, &mut other] {
        assert_eq!(member.read().unwrap(), "with <b>milk</b>".into());
    }
    other.close(None).unwrap(); // a member that leaves by itself
    while other.read().is_ok() {}
    tea.send("alone".into()).unwrap();
    assert_eq!(tea.read().unwrap(), "alone".into());

    // One that sends too much is disconnected, and the others are not.
    let mut greedy = web_socket(&app, "/room/tea");
    assert_eq!(tea.read().unwrap(), "hello".into());
    greedy.send("x".repeat(17 * 1024).into()).unwrap();
    assert_eq!(greedy.read().unwrap(), tungstenite::Message::Close(None));

    app.process.send(Signal::SIGTERM);
    assert_is_told(&mut tea);
    assert_is_told(&mut coffee); // it was sent nothing of the other room
    app.assert_reports("4 accepted, 4 completed, 0 failed, 0 panicked, 0 cancelled");
}

#[test]
fn chat_sends_its_page_to_those_that_do_not_ask_for_a_web_socket() {
    if has_curl() {
        let app = App::start(CHAT);
        let page = app.get("/room/tea", &[]);
        page.assert(
            "HTTP/1.1 200",
            &["content-type: text/html; charset=utf-8"],
            include_str!("../src/bin/chat.html").trim_end(),
        );
        app.get("/", &[]).assert("HTTP/1.1 303", &["location: /room/lobby"], "");
        app.process.send(Signal::SIGTERM);
        app.assert_reports("2 accepted, 2 completed, 0 failed, 0 panicked, 0 cancelled");
    }
}

#[test]
fn chat_prints_what_its_header_shows() {
    let app = App::start(CHAT);
    let clients = ["tea", "coffee"].map(|room| {
        let mut socket = web_socket(&app, &format!("/room/{room}"));
        std::thread::spawn(move || while socket.read().is_ok() {})
    });
    app.assert_prints(include_str!("../src/bin/chat.rs"));
    for client in clients {
        client.join().unwrap();
    }
}

const ORDER: &str = r#"{"name":"Chashu","legs":4}"#;
const ORDERED: &str = "Hello, Chashu! I've put in an order for 4 shoes";

#[test]
fn tide_answers_several_requests_on_one_connection() {
    if has_curl() {
        let app = App::start(TIDE);
        let first = format!("{}/slow/0", app.url);
        let both = app.curl("/slow/0", &[&first]).wait();
        assert_eq!(both.stdout.iter().filter(|line| *line == "slow").count(), 2, "{both:?}");
        app.get("/orders/shoes", &["--header", JSON, "--data", ORDER]).assert("HTTP/1.1 200", &[], ORDERED);
        app.get("/nothing", &[]).assert("HTTP/1.1 404", &["content-length: 0"], "");
        app.process.send(Signal::SIGTERM);
        app.assert_reports("3 accepted, 3 completed, 0 failed, 0 panicked, 0 cancelled");
    }
}

#[test]
fn tide_answers_a_request_in_progress_at_sigterm() {
    if has_curl() {
        let app = App::start(TIDE);
        let idle = TcpStream::connect(app.url.trim_start_matches("http://")).unwrap();
        // The handler waits for the body, and async-h1 sends `100 Continue`.
        let expect = ["--header", "expect: 100-continue", "--request", "POST", "--header", JSON, "--upload-file", "-"];
        let mut curl = app.curl("/orders/shoes", &expect);
        app.process.wait_for("Request received");
        app.process.send(Signal::SIGTERM);
        assert_eq!((&idle).read(&mut [0]).unwrap(), 0, "the drain closes idle connections");
        curl.say(ORDER);
        curl.close_stdin();
        Answer::new(curl.wait()).assert("HTTP/1.1 200", &["connection: close"], ORDERED);
        app.assert_reports("2 accepted, 2 completed, 0 failed, 0 panicked, 0 cancelled");
    }
}

/// What the header of `tide_app` says of async-h1. If it fails, a new version has corrected a fault: change the header.
#[test]
fn tide_has_the_faults_of_async_h1() {
    let app = App::start(TIDE);
    let connect = |bytes: &str| {
        let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream
    };
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(8 * 1024));
    for malformed in ["garbage\r\n\r\n", "GET / HTTP/1.0\r\nhost: a\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", &long] {
        assert_eq!(connect(malformed).read(&mut [0]).unwrap(), 0, "{malformed}");
    }
    let request = "GET /slow/0 HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut pipelined = connect(&format!("{request}{request}"));
    let mut answer = Vec::new();
    while !answer.ends_with(b"slow\n") {
        let mut buf = [0; 1024];
        let n = pipelined.read(&mut buf).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buf[..n]);
    }
    app.process.send(Signal::SIGTERM);
    assert_eq!(pipelined.read(&mut [0]).unwrap(), 0, "the second request is lost: the drain closes an idle connection");
    app.assert_reports("5 accepted, 1 completed, 4 failed, 0 panicked, 0 cancelled");
}

#[test]
fn tide_app_prints_what_its_header_shows() {
    if has_curl() {
        let app = App::start(TIDE);
        app.get("/orders/shoes", &["--header", JSON, "--data", ORDER]);
        app.assert_prints(include_str!("../src/bin/tide_app.rs"));
    }
}

#[test]
fn axum_prints_what_its_header_shows() {
    if has_curl() {
        let app = App::start(AXUM);
        app.get("/notes", &["--header", JSON, "--data", NOTE]);
        app.get("/notes", &["--compressed"]);
        app.assert_prints(include_str!("../src/bin/axum.rs"));
    }
}

#[cfg(feature = "tokio")]
#[test]
fn axum_on_tokio_prints_what_its_header_shows() {
    if has_curl() {
        let app = App::start(AXUM_ON_TOKIO);
        app.get("/slow/10", &[]).assert("HTTP/1.1 504", &[], "");
        let mut socket = web_socket(&app, "/echo");
        let curl = app.curl("/ticks", &[]);
        curl.wait_for("data: tick 1");
        let client = std::thread::spawn(move || while socket.read().is_ok() {});
        app.assert_prints(include_str!("../src/bin/axum_on_tokio.rs"));
        client.join().unwrap();
        assert_eq!(curl.wait().status.code(), Some(0));
    }
}

/// Returns the output that the header of an application shows.
fn output(source: &str) -> String {
    let header = source.lines().map_while(|line| line.strip_prefix("//!"));
    let header: String = header.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect();
    let (_, output) = header.split_once("```text\n").expect("the header shows the output");
    output.split_once("```").expect("the block ends").0.to_owned()
}

#[test]
fn the_readme_shows_each_application_and_what_it_prints() {
    let readme = include_str!("../../README.md");
    for (name, source) in [
        ("axum", include_str!("../src/bin/axum.rs")),
        ("axum_on_tokio", include_str!("../src/bin/axum_on_tokio.rs")),
        ("chat", include_str!("../src/bin/chat.rs")),
        ("tide_app", include_str!("../src/bin/tide_app.rs")),
    ] {
        let (_, section) = readme.split_once(&format!("\n### {name}\n")).expect("it has a section");
        let section = section.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
        assert!(section.contains(&format!("```text\n{}```", output(source))), "the output in the section `{name}`");
        assert!(readme.contains(&format!("| [`{name}`](apps/src/bin/{name}.rs) |")), "`{name}` is in the table");
    }
}

/// The headline: no runtime of tokio, only what hyper and tower-http use of its I/O traits and channels.
#[test]
fn without_the_feature_nothing_enables_tokios_runtime() {
    // `cargo tree` works offline here, and needs the packages of the feature.
    let both = [("", false), ("tokio", true)];
    for (features, has_runtime) in both.into_iter().filter(|(_, needs)| cfg!(feature = "tokio") || !needs) {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p} [{f}]"]);
        cargo.args(["--package", "ebbtide-apps", "--features", features]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = cargo.output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        let tokio: Vec<_> = tree.lines().filter(|line| line.starts_with("tokio v")).collect();
        assert!(!tokio.is_empty(), "{tree}");
        for line in tokio {
            let (_, enabled) = line.split_once('[').expect("the list of its features");
            let enabled: Vec<_> = enabled.split([',', ']']).collect();
            for feature in ["rt", "rt-multi-thread", "net", "time"] {
                let is_enabled = enabled.contains(&feature);
                assert_eq!(is_enabled, has_runtime, "tokio's `{feature}`, with the features `{features}`: {line}");
            }
        }
    }
}
