//! What can be set, and the defaults with their reasons.

use crate::connection::session::Policy;
use std::time::Duration;

/// How long a drain may last. Ends inside Docker's 10 seconds and Kubernetes' 30, so that what is left is cancelled by us,
/// and not the whole process by SIGKILL.
pub(crate) const GRACE: Duration = Duration::from_secs(8);

/// A server's settings, but for its limits, which can be moved while it serves and live with the run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) grace: Duration,
    /// None by default: set it to the time that the load balancer takes to notice.
    pub(crate) lame_duck: Duration,
    pub(crate) policy: Policy,
}

impl Default for Settings {
    fn default() -> Self {
        Self { grace: GRACE, lame_duck: Duration::ZERO, policy: Policy::default() }
    }
}
