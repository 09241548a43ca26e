//! What a call costs: median and 99th percentile of `getattr` (the floor) and of ioctls on a device file.
#![allow(unsafe_code)]
// UNSAFETY: ioctls with raw arguments.

use devnode::{Caller, DeviceNode, Ioctl, IoctlReply, OpenFile, OpenFlags, Server, ServerConfig, Tree};
use nix::errno::Errno;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

/// `_IOR('t', 1, u64)`.
const GET: u32 = 0x8008_7401;
/// `_IO('t', 2)`: reads 32 bytes at the argument.
const READ: u32 = 0x7402;
/// `_IO('t', 3)`: writes 8 bytes at the argument.
const WRITE: u32 = 0x7403;
/// `_IO('t', 4)`: takes the eventfd.
const TAKE: u32 = 0x7404;

struct Device;

impl DeviceNode for Device {
    fn open(self: Arc<Self>, _caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(Arc::new(Device))
    }
}

impl OpenFile for Device {
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        match call.cmd {
            GET => return Ok(IoctlReply::output([0; 8])),
            READ => caller.read(call.arg, &mut [0; 32])?,
            WRITE => caller.write(call.arg, &[0; 8])?,
            _ => drop(caller.eventfd(i32::try_from(call.arg).map_err(|_| Errno::EBADF)?)?),
        }
        Ok(IoctlReply::ok())
    }

    fn release(&self) {}
}

fn measure(name: &str, mut call: impl FnMut()) {
    let mut nanos: Vec<u128> = (0..20_000)
        .map(|_| {
            let began = Instant::now();
            call();
            began.elapsed().as_nanos()
        })
        .collect();
    nanos.sort_unstable();
    let micros = |nanos: u128| format!("{}.{:02}", nanos / 1000, nanos % 1000 / 10);
    println!("{name:32} median {:>7} us   p99 {:>7} us", micros(nanos[10_000]), micros(nanos[19_800]));
}

/// The client, a process of its own.
fn client(root: &Path) {
    let path = root.join("dev");
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let device = open();
    let mut buffer = [0u64; 8];
    let buffer = buffer.as_mut_ptr().expose_provenance();
    let event: OwnedFd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let number = usize::try_from(event.as_raw_fd()).unwrap();
    let ioctl = |cmd: u32, arg: usize| {
        // SAFETY: `buffer` has room for what these commands write.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::c_ulong::from(cmd), arg) };
        assert_eq!(result, 0);
    };
    measure("getattr of the root", || assert!(nix::sys::stat::stat(root).is_ok()));
    measure("ioctl, sized argument", || ioctl(GET, buffer));
    measure("ioctl, 32 bytes read from us", || ioctl(READ, buffer));
    measure("ioctl, 8 bytes written to us", || ioctl(WRITE, buffer));
    measure("ioctl, eventfd taken from us", || ioctl(TAKE, number));
    measure("open and close", || drop(open()));
}

fn main() {
    if let Some(root) = std::env::args_os().nth(1) {
        return client(Path::new(&root));
    }
    let dir = tempfile::tempdir().unwrap();
    let fuse = devnode::mount(dir.path()).expect("needs root and /dev/fuse");
    let tree = Tree::new();
    tree.device(tree.root(), "dev", 0o666, Arc::new(Device)).unwrap();
    let config = ServerConfig { root: Some(dir.path().to_owned()), ..ServerConfig::default() };
    let server = Server::start(tree, fuse, config).unwrap();
    let client = Command::new(std::env::current_exe().unwrap()).arg(dir.path()).status().unwrap();
    println!("{:?}", server.stats());
    devnode::unmount(dir.path()).unwrap();
    assert!(client.success());
}
