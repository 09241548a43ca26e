//! Debian's kernels as `make deps` unpacked them, and the modules a guest needs of them.

use super::deps::{cache_dir, require};
use super::process::run;
use super::{LabError, LabResult};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of Debian 12's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelName {
    /// The stock kernel, 6.1.
    Stock,
    /// The newer one, 6.12.
    Newer,
}

impl KernelName {
    fn directory(self) -> &'static str {
        match self {
            Self::Stock => "6.1",
            Self::Newer => "6.12",
        }
    }
}

/// An unpacked kernel.
#[derive(Debug)]
pub struct Kernel {
    image: PathBuf,
    modules: PathBuf,
    release: String,
    /// The path of a module below `modules`, and those of the modules it needs.
    depends: HashMap<String, (String, Vec<String>)>,
    builtin: Vec<String>,
}

impl Kernel {
    /// Finds a kernel in the cache.
    pub fn find(name: KernelName) -> LabResult<Self> {
        let dir = cache_dir().join("kernels").join(name.directory());
        let complete = require(dir.join(".complete"))?;
        let release = fs::read_to_string(&complete).map_err(LabError::path("read", &complete))?.trim().to_owned();
        let modules = dir.join("lib/modules").join(&release);
        let read = |file: &str| {
            let path = modules.join(file);
            fs::read_to_string(&path).map_err(LabError::path("read", &path))
        };
        let depends = read("modules.dep")?.lines().filter_map(dependency).collect();
        let builtin = read("modules.builtin")?.lines().map(|line| module_name(line).to_owned()).collect();
        Ok(Self { image: dir.join("vmlinuz"), modules, release, depends, builtin })
    }

    /// The kernel's image.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// What `uname -r` says in it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Puts the module `name` and all it needs into `directory`, uncompressed, and appends their file names to `order` in the order of loading.
    pub fn install_module(&self, name: &str, directory: &Path, order: &mut Vec<String>) -> LabResult<()> {
        if self.builtin.iter().any(|builtin| builtin == name) {
            return Ok(());
        }
        let missing = || LabError::Wrong(format!("kernel {} has no module {name}", self.release));
        let (path, needs) = self.depends.get(name).ok_or_else(missing)?;
        // modules.dep names the nearest first
        for path in needs.iter().rev().chain([path]) {
            let file = format!("{}.ko", module_name(path));
            if order.contains(&file) {
                continue;
            }
            let from = self.modules.join(path);
            let to = directory.join(&file);
            if path.ends_with(".xz") {
                run(Command::new("/bin/sh").args(["-c", "exec xz -dc \"$1\" >\"$2\"", "sh"]).arg(&from).arg(&to))?;
            } else {
                fs::copy(&from, &to).map_err(LabError::path("copy", &from))?;
            }
            order.push(file);
        }
        Ok(())
    }
}

fn dependency(line: &str) -> Option<(String, (String, Vec<String>))> {
    let (path, needs) = line.split_once(':')?;
    let needs = needs.split_whitespace().map(str::to_owned).collect();
    Some((module_name(path).to_owned(), (path.to_owned(), needs)))
}

fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_modules_dep_names_a_module_and_what_it_needs() {
        let line =
            "kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz";
        let (name, (path, needs)) = dependency(line).unwrap();
        assert_eq!((name.as_str(), path.as_str()), ("virtio_net", "kernel/drivers/net/virtio_net.ko.xz"));
        assert_eq!(needs, ["kernel/drivers/net/net_failover.ko.xz", "kernel/net/core/failover.ko.xz"]);
    }
}
