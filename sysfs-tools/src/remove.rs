//! `umdev remove`: `1` or `force` written to an instance's `remove`.

use std::path::PathBuf;

use uuid::Uuid;

use crate::tree::{Instance, Tree};
use crate::{Error, attribute};

/// Removes the instance; returns when it is gone. `force` takes it from its client; without, the client is asked.
///
/// # Errors
/// [`Error::NoInstance`]; [`Error::Refused`] with the daemon's reason.
pub(crate) fn remove(tree: &Tree, uuid: Uuid, force: bool) -> Result<(), Error> {
    let instance = tree.instance(uuid)?;
    attribute::write(&instance.path.join("remove"), if force { "force" } else { "1" }).map_err(|refusal| {
        Error::Refused {
            action: format!("remove {uuid}"),
            errno: refusal.errno,
            reason: refusal.reason_or(&last_errors(&instance)),
        }
    })
}

/// Of the instance, then of its parent.
fn last_errors(instance: &Instance) -> Vec<PathBuf> {
    let dirs = [Some(instance.path.as_path()), instance.path.parent()];
    dirs.into_iter().flatten().map(|dir| dir.join("last_error")).collect()
}
