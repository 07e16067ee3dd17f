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
/// HAProxy connects to the `agent-port` of a server every `agent-inter`, and acts on the line. Serve it on a port of its
/// own, by a server of its own:
///
/// | the servers | line | HAProxy |
/// |---|---|---|
/// | all are [ready](Handle::is_ready) | `up ready` | sends clients |
/// | one is paused, in its lame duck, draining or cancelling | `drain` | sends no new clients, and keeps those that are there |
/// | one is not served yet, or closed | `down` and the reason | takes the server out of service |
///
/// It sends no weight. Of HAProxy's default weight, 1, HAProxy rounds 99 % down to 0, and a server with one connection
/// would get no further clients; `balance leastconn` spreads the load.
///
/// # Examples
///
/// `server s1 10.0.0.5:8888 check agent-check agent-port 9998 agent-inter 1s` in HAProxy's configuration, and here:
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::{net::TcpStream, prelude::*};
/// use ebbtide::{Connection, Server, admin};
///
/// let main = Server::bind("127.0.0.1:0").await?;
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
/// assert_eq!(line, "up ready\n");
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
    answer(&servers.iter().map(|server| (server.phase(), server.is_ready())).collect::<Vec<_>>())
}

/// Returns the line for servers in these phases, each with whether it is ready.
fn answer(servers: &[(Phase, bool)]) -> String {
    if servers.is_empty() {
        return "down # no server is watched\n".to_owned();
    }
    for (phase, _) in servers {
        match phase {
            Phase::Bound => return "down # not serving yet\n".to_owned(),
            Phase::Closed => return "down # closed\n".to_owned(),
            _ => {}
        }
    }
    let is_ready = servers.iter().all(|(_, is_ready)| *is_ready);
    if is_ready { "up ready\n".to_owned() } else { "drain\n".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::Phase::{self, *};
    use super::answer;

    #[test]
    fn the_line_follows_the_phases_of_the_servers() {
        let table: &[(&[(Phase, bool)], &str)] = &[
            (&[], "down # no server is watched\n"),
            (&[(Serving, true)], "up ready\n"),
            (&[(Serving, true), (Serving, true)], "up ready\n"),
            (&[(Serving, true), (Serving, false)], "drain\n"), // paused
            (&[(LameDuck, false)], "drain\n"),
            (&[(Draining, false), (Serving, true)], "drain\n"),
            (&[(Cancelling, false)], "drain\n"),
            (&[(Closed, false)], "down # closed\n"),
            (&[(Bound, false), (Serving, true)], "down # not serving yet\n"),
        ];
        for (servers, expected) in table {
            assert_eq!(answer(servers), *expected);
        }
    }
}
