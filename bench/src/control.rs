//! A server's side of the pipe between it and who measures it: where it listens, and how it is stopped.

use async_channel::{Receiver, unbounded};
use std::fmt;
use std::io::{BufRead, stdin};
use std::time::{Duration, Instant};

/// How much of the heap is in use, in bytes, where the allocator counts.
pub(crate) type Heap = Option<fn() -> usize>;

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

/// Whoever has not closed by then never will, and nobody shall wait for it.
fn give_up() {
    std::thread::sleep(Duration::from_secs(60));
    eprintln!("not closed after a minute");
    std::process::exit(1);
}

#[derive(Clone, Debug)]
pub(crate) struct Control {
    requests: Receiver<Stop>,
}

impl Control {
    /// Listens to the standard input if `controlled`, on a thread of its own that costs nothing while nothing comes.
    /// The process ends with that pipe, so that no server survives who started it.
    pub(crate) fn start(controlled: bool, heap: Heap) -> Self {
        let (sender, requests) = unbounded();
        std::thread::spawn(move || {
            if !controlled {
                // Until a signal comes. The sender must live as long.
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
                    other => panic!("`{other}` is no request"),
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

    /// The server is closed: the last that it does. `account` is what it knows of its connections. The process stays
    /// until its pipe ends: its end would close everything, and so hide what the server has left open.
    pub(crate) fn closed(&self, stop: Stop, account: impl fmt::Display) -> ! {
        let took = stop.at.elapsed().as_nanos();
        println!("closed {took} {account}");
        loop {
            std::thread::park();
        }
    }
}
