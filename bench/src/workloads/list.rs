//! All workloads, with their peers and marks.

use super::{Against, BUFFER, GROWTH, Kind, Measure, Rate, Target, Workload};
use crate::http::Version;
use crate::peers::Peer::{
    self, AsyncIo, AsyncStd, AsyncStdSpawned, Asyncio, Ebbtide, EbbtideOnSmol, EbbtideOnTokio, EbbtideUntil, Epoll, Go,
    JoinSet, Smol, Tide, Tokio, TokioCurrentThread, TokioSpawned,
};

const TOKIO: Against = Against::Better(Peer::TOKIO);
const ASYNC_STD: Against = Against::Better(Peer::ASYNC_STD);
const EPOLL: Against = Against::Better(&[Epoll]);

/// The servers that the marks compare, in each form.
const JUDGED: &[Peer] =
    &[Ebbtide, EbbtideUntil, Tokio, TokioSpawned, TokioCurrentThread, AsyncStd, AsyncStdSpawned, Epoll];
/// The same and the platform's floor: for workloads in which every message is waited for.
const WAITING: &[Peer] =
    &[Ebbtide, EbbtideUntil, Tokio, TokioSpawned, TokioCurrentThread, AsyncStd, AsyncStdSpawned, AsyncIo, Epoll];
/// All servers.
const SERVERS: &[Peer] = &[
    Ebbtide,
    EbbtideUntil,
    Tokio,
    TokioSpawned,
    TokioCurrentThread,
    AsyncStd,
    AsyncStdSpawned,
    Epoll,
    Smol,
    Asyncio,
    Go,
];
/// The same, and ebbtide on other executors.
const EXECUTORS: &[Peer] = &[
    Ebbtide,
    EbbtideUntil,
    EbbtideOnTokio,
    EbbtideOnSmol,
    Tokio,
    TokioSpawned,
    TokioCurrentThread,
    AsyncStd,
    AsyncStdSpawned,
    Epoll,
    Smol,
    Asyncio,
    Go,
];
/// The servers of HTTP/2, and those of HTTP/1.
const HTTP2: &[Peer] = &[Ebbtide, Tokio, TokioSpawned, TokioCurrentThread, AsyncStd];
const HTTP1: &[Peer] = &[Ebbtide, Tokio, TokioSpawned, TokioCurrentThread, AsyncStd, Tide];
/// The servers that can be stopped, which are those of TLS too.
const STOPPED: &[Peer] = &[Ebbtide, Tokio, TokioSpawned, TokioCurrentThread];
/// Those without connections, and the task groups.
const IDLE: &[Peer] = &[Ebbtide, Tokio];
const GROUPS: &[Peer] = &[Ebbtide, EbbtideOnTokio, EbbtideOnSmol, Tokio, JoinSet, AsyncStd];

const ONE: &[usize] = &[1];
const BOTH: &[usize] = &[1, 2];

fn target(measure: Measure, against: Against, must: impl Into<Option<f64>>, goal: impl Into<Option<f64>>) -> Target {
    Target { measure, against, must: must.into(), goal: goal.into(), threads: None }
}

pub(crate) fn all() -> Vec<Workload> {
    let mut all = Vec::new();
    all.extend([1, 10, 64, 100, 1000, 10_000].map(echo64));
    all.extend([0.3, 0.6].map(open_loop));
    all.extend([transfer("64KiBx16", 16, 65_536, BUFFER), transfer("1MiBx4", 4, 1 << 20, BUFFER)]);
    all.push(transfer("1MiBx4-large-buffer", 4, 1 << 20, 65_536));
    all.extend(
        [("connect-close", false), ("connect-reset", true)].map(|(name, reset)| churn(name.to_owned(), reset, 0)),
    );
    all.extend(GROWTH.map(|beside| churn(format!("connect-close-beside-{beside}"), false, beside)));
    all.extend([100, 1000, 10_000].map(memory));
    for how in ["shutdown", "cancel", "drop"] {
        all.extend([true, false].map(|clients_close| stop(how, clients_close, 10_000)));
    }
    all.push(just_spoken());
    all.extend([10, 100, 1000].map(|connections| stop("shutdown", true, connections)));
    all.push(stop_idle());
    all.extend([false, true].map(children));
    all.extend(sparse());
    all.extend(http());
    all.extend(tls());
    all
}

fn echo(connections: usize, active: usize, message: usize, buffer: usize, rate: Option<Rate>) -> Kind {
    Kind::Echo { connections, active, message, buffer, rate }
}

fn echo64(connections: usize) -> Workload {
    let targets = match connections {
        1 => vec![target(Measure::Cpu, TOKIO, 1.00, 0.90)],
        64 => vec![target(Measure::Cpu, TOKIO, 1.00, None), target(Measure::Cpu, EPOLL, None, 1.00)],
        _ => vec![
            target(Measure::Cpu, TOKIO, 1.00, 0.95),
            target(Measure::Cpu, ASYNC_STD, 0.80, None),
            target(Measure::Cpu, EPOLL, None, 1.02),
        ],
    };
    Workload {
        name: format!("echo64x{connections}"),
        kind: echo(connections, connections, 64, BUFFER, None),
        peers: match connections {
            1 => WAITING,
            64 => EXECUTORS,
            1000 | 10_000 => SERVERS,
            _ => JUDGED,
        },
        threads: if matches!(connections, 1 | 64 | 1000) { BOTH } else { ONE },
        targets,
    }
}

fn open_loop(share: f64) -> Workload {
    Workload {
        name: format!("open-loop-{:.0}%", share * 100.0),
        kind: echo(64, 64, 64, BUFFER, Some(Rate::OfCapacity(share))),
        peers: WAITING,
        threads: BOTH,
        targets: [Measure::Cpu, Measure::P50, Measure::P99].map(|one| target(one, TOKIO, 1.05, 1.00)).into(),
    }
}

fn transfer(name: &str, connections: usize, message: usize, buffer: usize) -> Workload {
    Workload {
        name: name.to_owned(),
        kind: echo(connections, connections, message, buffer, None),
        peers: JUDGED,
        threads: ONE,
        targets: [TOKIO, ASYNC_STD].map(|peer| target(Measure::Cpu, peer, 1.00, None)).into(),
    }
}

fn churn(name: String, reset: bool, beside: usize) -> Workload {
    Workload {
        name,
        kind: Kind::Churn { reset, beside },
        peers: match (beside, reset) {
            (0, false) => EXECUTORS,
            (0, true) => SERVERS,
            _ => JUDGED,
        },
        threads: if beside == 0 { BOTH } else { ONE },
        targets: vec![
            Target { threads: Some(1), ..target(Measure::Cpu, TOKIO, 1.05, 0.95) },
            Target { threads: Some(1), ..target(Measure::Cpu, ASYNC_STD, 0.85, None) },
            Target { threads: Some(2), ..target(Measure::Cpu, TOKIO, 1.00, 0.85) },
        ],
    }
}

fn memory(connections: usize) -> Workload {
    let targets = vec![target(Measure::HeapApart, Against::Nothing, 768.0, 600.0)];
    Workload {
        name: format!("memory-of-{connections}"),
        kind: Kind::Memory { connections },
        peers: if connections == 10_000 { SERVERS } else { JUDGED },
        threads: ONE,
        targets,
    }
}

fn stop(how: &'static str, clients_close: bool, connections: usize) -> Workload {
    let clients = if clients_close { "close" } else { "stay" };
    Workload {
        name: format!("{how}-of-{connections}-clients-{clients}"),
        kind: Kind::Stop { how, clients_close, connections, just_spoken: false },
        peers: STOPPED,
        threads: if connections == 10_000 { BOTH } else { ONE },
        targets: vec![match connections {
            10_000 => target(Measure::Wall, TOKIO, 1.1, 0.9),
            _ => target(Measure::Wall, TOKIO, 1.5, 1.00),
        }],
    }
}

fn just_spoken() -> Workload {
    Workload {
        name: "shutdown-of-10000-just-spoken".to_owned(),
        kind: Kind::Stop { how: "shutdown", clients_close: true, connections: 10_000, just_spoken: true },
        peers: STOPPED,
        threads: BOTH,
        targets: Vec::new(),
    }
}

fn stop_idle() -> Workload {
    Workload {
        name: "stop-of-idle".to_owned(),
        kind: Kind::StopIdle,
        peers: IDLE,
        threads: BOTH,
        targets: vec![target(Measure::P99, Against::Nothing, 1000.0, None)],
    }
}

fn children(from_main: bool) -> Workload {
    Workload {
        name: format!("children-of-{}", if from_main { "main" } else { "a-task" }),
        kind: Kind::Children { from_main },
        peers: GROUPS,
        threads: if from_main { ONE } else { BOTH },
        // From a task: `block_on` has the main thread beside the workers.
        targets: if from_main { Vec::new() } else { vec![target(Measure::Cpu, ASYNC_STD, 1.5, 1.3)] },
    }
}

fn sparse() -> [Workload; 3] {
    let one = |name: &str, kind, peers| Workload {
        name: name.to_owned(),
        kind,
        peers,
        threads: ONE,
        targets: vec![target(Measure::Cpu, TOKIO, 1.05, 1.00)],
    };
    [
        one("1%-of-10000-active", echo(10_000, 100, 64, BUFFER, None), JUDGED),
        one("10000-once-a-second", echo(10_000, 10_000, 64, BUFFER, Some(Rate::Fixed(10_000.0))), WAITING),
        one("one-busy-beside-999", echo(1000, 1, 64, BUFFER, None), WAITING),
    ]
}

fn http() -> [Workload; 4] {
    let one = |name: &str, kind, peers| Workload {
        name: name.to_owned(),
        kind,
        peers,
        threads: ONE,
        targets: vec![target(Measure::Cpu, ASYNC_STD, 1.00, None)],
    };
    let (http1, http2) = (Version::Http1, Version::Http2);
    [
        one("http1x64", Kind::Http { version: http1, connections: 64, streams: 1 }, HTTP1),
        one("http1-close", Kind::HttpChurn { version: http1 }, HTTP1),
        one("http2x8x16", Kind::Http { version: http2, connections: 8, streams: 16 }, HTTP2),
        one("http2-close", Kind::HttpChurn { version: http2 }, HTTP2),
    ]
}

fn tls() -> [Workload; 2] {
    [("tls64x64", Kind::Tls { connections: 64 }), ("tls-connect", Kind::TlsChurn)].map(|(name, kind)| Workload {
        name: name.to_owned(),
        kind,
        peers: STOPPED,
        threads: ONE,
        targets: vec![target(Measure::Cpu, TOKIO, 1.05, 1.00)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_the_command_line() {
        let mut names: Vec<String> = all().into_iter().map(|workload| workload.name).collect();
        assert!(names.iter().all(|name| !name.contains([',', ' ', '|'])));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_peer_of_every_mark_is_measured() {
        for workload in all() {
            assert!(workload.peers.contains(&Ebbtide));
            for target in &workload.targets {
                let Against::Better(forms) = target.against else { continue };
                assert!(forms.iter().any(|peer| workload.peers.contains(peer)), "{}", workload.name);
            }
        }
    }
}
