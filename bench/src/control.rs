//! The server's side of its pipes to the benchmark: reports its address, and receives the request to stop.

use async_channel::{Receiver, unbounded};
use std::fmt;
use std::io::{BufRead, stdin};
use std::time::{Duration, Instant};

/// Function that returns how many bytes of the heap are in use; `None` if the allocator does not count.
pub(crate) type Heap = Option<fn() -> usize>;

/// Way to stop a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    Shutdown,
    Cancel,
    Drop,
}

/// A request to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) how: How,
    /// When it was read from the pipe.
    pub(crate) at: Instant,
}

/// Ends the process after a minute: a server that is not closed by then never closes.
fn give_up() {
    std::thread::sleep(Duration::from_secs(60));
    eprintln!("not closed after a minute");
    std::process::exit(1);
}

/// The pipes of one server process.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    requests: Receiver<Stop>,
}

impl Control {
    /// Reads requests from the standard input if `controlled`, on a thread of its own, which costs nothing while it
    /// waits. The process ends with that pipe, so that no server outlives the benchmark.
    pub(crate) fn start(controlled: bool, heap: Heap) -> Self {
        let (sender, requests) = unbounded();
        std::thread::spawn(move || {
            if !controlled {
                // Until a signal ends the process. The sender must live as long.
                let _sender = sender;
                loop {
                    std::thread::park();
                }
            }
            for line in stdin().lock().lines().map_while(Result::ok) {
                let at = Instant::now();
                let how = match line.as_str() {
                    "heap" => {
                        println!("heap {}", heap.map_or(0, |heap| heap()));
                        continue;
                    }
                    "shutdown" => How::Shutdown,
                    "cancel" => How::Cancel,
                    "drop" => How::Drop,
                    other => panic!("`{other}` is not a request"),
                };
                let _ = sender.try_send(Stop { how, at });
                std::thread::spawn(give_up);
            }
            std::process::exit(0);
        });
        Self { requests }
    }

    pub(crate) fn listening(&self, address: impl fmt::Display) {
        println!("listening {address}");
    }

    pub(crate) async fn stop(&self) -> Stop {
        self.requests.recv().await.expect("the thread that reads lives as long as the process")
    }

    /// Reports that the server is closed, with what it knows of its connections (`account`).
    ///
    /// The process stays until its pipe ends: its exit would close everything, and so hide what the server has left
    /// open.
    pub(crate) fn closed(&self, stop: Stop, account: impl fmt::Display) -> ! {
        let took = stop.at.elapsed().as_nanos();
        println!("closed {took} {account}");
        loop {
            std::thread::park();
        }
    }
}
