//! [`AdminService`]: which path gets which answer, and which requests are refused.

use super::host::{self, BadHost};
use super::live::{self, Place};
use super::probes::Pulse;
use super::{lists, metrics, probes};
use crate::connection::Connection;
use crate::panic;
use crate::run::handle::Handle;
use crate::run::name::run_line;
use crate::text::Escaped;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// Appends metrics of the program to those of the servers.
pub(super) type MoreMetrics = Box<dyn Fn(&mut String) + Send + Sync>;

/// The service of an admin listener.
#[derive(Clone)]
pub(super) struct AdminService(pub(super) Arc<Shared>);

/// What all requests share.
pub(super) struct Shared {
    pub(super) watched: Vec<Handle>,
    /// One for each of them, for `/live`.
    pub(super) pulses: Vec<Pulse>,
    /// Names that the header `Host` may have, beside addresses and `localhost`.
    pub(super) hosts: Vec<String>,
    /// Connections and tasks are shown.
    pub(super) shows_connections: bool,
    pub(super) more_metrics: Vec<MoreMetrics>,
    /// How many live pages are served.
    pub(super) pages: Arc<AtomicUsize>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Service<Request<Incoming>> for AdminService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        let (parts, _body) = request.into_parts(); // a body is not read
        let request = Request::from_parts(parts, ());
        Box::pin(async move { Ok(shared.answer(request).await) })
    }
}

/// The paths, for people who ask for another one.
const PATHS: &str = "/ready: 200 if load balancers should send clients, otherwise 503\n\
                     /live: 200 if the executor runs, otherwise 503\n\
                     /metrics: numbers, in Prometheus's text format\n";

/// The paths that show connections.
const MORE_PATHS: &str = "/: a page that shows what runs\n\
                          /events: what the page shows, as server-sent events\n\
                          /tree: connections and tasks as a tree\n\
                          /connections: connections as a table; ?limit=N lists up to N of them\n\
                          /connections.json: connections and tasks as JSON, likewise\n";

impl Shared {
    async fn answer(&self, request: Request<()>) -> Response<Body> {
        let connection = request.extensions().get::<Connection>().cloned();
        let is_unix = connection.as_ref().is_some_and(|connection| connection.peer_addr().is_unix());
        if let (false, Err(bad)) = (is_unix, host::check(&request, &self.hosts)) {
            return refuse_host(&bad); // no browser can be led to a Unix socket
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let text =
                format!("{} is not supported: this listener only shows, and answers GET and HEAD\n", request.method());
            let mut answer = text_answer(StatusCode::METHOD_NOT_ALLOWED, text);
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let path = request.uri().path();
        match path {
            "/ready" | "/readyz" => probe(probes::ready(&self.watched)),
            "/live" | "/livez" => probe(probes::live(&self.pulses).await),
            "/metrics" => answer(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics()),
            _ if !self.shows_connections => not_found(path, PATHS.to_owned()),
            "/" => {
                let (page, policy) = live::page();
                let mut page = answer(StatusCode::OK, "text/html; charset=utf-8", page);
                if let Ok(policy) = HeaderValue::try_from(policy) {
                    page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
                }
                page
            }
            "/events" => self.events(connection),
            "/tree" => {
                text_answer(StatusCode::OK, self.watched.iter().map(|server| server.task_tree().to_string()).collect())
            }
            "/connections" | "/connections.json" => match limit(request.uri().query()) {
                Err(refusal) => text_answer(StatusCode::BAD_REQUEST, refusal),
                Ok(most) if path == "/connections" && !wants_json(&request) => {
                    text_answer(StatusCode::OK, lists::table(&self.watched, most))
                }
                Ok(most) => {
                    let list = lists::json(&self.watched, most).to_string();
                    answer(StatusCode::OK, "application/json", list + "\n")
                }
            },
            _ => not_found(path, format!("{PATHS}{MORE_PATHS}")),
        }
    }

    fn metrics(&self) -> String {
        let mut text = metrics::text(&self.watched);
        for more in &self.more_metrics {
            let before = text.len();
            if let Err(payload) = panic::catch(|| more(&mut text)) {
                text.truncate(before.min(text.len()));
                log_panic(&self.watched, panic::message(&payload));
                panic::discard(payload);
            } else if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        text
    }

    fn events(&self, connection: Option<Connection>) -> Response<Body> {
        let (Some(connection), Some(place)) = (connection, Place::take(&self.pages)) else {
            let text = format!("{} live pages are open already: close one of them\n", live::MOST_PAGES);
            return text_answer(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        let events = live::events(&self.watched, connection, place);
        respond(StatusCode::OK, "text/event-stream", StreamBody::new(events).boxed_unsync())
    }
}

fn log_panic(watched: &[Handle], message: &str) {
    if let Some(server) = watched.first() {
        let run = server.run();
        run_line!(
            error,
            run,
            [],
            "a function of `Admin::add_metrics` panicked, and its metrics are missing: {message}"
        );
    }
}

fn refuse_host(bad: &BadHost) -> Response<Body> {
    match bad {
        BadHost::Malformed => text_answer(
            StatusCode::BAD_REQUEST,
            "the request has no header `Host`, more than one, or one that is not a host\n".to_owned(),
        ),
        BadHost::Unknown(name) => text_answer(
            StatusCode::MISDIRECTED_REQUEST,
            format!(
                "the host `{}` is not allowed: use an address or `localhost`, or allow the name by \
                 `Admin::allow_host`\n",
                Escaped(name)
            ),
        ),
    }
}

fn probe((is_fine, text): (bool, String)) -> Response<Body> {
    text_answer(if is_fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

fn not_found(path: &str, paths: String) -> Response<Body> {
    text_answer(StatusCode::NOT_FOUND, format!("there is no `{}`; there is\n\n{paths}", Escaped(path)))
}

/// Returns how many connections a list has.
fn limit(query: Option<&str>) -> Result<usize, String> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut most = lists::USUAL;
    for pair in pairs {
        most = match pair.strip_prefix("limit=").map(str::parse::<usize>) {
            Some(Ok(limit)) if limit <= lists::MOST => limit,
            _ => return Err(bad_query(&pair)),
        };
    }
    Ok(most)
}

fn bad_query(pair: &dyn fmt::Display) -> String {
    format!("`{}` is not understood: `limit=N` lists N connections, 0 to {}\n", Escaped(pair), lists::MOST)
}

fn wants_json(request: &Request<()>) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/json"))
}

fn text_answer(status: StatusCode, text: String) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", text)
}

fn answer(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    respond(status, content_type, Full::from(text).boxed_unsync())
}

/// Makes an answer. Its fields keep browsers from storing it, from guessing another type, and from giving it to pages
/// of other origins.
fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields: [(HeaderName, &str); 6] = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::{limit, lists};

    #[test]
    fn a_list_has_as_many_connections_as_the_query_says() {
        let table: &[(Option<&str>, Option<usize>)] = &[
            (None, Some(lists::USUAL)),
            (Some(""), Some(lists::USUAL)),
            (Some("limit=0"), Some(0)),
            (Some("limit=10000"), Some(10_000)),
            (Some("limit=10001"), None),
            (Some("limit=-1"), None),
            (Some("limit="), None),
            (Some("limit=1&limit=2"), Some(2)),
            (Some("most=1"), None),
            (Some("<script>"), None),
        ];
        for (query, most) in table {
            assert_eq!(limit(*query).ok(), *most, "{query:?}");
        }
        assert!(limit(Some("a\u{1b}b")).unwrap_err().starts_with(r"`a\u{1b}b` is not understood"));
    }
}
