//! The QEMUs on this machine: Debian 12's own, and the one of its backports that `make deps` unpacked.

use super::LabResult;
use super::deps::{cache_dir, require};

/// Which QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QemuName {
    /// Debian 12's, 7.2.
    #[default]
    Stock,
    /// That of its backports, 10.0.
    Newer,
}

/// The program and the arguments it always needs.
pub fn qemu_command(name: QemuName) -> LabResult<Vec<String>> {
    if name == QemuName::Stock {
        return Ok(vec!["qemu-system-x86_64".into()]);
    }
    let dir = cache_dir().join("qemu-10");
    require(dir.join(".complete"))?;
    let usr = dir.join("usr").display().to_string();
    let libraries = format!("{usr}/lib/x86_64-linux-gnu");
    Ok(vec![
        "env".into(),
        format!("LD_LIBRARY_PATH={libraries}"),
        format!("QEMU_MODULE_DIR={libraries}/qemu"),
        format!("{usr}/bin/qemu-system-x86_64"),
        // it looks for firmware where the stock one has another version's
        "-L".into(),
        format!("{usr}/share/qemu"),
        "-L".into(),
        format!("{usr}/share/seabios"),
    ])
}
