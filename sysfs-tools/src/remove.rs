//! `umdev remove`: `1` written to an instance's `remove`.

use uuid::Uuid;

use crate::tree::{Instance, Tree};
use crate::{Error, attribute};

/// Removes the instance; returns when it is gone.
///
/// # Errors
/// [`Error::NoInstance`]; [`Error::Refused`] with the daemon's reason.
pub(crate) fn remove(tree: &Tree, uuid: Uuid) -> Result<(), Error> {
    let instance = tree.instance(uuid)?;
    attribute::write(&instance.path.join("remove"), "1").map_err(|refusal| Error::Refused {
        action: format!("remove {uuid}"),
        errno: refusal.errno,
        reason: refusal.reason.or_else(|| last_error_of(&instance)),
    })
}

fn last_error_of(instance: &Instance) -> Option<String> {
    let above =
        [Some(instance.path.join("last_error")), instance.path.parent().map(|parent| parent.join("last_error"))];
    above.into_iter().flatten().find_map(|path| attribute::read_optional(&path))
}
