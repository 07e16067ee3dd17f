//! Fuzzes HTTP through the memory listener: whatever a client sends, the connection ends, and no fault is the server's.
#![no_main]

use ebbtide::http::Http;
use ebbtide::http::http_body_util::{BodyExt, Limited};
use ebbtide::http::hyper::{Request, Response, body::Incoming, service::service_fn};
use ebbtide::{BoxError, Listener, Server};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use std::time::Duration;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let service = service_fn(async |request: Request<Limited<Incoming>>| {
        let body = request.into_body().collect().await?.to_bytes();
        Ok::<_, BoxError>(Response::new(body.len().to_string()))
    });
    let http = Http::new().max_body(1000).max_head(2000).header_timeout(Duration::from_millis(20));
    let (listener, connector) = Listener::memory();
    let scope = Server::new(listener).scope(http.handler(service), async |_| {
        let mut client = connector.connect().await?;
        let _ = client.write_all(bytes).await; // the server may answer and close before the end
        let _ = client.close().await;
        client.read_to_end(&mut Vec::new()).await?;
        Ok(())
    });
    let (_, report) = future::block_on(scope).expect("the server goes on");
    assert_eq!(report.failed() + report.panicked() + report.cancelled(), 0, "{report}");
});
