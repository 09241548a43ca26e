//! A network namespace of one's own.

use super::process::run;
use super::{LabError, LabResult};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

/// A named network namespace; deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace `name`, its loopback interface up. One of that name that a killed run left is replaced.
    pub fn create(name: &str) -> LabResult<Self> {
        Self::delete(name);
        run(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self { name: name.into() };
        netns.run("ip link set lo up")?;
        Ok(netns)
    }

    /// Deletes the namespace `name` if there is one.
    pub fn delete(name: &str) {
        if path(name).exists() {
            let _ = run(Command::new("ip").args(["netns", "delete", name]));
        }
    }

    /// What to put before a command line to run it inside. Mounts stay shared, unlike with `ip netns exec`.
    pub fn wrapper(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net={}", path(&self.name).display()), "--".into()]
    }

    /// Runs a command line inside, in a shell.
    pub fn run(&self, line: &str) -> LabResult<String> {
        let wrapper = self.wrapper();
        run(Command::new(&wrapper[0]).args(&wrapper[1..]).args(["/bin/sh", "-c", line]))
    }

    /// Whether an interface exists inside.
    pub fn has_interface(&self, interface: &str) -> bool {
        self.run(&format!("ip link show dev {interface}")).is_ok()
    }

    /// Brings an interface up with an address.
    pub fn address(&self, interface: &str, address: &str) -> LabResult<()> {
        self.run(&format!("ip addr add {address} dev {interface} && ip link set {interface} up")).map(drop)
    }

    /// Runs `work` on a thread of this process that is inside.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> LabResult<T> + Send + 'static,
    ) -> thread::JoinHandle<LabResult<T>> {
        let path = path(&self.name);
        thread::spawn(move || {
            let file = File::open(&path).map_err(LabError::path("open", &path))?;
            setns(file, CloneFlags::CLONE_NEWNET).map_err(LabError::errno("enter the network namespace"))?;
            work()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        Self::delete(&self.name);
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}
