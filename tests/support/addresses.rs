//! Addresses for test servers to listen on.

use super::gate;
use std::net::SocketAddr;

/// Returns an address to bind to, with any free port.
///
/// On Linux each call returns another loopback address. Some tests check that a closed port refuses. At that moment no
/// other test, in this process or another, must be given the same port.
pub fn loopback() -> SocketAddr {
    gate::assert_in_a_test();
    #[cfg(target_os = "linux")]
    return SocketAddr::from((linux::next(), 0));
    #[cfg(not(target_os = "linux"))]
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Each process takes a network `127.n.0.0/16` for its lifetime, and each test an address of that network.
#[cfg(target_os = "linux")]
mod linux {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU16, Ordering};

    /// The number of the network, and an abstract Unix socket whose name marks it as taken. The kernel frees the name
    /// when the process ends.
    static NETWORK: LazyLock<(u8, UnixListener)> = LazyLock::new(|| {
        let first = std::process::id() as u8;
        // Not 127.0.0.0/16: other programs use 127.0.0.1.
        let mut networks = (0..=u8::MAX).map(|n| first.wrapping_add(n)).filter(|&n| n > 0);
        networks.find_map(|n| Some((n, take(n)?))).expect("255 processes with tests are running")
    });

    fn take(network: u8) -> Option<UnixListener> {
        let name = SocketAddr::from_abstract_name(format!("ebbtide-tests-in-127.{network}.0.0")).unwrap();
        UnixListener::bind_addr(&name).ok()
    }

    pub(super) fn next() -> [u8; 4] {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let (mut a, mut b) = (0, 0);
        while matches!((a, b), (0, 0) | (255, 255)) {
            [a, b] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes(); // repeats after 65,534 addresses
        }
        [127, NETWORK.0, a, b]
    }
}
