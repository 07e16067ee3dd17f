//! ebbtide: `Server::serve_http` with its defaults. The first bytes of a connection show its version.

use super::hello;
use crate::control::Control;
use crate::http::Answer;
use crate::peers::ebbtide;
use ::ebbtide::Server;
use async_std::task;
use hyper::service::service_fn;
use std::io;

pub(super) fn serve(answer: Answer, control: &Control) -> io::Result<()> {
    task::block_on(async {
        let server = Server::bind("127.0.0.1:0").await?;
        control.listening(server.local_addr());
        let handle = server.handle();
        ebbtide::until_stopped(server.serve_http(service_fn(move |request| hello(request, answer))), handle, control)
            .await
    })
}
