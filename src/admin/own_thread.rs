//! An executor on a thread of its own: it runs although every thread of the program's executor is blocked.

use crate::group::Job;
use async_channel::Sender;
use async_executor::Executor;
use futures_lite::future::block_on;
use std::io;
use std::sync::Arc;
use std::thread;

/// Starts the thread. Returns the function that runs jobs there, for `Server::executor`.
///
/// The thread ends when the function has been dropped and its last job has ended. A job that has not ended holds the
/// function; the crate drops both when the server is closed.
pub(super) fn executor() -> io::Result<impl Fn(Job) + Send + Sync + 'static> {
    let executor = Arc::new(Executor::new());
    let (alive, dropped) = async_channel::bounded::<()>(1);
    let running = Arc::clone(&executor);
    thread::Builder::new().name("ebbtide-admin".to_owned()).spawn(move || {
        block_on(running.run(async {
            let _dropped = dropped.recv().await; // an error: nothing is ever sent
        }));
        while running.try_tick() {} // jobs that have ended, and hold nothing of the server any more
    })?;
    let own = OwnThread { executor, _alive: alive };
    Ok(move |job| own.run(job))
}

struct OwnThread {
    executor: Arc<Executor<'static>>,
    /// Its drop ends the thread.
    _alive: Sender<()>,
}

impl OwnThread {
    fn run(&self, job: Job) {
        self.executor.spawn(job).detach();
    }
}
