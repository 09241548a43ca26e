//! `umdev-caller DEED …`: what a test needs another process to do with the files of an instance. Prints what came of it.
//!
//! `empty ROOT UUID` drives an instance without mapping anything; `inherited FD` uses a vhost file that it was started
//! with; `device FD` uses a VFIO device file that it was started with; `device-holder ROOT UUID` runs on one until it is killed; `passed` gets one from a socket, its standard input, and becomes the owner if there is none; `forks ROOT UUID`
//! uses its own file in a child; `signals ROOT UUID` calls while a timer interrupts it a thousand times a second;
//! `hangs ROOT UUID` runs its queues and never comes back from a call, because the memory its argument is in never
//! answers; `reopens ROOT UUID` closes and opens 300 times; `rings ROOT INTERFACE` runs rings of vhost-net on an
//! interface until it is killed; `foreign FD FD IOAS` uses an iommufd and a device that it was started with; `kills ROOT UUID PROGRAM` kills a client everywhere between its first call and its last.

use nix::errno::Errno;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;
use umdev_tests::driver::abi::{
    VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR, VHOST_SET_VRING_KICK, VHOST_VDPA_GET_CONFIG, VHOST_VDPA_SET_GROUP_ASID,
};
use umdev_tests::driver::iommufd::Iommufd;
use umdev_tests::driver::{CallResult, Client, Device, DriverError, Memory, Options, Ring, Vhost, Via, memory, sys};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["empty", root, uuid] => empty(Path::new(root), uuid),
        ["signals", root, uuid] => signals(Path::new(root), uuid),
        ["rings", root, interface] => rings(Path::new(root), interface),
        ["hangs", root, uuid] => hangs(Path::new(root), uuid),
        ["reopens", root, uuid] => reopens(Path::new(root), uuid),
        ["kills", root, uuid, program] => kills(Path::new(root), uuid, program),
        ["forks", root, uuid] => forks(Path::new(root), uuid),
        ["device", fd] => device(fd.parse().expect("a number")),
        ["device-holder", root, uuid] => device_holder(Path::new(root), uuid),
        ["passed"] => passed(),
        ["foreign", iommufd, device, ioas] => foreign(
            iommufd.parse().expect("a number"),
            device.parse().expect("a number"),
            ioas.parse().expect("a number"),
        ),
        ["inherited", fd] => inherited(fd.parse().expect("a number")),
        _ => {
            eprintln!(
                "usage: umdev-caller empty|signals|hangs|reopens|forks|device-holder ROOT UUID | rings ROOT INTERFACE | kills ROOT UUID PROGRAM \
                 | inherited FD | device FD | passed"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that changes a device, on a file of another process, and one thing that does not.
fn device(fd: i32) -> CallResult<String> {
    let device = Device(File::from(sys::inherited(fd)));
    let vhost = Vhost(device.0.try_clone().map_err(DriverError::io("dup"))?);
    let calls: [(&str, CallResult<()>); 7] = [
        ("RESET", device.reset()),
        ("SET_IRQS", device.set_events(0, &[-1])),
        ("doorbell", device.kick(0)),
        ("pread", device.read(1 << 40, 1).map(drop)),
        ("pwrite", device.write(1 << 40, &[0]).map(drop)),
        ("SET_OWNER", vhost.set_owner()),
        ("GET_STATUS", vhost.status().map(drop)),
    ];
    let said = calls.map(|(name, result)| match result.map_err(|error| error.errno()) {
        Ok(()) => format!("{name} done"),
        Err(errno) => format!("{name} {}", errno.map_or("?".to_owned(), |errno| format!("{errno:?}"))),
    });
    let info = if device.info().is_ok() { "told" } else { "not told" };
    Ok(format!("{}; info {info}", said.join(", ")))
}

/// Runs on a VFIO device file for as long as it is let.
fn device_holder(root: &Path, uuid: &str) -> CallResult<String> {
    let _client = Client::start(root, uuid, Options { via: Via::Device, ..Options::default() })?;
    loop {
        std::thread::park();
    }
}

/// Points a device at addresses that another process's container maps.
fn empty(root: &Path, uuid: &str) -> CallResult<String> {
    let vhost = Vhost::open(root, uuid)?;
    vhost.set_owner()?;
    let memory = Arc::new(Memory::new()?);
    let features = vhost.features()?;
    vhost.set_status(3)?;
    vhost.set_features(features & (3 << 32))?;
    vhost.set_status(0xb)?;
    let rings = [Ring::new(Arc::clone(&memory), 0, 64)?, Ring::new(Arc::clone(&memory), 1, 64)?];
    for ring in &rings {
        let (desc, avail, used) = ring.addresses();
        vhost.set_vring_num(ring.index, 64)?;
        vhost.set_vring_base(ring.index, 0)?;
        vhost.set_vring_addr(ring.index, desc, avail, used)?;
        vhost.set_vring_fd(VHOST_SET_VRING_KICK, ring.index, &ring.kick)?;
        vhost.set_vring_fd(VHOST_SET_VRING_CALL, ring.index, &ring.call)?;
        vhost.set_vring_enable(ring.index, true)?;
    }
    if let Err(error) = vhost.set_status(0xf) {
        return Ok(format!("start: {error}"));
    }
    rings.iter().try_for_each(Ring::notify)?;
    std::thread::sleep(Duration::from_millis(500));
    Ok(format!("status {:#x}", vhost.status()?))
}

fn rings(root: &Path, interface: &str) -> CallResult<String> {
    let tap = sys::tap(interface).map_err(DriverError::call("TUNSETIFF"))?;
    let mut client = Client::on_tap(root, &tap)?;
    client.send(&[0; 60])?;
    println!("running");
    loop {
        std::thread::park();
    }
}

fn hangs(root: &Path, uuid: &str) -> CallResult<String> {
    let mut client = Client::start(root, uuid, Options::default())?;
    client.exchange(&[0; 60])?;
    let (page, _fd) = sys::page_that_never_comes().map_err(DriverError::call("userfaultfd"))?;
    println!("calling");
    let result = sys::ioctl_value(&client.vhost, VHOST_VDPA_GET_CONFIG, page.address());
    Err(DriverError::Wrong { what: format!("the call came back: {result:?}") })
}

/// In a process of its own because a fork elsewhere in a test's would keep a closed file open for a moment.
fn reopens(root: &Path, uuid: &str) -> CallResult<String> {
    let again = |cycle: u32, error: DriverError| DriverError::Wrong { what: format!("cycle {cycle}: {error}") };
    for cycle in 0..300 {
        Vhost::open(root, uuid).map_err(|error| again(cycle, error))?;
    }
    for cycle in 0..300 {
        Client::start(root, uuid, Options::default()).map_err(|error| again(cycle, error))?;
    }
    Ok("done".into())
}

/// In a process of its own for the same reason, and because it has to be quick.
fn kills(root: &Path, uuid: &str, program: &str) -> CallResult<String> {
    for step in 0..80 {
        let mut command = Command::new(program);
        let child = command.arg(root).args([uuid, "5"]).stdout(Stdio::null()).spawn();
        let mut child = child.map_err(DriverError::io("spawn"))?;
        std::thread::sleep(Duration::from_micros(step * 125));
        child.kill().and_then(|()| child.wait()).map_err(DriverError::io("kill"))?;
        let again = |error: DriverError| DriverError::Wrong { what: format!("step {step}: {error}") };
        Client::start(root, uuid, Options::default()).map_err(again)?.exchange(&[8; 60]).map_err(again)?;
    }
    Ok("done".into())
}

fn inherited(fd: i32) -> CallResult<String> {
    Ok(attempts(&Vhost(File::from(sys::inherited(fd)))))
}

/// Calls on an iommufd and on a device bound to it, of which each would change something.
fn foreign(iommufd: i32, device: i32, ioas: u32) -> CallResult<String> {
    let iommufd = Iommufd(File::from(sys::inherited(iommufd)));
    let device = Device(File::from(sys::inherited(device)));
    let memory = Memory::new()?;
    let results = [
        iommufd.alloc().map(drop),
        iommufd.map(ioas, None, memory.size(), memory.address()).map(drop),
        iommufd.unmap(ioas, 0, u64::MAX).map(drop),
        device.attach(ioas),
        device.detach(),
        device.reset(),
    ];
    let errno = |result: CallResult<()>| {
        result.err().and_then(|error| error.errno()).map_or("done".into(), |errno| format!("{errno:?}"))
    };
    Ok(results.map(errno).join(" "))
}

/// Every call that is the owner's alone, and what each answers.
fn attempts(vhost: &Vhost) -> String {
    let errno = |result: CallResult<()>| match result {
        Ok(()) => "done".to_owned(),
        Err(error) => error.errno().map_or_else(|| error.to_string(), |errno| format!("{errno:?}")),
    };
    let results = [
        ("num", vhost.set_vring_num(0, 64)),
        ("addr", vhost.set_vring_addr(0, 0, 0, 0)),
        ("base", vhost.set_vring_base(0, 0)),
        ("get-base", vhost.vring_base(0).map(drop)),
        ("kick", vhost.set_vring_fd_number(VHOST_SET_VRING_KICK, 0, -1)),
        ("call", vhost.set_vring_fd_number(VHOST_SET_VRING_CALL, 0, -1)),
        ("err", vhost.set_vring_fd_number(VHOST_SET_VRING_ERR, 0, -1)),
        ("config-call", vhost.set_config_call(-1)),
        ("enable", vhost.set_vring_enable(0, true)),
        ("suspend", vhost.suspend()),
        ("resume", vhost.resume()),
        ("features", vhost.set_features(0)),
        ("backend-features", vhost.set_backend_features(0)),
        ("group", vhost.vring_state("group", VHOST_VDPA_SET_GROUP_ASID, 0, 0).map(drop)),
        ("config", vhost.set_config(0, &[0])),
        ("log", vhost.set_log_base(0)),
        ("log-call", vhost.set_log_fd(-1)),
        ("reset", vhost.set_status(0)),
        ("message", vhost.iotlb_update(0x7000_0000, 0x1000, 0x1000)),
        ("miss", (&vhost.0).read(&mut [0; 72]).map(drop).map_err(DriverError::io("read"))),
    ];
    results.map(|(name, result)| format!("{name} {}", errno(result))).join(", ")
}

/// The child has the file and a copy of the memory, and is another address space all the same.
fn forks(root: &Path, uuid: &str) -> CallResult<String> {
    let mut client = Client::start(root, uuid, Options::default())?;
    client.exchange(&[0; 60])?;
    let tried = sys::in_a_child(|| {
        let said = attempts(&client.vhost);
        println!("{said}");
        i32::from(said.matches(" EPERM").count() != said.split(", ").count())
    });
    let code = tried.map_err(DriverError::call("fork"))?;
    // The child's end closed its descriptors, and nothing of the parent's.
    client.exchange(&[1; 60])?;
    client.restart()?;
    client.exchange(&[2; 60])?;
    Ok(format!("child {code}, parent goes on"))
}

fn passed() -> CallResult<String> {
    let fd = sys::receive_descriptor(std::io::stdin()).map_err(DriverError::call("recvmsg"))?;
    let vhost = Vhost(File::from(fd));
    let said = match vhost.set_owner() {
        Ok(()) => format!("owner, {}", vhost.set_vring_num(0, 64).map_or("not at all", |()| "and may")),
        Err(error) if error.errno() == Some(Errno::EBUSY) => attempts(&vhost),
        Err(error) => return Err(error),
    };
    println!("{said}");
    // Until the other side has seen what there is to see.
    let _ = std::io::stdin().read(&mut [0]);
    Ok(String::new())
}

fn signals(root: &Path, uuid: &str) -> CallResult<String> {
    let mut client = Client::start(root, uuid, Options::default())?;
    sys::signal_every(Duration::from_millis(1), false).map_err(DriverError::call("timer"))?;
    let (mut interrupted, mut calls) = (0_u32, 0_u32);
    let mut count = |result: CallResult<()>| {
        calls += 1;
        match result {
            Err(error) if error.errno() == Some(Errno::EINTR) => interrupted += 1,
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        Ok(())
    };
    let (_, container) = client.vfio.as_ref().expect("a container");
    for _ in 0..1000 {
        count(client.vhost.features().map(drop))?;
        count(client.vhost.config(0, 8).map(drop))?;
        count(client.vhost.set_vring_fd(VHOST_SET_VRING_CALL, 0, &client.rx.call))?;
        count(container.map(memory::IOVA << 8, 0x1000, client.memory.address()))?;
        count(container.unmap(memory::IOVA << 8, 0x1000).map(drop))?;
        count(client.vhost.suspend())?;
        count(client.vhost.resume())?;
    }
    for _ in 0..50 {
        count(client.restart())?;
    }
    Ok(format!("{interrupted} interrupted of {calls}"))
}
