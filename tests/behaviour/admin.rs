//! The admin listener: what it answers in each phase of the servers that it watches, whom it answers, and its bounds.
#![cfg(feature = "admin")]

use crate::support::executor::hold_executor;
use crate::support::http::{Answer, HttpClient};
use crate::support::*;
use async_std::task::{self, JoinHandle};
use ebbtide::admin::{Admin, agent_check};
use ebbtide::{Address, Connection, Error, Handle, Job, Listener, Phase, Report, Server};
use serde_json::Value;
use std::future::pending;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An admin listener that is being served.
struct Running {
    address: Address,
    handle: Handle,
    serving: JoinHandle<Result<Report, Error>>,
}

impl Running {
    async fn start(admin: Admin) -> Self {
        let (address, handle) = (admin.local_addr().clone(), admin.handle());
        let serving = task::spawn(admin.serve());
        handle.reached(Phase::Serving).await;
        Self { address, handle, serving }
    }

    async fn watching(server: &Server) -> Self {
        Self::start(local().await.watch(server.handle())).await
    }

    fn ask(&self, request: &str) -> Answer {
        HttpClient::new(&self.address).ask(request).unwrap()
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&get(path))
    }

    async fn stop(self) -> Report {
        self.handle.shutdown().await;
        self.serving.await.unwrap()
    }
}

async fn local() -> Admin {
    Admin::bind("127.0.0.1:0").await.unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

fn json(answer: &Answer) -> Value {
    assert_eq!(answer.status(), "200", "{answer:?}");
    assert!(answer.head.contains("content-type: application/json\r\n"), "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

/// Labels that forge something in one of the formats.
const HOSTILE: &[&str] = &[
    "<script>document.title = 'forged'</script>",
    "\"},{\"id\":7,\"x\":\"",
    "a\nconnection 9 from 10.0.0.1:1, serving, 1s old\r\nb",
    "\u{1b}[2J\u{202e}txet\u{2028}data: {}\n\ndata: forged",
];

#[test]
fn a_probe_follows_the_phases_of_the_servers_and_is_answered_until_the_last_one_is_closed() {
    test(async {
        let server = bind().await.name("echo").lame_duck(FOR_EVER).newcomer_time(Duration::ZERO);
        let address = server.local_addr().clone();
        let (main, handlers) = (server.handle(), Handlers::new());
        let admin = Running::watching(&server).await;
        let states = |expected: [&str; 2], line: &str| {
            let (ready, live) = (admin.get("/ready"), admin.get("/livez"));
            assert_eq!([ready.status(), live.status()], expected, "{ready:?}, {live:?}");
            assert!(ready.body.starts_with(if expected[0] == "200" { "ready\n" } else { "not ready\n" }), "{ready:?}");
            assert!(ready.body.contains(line), "`{line}` is not in {ready:?}");
            assert_eq!(live.body, "live\n");
        };
        states(["503", "200"], ": bound, not ready, ");
        let serving = task::spawn(server.serve(handlers.handler()));
        main.reached(Phase::Serving).await;
        states(["200", "200"], "\n`echo` on 127.");
        main.pause();
        states(["503", "200"], ": serving, paused, ");
        main.resume();
        let _client = order(&address, STUBBORN);
        handlers.started(1).await;
        states(["200", "200"], ": serving, ready, 1 of ");
        drop(main.shutdown());
        main.reached(Phase::LameDuck).await;
        states(["503", "200"], ": lame duck, not ready, ");
        drop(main.shutdown()); // again: it ends the lame duck
        main.reached(Phase::Draining).await;
        states(["503", "200"], ": draining, not ready, 1 of 1 connection left, ");
        main.cancel().await;
        states(["503", "200"], ": closed, not ready, 0 of ");
        assert_eq!(serving.await.unwrap().accepted(), 1, "its own clients are not the server's");
        assert_eq!(admin.stop().await.accepted(), 14);
    });
}

#[test]
fn a_probe_is_about_all_servers_and_a_listener_that_watches_none_is_not_ready() {
    test(async {
        let (one, two) = (bind().await, bind().await);
        let admin = Running::start(local().await.watch(one.handle()).watch(two.handle())).await;
        let body = async |one: Handle| {
            assert_eq!(admin.get("/ready").status(), "503", "the second one does not serve yet");
            two.scope(echo, async |two: Handle| {
                assert_eq!(admin.get("/readyz").status(), "200");
                one.pause();
                assert_eq!(admin.get("/ready").status(), "503");
                one.resume();
                two.pause();
                assert_eq!(admin.get("/ready").status(), "503");
            })
            .await?;
            Ok(())
        };
        one.scope(echo, body).await.unwrap();
        admin.stop().await;
        let lonely = Running::start(local().await).await;
        let (ready, live) = (lonely.get("/ready"), lonely.get("/live"));
        assert_eq!((ready.status(), live.status()), ("503", "200"));
        assert!(ready.body.contains("no server is watched: see `Admin::watch`"), "{ready:?}");
        lonely.stop().await;
    });
}

#[test]
fn an_executor_that_does_not_run_is_not_live() {
    test(async {
        let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
        let kept = Arc::clone(&jobs);
        let server = bind().await.name("stuck \u{1b}").executor(move |job| kept.lock().unwrap().push(job));
        let admin = Running::watching(&server).await;
        let mut serving = Box::pin(server.serve(echo));
        assert!(futures_lite::future::poll_once(&mut serving).await.is_none());
        let live = admin.get("/live");
        assert_eq!(live.status(), "503");
        let text = "not live\nthe executor of the server `stuck \\u{1b}` has not run a task for 2 s";
        assert!(live.body.starts_with(text), "{live:?}");
        drop(serving);
        assert_eq!(admin.get("/live").status(), "200", "a server that is closed needs no executor");
        jobs.lock().unwrap().clear();
        admin.stop().await;
    });
}

/// They were asked one after the other, so 100 servers whose executors were stuck made a probe wait for 200 s. And each
/// probe left a task in the queue of the executor, which nothing there would ever remove.
#[test]
fn executors_are_asked_at_the_same_time_and_each_has_one_task_of_all_probes() {
    test(async {
        let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
        let (mut admin, mut all) = (local().await, Vec::new());
        for _ in 0..10 {
            let kept = Arc::clone(&jobs);
            let server = bind().await.executor(move |job| kept.lock().unwrap().push(job));
            admin = admin.watch(server.handle());
            let mut serving = Box::pin(server.serve(echo));
            assert!(futures_lite::future::poll_once(&mut serving).await.is_none());
            all.push(serving);
        }
        let before = jobs.lock().unwrap().len();
        let admin = Running::start(admin).await;
        let start = Instant::now();
        let mut clients: Vec<_> = (0..5).map(|_| HttpClient::new(&admin.address)).collect();
        clients.iter_mut().for_each(|client| client.send(&get("/live")).unwrap());
        for mut client in clients {
            let live = client.answer().unwrap();
            assert_eq!((live.status(), live.body.lines().count()), ("503", 1 + 10), "{live:?}");
        }
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}, not 2 s", start.elapsed());
        assert_eq!(jobs.lock().unwrap().len(), before + 10);
        // What an executor has run late is no answer to the next probe.
        let late: Vec<_> = jobs.lock().unwrap().drain(before..).collect();
        late.into_iter().for_each(futures_lite::future::block_on);
        assert_eq!(admin.get("/live").status(), "503");
        assert_eq!(jobs.lock().unwrap().len(), before + 10);
        drop(all);
        assert_eq!(admin.get("/live").status(), "200");
        jobs.lock().unwrap().clear();
        admin.stop().await;
    });
}

/// The answer said that the executor had not run a task for 2 s, 2 s too early.
#[test]
fn an_executor_that_drops_its_tasks_is_not_live_and_called_so_at_once() {
    test(async {
        let panics = |_: Job| panic!("the executor of a test");
        let (drops, panics) = (bind().await.executor(drop).name("drops"), bind().await.executor(panics).name("panics"));
        let admin = Running::start(local().await.watch(drops.handle()).watch(panics.handle())).await;
        let live = admin.get("/live");
        assert_eq!(live.status(), "503");
        for name in ["drops", "panics"] {
            let line = format!("\nthe executor of the server `{name}` drops its tasks: it was shut down, ");
            assert!(live.body.contains(&line), "{live:?}");
        }
        admin.stop().await;
    });
}

/// With HTTP/2 a client whose windows were zero held all places of live pages for ever, and could ask for hundreds of
/// long lists at a time: the limit on writes does not see that, because such a connection has nothing to write.
#[test]
fn it_speaks_http_1_alone_so_that_no_client_can_keep_its_answers_waiting() {
    test(async {
        let admin = Running::start(local().await).await;
        let mut client = connect(&admin.address);
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        let answer = rest(&mut client);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:?}");
        admin.stop().await;
    });
}

#[test]
fn it_answers_while_all_threads_of_the_executor_are_blocked() {
    test_alone(async {
        let server = bind().await.name("echo");
        let main = server.handle();
        let admin = Running::watching(&server).await;
        let serving = task::spawn(server.serve(echo));
        main.reached(Phase::Serving).await;
        assert_eq!(admin.get("/live").status(), "200");
        {
            let _held = hold_executor();
            let (live, tree) = (admin.get("/live"), admin.get("/tree"));
            assert_eq!((live.status(), tree.status()), ("503", "200"), "{live:?}");
            assert!(tree.body.starts_with("`echo` on 127."), "{tree:?}");
        }
        assert_eq!(admin.get("/live").status(), "200");
        main.shutdown().await;
        serving.await.unwrap();
        admin.stop().await;
    });
}

#[test]
fn metrics_are_prometheus_text_with_one_sample_for_each_set_of_labels() {
    test(async {
        let server = bind().await.name("a\"b\\c\nd").max_connections(7);
        let other = bind().await.name("a\"b\\c\nd");
        let admin = local().await.watch(server.handle()).watch(other.handle());
        let admin =
            admin.add_metrics(|text| text.push_str("# TYPE jobs_total counter\njobs_total 3")).add_metrics(|text| {
                text.push_str("half a line");
                panic!("on purpose");
            });
        let admin = Running::start(admin.add_metrics(|text| text.push_str("more 1\n"))).await;
        let handlers = Handlers::new();
        let body = async |main: Handle| {
            let _stays = order(main.local_addr(), STUBBORN);
            handlers.started(1).await;
            drop(order(main.local_addr(), PANICS));
            until(|| main.counts().panicked() == 1).await;
            main.spawn_background(pending::<()>());
            let metrics = admin.get("/metrics");
            main.cancel();
            Ok(metrics)
        };
        let (metrics, _) = server.scope(handlers.handler(), body).await.unwrap();
        admin.stop().await;
        drop(other);
        assert!(metrics.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{metrics:?}");
        let name = r#"server="a\"b\\c\nd""#;
        for sample in [
            format!("ebbtide_connections_accepted_total{{{name}}} 2"),
            format!(r#"ebbtide_connections_ended_total{{{name},reason="panicked",outcome="panicked"}} 1"#),
            format!(r#"ebbtide_connections_ended_total{{{name},reason="idle_timeout",outcome="disconnected"}} 0"#),
            format!(r#"ebbtide_connections_open{{{name},state="serving"}} 1"#),
            format!("ebbtide_connections_limit{{{name}}} 7"),
            format!(r#"ebbtide_tasks{{{name},kind="background"}} 1"#),
            format!("ebbtide_ready{{{name}}} 1"),
            format!(r#"ebbtide_phase{{{name},phase="serving"}} 1"#),
            format!(r#"ebbtide_phase{{{name},phase="lame_duck"}} 0"#),
            r#"ebbtide_ready{server="a\"b\\c\nd (2)"} 0"#.to_owned(),
            "jobs_total 3".to_owned(),
            "more 1".to_owned(),
        ] {
            assert!(metrics.body.lines().any(|line| line == sample), "`{sample}` is not in {}", metrics.body);
        }
        assert!(!metrics.body.contains("half a line"), "the metrics of a function that panics are left out");
        // Each line is a comment or a sample, no sample is there twice, and each family is announced once.
        let (mut samples, mut families) = (Vec::new(), Vec::new());
        for line in metrics.body.lines() {
            match line.strip_prefix("# ") {
                Some(comment) => families.extend(comment.strip_prefix("TYPE ")),
                None => {
                    let (sample, value) = line.rsplit_once(' ').unwrap();
                    assert!(value.parse::<f64>().is_ok(), "{line}");
                    samples.push(sample);
                }
            }
        }
        for mut all in [samples, families] {
            let number = all.len();
            all.sort_unstable();
            all.dedup();
            assert!(number > 10 && number == all.len(), "{}", metrics.body);
        }
    });
}

#[test]
fn the_text_of_strangers_forges_nothing_in_json_tables_and_trees() {
    test(async {
        let server = bind().await.name("<b>\"echo\"\n").newcomer_time(Duration::ZERO);
        let admin = Running::watching(&server).await;
        let handler = async |conn: Connection| {
            conn.label(HOSTILE[conn.id().as_u64() as usize]);
            drop(conn.spawn_named("<i>\"part\"\n", pending::<()>()));
            conn.draining().await;
        };
        let body = async |main: Handle| {
            let mut clients = Vec::new();
            for n in 0..HOSTILE.len() {
                clients.push(connect(main.local_addr()));
                until(|| main.task_tree().to_string().matches("└─ task").count() > n).await;
            }
            let answers = ["/connections.json", "/connections", "/tree", "/ready"].map(|path| admin.get(path));
            main.cancel();
            Ok(answers)
        };
        let ([listed, table, tree, ready], _) = server.scope(handler, body).await.unwrap();
        admin.stop().await;
        let listed = json(&listed);
        let server = &listed["servers"][0];
        assert_eq!(server["name"], "<b>\"echo\"\n");
        let connections = server["connections"].as_array().unwrap();
        assert_eq!(connections.len(), HOSTILE.len());
        for (n, connection) in connections.iter().enumerate() {
            assert_eq!((connection["id"].as_u64(), connection["label"].as_str()), (Some(n as u64), Some(HOSTILE[n])));
            assert_eq!(connection["tasks"][0]["name"], "<i>\"part\"\n");
            assert!(connection["tasks"][0]["at"].as_str().unwrap().starts_with("tests/behaviour/admin.rs:"));
        }
        for (answer, lines) in [(&table, 2 + HOSTILE.len()), (&tree, 1 + 2 * HOSTILE.len()), (&ready, 2)] {
            assert!(answer.head.contains("content-type: text/plain; charset=utf-8\r\n"), "no HTML: {answer:?}");
            assert_eq!(answer.body.lines().count(), lines, "{}", answer.body);
            let is_control = |c: char| c != '\n' && (c.is_control() || ['\u{202e}', '\u{2028}'].contains(&c));
            assert!(!answer.body.contains(is_control), "{:?}", answer.body);
        }
    });
}

#[test]
fn a_list_has_the_oldest_connections_up_to_a_limit_and_the_number_of_the_others() {
    test(async {
        let (listener, connector) = Listener::memory();
        let server = Server::new(listener).newcomer_time(Duration::ZERO).max_connections(10_000).count_bytes(true);
        let admin = Running::watching(&server).await;
        let body = async |main: Handle| {
            let mut clients = Vec::new();
            for _ in 0..1_003 {
                clients.push(connector.connect().await.unwrap());
            }
            until(|| main.counts().in_state(ebbtide::ConnectionState::Serving) == 1_003).await;
            let length = |path| {
                let list = json(&admin.get(path));
                let server = &list["servers"][0];
                (server["connections"].as_array().unwrap().len(), server["more_connections"].as_u64().unwrap())
            };
            assert_eq!(length("/connections.json"), (1_000, 3));
            assert_eq!(length("/connections.json?limit=2"), (2, 1_001));
            assert_eq!(length("/connections.json?limit=10000"), (1_003, 0));
            let table = admin.get("/connections?limit=2").body;
            let lines: Vec<_> = table.lines().collect();
            assert_eq!(lines.len(), 5, "{table}");
            assert!(lines[0].starts_with("memory: serving, ready, 1003 of 10000 connections"), "{table}");
            let cells = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
            assert_eq!(
                cells(lines[1]),
                ["ID", "PEER", "STATE", "AGE", "SILENT", "READ", "WRITTEN", "TASKS", "LABEL"],
                "{table}"
            );
            assert_eq!(cells(lines[2])[..3], ["0", "memory:0", "serving"], "{table}");
            assert_eq!(cells(lines[3])[4..], ["-", "0", "0", "0"], "{table}");
            assert_eq!(lines[4], "… and 1001 more: `?limit=` lists up to 10000");
            let accepts = "GET /connections?limit=1 HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\r\n";
            assert_eq!(json(&admin.ask(accepts))["servers"][0]["more_connections"], 1_002);
            for bad in ["?limit=10001", "?limit=x", "?max=3", "?%3Cscript%3E"] {
                let refused = admin.get(&format!("/connections{bad}"));
                assert_eq!(refused.status(), "400", "{bad}");
                assert!(refused.body.contains("is not understood: `limit=N`"), "{refused:?}");
            }
        };
        server.scope(async |conn: Connection| conn.draining().await, body).await.unwrap();
        admin.stop().await;
    });
}

#[test]
fn only_get_and_head_of_known_paths_and_hosts_are_answered() {
    test(async {
        let server = bind().await;
        let admin = Running::start(local().await.watch(server.handle()).allow_host("admin.example")).await;
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
            let refused = admin.ask(&format!("{method} /ready HTTP/1.1\r\nhost: localhost\r\n\r\n"));
            assert_eq!(refused.status(), "405", "{method}");
            assert!(refused.head.contains("\r\nallow: GET, HEAD\r\n"), "{refused:?}");
            assert!(refused.body.starts_with(&format!("{method} is not supported")), "{refused:?}");
        }
        let lost = admin.get("/../etc/%1b[2Jpasswd");
        assert_eq!(lost.status(), "404");
        assert!(lost.body.contains("there is no `/../etc/%1b[2Jpasswd`; there is\n\n/ready: "), "{lost:?}");
        assert!(lost.body.contains("/connections.json"), "{lost:?}");
        for (host, status) in [("admin.example:1", "503"), ("evil.example", "421"), ("127.0.0.1", "503"), ("", "400")] {
            let answer = admin.ask(&format!("GET /ready HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            assert_eq!(answer.status(), status, "{host}: {answer:?}");
        }
        let evil = admin.ask("GET /connections.json HTTP/1.1\r\nhost: evil.example\r\n\r\n");
        assert_eq!(
            evil.body,
            "the host `evil.example` is not allowed: use an address or `localhost`, or allow the name by \
             `Admin::allow_host`\n"
        );
        let none = admin.ask("GET /ready HTTP/1.1\r\n\r\n");
        assert_eq!((none.status(), &none.body[..34]), ("400", "the request has no header `Host`, m"[..34].as_ref()));
        // HAProxy's checks are of HTTP/1.0, without a host.
        assert_eq!(admin.ask("GET /ready HTTP/1.0\r\n\r\n").status(), "503");
        let mut client = HttpClient::new(&admin.address);
        client.send("HEAD /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let head = client.rest();
        assert!(head.starts_with("HTTP/1.1 503 ") && head.ends_with("\r\n\r\n"), "{head}");
        for fields in ["cache-control: no-store", "x-content-type-options: nosniff", "default-src 'none'"] {
            assert!(head.contains(fields), "`{fields}` is not in {head}");
        }
        // A malformed request, and one that is too large: the listener goes on.
        for (request, status) in [
            ("GET /ready HTTP/1.1\r\nhost localhost\r\n\r\n".to_owned(), "400"),
            ("\u{0}\u{1}\u{2}\r\n\r\n".to_owned(), "400"),
            (format!("GET /ready HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(1 << 20)), "431"),
        ] {
            let mut client = HttpClient::new(&admin.address);
            let _too_large = client.send(&request);
            let answer = client.rest_lossy();
            assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
        let mut body = HttpClient::new(&admin.address);
        let request = "GET /ready HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(body.ask(request).unwrap().status(), "503", "a body is not read");
        assert_eq!(admin.get("/live").status(), "200");
        let report = admin.stop().await;
        assert_eq!((report.failed(), report.panicked()), (0, 0), "{report}");
    });
}

#[test]
fn other_machines_get_no_connections_unless_it_is_asked_for() {
    test(async {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let error = match Admin::bind(address).await {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => error.to_string(),
                Err(error) => {
                    println!("skipped: {error}"); // no IPv6 here
                    continue;
                }
                Ok(admin) => panic!("{admin:?}"),
            };
            assert!(error.starts_with("cannot open the admin listener on `"), "{error}");
            assert!(error.contains("other machines can reach it") && error.contains("`Admin::bind_unix`"), "{error}");
        }
        let here = |admin: &Running| Address::from(SocketAddr::from(([127, 0, 0, 1], admin.address.port().unwrap())));
        for shows in [None, Some(true)] {
            let mut admin = Admin::bind_public("0.0.0.0:0").await.unwrap();
            if let Some(shows) = shows {
                admin = admin.show_connections(shows);
            }
            let admin = Running::start(admin).await;
            let here = here(&admin);
            let ask = |path: &str| HttpClient::new(&here).ask(&get(path)).unwrap();
            for path in ["/", "/events", "/tree", "/connections", "/connections.json"] {
                if path == "/events" && shows.is_some() {
                    continue; // its answer does not end
                }
                let answer = ask(path);
                assert_eq!(answer.status(), if shows.is_some() { "200" } else { "404" }, "{path}");
                assert!(shows.is_some() || !answer.body.contains("/tree: "), "{answer:?}");
            }
            assert_eq!(
                [ask("/ready"), ask("/live"), ask("/metrics")].map(|a| a.status().to_owned()),
                ["503", "200", "200"]
            );
            admin.stop().await;
        }
        let admin = Running::start(local().await.show_connections(false)).await;
        assert_eq!((admin.get("/tree").status(), admin.get("/live").status()), ("404", "200"));
        admin.stop().await;
    });
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_for_this_user_alone_and_answers_any_host() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;

    test(async {
        let folder = files::Folder::new();
        let path = folder.path("admin.sock");
        let admin = Running::start(Admin::bind_unix(&path).await.unwrap()).await;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"GET /tree HTTP/1.1\r\nhost: anything.example\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        admin.stop().await;
        assert!(!path.exists());
    });
}

/// Reads one event.
fn event(client: &mut HttpClient) -> Option<Value> {
    let mut body = Vec::new();
    if client.chunk(&mut body).ok()? == 0 {
        return None;
    }
    let text = String::from_utf8(body).unwrap();
    let data = text.strip_prefix("retry: 1000\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
    assert!(!data.contains(['\n', '\r']), "{data}");
    Some(serde_json::from_str(data).unwrap())
}

fn open_events(admin: &Running) -> HttpClient {
    let mut client = HttpClient::new(&admin.address);
    client.send(&get("/events")).unwrap();
    let head = client.read_head().unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: text/event-stream\r\n"), "{head}");
    client
}

#[test]
fn a_live_page_is_told_of_each_phase_at_once_and_of_the_end_last() {
    test(async {
        let server = bind().await.name("echo").newcomer_time(Duration::ZERO);
        let (main, address, handlers) = (server.handle(), server.local_addr().clone(), Handlers::new());
        let admin = Running::watching(&server).await;
        let mut page = open_events(&admin);
        let first = event(&mut page).unwrap();
        assert_eq!((&first["servers"][0]["phase"], &first["servers"][0]["drain"]), (&"bound".into(), &Value::Null));
        let serving = task::spawn(server.serve(handlers.handler()));
        main.reached(Phase::Serving).await;
        let mut seen = vec!["bound".to_owned()];
        let mut until_phase = |page: &mut HttpClient, phase: &str| loop {
            let event = event(page).unwrap();
            let now = event["servers"][0]["phase"].as_str().unwrap().to_owned();
            if seen.last() != Some(&now) {
                seen.push(now.clone());
            }
            if now == phase {
                return event;
            }
        };
        until_phase(&mut page, "serving");
        let _client = order(&address, STUBBORN);
        handlers.started(1).await;
        drop(main.shutdown());
        let draining = until_phase(&mut page, "draining");
        let drain = &draining["servers"][0]["drain"];
        assert_eq!((&drain["connections_at_start"], &drain["connections_left"]), (&1.into(), &1.into()), "{draining}");
        assert!(drain["limit_ms"].as_u64().unwrap() <= 8_000, "{drain}");
        main.cancel().await;
        serving.await.unwrap();
        until_phase(&mut page, "closed");
        let ended = Instant::now();
        let stopping = task::spawn(admin.stop());
        let mut last = None;
        while let Some(event) = event(&mut page) {
            last = Some(event);
        }
        assert_eq!(last.unwrap()["servers"][0]["counts"]["cancelled"], 1, "the last event is the last state");
        assert!(ended.elapsed() < Duration::from_secs(6), "a live page does not hold the end of its listener");
        assert_eq!(stopping.await.completed(), 1);
        assert_eq!(
            seen,
            ["bound", "serving", "draining", "cancelling", "closed"]
                .map(String::from)
                .into_iter()
                .filter(|phase| seen.contains(phase))
                .collect::<Vec<_>>(),
            "in order"
        );
    });
}

#[test]
fn live_pages_are_bounded_and_a_page_that_is_closed_gives_its_place_back() {
    test(async {
        let server = bind().await;
        let admin = Running::watching(&server).await;
        let mut pages: Vec<_> = (0..16).map(|_| open_events(&admin)).collect();
        let refused = admin.get("/events");
        assert_eq!(refused.status(), "503");
        assert!(refused.body.contains("16 live pages are open already"), "{refused:?}");
        assert_eq!(admin.get("/live").status(), "200", "the others are answered");
        drop(pages.pop());
        let started = Instant::now();
        loop {
            // It is found at the next event that is written to it.
            let mut client = HttpClient::new(&admin.address);
            client.send(&get("/events")).unwrap();
            if client.read_head().unwrap().starts_with("HTTP/1.1 200 ") {
                break;
            }
            assert!(started.elapsed() < NET, "the place is never given back");
            task::sleep(Duration::from_millis(20)).await;
        }
        admin.stop().await;
    });
}

#[test]
fn the_page_runs_its_own_script_alone() {
    test(async {
        let admin = Running::start(local().await).await;
        let pages = [admin.get("/"), admin.get("/")];
        let nonces = pages.each_ref().map(|page| {
            assert!(page.head.contains("content-type: text/html; charset=utf-8\r\n"), "{page:?}");
            let policy = page.head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
            let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
            assert!(policy.starts_with("default-src 'none'; ") && nonce.len() == 32, "{policy}");
            assert_eq!(page.body.matches(&format!("nonce=\"{nonce}\"")).count(), 2, "one script and one style");
            assert!(!page.body.contains("{nonce}") && !page.body.contains("http-equiv"), "{page:?}");
            for part in ["<script", "<style"] {
                assert_eq!(page.body.matches(part).count(), 1, "`{part}` without a nonce does nothing");
            }
            for part in [" style=\"", "innerHTML", "onclick=", "https://", "src="] {
                assert!(!page.body.contains(part), "`{part}` is in the page");
            }
            nonce.to_owned()
        });
        assert_ne!(nonces[0], nonces[1]);
        admin.stop().await;
    });
}

#[test]
fn its_connections_are_bounded_and_silent_ones_are_closed() {
    test(async {
        let admin =
            Running::start(local().await.configure(|server| server.first_byte_timeout(Duration::from_secs(1)))).await;
        assert_eq!(admin.handle.max_connections(), 64);
        let silent: Vec<_> = (0..64).map(|_| connect(&admin.address)).collect();
        // The places are taken by clients that say nothing; each is closed in time, and the next client is answered.
        assert_eq!(admin.get("/live").status(), "200");
        drop(silent);
        admin.stop().await;
    });
}

#[cfg(target_os = "linux")]
#[test]
fn its_thread_ends_with_it_on_every_way_out() {
    /// Returns the number of threads of admin listeners in this process.
    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
        tasks.filter_map(name).filter(|name| name.trim() == "ebbtide-admin").count()
    }

    test_alone(async {
        until(|| threads() == 0).await;
        for way in 0..3 {
            let server = bind().await;
            let admin = Running::watching(&server).await;
            let _page = open_events(&admin);
            assert_eq!(threads(), 1);
            match way {
                0 => drop(admin.stop().await),
                1 => {
                    admin.handle.cancel().await;
                    admin.serving.await.unwrap();
                }
                _ => drop(admin.serving.cancel().await), // the future is dropped
            }
            until(|| threads() == 0).await;
        }
        drop(local().await.serve()); // never polled
        until(|| threads() == 0).await;
    });
}

#[test]
fn haproxys_agent_is_told_of_the_state_of_the_servers() {
    test(async {
        let server = bind().await.max_connections(4).lame_duck(FOR_EVER).newcomer_time(Duration::ZERO);
        let (main, address, handlers) = (server.handle(), server.local_addr().clone(), Handlers::new());
        let agent = bind().await;
        let check = agent_check([main.clone()]);
        let body = async |agent: Handle| {
            let line = || {
                let mut client: TcpStream = connect(agent.local_addr());
                client.write_all(b"what HAProxy may send\n").unwrap(); // `agent-send`
                rest(&mut client)
            };
            assert_eq!(line(), "down # not serving yet\n");
            let serving = task::spawn(server.serve(handlers.handler()));
            main.reached(Phase::Serving).await;
            assert_eq!(line(), "up ready\n");
            let _client = order(&address, STUBBORN);
            handlers.started(1).await;
            assert_eq!(line(), "up ready\n");
            main.pause();
            assert_eq!(line(), "drain\n");
            main.resume();
            drop(main.shutdown());
            main.reached(Phase::LameDuck).await;
            assert_eq!(line(), "drain\n");
            main.cancel().await;
            assert_eq!(line(), "down # closed\n");
            serving.await.map(drop).map_err(Into::into)
        };
        let ((), report) = agent.scope(check, body).await.unwrap();
        assert_eq!((report.completed(), report.accepted()), (6, 6), "{report}");
    });
}
