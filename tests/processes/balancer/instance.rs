//! The program behind the balancer, and its process: a protocol of lines that says goodbye, HTTP, the admin listener,
//! and the agent, as one `ServiceGroup`.

use crate::support::loopback;
use crate::support::process::{Ended, Process, this_binary};
use async_std::{future::timeout, io, prelude::*, task};
use ebbtide::admin::{Admin, agent_check};
use ebbtide::http::hyper::body::Incoming;
use ebbtide::http::hyper::service::service_fn;
use ebbtide::http::hyper::{Request, Response};
use ebbtide::{Connection, Keepalive, ListenOptions, Phase, ProxyProtocol, Server, ServiceGroup, signal};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

const GRACE: Duration = Duration::from_secs(8);

/// How long an answer takes.
const WORK: Duration = Duration::from_millis(5);

/// Where an instance listens.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) lines: SocketAddr,
    pub(super) web: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) agent: SocketAddr,
}

/// An instance, which can be started again on the same ports.
pub(super) struct Instance {
    pub(super) name: &'static str,
    pub(super) addresses: Addresses,
    lame_duck: Duration,
    /// What the command line begins with: a program that runs it in another network.
    wrapper: Vec<String>,
    /// Sockets that are bound to the ports and do not listen: nobody else gets the ports while the instance is not
    /// there. It binds beside them by SO_REUSEADDR.
    _reserved: Vec<Socket>,
    process: Option<Process>,
}

impl Instance {
    /// Reserves four free ports on a loopback address of its own, and starts the program there.
    pub(super) fn start(name: &'static str, lame_duck: Duration) -> Self {
        let host = loopback();
        let reserved: Vec<_> = (0..4)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_reuse_address(true).unwrap();
                socket.bind(&host.into()).unwrap();
                socket
            })
            .collect();
        let at = |n: usize| reserved[n].local_addr().unwrap().as_socket().unwrap();
        let addresses = Addresses { lines: at(0), web: at(1), admin: at(2), agent: at(3) };
        Self::start_at(name, addresses, lame_duck, Vec::new(), reserved)
    }

    pub(super) fn start_at(
        name: &'static str,
        addresses: Addresses,
        lame_duck: Duration,
        wrapper: Vec<String>,
        reserved: Vec<Socket>,
    ) -> Self {
        let mut instance = Self { name, addresses, lame_duck, wrapper, _reserved: reserved, process: None };
        instance.start_again();
        instance
    }

    /// Starts the program, and waits until its servers serve.
    pub(super) fn start_again(&mut self) {
        let program = this_binary(super::MODULE, "the_program", "instance");
        let words: Vec<_> = self.wrapper.iter().map(|word| (**word).as_ref()).chain([program.get_program()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let Addresses { lines, web, admin, agent } = self.addresses;
        let part = format!("{} {lines} {web} {admin} {agent} {}", self.name, self.lame_duck.as_millis());
        let process = Process::start(command.env(PART, part));
        process.wait_for("SERVING");
        self.process = Some(process);
    }

    pub(super) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    /// Sends SIGTERM, and waits for the end. The instance must have cut nobody.
    pub(super) fn stop(&mut self) {
        self.ask_to_stop();
        self.wait_for_its_end();
    }

    pub(super) fn ask_to_stop(&mut self) {
        self.process().send(Signal::SIGTERM);
    }

    pub(super) fn wait_for_its_end(&mut self) {
        let ended = self.process.take().expect("it runs").wait();
        assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(0), &[][..]), "{ended:?}");
        for server in ["lines", "web"] {
            let has_ended = format!("ENDED {server}: 0 cancelled, 0 failed, 0 panicked");
            assert!(ended.stdout.contains(&has_ended), "{has_ended}: {ended:?}");
        }
    }

    /// Kills it. It has closed its sockets when this returns.
    pub(super) fn kill(&mut self) -> Ended {
        self.process().send(Signal::SIGKILL);
        self.process.take().expect("it runs").wait()
    }
}

const PART: &str = "EBBTIDE_TEST_INSTANCE";

/// The program.
pub(super) async fn run() {
    let part = std::env::var(PART).unwrap();
    let [name, lines, web, admin, agent, lame_duck] = part.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let name: &'static str = name.to_owned().leak();
    let lame_duck = Duration::from_millis(lame_duck.parse().unwrap());

    let signals = signal::termination().unwrap();
    let proxy = ProxyProtocol::required().trust("127.0.0.0/8").unwrap().trust("10.64.0.1").unwrap();
    let second = Duration::from_secs(1);
    // Probes earlier than by default: a test waits until they have found that the cable is cut.
    let keepalive = Keepalive::after(5 * second).interval(second).retries(3);
    let options = ListenOptions::new().proxy_protocol(proxy).keepalive(keepalive);
    let lines = Server::bind_with(lines, &options).await.unwrap().name("lines").lame_duck(lame_duck).grace(GRACE);
    let lines = lines.ack_timeout(5 * second);
    let request = lines.handle();
    // Both lame ducks begin with the request. A group alone would ask one server after the other.
    let web = Server::bind_with(web, &options).await.unwrap().name("web").lame_duck(lame_duck).grace(GRACE);
    let web = web.ack_timeout(5 * second).shutdown_when(async move {
        request.until_shutdown(pending::<()>()).await;
    });
    let watched = [lines.handle(), web.handle()];
    let admin = Admin::bind_public(admin).await.unwrap().watch(lines.handle()).watch(web.handle());
    let agent = Server::bind(agent).await.unwrap().name("agent");

    let told = watched.clone();
    task::spawn(async move {
        for server in told.clone() {
            server.reached(Phase::Serving).await;
        }
        println!("SERVING");
        // A line on standard input asks for a line when no connection is left.
        let mut line = String::new();
        while io::stdin().read_line(&mut line).await.is_ok_and(|length| length > 0) {
            while told.iter().any(|server| server.connection_count() > 0) {
                task::sleep(Duration::from_millis(20)).await;
            }
            println!("EMPTY");
        }
    });

    let answer_web = service_fn(move |request: Request<Incoming>| async move {
        task::sleep(WORK).await;
        Ok::<_, Infallible>(Response::new(format!("{} from {name}", &request.uri().path()[1..])))
    });
    let reports = ServiceGroup::new()
        .shutdown_on(signals)
        .server(admin.serve()) // these two end last
        .server(agent.serve(agent_check(watched)))
        .server(web.serve_http(answer_web))
        .server(lines.serve(move |conn| answer_lines(conn, name, lame_duck)))
        .run()
        .await
        .unwrap();
    for (server, report) in reports.servers() {
        let (cancelled, failed, panicked) = (report.cancelled(), report.failed(), report.panicked());
        println!("ENDED {server}: {cancelled} cancelled, {failed} failed, {panicked} panicked");
    }
}

/// Answers each line. In the lame duck it goes on, and says goodbye when three quarters of the time are over: the
/// balancer has noticed by then, so the client does not come back to this instance.
async fn answer_lines(mut conn: Connection, name: &str, lame_duck: Duration) -> io::Result<()> {
    let mut lines = conn.lines();
    while let Some(line) = conn.until_shutdown(lines.next()).await {
        let Some(line) = line? else { return Ok(()) };
        answer(&mut conn, &line, name).await?;
    }
    let goodbye = conn.deadline().expect("a shutdown was requested") - GRACE - lame_duck / 4;
    while let Ok(line) = timeout(goodbye.saturating_duration_since(Instant::now()), lines.next()).await {
        let Some(line) = line? else { break };
        answer(&mut conn, &line, name).await?;
    }
    conn.write_all(b"bye\n").await?;
    while let Some(line) = lines.next().await? {
        answer(&mut conn, &line, name).await?;
    }
    Ok(())
}

async fn answer(conn: &mut Connection, line: &str, name: &str) -> io::Result<()> {
    task::sleep(WORK).await;
    conn.write_all(format!("{line} from {name}\n").as_bytes()).await
}
