//! What Linux knows of a TCP connection.

use super::Delivery;
use nix::sys::socket::getsockopt;
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

/// For how long no byte has gone either way.
pub(super) fn silence(socket: &TcpStream) -> Option<Duration> {
    let info = getsockopt(socket, sockopt::TcpInfo).ok()?;
    let [sent, received] = [info[LAST_DATA_SENT], info[LAST_DATA_RECEIVED]];
    Some(Duration::from_millis(sent.min(received).into()))
}

/// How far what was written has come. `None` if the kernel does not tell.
pub(super) fn delivery(socket: &TcpStream) -> Option<Delivery> {
    if !tells_of_bytes() {
        return None;
    }
    let info = getsockopt(socket, sockopt::LongTcpInfo).ok()?;
    let [state, ..] = info[0].to_ne_bytes();
    let unsent = info[NOT_SENT];
    let is_done = match state {
        ESTABLISHED | CLOSE_WAIT => info[UNACKNOWLEDGED] == 0 && unsent == 0,
        // Our end is sent, or waits to be, and is not acknowledged.
        FIN_WAIT_1 | LAST_ACK | CLOSING => false,
        _ => true,
    };
    let [low, high] = [info[BYTES_ACKNOWLEDGED], info[BYTES_ACKNOWLEDGED + 1]];
    let last_heard = Duration::from_millis(info[LAST_ACK_RECEIVED].into());
    Some(Delivery { is_done, acknowledged: [low, high], unsent, last_heard })
}

/// Of the kernel's `struct tcp_info`, in words. The times are in milliseconds.
const UNACKNOWLEDGED: usize = 6;
const LAST_DATA_SENT: usize = 11;
const LAST_DATA_RECEIVED: usize = 13;
const LAST_ACK_RECEIVED: usize = 14;
/// A number of 64 bits, of which only changes matter.
const BYTES_ACKNOWLEDGED: usize = 30;
const NOT_SENT: usize = 36;

/// The kernel's states of a TCP connection.
const ESTABLISHED: u8 = 1;
const FIN_WAIT_1: u8 = 4;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// Linux 4.6 was the first with all of the struct that is read here; nix panics if the kernel gives less.
fn tells_of_bytes() -> bool {
    static TELLS: OnceLock<bool> = OnceLock::new();
    *TELLS.get_or_init(|| {
        let release = rustix::system::uname();
        let mut numbers = release.release().to_str().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok()).unwrap_or_default();
        (next(), next()) >= (4, 6)
    })
}

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

    // Up to `tcpi_min_rtt`.
    sockopt_impl!(
        /// The same, with the bytes that are on their way.
        LongTcpInfo,
        GetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        [u32; 38]
    );
}
