//! `umdev create`: one line written to a type's `create`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;

use crate::cli::{CreateWord, TypeSpec};
use crate::tree::{MdevType, Tree};
use crate::{Error, attribute};

/// What `create` made.
#[derive(Debug, Serialize)]
pub(crate) struct Created {
    pub(crate) uuid: Uuid,
    pub(crate) parent: String,
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    pub(crate) iommu_group: Option<u64>,
    /// The vhost ioctl file.
    pub(crate) vhost: Option<String>,
}

/// Separates `[UUID] [key=value…]`.
///
/// # Errors
/// [`Error::Usage`] when a UUID stands anywhere but first.
pub(crate) fn split_words(words: &[CreateWord]) -> Result<(Option<Uuid>, Vec<&str>), Error> {
    let (uuid, rest) = match words.split_first() {
        Some((CreateWord::Uuid(uuid), rest)) => (Some(*uuid), rest),
        _ => (None, words),
    };
    let settings = rest.iter().map(|word| match word {
        CreateWord::Setting(setting) => Ok(setting.as_str()),
        CreateWord::Uuid(extra) => {
            Err(Error::Usage(format!("one UUID at most, right after the type; {extra} is out of place")))
        }
    });
    Ok((uuid, settings.collect::<Result<_, _>>()?))
}

/// Makes an instance of the type, with a random UUID when none is given.
///
/// # Errors
/// [`Error::Refused`] with the daemon's reason, [`Error::NoType`], [`Error::AmbiguousType`].
pub(crate) fn create(tree: &Tree, target: &TypeSpec, uuid: Option<Uuid>, settings: &[&str]) -> Result<Created, Error> {
    let chosen = choose(tree.types()?, target)?;
    let uuid = uuid.unwrap_or_else(Uuid::new_v4);
    let mut line = uuid.to_string();
    for setting in settings {
        line.push(' ');
        line.push_str(setting);
    }
    attribute::write(&chosen.path.join("create"), &line).map_err(|refusal| Error::Refused {
        action: format!("create {uuid} of {}", crate::text::printable(&chosen.full_name())),
        errno: refusal.errno,
        reason: refusal.reason_or(&last_errors(&chosen)),
    })?;
    let vhost = tree.path("dev/vhost-mdev").join(uuid.to_string());
    Ok(Created {
        uuid,
        // The write succeeded; an instance that is gone again by now was created all the same.
        iommu_group: tree.instance(uuid).ok().and_then(|instance| instance.iommu_group),
        vhost: vhost.symlink_metadata().is_ok().then(|| vhost.to_string_lossy().into_owned()),
        parent: chosen.parent,
        type_name: chosen.name,
    })
}

fn choose(types: Vec<MdevType>, target: &TypeSpec) -> Result<MdevType, Error> {
    let fits = |offered: &MdevType| {
        offered.name == target.name && target.parent.as_ref().is_none_or(|parent| *parent == offered.parent)
    };
    let (mut fitting, others): (Vec<_>, Vec<_>) = types.into_iter().partition(fits);
    match (fitting.pop(), fitting.as_slice()) {
        (Some(only), []) => Ok(only),
        (Some(last), others) => Err(Error::AmbiguousType {
            asked: target.to_string(),
            candidates: others.iter().chain([&last]).map(MdevType::full_name).collect(),
        }),
        (None, _) => {
            Err(Error::NoType { asked: target.to_string(), offered: others.iter().map(MdevType::full_name).collect() })
        }
    }
}

/// Of the type, then of its parent.
fn last_errors(chosen: &MdevType) -> Vec<PathBuf> {
    let parent = chosen.path.parent().and_then(Path::parent);
    [Some(chosen.path.as_path()), parent].into_iter().flatten().map(|dir| dir.join("last_error")).collect()
}
