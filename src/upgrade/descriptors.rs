//! Messages with descriptors, over a Unix socket.

use super::message::{HEADER, Kind, decode, wrong};
use rustix::cmsg_space;
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Sends bytes, and a descriptor with the first of them. Returns how many bytes were sent.
pub(super) fn send(socket: &UnixStream, bytes: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(descriptors) = &descriptors {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "there is space for one descriptor");
    }
    // A peer that is gone is an error, and not SIGPIPE.
    #[cfg(not(target_vendor = "apple"))]
    let flags = SendFlags::NOSIGNAL;
    #[cfg(target_vendor = "apple")]
    let flags = SendFlags::empty();
    Ok(retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))?)
}

/// Receives one message: its type, its body, and the descriptor that it came with. Blocks, for at most the socket's
/// read timeout at a time.
pub(super) fn receive(socket: &UnixStream) -> io::Result<(Kind, Vec<u8>, Option<OwnedFd>)> {
    let mut header = [0; HEADER];
    let mut descriptor = None;
    let mut filled = 0;
    while filled < HEADER {
        let (read, got) = receive_some(socket, &mut header[filled..])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if got.is_some() {
            descriptor = got;
        }
        filled += read;
    }
    let (kind, length) = decode(header)?;
    let mut body = vec![0; length];
    (&*socket).read_exact(&mut body)?;
    Ok((kind, body, descriptor))
}

fn receive_some(socket: &UnixStream, buf: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    #[cfg(not(target_vendor = "apple"))]
    let flags = RecvFlags::CMSG_CLOEXEC;
    #[cfg(target_vendor = "apple")]
    let flags = RecvFlags::empty(); // `PassedSocket::new` sets it
    let received = retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(buf)], &mut control, flags))?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return wrong(format_args!(
            "a descriptor did not arrive: this process may open no more (`ulimit -n`), or more than one was sent"
        ));
    }
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last();
        }
    }
    Ok((received.bytes, descriptor))
}
