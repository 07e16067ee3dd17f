//! A group on an executor whose wakers panic when they are cloned. Such a waker takes `unsafe`, so this is a program of
//! its own.

use async_std::task;
use ebbtide::{Job, TaskGroup};
use std::future::pending;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

static VTABLE: RawWakerVTable = RawWakerVTable::new(|_| panic!("no clone today"), |_| {}, |_| {}, |_| {});

struct Probe;

impl Drop for Probe {
    fn drop(&mut self) {
        println!("the child is dropped");
    }
}

fn main() {
    ebbtide_test_programs::print_log();
    let (give, jobs) = mpsc::channel::<Job>();
    let group = TaskGroup::on(move |job| drop(give.send(job)));
    let probe = Probe;
    let child = group.spawn(async move {
        let _probe = probe;
        pending::<()>().await;
    });
    let mut job = jobs.recv().unwrap();
    let waker = unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &VTABLE)) };
    let poll = Future::poll(Pin::new(&mut job), &mut Context::from_waker(&waker));
    println!("ready: {}, children: {}", poll.is_ready(), group.len());
    task::block_on(group.join());
    println!("cancelled: {}", task::block_on(child).unwrap_err().is_cancelled());
}
