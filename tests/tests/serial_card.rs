//! Instances that are no virtio devices, through their VFIO device files: serial cards, and a register that misbehaves.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;
use umdev_tests::driver::abi::*;
use umdev_tests::driver::device::RegionInfo;
use umdev_tests::driver::{CallResult, Container, Daemon, Device, Group, eventually, new_uuid, sys};
use umdev_tests::lab::program;

const PATIENCE: Duration = Duration::from_secs(20);
const INTX: u32 = 0;
const MSI: u32 = 1;
const CONFIG: u64 = 7 << 40;
const UNMASK: u32 = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK;
const TRY: u32 = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;

fn daemon() -> Daemon {
    Daemon::with(&["--parent", "mtty:mtty0,capacity=3", "--parent", "loopback:loopback0"])
}

fn create(daemon: &Daemon, parent: &str, kind: &str, parameters: &str) -> std::io::Result<String> {
    let uuid = new_uuid();
    let file = daemon.path("sys/class/mdev_bus").join(parent).join("mdev_supported_types").join(kind).join("create");
    fs::write(file, format!("{uuid} {parameters}").trim_end()).map(|()| uuid)
}

fn available(daemon: &Daemon, kind: &str) -> String {
    let file = daemon.path("sys/class/mdev_bus/mtty0/mdev_supported_types").join(kind).join("available_instances");
    fs::read_to_string(file).unwrap().trim().to_owned()
}

/// The device of an instance; group and container go with it.
struct Client {
    device: Device,
    _group: Group,
    _container: Container,
}

fn open(daemon: &Daemon, uuid: &str) -> Client {
    let (container, group) = (Container::open(daemon.root()).unwrap(), Group::open(daemon.root(), uuid).unwrap());
    group.set_container(&container).unwrap();
    container.set_iommu().unwrap();
    Client { device: Device::of(daemon.root(), &group, uuid).unwrap(), _group: group, _container: container }
}

impl Client {
    /// Writes a register of a port.
    fn write(&self, port: u64, at: u64, value: u8) {
        assert_eq!(self.device.write((port << 40) + at, &[value]), Ok(1));
    }

    fn read(&self, port: u64, at: u64) -> u8 {
        self.device.read((port << 40) + at, 1).unwrap()[0]
    }

    /// FIFOs on, eight bits a character, RTS and DTR up, data interrupts.
    fn start(&self, port: u64) {
        [(2, 0x87), (3, 0x03), (4, 0x03), (1, 0x01)].iter().for_each(|&(at, value)| self.write(port, at, value));
        self.read(port, 6);
    }

    fn received(&self, port: u64) -> Vec<u8> {
        std::iter::from_fn(|| (self.read(port, 5) & 1 != 0).then(|| self.read(port, 0))).collect()
    }

    fn trigger(&self, index: u32) -> EventFd {
        let event = event();
        self.device.set_events(index, &[event.as_fd().as_raw_fd()]).unwrap();
        event
    }

    fn config(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.device.read(CONFIG + at, 4).unwrap().try_into().unwrap())
    }
}

fn event() -> EventFd {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap()
}

/// Waits for an interrupt, and takes it.
#[track_caller]
fn wait(event: &EventFd) {
    let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, 20_000_u16), Ok(1), "no interrupt");
    event.read().unwrap();
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: CallResult<T>) -> Errno {
    let error = result.expect_err("to be refused");
    error.errno().unwrap_or_else(|| panic!("no errno: {error}"))
}

#[test]
fn a_serial_card_is_on_the_bus_as_the_kernels_sample_is() {
    let daemon = daemon();
    assert_eq!((available(&daemon, "mtty-1"), available(&daemon, "mtty-2")), ("3".into(), "1".into()));
    let uuid = create(&daemon, "mtty0", "mtty-2", "").unwrap();
    assert_eq!((available(&daemon, "mtty-1"), available(&daemon, "mtty-2")), ("1".into(), "0".into()));
    let full = create(&daemon, "mtty0", "mtty-2", "").unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let attribute = |name: &str| daemon.attribute(&uuid, name);
    assert_eq!(attribute("mdev_type/device_api"), "vfio-pci");
    assert_eq!(attribute("mdev_type/name"), "Dual port serial");
    assert_eq!(
        (attribute("ports"), attribute("backend"), attribute("state")),
        ("2".into(), "loop".into(), "idle".into())
    );
    let driver = fs::read_link(daemon.instance_dir(&uuid).join("driver")).unwrap();
    assert!(driver.ends_with("drivers/vfio_mdev"), "{}", driver.display());
    // No vhost file, which is for virtio devices.
    assert!(!daemon.vhost_path(&uuid).exists());
    let root = daemon.root().to_str().unwrap();
    let rules = Command::new(program("umdev").unwrap()).args(["--root", root, "conformance", &uuid]).output().unwrap();
    let said = String::from_utf8_lossy(&rules.stderr);
    assert!(said.contains(&format!("{uuid} has no vhost file")), "{said}");
    assert!(daemon.instance_dir(&uuid).join("vfio-dev").is_dir());
    let client = open(&daemon, &uuid);
    daemon.wait_for(&uuid, "state", "open");
    assert_eq!(daemon.remove(&uuid, "1").unwrap_err().raw_os_error(), Some(libc::EBUSY));
    drop(client);
    daemon.wait_for(&uuid, "state", "idle");
    daemon.remove(&uuid, "1").unwrap();
    assert_eq!(available(&daemon, "mtty-1"), "3");
}

#[test]
fn drivers_take_the_instances_they_are_for_and_no_others() {
    let daemon = daemon();
    let card = create(&daemon, "mtty0", "mtty-1", "").unwrap();
    let net = daemon.create();
    let write = |driver: &str, file: &str, uuid: &str| {
        let path = daemon.path("sys/bus/mdev/drivers").join(driver).join(file);
        fs::write(path, uuid).map_err(|error| error.raw_os_error().unwrap_or(0))
    };
    for (own, other, uuid) in [("vfio_mdev", "vhost_mdev", &card), ("vhost_mdev", "vfio_mdev", &net)] {
        assert_eq!(write(other, "unbind", uuid), Err(libc::ENODEV));
        write(own, "unbind", uuid).unwrap();
        assert!(!daemon.instance_dir(uuid).join("iommu_group").exists(), "the nodes are the driver's");
        assert_eq!(write(other, "bind", uuid), Err(libc::ENODEV));
        fs::write(daemon.instance_dir(uuid).join("driver_override"), other).unwrap();
        assert_eq!(write(own, "bind", uuid), Err(libc::ENODEV));
        fs::write(daemon.instance_dir(uuid).join("driver_override"), "\n").unwrap();
        write(own, "bind", uuid).unwrap();
    }
    assert_eq!(open(&daemon, &card).config(0), 0x3253_4348);
}

#[test]
fn a_card_is_a_pci_function_to_a_client_of_vfio() {
    let daemon = daemon();
    let uuid = create(&daemon, "mtty0", "mtty-2", "").unwrap();
    let client = open(&daemon, &uuid);
    let device = &client.device;
    assert_eq!(device.info(), Ok([VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET, 9, 5]));
    assert_eq!(device.region(1), Ok(RegionInfo { flags: 3, size: 8, offset: 1 << 40 }));
    assert_eq!(device.region(7), Ok(RegionInfo { flags: 3, size: 256, offset: CONFIG }));
    for absent in [2, 6, 8] {
        assert_eq!(device.region(absent).unwrap().size, 0);
    }
    assert_eq!((device.irq(INTX), device.irq(MSI)), (Ok([7, 1]), Ok([9, 1])));
    assert_eq!((client.config(0), client.config(8)), (0x3253_4348, 0x0700_0210));
    for bar in [0x10, 0x14] {
        device.write(CONFIG + bar, &[0xff; 4]).unwrap();
        assert_eq!(client.config(bar), 0xffff_fff9);
    }
    device.reset().unwrap();
    assert_eq!(client.config(0x10), 1);
    assert_eq!(refused(device.read(2 << 40, 1)), Errno::EINVAL);
    assert_eq!(refused(device.write(CONFIG + 256, &[0])), Errno::EINVAL);
    assert_eq!(sys::ioctl_value(device, 0xaf01, 0), Err(Errno::ENOTTY), "no call of vhost");
}

#[test]
fn bytes_come_back_through_the_plug_with_intx_masked_by_itself() {
    let daemon = daemon();
    let uuid = create(&daemon, "mtty0", "mtty-2", "").unwrap();
    let client = open(&daemon, &uuid);
    let intx = client.trigger(INTX);
    client.start(1);
    for turn in 0..40_u8 {
        let sent: Vec<_> = (0..16).map(|byte| turn.wrapping_mul(16).wrapping_add(byte)).collect();
        sent.iter().for_each(|byte| client.write(1, 0, *byte));
        wait(&intx);
        assert_eq!(intx.read(), Err(Errno::EAGAIN), "one interrupt for all of them");
        client.device.set_irqs(UNMASK, INTX, 0, 1, &[]).unwrap();
        wait(&intx);
        assert_eq!(client.received(1), sent);
        client.device.set_irqs(UNMASK, INTX, 0, 1, &[]).unwrap();
        assert_eq!(intx.read(), Err(Errno::EAGAIN), "the line is down");
    }
    assert_eq!(client.received(0), b"");
}

#[test]
fn msi_is_one_edge_and_can_be_neither_masked_nor_resized() {
    let daemon = daemon();
    let uuid = create(&daemon, "mtty0", "mtty-1", "").unwrap();
    let client = open(&daemon, &uuid);
    let msi = client.trigger(MSI);
    client.start(0);
    client.write(0, 0, 7);
    wait(&msi);
    assert_eq!(client.received(0), [7]);
    client.device.set_irqs(TRY, MSI, 0, 1, &[]).unwrap();
    wait(&msi);
    let mask = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK;
    assert_eq!(refused(client.device.set_irqs(mask, MSI, 0, 1, &[])), Errno::ENOTTY);
    assert_eq!(refused(client.device.set_irqs(TRY, MSI, 0, 2, &[])), Errno::EINVAL);
    client.device.set_irqs(TRY, MSI, 0, 0, &[]).unwrap();
    client.write(0, 0, 7);
    assert_eq!(msi.read(), Err(Errno::EAGAIN));
}

#[test]
fn f27_only_eventfds_are_interrupted_and_a_full_one_holds_up_nobody() {
    let daemon = daemon();
    let uuid = create(&daemon, "mtty0", "mtty-1", "").unwrap();
    let client = open(&daemon, &uuid);
    let intx = client.trigger(INTX);
    let (null, own) = (File::open("/dev/null").unwrap(), client.device.as_fd().as_raw_fd());
    for (fd, errno) in [(null.as_raw_fd(), Errno::EINVAL), (own, Errno::EINVAL), (999, Errno::EBADF)] {
        assert_eq!(refused(client.device.set_events(INTX, &[fd])), errno, "descriptor {fd}");
    }
    // An eventfd that unmasks is not offered, as in the kernel's sample.
    let unmask = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK;
    let fd = intx.as_fd().as_raw_fd().to_ne_bytes();
    assert_eq!(refused(client.device.set_irqs(unmask, INTX, 0, 1, &fd)), Errno::ENOTTY);
    client.start(0);
    client.write(0, 0, 1);
    wait(&intx);
    assert_eq!(client.received(0), [1]);
    let full = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    full.write(u64::MAX - 1).unwrap();
    client.device.set_events(INTX, &[full.as_fd().as_raw_fd()]).unwrap();
    client.write(0, 0, 2);
    assert_eq!(client.received(0), [2]);
}

#[test]
fn a_closed_client_leaves_the_next_one_a_card_as_new_and_no_descriptors() {
    let daemon = daemon();
    let uuid = create(&daemon, "mtty0", "mtty-1", "").unwrap();
    let before = daemon.open_fds();
    for _ in 0..20 {
        let client = open(&daemon, &uuid);
        assert_eq!((client.read(0, 1), client.read(0, 5)), (0, 0x60));
        let _intx = client.trigger(INTX);
        client.start(0);
        client.write(0, 0, 1);
        client.device.write(CONFIG + 0x10, &[0x50, 0xc1, 0, 0]).unwrap();
    }
    assert!(eventually(PATIENCE, || daemon.open_fds() <= before), "descriptors are left");
}

#[test]
fn a_terminal_of_the_host_is_the_other_end_and_its_name_is_an_attribute() {
    let mut daemon = daemon();
    let uuid = create(&daemon, "mtty0", "mtty-2", "backend=pty").unwrap();
    let exchange = |daemon: &Daemon| {
        let client = open(daemon, &uuid);
        let intx = client.trigger(INTX);
        client.start(1);
        let path = daemon.attribute(&uuid, "tty1");
        let noctty = nix::fcntl::OFlag::O_NOCTTY.bits();
        let mut host = File::options().read(true).write(true).custom_flags(noctty).open(path).unwrap();
        host.write_all(b"to the card").unwrap();
        let mut received = Vec::new();
        while received.len() < 11 {
            wait(&intx);
            received.extend(client.received(1));
            client.device.set_irqs(UNMASK, INTX, 0, 1, &[]).unwrap();
        }
        assert_eq!(received, b"to the card");
        b"to the host".iter().for_each(|byte| client.write(1, 0, *byte));
        let mut read = [0; 11];
        host.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"to the host");
    };
    exchange(&daemon);
    // The instance comes back with its parameters, and its terminals with it.
    daemon.end(nix::sys::signal::Signal::SIGTERM);
    daemon.start_again();
    exchange(&daemon);
    let bad = create(&daemon, "mtty0", "mtty-1", "backend=tcp").unwrap_err();
    assert_eq!(bad.raw_os_error(), Some(libc::EINVAL));
}

/// A call of a client, which is to fail: its errno.
type Call = fn(&Device) -> Errno;

/// Calls of a client, by the callback that serves them.
const CALLS: [(&str, Call); 5] = [
    ("read", |device| refused(device.read(0, 4))),
    ("write", |device| refused(device.write(0, &[1]))),
    ("irqs_changed", |device| refused(device.set_events(0, &[-1]))),
    ("reset", |device| refused(device.reset())),
    ("ioctl", |device| sys::ioctl(device, 0xc004_7a01, &mut [0; 4]).unwrap_err()),
];

/// Registers whose vendor does `what` in each of its calls break, say why, and leave their neighbour alone.
#[track_caller]
fn breaks_alone(daemon: &Daemon, what: &str, errno: Errno, words: &str) {
    let healthy = create(daemon, "faulty0", "faulty-register", "").unwrap();
    let neighbour = open(daemon, &healthy);
    for (callback, call) in CALLS {
        let uuid = create(daemon, "faulty0", "faulty-register", "").unwrap();
        let client = open(daemon, &uuid);
        let device = &client.device;
        device.write(0, &[1, 2, 3, 4]).unwrap();
        let mut reversed = [1, 2, 3, 4];
        sys::ioctl(device, 0xc004_7a01, &mut reversed).unwrap();
        assert_eq!((device.read(0, 4), reversed), (Ok(vec![1, 2, 3, 4]), [4, 3, 2, 1]));
        fs::write(daemon.instance_dir(&uuid).join("faults").join(what), callback).unwrap();
        assert_eq!(call(device), errno, "{what} {callback}");
        assert_eq!(call(device), Errno::EIO, "{what} {callback}: from now on");
        assert_eq!(daemon.attribute(&uuid, "state"), "broken");
        let fault = daemon.attribute(&uuid, "last_fault");
        assert!(fault.starts_with(callback) && fault.contains(words), "{what} {callback}: {fault}");
        neighbour.device.write(0, &[9]).unwrap();
        drop(client);
        daemon.remove(&uuid, "force").unwrap();
        assert!(!daemon.instance_dir(&uuid).exists());
    }
    assert_eq!(neighbour.device.read(0, 1), Ok(vec![9]));
}

#[test]
fn f37_a_vendor_that_hangs_leaves_a_broken_instance_that_says_why() {
    let daemon = Daemon::configured(&["--parent", "faulty:faulty0"], "vendor_deadline = 1.0");
    breaks_alone(&daemon, "hang", Errno::ETIMEDOUT, "did not return within 1s");
}

#[test]
fn f37_a_vendor_that_panics_leaves_a_broken_instance_that_says_why() {
    // To print where it panicked takes a while, the first time.
    let daemon = Daemon::configured(&["--parent", "faulty:faulty0"], "vendor_deadline = 20.0");
    breaks_alone(&daemon, "panic", Errno::EIO, "panics, as it was told to");
}
