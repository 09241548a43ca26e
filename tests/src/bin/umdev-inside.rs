//! `umdev-inside DEED UUID`: a VFIO program that knows the kernel's own paths and nothing of `umdev`, for the tests of `umdev exec`.
//! Prints what came of it.
//!
//! `device` opens the device of an instance and asks what it is; `refused` makes the call wrong in every way;
//! `often` makes it a thousand times from eight threads; `forever` until it is killed, after a line; `signals` while a timer interrupts it a thousand times a
//! second, `stuck` with a name that never comes, after a line; `interrupted` the same without SA_RESTART; `dirty` tracks dirty pages, a call that has the number of another that is looked at.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use umdev_tests::driver::abi::{VFIO_IOMMU_DIRTY_PAGES_FLAG_START, VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP};
use umdev_tests::driver::memory::IOVA;
use umdev_tests::driver::{CallResult, Container, DriverError, Group, Memory, sys};

const GET_DEVICE_FD: u32 = 0x3b6a;
const DEVICE_GET_INFO: u32 = 0x3b6b;
const DEVICE_FEATURE: u32 = 0x3b75;
const THREADS: usize = 8;
const CALLS: usize = 125;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["device", uuid] => device(uuid),
        ["refused", uuid] => refused(uuid),
        ["often", uuid] => often(uuid),
        ["forever", uuid] => forever(uuid),
        ["signals", uuid] => signals(uuid, true),
        ["interrupted", uuid] => signals(uuid, false),
        ["dirty", uuid] => dirty(uuid),
        ["stuck", uuid] => stuck(uuid),
        _ => {
            eprintln!("usage: umdev-inside device|refused|often|forever|signals|interrupted|dirty|stuck UUID");
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

/// The group of an instance, in a container with an IOMMU.
fn attached(uuid: &str) -> CallResult<(Container, Group)> {
    let (container, group) = (Container::open(Path::new("/"))?, Group::open(Path::new("/"), uuid)?);
    container.check()?;
    group.set_container(&container)?;
    container.set_iommu()?;
    Ok((container, group))
}

fn get_device(group: &Group, name: &str) -> nix::Result<OwnedFd> {
    let mut name: Vec<u8> = name.bytes().chain([0]).collect();
    sys::ioctl(group, GET_DEVICE_FD, &mut name).map(sys::inherited)
}

fn device(uuid: &str) -> CallResult<String> {
    let (_container, group) = attached(uuid)?;
    let device = get_device(&group, uuid).map_err(DriverError::call("VFIO_GROUP_GET_DEVICE_FD"))?;
    let mut info = [24u32, 0, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
    sys::ioctl(&device, DEVICE_GET_INFO, &mut info).map_err(DriverError::call("VFIO_DEVICE_GET_INFO"))?;
    let closes = fcntl(&device, FcntlArg::F_GETFD).map(FdFlag::from_bits_retain) == Ok(FdFlag::FD_CLOEXEC);
    let [regions, irqs] = [8, 12].map(|at| u32::from_ne_bytes(info[at..at + 4].try_into().expect("four bytes")));
    Ok(format!("regions {regions}, interrupts {irqs}, closed on exec: {closes}"))
}

/// The errno of each call that is wrong.
fn refused(uuid: &str) -> CallResult<String> {
    let (_container, group) = attached(uuid)?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(DriverError::io("/dev/null"))?;
    let closed = sys::inherited(1000);
    let nowhere = 16;
    let long = "u".repeat(5000);
    let answers = [
        ("another file", sys::ioctl_value(&null, GET_DEVICE_FD, nowhere).map(drop)),
        ("another file, a feature", sys::ioctl_value(&null, DEVICE_FEATURE, nowhere).map(drop)),
        ("no descriptor", sys::ioctl_value(&closed, GET_DEVICE_FD, nowhere).map(drop)),
        ("a bad address", sys::ioctl_value(&group, GET_DEVICE_FD, nowhere).map(drop)),
        ("a feature of a group", sys::ioctl_value(&group, DEVICE_FEATURE, nowhere).map(drop)),
        ("an unknown name", get_device(&group, "nobody").map(drop)),
        ("no name", get_device(&group, "").map(drop)),
        ("part of a name", get_device(&group, &uuid[..8]).map(drop)),
        ("a long name", get_device(&group, &long).map(drop)),
    ];
    std::mem::forget(closed);
    let told = answers.map(|(what, answer)| format!("{what}: {:?}", answer.err().unwrap_or(Errno::UnknownErrno)));
    Ok(told.join("\n"))
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn often(uuid: &str) -> CallResult<String> {
    let (_container, group) = attached(uuid)?;
    let before = open_descriptors();
    let failures = thread::scope(|scope| {
        let work = || (0..CALLS).filter(|_| get_device(&group, uuid).is_err()).count();
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(CALLS)).sum::<usize>()
    });
    let left = open_descriptors() - before;
    Ok(format!("{} calls, {failures} failed, {left} descriptors left", THREADS * CALLS))
}

fn forever(uuid: &str) -> CallResult<String> {
    let (_container, group) = attached(uuid)?;
    println!("begun");
    thread::scope(|scope| {
        let call = || loop {
            if let Err(errno) = get_device(&group, uuid) {
                return errno;
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(call)).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap_or(Errno::UnknownErrno));
        Ok(format!("{:?}", ends.collect::<Vec<_>>()))
    })
}

/// Under a timer whose handler has SA_RESTART or not.
fn signals(uuid: &str, restart: bool) -> CallResult<String> {
    let (_container, group) = attached(uuid)?;
    let before = open_descriptors();
    sys::signal_every(Duration::from_millis(1), restart).map_err(DriverError::call("setitimer"))?;
    let (given, failed): (Vec<_>, Vec<_>) = (0..300).map(|_| get_device(&group, uuid)).partition(Result::is_ok);
    let unknown = open_descriptors() - before - given.len();
    let interrupted = failed.iter().filter(|failed| matches!(failed, Err(Errno::EINTR))).count();
    let others = failed.len() - interrupted;
    let interrupted = if restart { format!("{interrupted} interrupted, ") } else { String::new() };
    Ok(format!("{interrupted}{others} failed, {unknown} descriptors that nobody was told of"))
}

fn dirty(uuid: &str) -> CallResult<String> {
    let (container, _group) = attached(uuid)?;
    let memory = Memory::new()?;
    container.map(IOVA, memory.size(), memory.address())?;
    container.track(VFIO_IOMMU_DIRTY_PAGES_FLAG_START)?;
    let pages = container.dirty(IOVA, memory.size())?;
    container.track(VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP)?;
    Ok(format!("{} dirty pages", pages.len()))
}

fn stuck(uuid: &str) -> CallResult<String> {
    let (_container, group) = attached(uuid)?;
    let (page, _answers) = sys::page_that_never_comes().map_err(DriverError::call("userfaultfd"))?;
    println!("begun");
    thread::scope(|scope| {
        let call = || sys::ioctl_value(&group, GET_DEVICE_FD, page.address());
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(call)).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Errno::UnknownErrno)));
        Ok(format!("{:?}", ends.collect::<Vec<_>>()))
    })
}
