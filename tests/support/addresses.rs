//! Where tests listen.

use super::gate;
use std::net::SocketAddr;

/// Where a test binds: any free port. On Linux on a loopback address of the test's own, so that no other test, in this
/// process or another, can be given its port at the moment when the test looks whether that refuses.
pub fn loopback() -> SocketAddr {
    gate::assert_in_a_test();
    #[cfg(target_os = "linux")]
    return SocketAddr::from((of_linux::next(), 0));
    #[cfg(not(target_os = "linux"))]
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Every process takes a network `127.n.0.0/16` for as long as it lives, and every test an address of it.
#[cfg(target_os = "linux")]
mod of_linux {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU16, Ordering};

    /// The number of the network, and the socket whose name says that it is taken. The name goes with the process.
    static NETWORK: LazyLock<(u8, UnixListener)> = LazyLock::new(|| {
        let first = std::process::id() as u8;
        let mut networks = (0..=u8::MAX).map(|n| first.wrapping_add(n)).filter(|&n| n > 0); // 127.0.0.1 is everybody's
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
            [a, b] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes(); // after 65,534 addresses the first again
        }
        [127, NETWORK.0, a, b]
    }
}
