//! tide: the web framework of async-std, with its own HTTP/1. It cannot be stopped.

use crate::control::Control;
use crate::http::PART;
use async_std::task;
use std::io;
use tide::Response;

pub(super) fn serve(control: &Control) -> io::Result<()> {
    let listener = crate::peers::listener()?;
    let mut app = tide::new();
    app.at("/").get(|_| async { Ok(Response::builder(200).body(PART).build()) });
    control.listening(listener.local_addr()?);
    // In a task: in `block_on` each connection costs more.
    task::block_on(task::spawn(app.listen(listener)))
}
