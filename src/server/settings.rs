//! What can be set, and the defaults with their reasons.

use crate::error::OnFailure;
use std::time::Duration;

/// How long a drain may last. Ends inside Docker's 10 seconds and Kubernetes' 30, so that what is left is cancelled by us,
/// and not the whole process by SIGKILL.
pub(crate) const GRACE: Duration = Duration::from_secs(8);

/// A server's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) grace: Duration,
    pub(crate) on_failure: OnFailure,
}

impl Default for Settings {
    fn default() -> Self {
        Self { grace: GRACE, on_failure: OnFailure::default() }
    }
}
