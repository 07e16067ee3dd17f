//! The open connections and tasks, as JSON for programs, and as a table for people.

use super::metrics::phase_name;
use super::names::named;
use crate::run::handle::Handle;
use crate::run::record::Label;
use crate::run::registry::ConnectionInfo;
use crate::run::task_tree::{Headline, TaskNode, TaskTree};
use crate::span::Span;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many connections a list has unless the request says otherwise.
pub(super) const USUAL: usize = 1_000;

/// How many connections a list has at most.
pub(super) const MOST: usize = 10_000;

/// Returns the state of all servers as JSON. `most`: how many connections of each.
pub(super) fn json(watched: &[Handle], most: usize) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let servers = named(watched).map(|(name, server)| server_json(name, &server.task_tree_of(most)));
    json!({ "time_ms": millis(now), "servers": servers.collect::<Vec<_>>() })
}

fn server_json(name: String, tree: &TaskTree) -> Value {
    let counts = &tree.counts;
    let open = counts.by_state().map(|(state, number)| (state.as_str().to_owned(), number.into()));
    let drain = tree.drain.as_ref().map(|drain| {
        json!({
            "connections_at_start": drain.connections_at_start(),
            "connections_left": drain.connections_left(),
            "tasks_left": drain.tasks_left(),
            "elapsed_ms": millis(drain.elapsed()),
            "limit_ms": drain.limit().map(millis),
        })
    });
    let connections = tree.connections.iter().map(|node| {
        let tasks: Vec<_> = node.tasks.iter().map(task_json).collect();
        connection_json(&node.info, tasks, node.more_tasks)
    });
    json!({
        "name": name,
        "addresses": tree.addresses,
        "phase": phase_name(tree.phase),
        "ready": tree.is_ready,
        "paused": tree.is_paused,
        "max_connections": (tree.max_connections < usize::MAX).then_some(tree.max_connections),
        "counts": {
            "accepted": counts.accepted(),
            "completed": counts.completed(),
            "failed": counts.failed(),
            "panicked": counts.panicked(),
            "disconnected": counts.disconnected(),
            "rejected": counts.rejected(),
            "cancelled": counts.cancelled(),
            "refused": counts.refused(),
            "accept_errors": counts.accept_errors(),
            "undelivered": counts.undelivered(),
            "requests": counts.requests(),
            "requests_failed": counts.requests_failed(),
            "requests_panicked": counts.requests_panicked(),
        },
        "open": open.collect::<serde_json::Map<_, _>>(),
        "drain": drain,
        "connections": connections.collect::<Vec<_>>(),
        "more_connections": tree.more_connections(),
        "tasks": tree.tasks.iter().map(task_json).collect::<Vec<_>>(),
        "more_tasks": tree.more_tasks(),
    })
}

fn connection_json(info: &ConnectionInfo, tasks: Vec<Value>, more_tasks: usize) -> Value {
    json!({
        "id": info.id().as_u64(),
        "peer": info.peer_addr().to_string(),
        "local": info.local_addr().map(ToString::to_string),
        "label": info.label(),
        "state": info.state().as_str(),
        "age_ms": millis(info.age()),
        "silent_ms": info.silent_for().map(millis),
        "bytes_read": info.bytes_read(),
        "bytes_written": info.bytes_written(),
        "tasks": tasks,
        "more_tasks": more_tasks,
    })
}

fn task_json(task: &TaskNode) -> Value {
    json!({
        "name": task.name,
        "at": task.at.map(ToString::to_string),
        "age_ms": task.age.map(millis),
        "background": task.is_background,
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a table of the connections of each server. Every text that a stranger may have chosen is escaped.
pub(super) fn table(watched: &[Handle], most: usize) -> String {
    let mut text = String::new();
    for server in watched {
        let tree = server.task_tree_of(most);
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "{}", Headline(&tree));
        if tree.connections.is_empty() {
            continue;
        }
        let mut rows =
            vec![["ID", "PEER", "STATE", "AGE", "SILENT", "READ", "WRITTEN", "TASKS", "LABEL"].map(String::from)];
        rows.extend(tree.connections.iter().map(|node| row(&node.info, node.tasks.len() + node.more_tasks)));
        write_rows(&mut text, &rows);
        if tree.more_connections() > 0 {
            let _ = writeln!(text, "… and {} more: `?limit=` lists up to {MOST}", tree.more_connections());
        }
    }
    text
}

fn row(info: &ConnectionInfo, tasks: usize) -> [String; 9] {
    let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    [
        info.id().to_string(),
        info.peer_addr().to_string(),
        info.state().to_string(),
        Span(info.age()).to_string(),
        known(info.silent_for().map(|silence| Span(silence).to_string())),
        known(info.bytes_read().map(|bytes| bytes.to_string())),
        known(info.bytes_written().map(|bytes| bytes.to_string())),
        tasks.to_string(),
        info.label().map_or_else(String::new, |label| Label(label).to_string()),
    ]
}

/// Writes rows in columns that are as wide as their widest cell. The last column is not padded.
fn write_rows<const N: usize>(text: &mut String, rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}
