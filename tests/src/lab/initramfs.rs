//! The root file system of a guest: busybox, modules, programs with their libraries, and a script.

use super::kernel::Kernel;
use super::process::run;
use super::{LabError, LabResult};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const DIRECTORIES: [&str; 8] = ["bin", "dev", "proc", "sys", "tmp", "run", "modules", "etc"];

/// An initramfs in the making.
#[derive(Debug)]
pub struct Initramfs {
    dir: TempDir,
    modules: Vec<String>,
}

impl Initramfs {
    /// Begins with busybox.
    pub fn new() -> LabResult<Self> {
        let dir =
            tempfile::Builder::new().prefix("umdev-initramfs-").tempdir().map_err(LabError::io("make a directory"))?;
        for name in DIRECTORIES {
            make(&dir.path().join("root").join(name))?;
        }
        let mut initramfs = Self { dir, modules: Vec::new() };
        initramfs.program(Path::new("/bin/busybox"), "busybox")?;
        symlink("busybox", initramfs.root().join("bin/sh")).map_err(LabError::io("link /bin/sh"))?;
        Ok(initramfs)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Adds modules of `kernel` and what they need; they are loaded before the script runs.
    pub fn modules(&mut self, kernel: &Kernel, names: &[&str]) -> LabResult<()> {
        let directory = self.root().join("modules");
        names.iter().try_for_each(|name| kernel.install_module(name, &directory, &mut self.modules))
    }

    /// Adds a program as `/bin/<name>`, without debug information, and the libraries it is linked with.
    pub fn program(&mut self, path: &Path, name: &str) -> LabResult<()> {
        let to = self.root().join("bin").join(name);
        run(Command::new("strip").arg("-o").arg(&to).arg(path))?;
        for library in libraries(path)? {
            let to = self.root().join(library.strip_prefix("/").unwrap_or(&library));
            if let Some(parent) = to.parent() {
                make(parent)?;
            }
            fs::copy(&library, &to).map_err(LabError::path("copy", &library))?;
        }
        Ok(())
    }

    /// Writes the archive; its init mounts the kernel's file systems, loads the modules, runs `script`, says `lab: end` and ends the machine.
    pub fn finish(&self, script: &str) -> LabResult<PathBuf> {
        let root = self.root();
        let loads: String =
            self.modules.iter().map(|file| format!("insmod /modules/{file} || echo lab: no module {file}\n")).collect();
        let init = format!(
            "#!/bin/sh\n\
             /bin/busybox mount -t devtmpfs dev /dev\n\
             exec </dev/console >/dev/console 2>&1\n\
             /bin/busybox --install -s /bin\n\
             export PATH=/bin HOME=/\n\
             mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /run\n\
             ln -s /proc/self/fd /dev/fd\n\
             {loads}\
             echo lab: up $(uname -r)\n\
             {script}\n\
             echo lab: end\n\
             reboot -f\n"
        );
        let path = root.join("init");
        fs::write(&path, init).map_err(LabError::path("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(LabError::path("chmod", &path))?;
        let archive = self.dir.path().join("initramfs.cpio");
        let pack = "cd \"$1\" && find . -mindepth 1 | cpio --quiet -o -H newc >\"$2\"";
        run(Command::new("/bin/sh").args(["-c", pack, "sh"]).arg(&root).arg(&archive))?;
        Ok(archive)
    }
}

fn make(path: &Path) -> LabResult<()> {
    fs::create_dir_all(path).map_err(LabError::path("make", path))
}

/// The shared libraries of a program and its loader, as `ldd` finds them. None for a static one.
fn libraries(program: &Path) -> LabResult<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().map_err(LabError::io("ldd"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(library).collect())
}

fn library(line: &str) -> Option<PathBuf> {
    line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        assert_eq!(
            library("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6".into())
        );
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2".into()));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffc)"), None);
    }
}
