//! HAProxy's agent check: a line about the state of the servers for each connection.

use crate::connection::Connection;
use crate::run::handle::Handle;
use crate::run::phase::Phase;
use futures_lite::AsyncWriteExt as _;
use std::future::Future;
use std::io;

/// Handler that answers HAProxy's agent check: one line about the state of the servers, and then the end of the
/// connection.
///
/// HAProxy connects at each `agent-inter` to the `agent-port` of a server, and does as the line says. Serve it on a port
/// of its own, by a server of its own:
///
/// | the servers | line | HAProxy |
/// |---|---|---|
/// | all are [ready](Handle::is_ready) | `up ready N%` | sends clients, by the given part of the server's weight |
/// | one is paused, in its lame duck, draining or cancelling | `drain` | sends no new clients, and keeps those that are there |
/// | one is not served yet, or closed | `down` and the reason | takes the server out of service |
///
/// N is how much of [`max_connections`](crate::Server::max_connections) is free, of the server that has the least, and
/// at least 1. So a server that fills up gets fewer new clients. The server needs `weight 100` in HAProxy's
/// configuration: of the default weight, 1, HAProxy rounds 99 % down to 0, and a server with one connection would get no
/// further clients.
///
/// # Examples
///
/// `server s1 10.0.0.5:8888 weight 100 check agent-check agent-port 9998 agent-inter 1s` in HAProxy's configuration,
/// and here:
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::{net::TcpStream, prelude::*};
/// use ebbtide::{Connection, Server, admin};
///
/// let main = Server::bind("127.0.0.1:0").await?.max_connections(100);
/// let agent = Server::bind("127.0.0.1:0").await?.name("agent").max_connections(16);
/// let port = agent.local_addr().tcp()?;
/// let check = admin::agent_check([main.handle()]);
/// let (line, _) = agent
///     .scope(check, async |_| {
///         let (line, _) = main
///             .scope(async |_: Connection| {}, async |_| {
///                 let mut line = String::new();
///                 TcpStream::connect(port).await?.read_to_string(&mut line).await?;
///                 Ok(line)
///             })
///             .await?;
///         Ok(line)
///     })
///     .await?;
/// assert_eq!(line, "up ready 100%\n");
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
pub fn agent_check(
    servers: impl IntoIterator<Item = Handle>,
) -> impl Fn(Connection) -> AgentCheck + Send + Sync + 'static {
    let servers: Vec<_> = servers.into_iter().collect();
    move |connection| {
        let line = line(&servers);
        Box::pin(async move { (&connection).write_all(line.as_bytes()).await })
    }
}

/// Future of one agent check.
pub type AgentCheck = std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

fn line(servers: &[Handle]) -> String {
    let states = servers.iter().map(|server| {
        let (max, open) = (server.max_connections(), server.connection_count());
        State { phase: server.phase(), is_ready: server.is_ready(), max, open }
    });
    answer(&states.collect::<Vec<_>>())
}

/// What the answer depends on, of one server.
#[derive(Clone, Copy)]
struct State {
    phase: Phase,
    is_ready: bool,
    max: usize,
    open: usize,
}

fn answer(servers: &[State]) -> String {
    if servers.is_empty() {
        return "down # no server is watched\n".to_owned();
    }
    if let Some(server) = servers.iter().find(|server| matches!(server.phase, Phase::Bound | Phase::Closed)) {
        return format!("down # {}\n", if server.phase == Phase::Bound { "not serving yet" } else { "closed" });
    }
    if servers.iter().any(|server| !server.is_ready) {
        return "drain\n".to_owned();
    }
    format!("up ready {}%\n", servers.iter().map(free).min().unwrap_or(100))
}

/// Returns how much of the limit is free, in percent, and at least 1: HAProxy takes 0 for a drain.
fn free(server: &State) -> u128 {
    let (max, open) = (server.max.max(1) as u128, server.open as u128);
    (max.saturating_sub(open) * 100 / max).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_follows_the_phase_and_the_connections_that_are_free() {
        let serving = State { phase: Phase::Serving, is_ready: true, max: 200, open: 50 };
        let table: &[(&[State], &str)] = &[
            (&[], "down # no server is watched\n"),
            (&[serving], "up ready 75%\n"),
            (&[State { open: 0, ..serving }], "up ready 100%\n"),
            (&[State { open: 200, ..serving }], "up ready 1%\n"),
            (&[State { open: 201, max: 0, ..serving }], "up ready 1%\n"),
            (&[State { max: usize::MAX, ..serving }], "up ready 99%\n"),
            (&[serving, State { open: 100, ..serving }], "up ready 50%\n"),
            (&[serving, State { is_ready: false, ..serving }], "drain\n"),
            (&[State { phase: Phase::LameDuck, is_ready: false, ..serving }], "drain\n"),
            (&[State { phase: Phase::Cancelling, is_ready: false, ..serving }], "drain\n"),
            (&[State { phase: Phase::Closed, is_ready: false, ..serving }], "down # closed\n"),
            (&[State { phase: Phase::Bound, is_ready: false, ..serving }, serving], "down # not serving yet\n"),
        ];
        for (servers, expected) in table {
            assert_eq!(answer(servers), *expected);
        }
    }
}
