//! Little memory for sockets: buffers of the smallest size on both sides, and a limit of a memory control group.

use super::{Numbers, connect, id, server};
use crate::support::process::Process;
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Echoes this many bytes for a client, whose buffers have this size; `None`: the usual one.
fn echo(port: u16, length: usize, buffers: Option<usize>) {
    let mut client = connect(port).unwrap();
    if let Some(size) = buffers {
        let socket = socket2::SockRef::from(&client);
        socket.set_send_buffer_size(size).unwrap();
        socket.set_recv_buffer_size(size).unwrap();
    }
    let sent: Vec<u8> = (0..length).map(|n| (n / 251) as u8).collect();
    let (mut writer, copy) = (client.try_clone().unwrap(), sent.clone());
    let writing = std::thread::spawn(move || writer.write_all(&copy));
    let mut echo = vec![0; length];
    client.read_exact(&mut echo).unwrap();
    assert!(echo == sent, "another echo");
    writing.join().unwrap().unwrap();
}

fn ends(server: Process, clients: u64) {
    server.send(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let numbers = Numbers::of(&ended);
    assert_eq!([numbers.get("accepted"), numbers.get("completed")], [clients; 2], "{ended:?}");
}

#[test]
fn with_the_smallest_buffers_on_both_sides_large_messages_arrive_whole() {
    for threads in [1, 2] {
        let server = Process::start(&mut server(&["buffers=1"], threads));
        let port = server.port();
        std::thread::scope(|scope| {
            for buffers in [Some(1), Some(1), None] {
                scope.spawn(move || echo(port, 24 << 10, buffers));
            }
        });
        ends(server, 3);
    }
}

/// A memory control group (version 1) that limits the memory of TCP sockets. Removed when it is dropped.
struct Group(PathBuf);

impl Group {
    fn new(limit: usize) -> Option<Self> {
        let parent = Path::new("/sys/fs/cgroup/memory");
        if !parent.join("memory.kmem.tcp.limit_in_bytes").exists() && !parent.join("cgroup.procs").exists() {
            return None;
        }
        let group = Self(parent.join(format!("ebbtide-test-{}", std::process::id())));
        std::fs::create_dir(&group.0).ok()?;
        std::fs::write(group.0.join("memory.kmem.tcp.limit_in_bytes"), limit.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Only in the long form (`EBBTIDE_TEST_FAULTS`): the kernel drops what has no room, acknowledgements too, and tries
/// again after pauses that double up to two minutes. So the test can fail on a busy machine (2 of 71 runs).
#[test]
fn in_a_control_group_with_little_memory_for_sockets_messages_arrive_whole() {
    if std::env::var_os("EBBTIDE_TEST_FAULTS").is_none() {
        return;
    }
    let Some(group) = Group::new(256 << 10) else {
        println!("skipped: there is no memory control group of version 1, or it is not permitted");
        return;
    };
    let server = Process::start(&mut server(&[], 2));
    std::fs::write(group.0.join("cgroup.procs"), id(&server).to_string()).unwrap();
    let port = server.port();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || echo(port, 1 << 20, None));
        }
    });
    let number = |name: &str| std::fs::read_to_string(group.0.join(name)).unwrap_or_default().trim().to_owned();
    let (most, failed) = (number("memory.kmem.tcp.max_usage_in_bytes"), number("memory.kmem.tcp.failcnt"));
    println!("at most {most} bytes for sockets, and {failed} requests for more");
    ends(server, 4);
}
