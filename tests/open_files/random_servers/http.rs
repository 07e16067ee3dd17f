//! The handlers and the requests of cases with HTTP.

use super::handlers::{Handler, reply};
use super::plan::Order;
use super::witness::Witness;
use std::sync::Arc;

/// Returns a request that has the order and the size in its path, and `None` without the feature.
pub fn request(order: Order, client: usize, size: u16, closes: bool) -> Option<Vec<u8>> {
    if !cfg!(feature = "http") {
        return None;
    }
    let close = if closes { "connection: close\r\n" } else { "" };
    let path = format!("/{}/{client}/{size}", order as u8);
    let mut bytes = match order {
        Order::Echo | Order::HalfPolled => {
            format!("POST {path} HTTP/1.1\r\nhost: a\r\n{close}content-length: {size}\r\n\r\n").into_bytes()
        }
        _ => format!("GET {path} HTTP/1.1\r\nhost: a\r\n{close}\r\n").into_bytes(),
    };
    if matches!(order, Order::Echo | Order::HalfPolled) {
        bytes.extend(reply(Order::Echo, client, size)?);
    }
    Some(bytes)
}

/// An answer, as far as it has arrived.
pub struct Answer<'a> {
    pub is_ok: bool,
    pub body: &'a [u8],
    pub is_whole: bool,
}

/// Returns the answer, once its head has arrived.
pub fn answer(bytes: &[u8]) -> Option<Answer<'_>> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let length: usize = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    let body = &bytes[end + 4..];
    Some(Answer { is_ok: head.starts_with("HTTP/1.1 200 "), body, is_whole: body.len() >= length })
}

#[cfg(not(feature = "http"))]
pub fn handler(_: &Arc<Witness>) -> Option<Handler> {
    None
}

#[cfg(feature = "http")]
pub fn handler(witness: &Arc<Witness>) -> Option<Handler> {
    use super::handlers::Ordered;
    use super::orders::fault;
    use ebbtide::BoxError;
    use ebbtide::http::Http;
    use ebbtide::http::http_body_util::{BodyExt, Full};
    use ebbtide::http::hyper::body::{Bytes, Incoming};
    use ebbtide::http::hyper::service::service_fn;
    use ebbtide::http::hyper::{Request, Response};
    use std::future::pending;

    let witness = Arc::clone(witness);
    let service = service_fn(move |request: Request<Incoming>| {
        let (guard, witness) = (witness.live.guard(), Arc::clone(&witness));
        async move {
            let _guard = guard;
            let path = request.uri().path().to_owned();
            let numbers: Vec<u16> = path.split('/').filter_map(|part| part.parse().ok()).collect();
            let [order, client, size] = numbers[..] else { return Err(BoxError::from("no order")) };
            let (order, client) = (Order::of(order as u8).ok_or("no such order")?, usize::from(client));
            let body = request.into_body().collect().await?.to_bytes();
            match order {
                Order::Fails => {
                    fault(&witness);
                    return Err(Ordered.into());
                }
                Order::Panics | Order::TaskPanics => panic!("as ordered"),
                Order::Stubborn | Order::Bomb => pending::<()>().await,
                _ => {}
            }
            let answer = match order {
                Order::Echo | Order::HalfPolled => body,
                _ => Bytes::from(reply(Order::Reply, client, size).unwrap_or_default()),
            };
            Ok(Response::new(Full::new(answer)))
        }
    });
    let http = Http::new().handler(service);
    Some(Box::new(move |conn| {
        let serving = http(conn);
        Box::pin(async move { serving.await.map_err(BoxError::from) })
    }))
}
