//! A recording instance, a server around it, and a front end to drive that server.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs::File;
use std::io::{PipeWriter, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use qemu_backend_shim::device::Device;
use qemu_backend_shim::error::Error;
use qemu_backend_shim::events::Events;
use qemu_backend_shim::instance::{Instance, backend_feature};
use qemu_backend_shim::ring::Addresses;
use qemu_backend_shim::server::{Outcome, serve};
use tempfile::TempDir;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

pub const VERSION_1: u64 = 1 << 32;
pub const ACCESS_PLATFORM: u64 = 1 << 33;
pub const MRG_RXBUF: u64 = 1 << 15;
pub const PROTOCOL_FEATURES: u64 = 1 << 30;

pub const UUID: &str = "0f1a8c5e-7d9b-4a60-9c0e-3f2b1d4c5a69";

/// Where the front end's memory lies, in its own and in the guest's view.
pub const UADDR: u64 = 0x7f00_0000_0000;
pub const GPA: u64 = 0x1_0000_0000;
pub const SIZE: u64 = 0x20_0000;

/// What happened to the instance, and how it answers.
pub struct Record {
    pub calls: Vec<String>,
    pub features: u64,
    pub backend_features: u64,
    pub status: u8,
    pub refuse_features: bool,
    pub bases: [Result<u32, Errno>; 2],
    /// Which calls fail, by how their record starts, and how.
    pub failing: Option<(&'static str, Errno)>,
    pub present: bool,
    /// IOVA, size, address of what is mapped now.
    pub maps: Vec<(u64, u64, u64)>,
    /// The eventfds it holds, by "kick 0" and the like.
    pub eventfds: Vec<(String, OwnedFd)>,
}

#[derive(Clone)]
pub struct FakeInstance(Arc<Mutex<Record>>);

impl FakeInstance {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Record {
            calls: Vec::new(),
            features: VERSION_1 | ACCESS_PLATFORM | MRG_RXBUF,
            backend_features: backend_feature::SUSPEND,
            status: 0,
            refuse_features: false,
            bases: [Ok(0), Ok(0)],
            failing: None,
            present: true,
            maps: Vec::new(),
            eventfds: Vec::new(),
        })))
    }

    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap()
    }

    /// The calls since the last time.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.record().calls)
    }

    pub fn eventually(&self, what: &str, condition: impl Fn(&Record) -> bool) {
        eventually(what, || condition(&self.record()));
    }

    /// Signals what the instance holds as `name`, as a device would.
    pub fn signal(&self, name: &str) {
        let record = self.record();
        let (_, fd) = record.eventfds.iter().find(|(n, _)| n == name).expect(name);
        nix::unistd::write(fd, &1u64.to_ne_bytes()).unwrap();
    }

    pub fn holds(&self, name: &str) -> bool {
        self.record().eventfds.iter().any(|(n, _)| n == name)
    }

    fn call(&self, call: String) -> Result<MutexGuard<'_, Record>, Error> {
        let mut record = self.record();
        let failing = record.failing.filter(|(prefix, _)| call.starts_with(prefix));
        record.calls.push(call);
        match failing {
            Some((_, errno)) => Err(Error::Call { call: "fake", errno }),
            None => Ok(record),
        }
    }

    fn eventfd(&self, kind: &str, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let name = format!("{kind} {ring}");
        let mut record = self.call(format!("{name} {}", if fd.is_some() { "fd" } else { "-1" }))?;
        record.eventfds.retain(|(n, _)| *n != name);
        if let Some(fd) = fd {
            record.eventfds.push((name, fd.try_clone_to_owned().unwrap()));
        }
        Ok(())
    }
}

pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

impl Instance for FakeInstance {
    fn present(&self) -> Result<(), Error> {
        let errno = Errno::ENOENT;
        if self.record().present { Ok(()) } else { Err(Error::File { path: "sysfsdev".into(), errno }) }
    }

    fn features(&self) -> Result<u64, Error> {
        Ok(self.record().features)
    }

    fn backend_features(&self) -> u64 {
        self.record().backend_features
    }

    fn status(&self) -> Result<u8, Error> {
        let record = self.record();
        match record.failing {
            Some(("", errno)) => Err(Error::Call { call: "fake", errno }),
            _ => Ok(record.status),
        }
    }

    fn set_status(&self, status: u8) -> Result<(), Error> {
        let mut record = self.call(format!("status {status:#x}"))?;
        record.status = if record.refuse_features { status & !8 } else { status };
        Ok(())
    }

    fn set_features(&self, features: u64) -> Result<(), Error> {
        self.call(format!("features {features:#x}")).map(drop)
    }

    fn set_vring_num(&self, ring: u32, size: u32) -> Result<(), Error> {
        self.call(format!("num {ring} {size}")).map(drop)
    }

    fn set_vring_base(&self, ring: u32, base: u32) -> Result<(), Error> {
        self.call(format!("base {ring} {base}")).map(drop)
    }

    fn set_vring_addr(&self, ring: u32, iova: Addresses) -> Result<(), Error> {
        let Addresses { desc, avail, used } = iova;
        self.call(format!("addr {ring} {desc:#x} {avail:#x} {used:#x}")).map(drop)
    }

    fn set_vring_kick(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        self.eventfd("kick", ring, fd)
    }

    fn set_vring_call(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        self.eventfd("call", ring, fd)
    }

    fn set_vring_err(&self, ring: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        self.eventfd("err", ring, fd)
    }

    fn set_vring_enable(&self, ring: u32, enable: bool) -> Result<(), Error> {
        self.call(format!("enable {ring} {}", u8::from(enable))).map(drop)
    }

    fn suspend(&self) -> Result<(), Error> {
        self.call("suspend".into()).map(drop)
    }

    fn vring_base(&self, ring: u32) -> Result<u32, Error> {
        let record = self.call(format!("get base {ring}"))?;
        record.bases[ring as usize].map_err(|errno| Error::Call { call: "fake", errno })
    }

    fn map(&self, iova: u64, size: u64, vaddr: u64) -> Result<(), Error> {
        let mut record = self.call(format!("map {iova:#x}+{size:#x}"))?;
        assert!(record.maps.iter().all(|m| m.0 + m.1 <= iova || iova + size <= m.0), "overlapping map");
        record.maps.push((iova, size, vaddr));
        Ok(())
    }

    fn unmap(&self, iova: u64, size: u64) -> Result<(), Error> {
        let mut record = self.call(format!("unmap {iova:#x}+{size:#x}"))?;
        record.maps.retain(|m| (m.0, m.1) != (iova, size));
        Ok(())
    }
}

/// A running server.
pub struct Server {
    pub instance: FakeInstance,
    pub path: PathBuf,
    /// Where the daemon would write its events.
    pub events: PipeWriter,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<Result<Outcome, Error>>>,
    _dir: TempDir,
}

impl Server {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let instance = FakeInstance::new();
        let (stopped, stop) = std::io::pipe().unwrap();
        let device = Device::new(instance.clone());
        let (read, events) = std::io::pipe().unwrap();
        let stream = Events::from_pipe(OwnedFd::from(read), UUID);
        let thread = thread::spawn(move || serve(device, stream, &listener, stopped.as_fd()));
        Self { instance, path, events, stop: Some(stop), thread: Some(thread), _dir: dir }
    }

    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    /// How the server ended; ten seconds would be a hang.
    pub fn outcome(&mut self) -> Result<Outcome, Error> {
        let thread = self.thread.take().unwrap();
        eventually("the server ends", || thread.is_finished());
        thread.join().unwrap()
    }

    pub fn stop(&mut self) -> Result<Outcome, Error> {
        self.stop = None;
        self.outcome()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() && !thread::panicking() {
            assert!(matches!(self.stop(), Ok(Outcome::Stopped)));
        }
    }
}

/// A front end that has negotiated, with one memfd of memory and an eventfd for everything.
pub struct Guest {
    pub frontend: Frontend,
    pub memory: File,
    pub kicks: [EventFd; 2],
    pub calls: [EventFd; 2],
}

impl Guest {
    /// Connects and negotiates; every later request waits for its answer.
    pub fn connect(server: &Server) -> Self {
        let mut frontend = Frontend::from_stream(server.connect(), 2);
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        frontend.get_protocol_features().unwrap();
        let wanted = VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::RESET_DEVICE;
        frontend.set_protocol_features(wanted).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(offered).unwrap();
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self { frontend, memory: memory(SIZE), kicks: [eventfd(), eventfd()], calls: [eventfd(), eventfd()] }
    }

    /// A started guest.
    pub fn started(server: &Server) -> Self {
        let mut guest = Self::connect(server);
        guest.share_memory();
        guest.set_up_rings([0, 0]);
        guest.enable_rings();
        guest
    }

    pub fn region(&self) -> VhostUserMemoryRegionInfo {
        region(GPA, SIZE, UADDR, 0, &self.memory)
    }

    pub fn share_memory(&mut self) {
        self.frontend.set_mem_table(&[self.region()]).unwrap();
    }

    /// As QEMU does: NUM, BASE, ADDR, KICK, CALL for one ring after the other.
    pub fn set_up_rings(&mut self, bases: [u16; 2]) {
        for (ring, base) in bases.into_iter().enumerate() {
            self.set_up_ring(ring, base);
        }
    }

    pub fn set_up_ring(&mut self, ring: usize, base: u16) {
        self.frontend.set_vring_num(ring, 256).unwrap();
        self.frontend.set_vring_base(ring, base).unwrap();
        self.frontend.set_vring_addr(ring, &addresses(UADDR + 0x1_0000 * ring as u64)).unwrap();
        self.frontend.set_vring_kick(ring, &self.kicks[ring]).unwrap();
        self.frontend.set_vring_call(ring, &self.calls[ring]).unwrap();
    }

    pub fn enable_rings(&mut self) {
        self.frontend.set_vring_enable(0, true).unwrap();
        self.frontend.set_vring_enable(1, true).unwrap();
    }
}

pub fn memory(size: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    file
}

pub fn region(gpa: u64, size: u64, uaddr: u64, offset: u64, file: &File) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: gpa,
        memory_size: size,
        userspace_addr: uaddr,
        mmap_offset: offset,
        mmap_handle: file.as_raw_fd(),
    }
}

/// A ring of 256 entries laid out from `uaddr` on.
pub fn addresses(uaddr: u64) -> VringConfigData {
    VringConfigData {
        queue_max_size: 256,
        queue_size: 256,
        flags: 0,
        desc_table_addr: uaddr,
        avail_ring_addr: uaddr + 0x1000,
        used_ring_addr: uaddr + 0x2000,
        log_addr: None,
    }
}

/// One message as it goes over the socket.
pub fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap();
    [[request, 1 | flags, size].map(u32::to_ne_bytes).as_flattened(), body].concat()
}

pub fn send(stream: &UnixStream, bytes: &[u8], files: &[&File]) {
    let fds: Vec<_> = files.iter().map(|f| f.as_raw_fd()).collect();
    stream.send_with_fds(&[bytes], &fds).unwrap();
}

/// Whether the server has closed this connection, within a few seconds.
pub fn is_closed_by_peer(mut stream: &UnixStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}
