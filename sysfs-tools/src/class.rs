//! Listing what a class or bus of the tree has, by the `sysfs-class` crate.
#![allow(unsafe_code)]
// UNSAFETY: `sysfs_class::SysClass` has its implementors write a constructor that is declared `unsafe`, though nothing unsafe happens in it.
//!
//! That crate knows its root by static functions alone, hence the process-wide [`ROOT`]: a process of `umdev` reads one tree.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sysfs_class::SysClass;

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Says below which directory `sys/` lies. The first call decides.
pub(crate) fn set_root(root: &Path) {
    ROOT.get_or_init(|| root.to_owned());
}

/// The links of all registered parents, sorted: `sys/class/mdev_bus/<parent>`.
pub(crate) fn parents() -> io::Result<Vec<PathBuf>> {
    members::<Parent>()
}

/// The links of all instances, sorted: `sys/bus/mdev/devices/<uuid>`.
pub(crate) fn instances() -> io::Result<Vec<PathBuf>> {
    members::<Instance>()
}

fn members<T: SysClass + 'static>() -> io::Result<Vec<PathBuf>> {
    // `SysClass::iter` cannot tell a class that does not exist from a member that went away while it looked.
    std::fs::metadata(T::dir())?;
    let mut paths = Vec::new();
    for member in T::iter() {
        match member {
            Ok(member) => paths.push(member.path().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    paths.sort();
    Ok(paths)
}

macro_rules! class {
    ($name:ident, $base:literal, $class:literal) => {
        struct $name(PathBuf);

        impl SysClass for $name {
            fn base() -> &'static str {
                $base
            }

            fn class() -> &'static str {
                $class
            }

            unsafe fn from_path_unchecked(path: PathBuf) -> Self {
                Self(path)
            }

            fn path(&self) -> &Path {
                &self.0
            }

            fn dir() -> PathBuf {
                ROOT.get().map_or_else(|| Path::new("/"), PathBuf::as_path).join("sys").join($base).join($class)
            }
        }
    };
}

class!(Parent, "class", "mdev_bus");
class!(Instance, "bus/mdev", "devices");
