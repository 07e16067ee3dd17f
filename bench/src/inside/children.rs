//! Children that do next to nothing, spawned and joined.

use super::Account;
use crate::measured::Measured;
use crate::peers::Peer;
use ebbtide::TaskGroup;
use std::hint::black_box;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

pub(super) fn run(peer: Peer, threads: usize, count: usize, from_main: bool) -> Result<Measured, String> {
    let runtime =
        || Builder::new_multi_thread().worker_threads(threads).enable_all().build().map_err(|e| e.to_string());
    let on_tokio = |work: std::pin::Pin<Box<dyn Future<Output = Measured> + Send>>| {
        let runtime = runtime()?;
        let spawned = async { tokio::spawn(work).await.map_err(|error| error.to_string()) };
        runtime.block_on(spawned)
    };
    match (peer, from_main) {
        (Peer::Ebbtide, true) => Ok(async_std::task::block_on(twice(count, group))),
        (Peer::Ebbtide, false) => Ok(async_std::task::block_on(async_std::task::spawn(twice(count, group)))),
        (Peer::AsyncStd, true) => Ok(async_std::task::block_on(twice(count, handles))),
        (Peer::AsyncStd, false) => Ok(async_std::task::block_on(async_std::task::spawn(twice(count, handles)))),
        (Peer::Tokio, true) => Ok(runtime()?.block_on(twice(count, tracker))),
        (Peer::Tokio, false) => on_tokio(Box::pin(twice(count, tracker))),
        (Peer::JoinSet, true) => Ok(runtime()?.block_on(twice(count, join_set))),
        (Peer::JoinSet, false) => on_tokio(Box::pin(twice(count, join_set))),
        _ => Err(format!("{} has no children", peer.name())),
    }
}

/// A tenth of it first, so that threads and memory are there.
async fn twice<F: Future<Output = usize>>(count: usize, work: impl Fn(usize) -> F) -> Measured {
    work(count / 10).await;
    let account = Account::begin();
    let joined = work(count).await;
    account.end(joined)
}

async fn child(number: usize) {
    black_box(number);
}

async fn group(count: usize) -> usize {
    let group = TaskGroup::new();
    let spawned = (0..count).filter(|&number| group.spawn(child(number))).count();
    group.join().await;
    spawned
}

async fn handles(count: usize) -> usize {
    let handles: Vec<_> = (0..count).map(|number| async_std::task::spawn(child(number))).collect();
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
        for peer in [Peer::Ebbtide, Peer::AsyncStd, Peer::Tokio, Peer::JoinSet] {
            for from_main in [true, false] {
                assert_eq!(run(peer, 1, 500, from_main).unwrap().ops, 500, "{} {from_main}", peer.name());
            }
        }
        assert!(run(Peer::Epoll, 1, 1, true).is_err());
    }
}
