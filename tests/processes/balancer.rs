//! Three instances behind a real HAProxy, with the configuration of `deploy/haproxy`: restarts lose no request, and a
//! kill, a stop and a cut lose what deploy/README.md says. Skipped, with a note, if HAProxy is not installed.
//!
//! The long forms, and the table of deploy/README.md, some minutes each:
//!
//! ```sh
//! cargo test --all-features --test processes balancer -- --ignored --nocapture --test-threads=1
//! ```
#![cfg(all(feature = "admin", feature = "proxy-protocol", target_os = "linux"))]

mod clients;
mod instance;

use crate::support::files::Folder;
use crate::support::gate::{Role, run};
use crate::support::loopback;
use crate::support::process::{PATIENCE, Process, part_to_play, this_binary};
use clients::{Load, Loss, Size};
use instance::{Addresses, Instance};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

const MODULE: &str = module_path!();

/// The lame duck of `deploy/haproxy`.
const LAME_DUCK: Duration = Duration::from_secs(2);

const SHORT_FORM: Size = Size { short: 4, long: 40 };
const LONG_FORM: Size = Size { short: 12, long: 150 };

impl Size {
    /// What is changed in the configuration. The long form changes nothing. The short form runs beside all other tests,
    /// and a machine that stalls for a second must not be taken for three instances that have failed.
    fn change(self) -> impl Fn(&mut String) {
        move |text| {
            if self.long < LONG_FORM.long {
                replace(text, 1, "    option httpchk ", "    timeout check 3s\n    option httpchk ");
            }
        }
    }
}

/// Not a test by itself: an instance, or everything in a network of its own.
#[test]
fn the_program() {
    match part_to_play().as_deref() {
        Some("instance") => async_std::task::block_on(instance::run()),
        Some("cut") => run(Role::Beside, Duration::from_secs(180), &String::new, one_is_cut_off),
        _ => return,
    }
    std::process::exit(0);
}

fn is_installed() -> bool {
    let found = Command::new("haproxy").arg("-v").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("skipped: there is no haproxy");
    }
    found
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/haproxy/haproxy.cfg")
}

/// Replaces a line, which must be there so many times.
fn replace(text: &mut String, times: usize, from: &str, to: &str) {
    assert_eq!(text.matches(from).count(), times, "`{from}` in deploy/haproxy/haproxy.cfg");
    *text = text.replace(from, to);
}

/// HAProxy with the configuration of `deploy/haproxy`. Its drop kills it.
struct HaProxy {
    lines: SocketAddr,
    web: SocketAddr,
    child: Child,
    folder: Folder,
}

impl HaProxy {
    /// Starts it in front of three instances. It inherits its listening sockets, so no port is fixed or guessed. Of the
    /// configuration only addresses are changed, and what `change` changes.
    fn start(instances: &[Addresses; 3], change: impl FnOnce(&mut String)) -> Self {
        let [lines, web] = [loopback(), loopback()].map(|address| TcpListener::bind(address).unwrap());
        let at = [&lines, &web].map(|socket| socket.local_addr().unwrap());
        let folder = Folder::new();
        let mut text = fs::read_to_string(file()).unwrap();
        let socket = folder.path("admin.sock").display().to_string();
        replace(&mut text, 1, "/run/haproxy/admin.sock mode", &format!("{socket} mode"));
        replace(&mut text, 1, "maxconn 10000", "maxconn 2000"); // within the limits of small machines
        replace(&mut text, 1, "bind :7000", "bind fd@3");
        replace(&mut text, 1, "bind :8080", "bind fd@4");
        for (n, Addresses { lines, web, admin, agent }) in instances.iter().enumerate() {
            for (port, address) in [(7000, lines), (8080, web)] {
                let to = format!("{address} tcp-ut 15s port {} agent-port {}\n", admin.port(), agent.port());
                replace(&mut text, 1, &format!("10.0.0.1{}:{port} tcp-ut 15s\n", n + 1), &to);
            }
        }
        change(&mut text);
        let config = folder.write("haproxy.cfg", &text);
        let errors = fs::File::create(folder.path("errors")).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec haproxy -db -f \"$0\" 3<&0 4<&1 0</dev/null 1>/dev/null"]).arg(config).process_group(0);
        shell.stdin(OwnedFd::from(lines)).stdout(OwnedFd::from(web)).stderr(errors);
        let child = shell.spawn().unwrap();
        let haproxy = Self { lines: at[0], web: at[1], child, folder };
        for name in ["one", "two", "three"] {
            haproxy.wait(name, "has it in service", |state| state == "UP");
        }
        haproxy
    }

    /// The states of a server in both backends, such as `UP`; empty while HAProxy starts.
    fn states(&self, name: &str) -> Vec<String> {
        let Ok(mut socket) = UnixStream::connect(self.folder.path("admin.sock")) else { return Vec::new() };
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(b"show stat\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let mut rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let head = rows.next().unwrap();
        let status = head.iter().position(|field| *field == "status").unwrap();
        rows.filter(|row| row.get(1) == Some(&name)).map(|row| row[status].to_owned()).collect()
    }

    /// Waits until both backends have a server in a state. There is no event for that. Returns how long it took.
    fn wait(&self, name: &str, what: &str, is_it: impl Fn(&str) -> bool) -> Duration {
        let start = Instant::now();
        loop {
            let states = self.states(name);
            if states.len() == 2 && states.iter().all(|state| is_it(state)) {
                return start.elapsed();
            }
            let errors = fs::read_to_string(self.folder.path("errors")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "HAProxy never {what}: {name} is {states:?}\n{errors}");
            sleep(Duration::from_millis(10));
        }
    }

    fn is_up(&self, name: &str) -> Duration {
        self.wait(name, "takes it back", |state| state == "UP")
    }

    /// Waits until it gets no new clients.
    fn is_out(&self, name: &str) -> Duration {
        self.wait(name, "takes it out", |state| state == "DOWN" || state.starts_with("DRAIN"))
    }

    fn clients(&self, size: Size) -> Load {
        Load::start(self.lines, self.web, size)
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        // It is its own process group, and it has not been waited for.
        let group = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _gone = nix::sys::signal::killpg(group, Signal::SIGKILL);
        let _status = self.child.wait();
    }
}

/// The first of these losses, for a message.
fn some(lost: &[Loss]) -> String {
    format!("{} lost, the first: {:?}", lost.len(), &lost[..lost.len().min(3)])
}

fn three(lame_duck: Duration) -> [Instance; 3] {
    ["one", "two", "three"].map(|name| Instance::start(name, lame_duck))
}

/// Restarts each instance so many times, in turn.
fn restarts(times: usize, size: Size) {
    let start = Instant::now();
    let mut instances = three(LAME_DUCK);
    let haproxy = HaProxy::start(&instances.each_ref().map(|instance| instance.addresses), size.change());
    let load = haproxy.clients(size);
    load.counts.wait_for_answers(100);
    let mut longest = [Duration::ZERO; 3];
    for restart in 0..times {
        for instance in &mut instances {
            let asked = Instant::now();
            instance.ask_to_stop();
            haproxy.is_out(instance.name);
            let out = asked.elapsed();
            instance.wait_for_its_end();
            let ended = asked.elapsed();
            instance.start_again();
            haproxy.is_up(instance.name);
            let back = asked.elapsed();
            for (longest, this) in longest.iter_mut().zip([out, ended, back]) {
                *longest = this.max(*longest);
            }
            load.counts.wait_for_answers(20);
            assert!(
                load.counts.lost().is_empty(),
                "restart {restart} of {}: {}",
                instance.name,
                some(&load.counts.lost())
            );
        }
    }
    let counts = load.end();
    let [out, ended, back] = longest;
    println!(
        "{} restarts in {:.0?}, each out within {out:.1?}, ended within {ended:.1?}, back within {back:.1?}: {counts}",
        3 * times,
        start.elapsed()
    );
    assert!(counts.lost().is_empty(), "{}", some(&counts.lost()));
    assert_eq!(counts.cut.load(Ordering::SeqCst), 0, "{counts}");
    assert_eq!(counts.asked.load(Ordering::SeqCst), counts.answered.load(Ordering::SeqCst), "{counts}");
    for mut instance in instances {
        instance.stop();
    }
}

#[test]
fn a_restart_of_each_instance_behind_haproxy_loses_no_request() {
    if is_installed() {
        run(Role::Beside, Duration::from_secs(120), &String::new, || restarts(1, SHORT_FORM));
    }
}

#[test]
#[ignore = "takes minutes"]
fn ten_restarts_of_each_instance_behind_haproxy_lose_no_request_three_times_in_a_row() {
    for _ in 0..3 {
        if is_installed() {
            run(Role::Beside, Duration::from_secs(900), &String::new, || restarts(10, LONG_FORM));
        }
    }
}

/// Only requests that were under way at the kill may be lost, or that were sent before the client could know of it.
#[test]
fn a_killed_instance_loses_at_most_what_was_in_flight() {
    if is_installed() {
        run(Role::Beside, Duration::from_secs(120), &String::new, || one_is_killed(SHORT_FORM));
    }
}

#[test]
#[ignore = "the long form"]
fn a_killed_instance_loses_at_most_what_was_in_flight_of_hundreds_of_connections() {
    if is_installed() {
        run(Role::Beside, Duration::from_secs(120), &String::new, || one_is_killed(LONG_FORM));
    }
}

fn one_is_killed(size: Size) {
    let mut instances = three(LAME_DUCK);
    let haproxy = HaProxy::start(&instances.each_ref().map(|instance| instance.addresses), size.change());
    let load = haproxy.clients(size);
    load.counts.wait_for_answers(500);
    let before = Instant::now();
    let in_flight = load.counts.in_flight();
    instances[1].kill();
    let after = Instant::now();
    let noticed = haproxy.is_out("two");
    load.counts.wait_for_answers(500);
    instances[1].start_again();
    haproxy.is_up("two");
    load.counts.wait_for_answers(500);
    let counts = load.end();
    let lost = counts.lost();
    let (early, late): (Vec<_>, Vec<_>) = lost.iter().partition(|loss| loss.began <= before);
    println!(
        "a kill: {in_flight} requests in flight at all three, HAProxy noticed after {noticed:.1?}; {counts}; {} of the \
         lost were sent during the kill or later",
        late.len()
    );
    assert!(early.len() <= in_flight, "{in_flight} were in flight: {}", some(&lost));
    // A line may be sent before the connection's end has reached the client, once on each connection. After that
    // nothing is lost: the port refuses, and HAProxy takes another instance.
    assert!(late.len() <= size.short + size.long, "{}", some(&lost));
    let slow = late.iter().filter(|loss| loss.began > after + Duration::from_secs(10));
    assert_eq!(slow.count(), 0, "{}", some(&lost));
    assert_eq!(counts.asked.load(Ordering::SeqCst), counts.answered.load(Ordering::SeqCst) + lost.len(), "{counts}");
}

/// HAProxy takes a stopped instance out, because it answers no check. Clients that are there wait, and nothing is lost.
#[test]
fn a_stopped_instance_is_taken_out_and_its_clients_get_their_answers_once_it_runs_again() {
    if is_installed() {
        run(Role::Beside, Duration::from_secs(120), &String::new, || one_is_stopped(SHORT_FORM));
    }
}

#[test]
#[ignore = "the long form"]
fn a_stopped_instance_is_taken_out_and_hundreds_of_clients_get_their_answers_once_it_runs_again() {
    if is_installed() {
        run(Role::Beside, Duration::from_secs(120), &String::new, || one_is_stopped(LONG_FORM));
    }
}

fn one_is_stopped(size: Size) {
    let mut instances = three(LAME_DUCK);
    let haproxy = HaProxy::start(&instances.each_ref().map(|instance| instance.addresses), size.change());
    let load = haproxy.clients(size);
    load.counts.wait_for_answers(500);
    instances[1].process().send(Signal::SIGSTOP);
    let noticed = haproxy.is_out("two");
    load.counts.wait_for_answers(500); // by the other two
    let waiting = load.counts.in_flight();
    instances[1].process().send(Signal::SIGCONT);
    let back = haproxy.is_up("two");
    load.counts.wait_for_answers(500);
    let counts = load.end();
    println!(
        "a stop: HAProxy noticed after {noticed:.1?}, and took it back {back:.1?} after its end; {waiting} requests \
         waited at the end; {counts}"
    );
    assert!(counts.lost().is_empty(), "{}", some(&counts.lost()));
    assert_eq!(counts.cut.load(Ordering::SeqCst), 0, "{counts}");
    for mut instance in instances {
        instance.stop();
    }
}

/// One of three instances is at the far end of a virtual cable, in a network namespace, and the cable is cut.
#[test]
#[ignore = "takes a minute"]
fn a_cut_cable_loses_what_was_in_flight_and_both_sides_free_their_connections() {
    if !is_installed() {
        return;
    }
    run(Role::Beside, Duration::from_secs(240), &String::new, || {
        let alone = || {
            let mut alone = Command::new("unshare");
            alone.args(["--user", "--map-root-user", "--net"]);
            alone
        };
        let works = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        if !works(alone().args(["ip", "link", "add", "near", "type", "veth", "peer", "name", "far"])) {
            println!("skipped: there is no `unshare` or `ip`, or it is not permitted");
            return;
        }
        let program = this_binary(MODULE, "the_program", "cut");
        let mut inside = alone();
        inside.arg(program.get_program()).args(program.get_args()).process_group(0);
        inside.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = inside.stdin(Stdio::null()).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
        let line = printed.lines().find(|line| line.contains("a cut:"));
        println!("{}", line.unwrap_or_else(|| panic!("{printed}")));
    });
}

/// The other end of the cable.
struct FarEnd {
    /// A process that keeps the namespace alive.
    holder: Process,
}

impl FarEnd {
    fn new() -> Self {
        let far = Self { holder: Process::start(Command::new("unshare").args(["--net", "cat"])) };
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", far.holder.id());
        while fs::read_link(&path).is_ok_and(|namespace| namespace == own) {
            sleep(Duration::from_millis(1));
        }
        let near = [
            "link set lo up".to_owned(),
            "link add near type veth peer name far".to_owned(),
            format!("link set far netns {}", far.holder.id()),
            "addr add 10.64.0.1/24 dev near".to_owned(),
            "link set near up".to_owned(),
        ];
        near.iter().for_each(|words| far.ip(&[], words));
        for words in ["link set lo up", "addr add 10.64.0.2/24 dev far", "link set far up"] {
            far.ip(&far.inside(), words);
        }
        far
    }

    fn inside(&self) -> Vec<String> {
        ["nsenter", "--target", &self.holder.id().to_string(), "--net"].map(str::to_owned).to_vec()
    }

    fn ip(&self, wrapper: &[String], words: &str) {
        let mut all = wrapper.iter().map(String::as_str).chain(["ip"]).chain(words.split(' '));
        let output = Command::new(all.next().unwrap()).args(all).output().unwrap();
        assert!(output.status.success(), "ip {words}: {output:?}");
    }
}

fn one_is_cut_off() {
    let far = FarEnd::new();
    let at = |port: u16| SocketAddr::from(([10, 64, 0, 2], port)); // nobody else is in that namespace
    let addresses = Addresses { lines: at(7000), web: at(8080), admin: at(9999), agent: at(9998) };
    let [one, three] = ["one", "three"].map(|name| Instance::start(name, LAME_DUCK));
    let two = Instance::start_at("two", addresses, LAME_DUCK, far.inside(), Vec::new());
    let mut instances = [one, two, three];
    let haproxy = HaProxy::start(&instances.each_ref().map(|instance| instance.addresses), SHORT_FORM.change());
    let load = haproxy.clients(SHORT_FORM);
    load.counts.wait_for_answers(500);

    let in_flight = load.counts.in_flight();
    let cut = Instant::now();
    far.ip(&far.inside(), "link set far down");
    instances[1].process().say("tell me when nobody is left");
    haproxy.is_out("two");
    let noticed = cut.elapsed();
    load.counts.wait_for_answers(500); // by the other two
    assert!(instances[1].process().prints_within(Duration::from_secs(60), "EMPTY"));
    let empty = cut.elapsed();
    // Every client's request is answered or lost: none waits longer than `tcp-ut`.
    let old = |counts: &clients::Counts| counts.in_flight() > SHORT_FORM.short * 2 + SHORT_FORM.long / 4;
    while old(&load.counts) {
        assert!(cut.elapsed() < Duration::from_secs(60), "{}", load.counts);
        sleep(Duration::from_millis(20));
    }

    far.ip(&far.inside(), "link set far up");
    haproxy.is_up("two");
    load.counts.wait_for_answers(500);
    let counts = load.end();
    let lost = counts.lost();
    let last = lost.iter().map(|loss| loss.ended.duration_since(cut)).max().unwrap_or_default();
    let longest = lost.iter().map(|loss| loss.ended.duration_since(loss.began)).max().unwrap_or_default();
    println!(
        "a cut: {in_flight} requests in flight at all three, HAProxy noticed after {noticed:.1?}, the instance had no \
         connection after {empty:.1?}; the last loss was seen after {last:.1?}, the longest wait was {longest:.1?}; \
         {counts}"
    );
    // A client has at most one request at a time. Those who were at the instance lose one, and come to another one.
    assert!(lost.len() <= 2 * SHORT_FORM.long + in_flight, "{}", some(&lost));
    let after_noticed = lost.iter().filter(|loss| loss.what.contains("short") && loss.began > cut + noticed).count();
    assert_eq!(after_noticed, 0, "{}", some(&lost));
    assert!(last < Duration::from_secs(60), "{}", some(&lost));
    for mut instance in instances {
        instance.stop();
    }
}

#[test]
#[ignore = "measures; takes many minutes"]
fn which_lame_duck_haproxy_needs() {
    if is_installed() {
        run(Role::Beside, Duration::from_secs(3600), &String::new, lame_ducks);
    }
}

/// Prints a table of the requests that are lost with each lame duck: by HAProxy's checks alone, without and with
/// further attempts to connect, and with the agent too.
fn lame_ducks() {
    let kinds = [("checks, one attempt", false, false), ("checks", false, true), ("checks and agent", true, true)];
    let rounds = std::env::var("EBBTIDE_BALANCER_ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(3);
    println!("| lame duck | {} |", kinds.map(|kind| kind.0).join(" | "));
    println!("|---|---|---|---|");
    for lame_duck in [0, 250, 500, 750, 1000, 1250, 1500, 2000] {
        let cells = kinds.map(|(_, has_agent, has_attempts)| {
            lost_with(Duration::from_millis(lame_duck), rounds, |text| {
                if !has_agent {
                    replace(text, 1, "    default-server agent-check agent-port 9998 agent-inter 500ms\n", "");
                    while let Some(at) = text.find(" agent-port ") {
                        let end = at + text[at..].find('\n').unwrap();
                        text.replace_range(at..end, "");
                    }
                }
                if !has_attempts {
                    replace(text, 1, "    retries 3\n", "    retries 0\n");
                    replace(text, 1, "    option redispatch 1\n", "");
                }
            })
        });
        println!("| {lame_duck} ms | {} |", cells.join(" | "));
    }
}

/// Restarts each instance in turn. It stays away until HAProxy has taken it out, as a program that starts slowly.
fn lost_with(lame_duck: Duration, rounds: usize, change: impl FnOnce(&mut String)) -> String {
    let mut instances = three(lame_duck);
    let haproxy = HaProxy::start(&instances.each_ref().map(|instance| instance.addresses), change);
    let load = haproxy.clients(LONG_FORM);
    load.counts.wait_for_answers(500);
    for _ in 0..rounds {
        for instance in &mut instances {
            instance.stop();
            haproxy.wait(instance.name, "takes it out", |state| state != "UP" && !state.starts_with("UP "));
            instance.start_again();
            haproxy.is_up(instance.name);
        }
    }
    let counts = load.end();
    let lost = counts.lost();
    let of = |kind: &str| lost.iter().filter(|loss| loss.what.contains(kind)).count();
    let asked = counts.asked.load(Ordering::SeqCst);
    if let Some(first) = lost.first() {
        println!("({} of lines and {} of HTTP; the first: {})", of("lines"), of("HTTP"), first.what);
    }
    format!("{} of {asked}", lost.len())
}

#[test]
fn haproxy_accepts_the_configuration() {
    if !is_installed() {
        return;
    }
    let output = Command::new("haproxy").args(["-c", "-f"]).arg(file()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !printed.contains("WARNING"), "{printed}");
}

#[test]
fn each_line_of_haproxys_configuration_has_a_comment_above_it() {
    let text = fs::read_to_string(file()).unwrap();
    let mut before = "";
    for line in text.lines().map(str::trim) {
        let is_section = ["global", "defaults", "frontend", "backend"].contains(&line.split(' ').next().unwrap());
        assert!(is_section || line.is_empty() || line.starts_with('#') || before.starts_with('#'), "`{line}`");
        before = line;
    }
}
