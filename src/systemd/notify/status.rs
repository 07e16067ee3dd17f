//! The text of `STATUS`: what servers and groups are doing, in one line.

use crate::run::Run;
use crate::run::phase::Phase;
use crate::services::observer::{GroupPhase, GroupView, ServiceView, TaskState};
use crate::text::{Escaped, plural};
use std::sync::Weak;
use std::time::{Duration, Instant};

/// The longest status in bytes. systemd ignores a message of more than 4096 bytes as a whole.
const LONGEST: usize = 1000;

/// What a server is doing.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) phase: Phase,
    pub(super) is_paused: bool,
    pub(super) connections: usize,
    pub(super) tasks: usize,
    /// When the end was requested, and when everything that is left is cancelled. The inner `None`: never.
    pub(super) request: Option<(Instant, Option<Instant>)>,
}

impl View {
    pub(super) fn of(run: &Run) -> Self {
        Self {
            phase: run.phase(),
            is_paused: run.limit.is_paused(),
            connections: run.registry.len(),
            tasks: run.tasks.len(),
            // A cancel moves the deadline before it signals: it must not be seen in between.
            request: run.requested.is_signalled().then(|| run.request_times()).flatten(),
        }
    }

    /// Returns the line: `draining, 3 connections and 1 task left, 2 s of 8 s`.
    pub(super) fn line(&self, now: Instant) -> String {
        let (connections, left) = (plural(self.connections, "connection"), self.left());
        let what = match (self.phase, self.request) {
            (Phase::Bound, _) => return "starting".to_owned(),
            (Phase::Serving, None) if self.is_paused => return format!("paused, {connections}"),
            (Phase::Serving, None) => return format!("serving, {connections}"),
            (Phase::Cancelling, _) => return format!("cancelling, {left} left"),
            (Phase::Closed, _) => return "closed".to_owned(), // its report is the status
            (Phase::Serving, Some(_)) => format!("shutting down, {connections}"),
            (Phase::LameDuck, _) => format!("lame duck, still accepting, {connections}"),
            (Phase::Draining, _) => format!("draining, {left} left"),
        };
        match self.request {
            Some(request) => with_time(what, request, now),
            None => what,
        }
    }

    fn left(&self) -> String {
        match self.tasks {
            0 => plural(self.connections, "connection"),
            tasks => format!("{} and {}", plural(self.connections, "connection"), plural(tasks, "task")),
        }
    }
}

/// Adds how much of its time a stop has used.
fn with_time(what: String, (at, deadline): (Instant, Option<Instant>), now: Instant) -> String {
    let used = seconds(now.saturating_duration_since(at));
    match deadline.map(|deadline| seconds(deadline.saturating_duration_since(at))) {
        Some(0) => what,
        Some(whole) => format!("{what}, {used} s of {whole} s"),
        None => format!("{what}, {used} s without a limit"),
    }
}

/// Returns the part of a group: each service that has not ended; once all have, the reports. `server` returns the name
/// of a server, and what it is doing.
pub(super) fn of_group<'a>(
    view: &GroupView,
    server: impl Fn(&Weak<Run>) -> Option<&'a (String, String)>,
    now: Instant,
) -> String {
    let mut parts = Vec::new();
    match (&view.phase, view.request) {
        (GroupPhase::Ended(reports), _) => return reports.clone(),
        (GroupPhase::Cancelling, _) => parts.push("cancelling".to_owned()),
        (_, Some(request)) => parts.push(with_time("stopping".to_owned(), request, now)),
        (GroupPhase::Starting, None) => parts.push("starting".to_owned()),
        (GroupPhase::Running, None) => {}
    }
    parts.extend(view.services.iter().filter_map(|service| match service {
        ServiceView::Server(run) => server(run).map(|(name, line)| format!("{name}: {line}")),
        ServiceView::Task(name, state) => Some(format!("{name}: {}", of_task(*state))),
    }));
    parts.join("; ")
}

fn of_task(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "running",
        TaskState::Stopping => "stopping",
        TaskState::Cancelling => "cancelling",
    }
}

/// Returns whole seconds, to the nearest: a timer is late by some milliseconds, never early.
fn seconds(time: Duration) -> u64 {
    time.saturating_add(Duration::from_millis(500)).as_secs()
}

/// Returns the status of several servers and groups as one line. Each server is a name and a text; the name is left out
/// if there is one server and nothing else.
///
/// A name or a report may have text of the program or of a peer in it: it is escaped, so that it cannot begin a
/// variable of its own, and the line has a limit.
pub(super) fn joined(servers: &[(String, String)], groups: &[String], is_reloading: bool) -> String {
    let mut each: Vec<_> = match (servers, groups) {
        ([(_, text)], []) => vec![text.clone()],
        _ => servers.iter().map(|(name, text)| format!("{name}: {text}")).collect(),
    };
    each.extend_from_slice(groups);
    let reloading = if is_reloading { "reloading; " } else { "" };
    let mut line = Escaped(format_args!("{reloading}{}", each.join("; "))).to_string();
    if line.len() > LONGEST {
        let end = (0..=LONGEST - '…'.len_utf8()).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_left_and_how_much_time() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let (limited, unlimited) = (Some((start, Some(start + 8 * second))), Some((start, None)));
        let table = [
            (Phase::Bound, None, 0, 0, "starting"),
            (Phase::Serving, None, 0, 5, "serving, 0 connections"),
            (Phase::Serving, None, 1, 0, "serving, 1 connection"),
            (Phase::Serving, limited, 12, 0, "shutting down, 12 connections, 2 s of 8 s"),
            (Phase::LameDuck, limited, 12, 1, "lame duck, still accepting, 12 connections, 2 s of 8 s"),
            (Phase::Draining, limited, 3, 1, "draining, 3 connections and 1 task left, 2 s of 8 s"),
            (Phase::Draining, unlimited, 0, 2, "draining, 0 connections and 2 tasks left, 2 s without a limit"),
            (Phase::Cancelling, limited, 1, 0, "cancelling, 1 connection left"),
            (Phase::Closed, limited, 0, 0, "closed"),
        ];
        let now = start + 2 * second + Duration::from_millis(3);
        for (phase, request, connections, tasks, line) in table {
            let view = View { phase, is_paused: false, connections, tasks, request };
            assert_eq!(view.line(now), line);
        }
        let at_once = View {
            phase: Phase::Draining,
            is_paused: false,
            connections: 1,
            tasks: 0,
            request: Some((start, Some(start))),
        };
        assert_eq!(at_once.line(now), "draining, 1 connection left");
        let paused = View { phase: Phase::Serving, is_paused: true, connections: 2, tasks: 0, request: None };
        assert_eq!(paused.line(now), "paused, 2 connections");
    }

    #[test]
    fn several_servers_are_one_line_that_no_name_can_break() {
        let server = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(joined(&[], &[], false), "");
        assert_eq!(joined(&[server("a", "serving")], &[], false), "serving");
        assert_eq!(joined(&[server("a", "serving")], &[], true), "reloading; serving");
        assert_eq!(joined(&[server("a", "serving"), server("b", "starting")], &[], false), "a: serving; b: starting");
        let group = ["stopping, 2 s of 8 s; b: running".to_owned()];
        assert_eq!(joined(&[], &group, false), "stopping, 2 s of 8 s; b: running");
        assert_eq!(joined(&[server("a", "x")], &group, true), "reloading; a: x; stopping, 2 s of 8 s; b: running");
        let forged = [server("x\nREADY=1\0", "starting"), server("b", "closed because of \nSTOPPING=1")];
        assert_eq!(joined(&forged, &[], false), r"x\nREADY=1\u{0}: starting; b: closed because of \nSTOPPING=1");
    }

    #[test]
    fn a_long_line_is_cut_between_two_characters() {
        for shift in 0..4 {
            let text = "x".repeat(shift) + &"界".repeat(2000);
            let line = joined(&[(String::new(), text)], &[], false);
            assert!(line.len() <= LONGEST && line.len() > LONGEST - 6, "{}", line.len());
            assert!(line.ends_with("界…"), "{line}");
        }
    }
}
