//! Spawns and joins children that do almost nothing, in each peer's kind of task group.

use super::{Account, Done};
use crate::measured::Measured;
use crate::peers::Peer;
use async_std::task;
use ebbtide::TaskGroup;
use std::hint::black_box;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

pub(super) fn run(peer: Peer, threads: usize, count: usize, from_main: bool) -> Result<Measured, String> {
    match peer {
        Peer::Ebbtide => Ok(on_async_std(twice(count, group), from_main)),
        Peer::EbbtideOnTokio => on_tokio(threads, twice(count, group_on_tokio), from_main),
        Peer::EbbtideOnSmol => Ok(on_smol(twice(count, group), from_main)),
        Peer::AsyncStd => Ok(on_async_std(twice(count, handles), from_main)),
        Peer::Tokio => on_tokio(threads, twice(count, tracker), from_main),
        Peer::JoinSet => on_tokio(threads, twice(count, join_set), from_main),
        _ => Err(format!("{} has no children", peer.name())),
    }
}

fn on_async_std(work: impl Future<Output = Done> + Send + 'static, from_main: bool) -> Measured {
    let done = if from_main { task::block_on(work) } else { task::block_on(task::spawn(work)) };
    done.measure()
}

fn on_smol(work: impl Future<Output = Done> + Send + 'static, from_main: bool) -> Measured {
    let done = if from_main { smol::block_on(work) } else { smol::block_on(smol::spawn(work)) };
    done.measure()
}

fn on_tokio(
    threads: usize,
    work: impl Future<Output = Done> + Send + 'static,
    from_main: bool,
) -> Result<Measured, String> {
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let done = if from_main {
        runtime.block_on(work)
    } else {
        runtime.block_on(runtime.spawn(work)).map_err(|error| error.to_string())?
    };
    // While the runtime lives, so that its deferred work is measured too.
    Ok(done.measure())
}

/// Does a tenth of the work first, to warm up, so that threads and memory exist; then measures all of it.
async fn twice<F: Future<Output = usize>>(count: usize, work: impl Fn(usize) -> F) -> Done {
    work(count / 10).await;
    let account = Account::begin();
    let joined = work(count).await;
    account.done(joined)
}

async fn child(number: usize) {
    black_box(number);
}

async fn group(count: usize) -> usize {
    fill(TaskGroup::new(), count).await
}

async fn group_on_tokio(count: usize) -> usize {
    let tokio = Handle::current();
    fill(TaskGroup::on(move |job| drop(tokio.spawn(job))), count).await
}

async fn fill(group: TaskGroup, count: usize) -> usize {
    for number in 0..count {
        group.spawn(child(number));
    }
    group.join().await;
    count
}

async fn handles(count: usize) -> usize {
    let handles: Vec<_> = (0..count).map(|number| task::spawn(child(number))).collect();
    let spawned = handles.len();
    for handle in handles {
        handle.await;
    }
    spawned
}

async fn tracker(count: usize) -> usize {
    let tracker = TaskTracker::new();
    for number in 0..count {
        tracker.spawn(child(number));
    }
    tracker.close();
    tracker.wait().await;
    count
}

async fn join_set(count: usize) -> usize {
    let mut set = JoinSet::new();
    for number in 0..count {
        set.spawn(child(number));
    }
    let mut joined = 0;
    while set.join_next().await.is_some() {
        joined += 1;
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_joins_all_its_children() {
        let ours = [Peer::Ebbtide, Peer::EbbtideOnTokio, Peer::EbbtideOnSmol];
        for peer in ours.into_iter().chain([Peer::AsyncStd, Peer::Tokio, Peer::JoinSet]) {
            for from_main in [true, false] {
                assert_eq!(run(peer, 1, 500, from_main).unwrap().ops, 500, "{} {from_main}", peer.name());
            }
        }
        assert!(run(Peer::Epoll, 1, 1, true).is_err());
    }
}
