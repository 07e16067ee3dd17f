//! The clients: each connects, asks, reads and leaves in its own manner, and notes what it met.

use super::doors::{OpenDoor, Wire};
use super::plan::{Client, Manner, Order};
use super::witness::{End, Met, Witness};
use super::{handlers, http};
use async_io::Timer;
use async_std::io::{Read, Write};
use async_std::prelude::*;
use ebbtide::{Handle, Phase};
use futures_concurrency::prelude::*;
use std::future::{pending, poll_fn};
use std::io;
use std::time::Duration;

/// One client of a case.
pub struct Asks<'a> {
    pub n: usize,
    pub plan: Client,
    pub door: &'a OpenDoor,
    pub http: bool,
    pub witness: &'a Witness,
    pub handle: &'a Handle,
}

impl Asks<'_> {
    /// Returns its request.
    fn request(&self) -> Vec<u8> {
        let Client { order, size, whim, .. } = self.plan;
        let by_http = self.http.then(|| http::request(order, self.n, size, whim % 2 == 0)).flatten();
        by_http.unwrap_or_else(|| handlers::request(order, self.n, size))
    }

    /// Whether it has what it wanted, and leaves.
    fn has_enough(&self, got: &[u8]) -> bool {
        match (self.http && cfg!(feature = "http"), self.plan.order) {
            (true, _) => self.plan.whim % 2 == 1 && http::answer(got).is_some_and(|answer| answer.is_whole),
            (false, Order::Lines) => {
                handlers::reply(Order::Lines, self.n, self.plan.size).is_some_and(|it| it.len() == got.len())
            }
            _ => false,
        }
    }

    pub async fn run(&self) -> Met {
        Timer::after(self.plan.start).await;
        let mut met = Met { connected_in_time: false, sent_in_time: false, got: Vec::new(), end: End::NotConnected };
        let Ok(wire) = self.door.connect().await else { return met };
        met.end = match self.meet(wire, &mut met).await {
            Ok(end) => end,
            Err(error) => End::Error(error.kind()),
        };
        met
    }

    async fn meet(&self, mut wire: Wire, met: &mut Met) -> io::Result<End> {
        let (manner, whim) = (self.plan.manner, self.plan.whim);
        let socket = wire.socket();
        let options = socket.as_ref().map(|it| socket2::SockRef::from(it.get_ref()));
        match (manner, &options) {
            (Manner::SlowReader, Some(options)) => options.set_recv_buffer_size(2000)?,
            (Manner::Urgent, Some(options)) => drop(options.send_out_of_band(b"u")?),
            (Manner::Garbage, _) => {
                wire.write_all(b"\x7fthis is neither a header nor a request, whatever is expected\r\n\r\n").await?;
                return self.read(&mut wire, met).await;
            }
            (Manner::Silent, _) if whim % 2 == 0 => return self.read(&mut wire, met).await,
            _ => {}
        }
        let mut stream = self.door.enter(wire).await?;
        met.connected_in_time = !self.witness.is_stopping();
        if manner == Manner::Newcomer {
            self.handle.reached(Phase::Draining).await;
        }
        let request = self.request();
        match manner {
            Manner::Silent => {}
            Manner::HalfOrder => stream.write_all(&request[..2]).await?,
            Manner::SlowWriter => {
                for piece in request.chunks((whim + 1).max(request.len() / 5)) {
                    stream.write_all(piece).await?;
                    Timer::after(Duration::from_millis(whim as u64 % 4)).await;
                }
            }
            _ => stream.write_all(&request).await?,
        }
        stream.flush().await?;
        met.sent_in_time = !self.witness.is_stopping();
        match manner {
            Manner::HalfCloses => poll_fn(|cx| stream.as_mut().poll_close(cx)).await?,
            Manner::Leaves | Manner::Resets => {
                Timer::after(Duration::from_millis(whim as u64 % 30)).await;
                if let (Manner::Resets, Some(options)) = (manner, options) {
                    options.set_linger(Some(Duration::ZERO))?;
                }
                return Ok(End::Left);
            }
            Manner::NeverReads => drop(self.witness.left.1.recv().await),
            Manner::Floods => {
                let floods = async {
                    loop {
                        stream.write_all(&[b'f'; 16 * 1024]).await?;
                        stream.flush().await?;
                    }
                };
                // An escaped clone keeps the descriptor. Then the peer of a connection that has ended reads EOF, and
                // only a peer that reads nothing does not see the end.
                let gives_up = async {
                    match self.plan.order {
                        Order::Escapes | Order::Hoards => drop(self.witness.left.1.recv().await),
                        _ => pending().await,
                    }
                    Ok(End::Left)
                };
                return (floods, gives_up).race().await;
            }
            _ => {}
        }
        self.read(&mut stream, met).await
    }

    /// Reads until EOF, an error, or enough.
    ///
    /// If a listener closes while the kernel ends a client's handshake, the kernel may forget the client. It then sees
    /// neither EOF nor a reset until it sends something. So a silent client sends a byte when the server was left.
    async fn read(&self, stream: &mut (impl Read + Write + Unpin), met: &mut Met) -> io::Result<End> {
        let mut is_silent = self.plan.manner == Manner::Silent;
        let slow = self.plan.manner == Manner::SlowReader;
        let mut buf = vec![0; if slow { 1 + self.plan.whim * 8 } else { 16 * 1024 }];
        loop {
            if self.has_enough(&met.got) {
                return Ok(End::Left);
            }
            let left = async {
                match is_silent {
                    true => drop(self.witness.left.1.recv().await),
                    false => pending().await,
                }
                None
            };
            match (async { Some(stream.read(&mut buf).await) }, left).race().await.transpose()? {
                Some(0) => return Ok(End::Eof),
                Some(n) => met.got.extend_from_slice(&buf[..n]),
                None => {
                    is_silent = false;
                    stream.write_all(b"x").await?;
                }
            }
            if slow && self.plan.whim % 3 == 0 {
                Timer::after(Duration::from_millis(1)).await;
            }
        }
    }
}

/// Runs all clients of a case, and collects the server's phases beside them.
pub fn run_all(
    clients: Vec<(Asks<'_>, Option<async_std::channel::Sender<()>>)>,
    handle: &Handle,
) -> (Vec<Met>, Vec<Phase>) {
    let clients: Vec<_> = clients
        .into_iter()
        .map(|(asks, until_done)| {
            Box::pin(async move {
                let met = asks.run().await;
                drop(until_done);
                met
            })
        })
        .collect();
    let phases = async {
        let (mut phases, mut all) = (handle.phases(), Vec::new());
        while let Some(phase) = phases.next().await {
            all.push(phase);
        }
        all
    };
    async_io::block_on((clients.join(), phases).join())
}

/// A client whose handler fails.
pub async fn fail(n: usize, door: &OpenDoor, witness: &Witness, handle: &Handle) {
    let order = [Order::Fails, Order::Panics, Order::TaskPanics][n % 3];
    let plan = Client { door: 0, start: Duration::ZERO, manner: Manner::Plain, order, size: 0, whim: 0 };
    Asks { n, plan, door, http: false, witness, handle }.run().await;
}
