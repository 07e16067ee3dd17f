//! tide: the web framework of async-std, with its own HTTP/1. It cannot be stopped.

use crate::control::Control;
use crate::http::PART;
use async_std::task;
use socket2::SockRef;
use std::io;
use tide::Response;

pub(super) fn serve(control: &Control) -> io::Result<()> {
    let listener = crate::peers::listener()?;
    // tide does not set it, and sends head and body apart. On Linux a connection has it from its listener.
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    let mut app = tide::new();
    app.at("/").get(|_| async { Ok(Response::builder(200).body(PART).build()) });
    task::block_on(async {
        control.listening(listener.local_addr()?);
        app.listen(listener).await
    })
}
