//! `/metrics`: the numbers of the servers, in Prometheus's text format, by the crate `prometheus-client`.
//!
//! The numbers are there already, in each server's counters. `prometheus-client` has collectors, which read them when
//! they are scraped, so metrics cost nothing between two scrapes. (The facade `metrics` would have to be called at each
//! change, on the path of every connection.)

use super::names::named;
use crate::run::end_reason::Bucket;
use crate::run::handle::Handle;
use crate::run::phase::Phase;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;

/// The type of the text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the metrics of the servers as text.
pub(super) fn text(watched: &[Handle]) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Numbers(watched.to_vec())));
    let mut text = String::new();
    let _ = prometheus_text::encode(&mut text, &registry); // a `String` takes everything
    text
}

/// Reads the numbers of the servers.
#[derive(Debug)]
struct Numbers(Vec<Handle>);

/// Labels of one sample, beside the server's name.
type Labels = Vec<(&'static str, &'static str)>;

/// A metric: its name, its explanation, and for each server the samples.
struct Metric<T> {
    name: &'static str,
    help: &'static str,
    samples: fn(&Snapshot) -> Vec<(Labels, T)>,
}

/// The numbers of one server, which all metrics of a text are made of.
struct Snapshot {
    name: String,
    handle: Handle,
    counts: crate::Counts,
}

const COUNTERS: &[Metric<u64>] = &[
    Metric {
        name: "ebbtide_connections_accepted",
        help: "Connections that were accepted.",
        samples: |server| one(server.counts.accepted()),
    },
    Metric {
        name: "ebbtide_connections_ended",
        help: "Connections that have ended, by reason, and by the number of the report that counts them.",
        samples: |server| {
            let ends = server.counts.by_reason();
            ends.map(|(reason, number)| {
                (vec![("reason", reason.as_str()), ("outcome", outcome(reason.bucket()))], number)
            })
            .collect()
        },
    },
    Metric {
        name: "ebbtide_connections_refused",
        help: "Clients that a limit turned away before they became a connection.",
        samples: |server| {
            let (all, by_address) = (server.counts.refused(), server.counts.refused_by_address_limit());
            vec![
                (vec![("reason", "address_limit")], by_address),
                (vec![("reason", "no_room_at_shutdown")], all.saturating_sub(by_address)),
            ]
        },
    },
    Metric {
        name: "ebbtide_connections_drained",
        help: "Connections whose handlers ended by themselves during the drain.",
        samples: |server| one(server.counts.drained()),
    },
    Metric {
        name: "ebbtide_connections_undelivered",
        help: "Connections that were closed before their peers had received everything.",
        samples: |server| one(server.counts.undelivered()),
    },
    Metric {
        name: "ebbtide_accept_errors",
        help: "Accepts that failed.",
        samples: |server| one(server.counts.accept_errors()),
    },
    Metric {
        name: "ebbtide_http_requests",
        help: "HTTP requests that were given to the service.",
        samples: |server| one(server.counts.requests()),
    },
    Metric {
        name: "ebbtide_http_requests_failed",
        help: "HTTP requests whose service, or the body of whose answer, failed by itself or panicked.",
        samples: |server| {
            let counts = &server.counts;
            vec![
                (vec![("reason", "error")], counts.requests_failed()),
                (vec![("reason", "panic")], counts.requests_panicked()),
            ]
        },
    },
];

const GAUGES: &[Metric<i64>] = &[
    Metric {
        name: "ebbtide_connections_open",
        help: "Open connections, by what they are doing.",
        samples: |server| {
            let states = server.counts.by_state();
            states.map(|(state, number)| (vec![("state", state.as_str())], gauge(number))).collect()
        },
    },
    Metric {
        name: "ebbtide_connections_limit",
        help: "max_connections: how many connections may be open.",
        samples: |server| one(gauge(server.handle.max_connections())),
    },
    Metric {
        name: "ebbtide_listeners_at_limit",
        help: "Listeners that accept no client because of max_connections or a pause.",
        samples: |server| one(gauge(server.counts.listeners_at_limit())),
    },
    Metric {
        name: "ebbtide_listeners_resting",
        help: "Listeners that wait after an error of accept, such as the limit on open files.",
        samples: |server| one(gauge(server.counts.listeners_resting())),
    },
    Metric {
        name: "ebbtide_tasks",
        help: "The server's own tasks, without those of its connections.",
        samples: |server| {
            let run = server.handle.run();
            vec![
                (vec![("kind", "awaited")], gauge(run.tasks.len())),
                (vec![("kind", "background")], gauge(run.background.len())),
            ]
        },
    },
    Metric {
        name: "ebbtide_ready",
        help: "1 if load balancers should send clients, otherwise 0.",
        samples: |server| one(server.handle.is_ready().into()),
    },
    Metric {
        name: "ebbtide_phase",
        help: "1 for the phase that the server is in.",
        samples: |server| {
            let now = server.handle.phase();
            PHASES.iter().map(|(phase, name)| (vec![("phase", *name)], (*phase == now).into())).collect()
        },
    },
];

const PHASES: &[(Phase, &str)] = &[
    (Phase::Bound, "bound"),
    (Phase::Serving, "serving"),
    (Phase::LameDuck, "lame_duck"),
    (Phase::Draining, "draining"),
    (Phase::Cancelling, "cancelling"),
    (Phase::Closed, "closed"),
];

/// Returns the name of a phase, for programs.
pub(super) fn phase_name(phase: Phase) -> &'static str {
    PHASES.iter().find(|(known, _)| *known == phase).map_or("", |(_, name)| name)
}

fn one<T>(number: T) -> Vec<(Labels, T)> {
    vec![(Vec::new(), number)]
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the name of the number of the report to which an end is added.
fn outcome(bucket: Bucket) -> &'static str {
    match bucket {
        Bucket::Completed => "completed",
        Bucket::Failed => "failed",
        Bucket::Panicked => "panicked",
        Bucket::Disconnected => "disconnected",
        Bucket::Rejected => "rejected",
        Bucket::Cancelled => "cancelled",
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let servers = named(&self.0);
        let servers: Vec<_> =
            servers.map(|(name, handle)| Snapshot { name, handle: handle.clone(), counts: handle.counts() }).collect();
        for metric in COUNTERS {
            encode(&mut encoder, metric, &servers, MetricType::Counter, ConstCounter::new)?;
        }
        for metric in GAUGES {
            encode(&mut encoder, metric, &servers, MetricType::Gauge, ConstGauge::new)?;
        }
        Ok(())
    }
}

fn encode<T, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric<T>,
    servers: &[Snapshot],
    kind: MetricType,
    make: fn(T) -> M,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
    for server in servers {
        for (labels, number) in (metric.samples)(server) {
            let mut all = vec![("server", server.name.as_str())];
            all.extend(labels);
            make(number).encode(family.encode_family(&all)?)?;
        }
    }
    Ok(())
}
