//! Reads Linux's report about a TCP connection (`TCP_INFO`): how long it was silent, and how much was acknowledged.

use super::Delivery;
use nix::sys::socket::getsockopt;
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

/// Returns for how long no byte has been sent or received.
pub(super) fn silence(socket: &TcpStream) -> Option<Duration> {
    let info = getsockopt(socket, sockopt::TcpInfo).ok()?;
    let [sent, received] = [info[LAST_DATA_SENT], info[LAST_DATA_RECEIVED]];
    Some(Duration::from_millis(sent.min(received).into()))
}

/// Returns how much of the written bytes was acknowledged. `None` if the kernel is too old to report it.
pub(super) fn delivery(socket: &TcpStream) -> Option<Delivery> {
    if !reports_bytes() {
        return None;
    }
    let info = getsockopt(socket, sockopt::LongTcpInfo).ok()?;
    let [state, ..] = info[0].to_ne_bytes();
    let unsent = info[NOT_SENT];
    let is_done = match state {
        ESTABLISHED | CLOSE_WAIT => info[UNACKNOWLEDGED] == 0 && unsent == 0,
        // Our FIN was sent, or waits to be sent, and is not acknowledged.
        FIN_WAIT_1 | LAST_ACK | CLOSING => false,
        _ => true,
    };
    let [low, high] = [info[BYTES_ACKNOWLEDGED], info[BYTES_ACKNOWLEDGED + 1]];
    let last_heard = Duration::from_millis(info[LAST_ACK_RECEIVED].into());
    Some(Delivery { is_done, acknowledged: [low, high], unsent, last_heard })
}

/// Offsets in the kernel's `struct tcp_info`, in words of 32 bits. The times there are in milliseconds.
const UNACKNOWLEDGED: usize = 6;
const LAST_DATA_SENT: usize = 11;
const LAST_DATA_RECEIVED: usize = 13;
const LAST_ACK_RECEIVED: usize = 14;
/// A number of 64 bits. Only its changes are used, so the order of its words does not matter.
const BYTES_ACKNOWLEDGED: usize = 30;
const NOT_SENT: usize = 36;

/// The kernel's numbers for the states of a TCP connection.
const ESTABLISHED: u8 = 1;
const FIN_WAIT_1: u8 = 4;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// Returns whether the kernel fills all of the struct that is read here, which Linux does since 4.6. nix panics if the
/// kernel returns less.
fn reports_bytes() -> bool {
    static REPORTS: OnceLock<bool> = OnceLock::new();
    *REPORTS.get_or_init(|| {
        let release = rustix::system::uname();
        let mut numbers = release.release().to_str().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok()).unwrap_or_default();
        (next(), next()) >= (4, 6)
    })
}

mod sockopt {
    use nix::{getsockopt_impl, libc, sockopt_impl};

    // The part of the struct that every kernel fills: 104 bytes.
    sockopt_impl!(
        /// The first part of the struct.
        TcpInfo,
        GetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        [u32; 26]
    );

    // Up to `tcpi_min_rtt`.
    sockopt_impl!(
        /// The struct with the numbers of bytes that were acknowledged and not sent.
        LongTcpInfo,
        GetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        [u32; 38]
    );
}
