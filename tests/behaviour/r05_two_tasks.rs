//! R5 when another task of the connection uses its stream at the same moment, for example to write a long reply over
//! TLS. A read cannot lock the stream then and gets `Pending`. That does not mean that no request has arrived.

use crate::support::executor::alone_with_threads;
use crate::support::scripted::{Script, ScriptedStream, Step};
use crate::support::{NET, chosen, test};
use async_std::channel::bounded;
use async_std::{io, prelude::*, task};
use ebbtide::{Connection, Server};
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;

#[test]
fn r05_a_request_that_has_arrived_is_read_although_another_task_is_writing() {
    if chosen::is_tokio() {
        return; // a task that a blocked tokio worker has woken waits for that worker: its LIFO slot is not stolen from
    }
    alone_with_threads(3, || {
        test(async {
            let (writing, is_writing) = bounded(1);
            let (polled, is_polled) = bounded(8);
            let (gate, open) = mpsc::channel::<()>();
            // The request has arrived, and the write blocks until the test opens the gate.
            let mut request = Some(b"request");
            let stream = ScriptedStream::new()
                .read(move |_, buf| match request.take() {
                    Some(request) => {
                        buf[..7].copy_from_slice(request);
                        Poll::Ready(Ok(7))
                    }
                    None => Poll::Pending,
                })
                .write(move |_, buf| {
                    writing.try_send(()).unwrap();
                    let _ = open.recv_timeout(NET);
                    Poll::Ready(Ok(buf.len()))
                });
            let read = Arc::<Mutex<Option<usize>>>::default();
            let handler = {
                let read = Arc::clone(&read);
                move |conn: Connection| {
                    let (is_writing, polled, read) = (is_writing.clone(), polled.clone(), Arc::clone(&read));
                    async move {
                        let clone = conn.clone();
                        conn.spawn(async move { drop((&clone).write(b"streaming").await) });
                        is_writing.recv().await.unwrap();
                        conn.until_draining(pending::<()>()).await;
                        let (mut reader, mut buf) = (&conn, [0; 16]);
                        let mut reading = pin!(reader.read(&mut buf));
                        let reading = poll_fn(|cx| {
                            let poll = reading.as_mut().poll(cx);
                            let _ = polled.try_send(());
                            poll
                        });
                        let n = conn.until_draining(reading).await.transpose()?;
                        *read.lock().unwrap() = n;
                        io::Result::Ok(())
                    }
                }
            };
            let (listener, script) = Script::listener();
            script.tell(Step::Client(Box::pin(stream)));
            let server = Server::new(listener);
            let handle = server.handle();
            let serving = task::spawn(server.serve(handler));
            while handle.connection_count() == 0 {
                task::yield_now().await;
            }
            let closed = handle.shutdown();
            is_polled.recv().await.unwrap();
            task::sleep(Duration::from_millis(20)).await; // time in which a wrong `None` would arrive
            assert_eq!(*read.lock().unwrap(), None);
            drop(gate);
            closed.await;
            serving.await.unwrap();
            assert_eq!(*read.lock().unwrap(), Some(7), "the request had arrived, and must be read");
        });
    });
}
