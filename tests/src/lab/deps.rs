//! What the lab finds on this machine: programs of the workspace, and what `make deps` fetched.

use super::{LabError, LabResult};
use std::env;
use std::path::PathBuf;

/// Where `make deps` keeps kernels and mdevctl 1.4: `UMDEV_CACHE`, or `.cache` in the checkout.
pub fn cache_dir() -> PathBuf {
    env::var_os("UMDEV_CACHE")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache")), PathBuf::from)
}

/// A program of the workspace, built beside the running test or program.
pub fn program(name: &str) -> LabResult<PathBuf> {
    let own = env::current_exe().map_err(LabError::io("the path of this program"))?;
    // target/<profile>/NAME, and for a test target/<profile>/deps/NAME
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        LabError::Missing(format!(
            "no {name} beside {}: `cargo build --workspace` first, in the same profile",
            own.display()
        ))
    })
}

/// A file that `make deps` fetches, or the way to get it.
pub fn require(path: PathBuf) -> LabResult<PathBuf> {
    if path.exists() {
        Ok(path)
    } else {
        Err(LabError::Missing(format!("{} is missing: run `make deps`", path.display())))
    }
}
