//! What Linux knows of a TCP connection.

use std::net::TcpStream;
use std::time::Duration;

/// For how long no byte has gone either way.
pub(super) fn silence(socket: &TcpStream) -> Option<Duration> {
    let info = nix::sys::socket::getsockopt(socket, sockopt::TcpInfo).ok()?;
    let [sent, received] = [info[LAST_DATA_SENT], info[LAST_DATA_RECEIVED]];
    Some(Duration::from_millis(sent.min(received).into()))
}

/// Of the kernel's `struct tcp_info`, in words; both in milliseconds.
const LAST_DATA_SENT: usize = 11;
const LAST_DATA_RECEIVED: usize = 13;

mod sockopt {
    use nix::{getsockopt_impl, libc, sockopt_impl};

    // The part of the struct that every kernel has: 104 bytes.
    sockopt_impl!(
        /// What the kernel knows of a connection.
        TcpInfo,
        GetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        [u32; 26]
    );
}
