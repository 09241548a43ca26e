//! Tells whoever started the daemon that it serves.

use std::io::Write;
use std::path::Path;

/// One line on standard output, and READY=1 to a service manager that asked for it.
pub(crate) fn announce(root: &Path) {
    let mut out = std::io::stdout().lock();
    // Nobody reading standard output is no reason to stop.
    let _ = writeln!(out, "umdevd: ready on {}", root.display()).and_then(|()| out.flush());
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "the service manager was not told");
    }
}
