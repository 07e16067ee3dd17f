//! Successors that send messages of their own.

use crate::support::process::PATIENCE;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::exit;
use std::thread;
use std::time::Duration;

/// A successor that speaks the messages by itself, and wrongly.
pub(super) fn liar(lie: &str, file: &Path) -> io::Result<()> {
    const HELLO: &[u8] = b"eb\x01\x01\0\0";
    const READY: &[u8] = b"eb\x01\x05\0\0";
    const TAKEN: &[u8] = b"eb\x01\x07\0\0";
    const STOP: &[u8] = b"eb\x01\x08\0\0";
    let mut channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let wait = |channel: &mut UnixStream| while channel.read(&mut [0; 512]).is_ok_and(|read| read > 0) {};
    let _sockets;
    match lie {
        "dies after hello" => {
            channel.write_all(HELLO)?;
            exit(7);
        }
        "is never ready" => {
            channel.write_all(HELLO)?;
            std::fs::write(file.with_extension("started"), std::process::id().to_string())?;
        }
        "garbage" => channel.write_all(b"GET / HTTP/1.1\r\n\r\n")?,
        "flood" => while channel.write_all(&[b'x'; 65_536]).is_ok() {},
        "version 9" => channel.write_all(b"eb\x09\x01\0\0")?,
        "long message" => channel.write_all(&[b"eb\x01\x01\x1f\x40", &[0; 8000][..]].concat())?,
        "ready first" => channel.write_all(READY)?,
        "hello twice" => channel.write_all(&[HELLO, HELLO].concat())?,
        "ready twice" => {
            channel.write_all(HELLO)?;
            _sockets = receive_all(&channel);
            channel.write_all(&[READY, READY].concat())?;
        }
        "takes over" => {
            channel.write_all(HELLO)?;
            _sockets = receive_all(&channel);
            channel.write_all(READY)?;
            channel.read_exact(&mut [0; 6])?; // GO
            channel.write_all(TAKEN)?;
            thread::sleep(PATIENCE); // until it is killed
        }
        "dies when it is ready" => {
            channel.write_all(HELLO)?;
            _sockets = receive_all(&channel);
            channel.write_all(READY)?;
            exit(11);
        }
        "dies before it takes over" => {
            channel.write_all(HELLO)?;
            _sockets = receive_all(&channel);
            channel.write_all(READY)?;
            channel.read_exact(&mut [0; 6])?;
            exit(12);
        }
        "stops before it takes over" => {
            channel.write_all(HELLO)?;
            _sockets = receive_all(&channel);
            channel.write_all(READY)?;
            channel.read_exact(&mut [0; 6])?;
            std::fs::write(file.with_extension("started"), std::process::id().to_string())?;
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)?;
        }
        "does not take over" => {
            channel.write_all(HELLO)?;
            _sockets = receive_all(&channel);
            channel.write_all(READY)?;
            channel.read_exact(&mut [0; 6])?;
            channel.write_all(STOP)?;
        }
        "makes blocking" => {
            channel.write_all(HELLO)?;
            for socket in receive_all(&channel) {
                TcpListener::from(socket).set_nonblocking(false)?; // for all of its holders
            }
            exit(9);
        }
        "is ready when its file is gone" => {
            channel.write_all(HELLO)?;
            channel.read_exact(&mut [0; 6])?;
            std::fs::write(file, "the sockets are here")?;
            while file.exists() {
                thread::sleep(Duration::from_millis(2));
            }
            channel.write_all(READY)?;
        }
        other => panic!("there is no program `{other}`"),
    }
    wait(&mut channel);
    thread::sleep(PATIENCE); // until it is killed
    Ok(())
}

/// Receives all messages, up to the last one, and returns the listening sockets.
fn receive_all(channel: &UnixStream) -> Vec<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut sockets = Vec::new();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"eb\x01\x04\0\x02\0\x02") {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buf = [0; 512];
        let received =
            recvmsg(channel, &mut [io::IoSliceMut::new(&mut buf)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert!(received.bytes > 0, "the old generation has closed the connection");
        bytes.extend_from_slice(&buf[..received.bytes]);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights);
            }
        }
    }
    sockets.remove(0); // the standard input
    sockets
}
