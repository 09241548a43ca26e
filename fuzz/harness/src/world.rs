//! A client made of plain memory, a device, and its vhost file.

use crate::assert_errno;
use devnode::{Broadcast, Ioctl, IoctlReply, OpenFile, PollEvents, Read};
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use uuid::Uuid;
use vfio_container::Group;
use vfio_container::testing::{BASE, Descriptor, FakeClient};
use vhost_abi::MESSAGE_SIZE;
use vhost_mdev::{VhostFile, VhostMdev};
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent, Session, SessionError, VirtioMdev};

/// Where arguments of calls lie in the client's memory.
pub const ARG: u64 = BASE;
/// Its eventfd for kicks.
pub const KICK: i32 = 10;
/// Its eventfd for interrupts.
pub const CALL: i32 = 11;
/// A descriptor that is no eventfd.
pub const OTHER: i32 = 12;

/// How long vendor code may take: a machine that fuzzes is busy.
const DEADLINE: Duration = Duration::from_secs(60);

/// `_IOC_WRITE`: the kernel copies the argument in.
const COPIED_IN: u32 = 1 << 30;
/// `_IOC_READ`: the kernel copies the argument out.
const COPIED_OUT: u32 = 1 << 31;

/// The argument size that a command encodes.
pub fn argument_size(cmd: u32) -> usize {
    ((cmd >> 16) & 0x3fff) as usize
}

/// An instance of the loopback parent, the `kind`th of its types.
pub fn loopback(kind: u8, link: &DeviceLink) -> Box<dyn VirtioMdev> {
    let parent = loopback::Loopback::new("loopback0", 1);
    let types = parent.types();
    let request = CreateRequest {
        uuid: Uuid::from_u128(1),
        type_name: types[usize::from(kind) % types.len()].name.clone(),
        parameters: std::collections::BTreeMap::new(),
        doorbell_pages: false,
        owner: None,
        link: link.clone(),
    };
    match parent.create(request) {
        Ok(Device::Virtio(device)) => device,
        _ => panic!("a plain request is not refused"),
    }
}

/// What the inputs act on.
pub struct World {
    /// The client that opened the file.
    pub client: FakeClient,
    /// Another process.
    pub stranger: FakeClient,
    /// The next calls are the stranger's.
    pub strange: bool,
    /// The client's end of `KICK`.
    pub kick: EventFd,
    /// The client's end of `CALL`.
    pub call: EventFd,
    /// The instance's IOMMU group.
    pub group: Arc<Group>,
    /// The device.
    pub session: Arc<Session>,
    node: Arc<VhostMdev>,
    file: Arc<VhostFile>,
    opens: Arc<AtomicI32>,
}

impl World {
    /// A world with `device`, whose vhost file `client` has opened.
    pub fn new(device: Box<dyn VirtioMdev>, link: DeviceLink, client: FakeClient) -> Self {
        let info = device.info();
        let session = Arc::new(Session::new(device, info, link, DEADLINE));
        let group = Group::new(1 << 20, "instance".into());
        let opens = Arc::new(AtomicI32::new(0));
        let told = Arc::clone(&opens);
        let on_open = Box::new(move |open| {
            told.fetch_add(if open { 1 } else { -1 }, Ordering::SeqCst);
        });
        let node = VhostMdev::new(Arc::clone(&session), Arc::clone(&group), Arc::new(Broadcast::new()), on_open);
        let file = node.open_file(&client).expect("nobody else has it open");
        let (kick, call) = (EventFd::new().expect("eventfd"), EventFd::new().expect("eventfd"));
        let stranger = FakeClient::new(2);
        for client in [&client, &stranger] {
            client.install(KICK, Descriptor::Event(kick.clone()));
            client.install(CALL, Descriptor::Event(call.clone()));
            client.install(OTHER, Descriptor::Other);
        }
        Self { client, stranger, strange: false, kick, call, group, session, node, file, opens }
    }

    /// Who calls.
    pub fn caller(&self) -> &FakeClient {
        if self.strange { &self.stranger } else { &self.client }
    }

    /// An ioctl as a client makes it: its argument lies in its memory, and the kernel copies it.
    pub fn ioctl(&self, cmd: u32, argument: &[u8]) -> Result<Vec<u8>, Errno> {
        self.caller().put(ARG, argument);
        let input = if cmd & COPIED_IN != 0 { argument } else { &[] };
        self.raw_ioctl(cmd, ARG, input)
    }

    /// An ioctl with any pointer.
    pub fn raw_ioctl(&self, cmd: u32, arg: u64, input: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut whole = input.to_vec();
        whole.resize(if cmd & COPIED_IN != 0 { argument_size(cmd) } else { 0 }, 0);
        let answer = self.file.serve(self.caller(), &Ioctl { cmd, arg, input: &whole });
        match answer {
            Ok(IoctlReply { value, output }) => {
                assert!(value >= 0, "{cmd:#x} returns {value}");
                let fits = output.is_empty() || (cmd & COPIED_OUT != 0 && output.len() == argument_size(cmd));
                assert!(fits, "{cmd:#x} answers {} bytes", output.len());
                Ok(output)
            }
            Err(errno) => {
                assert_errno(errno, format_args!("{cmd:#x}"));
                Err(errno)
            }
        }
    }

    /// A `write(2)`.
    pub fn write(&self, data: &[u8]) -> Result<usize, Errno> {
        let written = self.file.serve_write(self.caller(), data);
        match written {
            Ok(len) => assert!(len <= data.len() && len > 0, "{len} bytes of {} were taken", data.len()),
            Err(errno) => assert_errno(errno, "write"),
        }
        written
    }

    /// A `read(2)`: a message whole, or nothing.
    pub fn read(&self, len: usize, nonblock: bool) {
        match self.file.serve_read(self.caller(), &Read { offset: 0, len, nonblock }) {
            Ok(message) if message.is_empty() => assert!(len < MESSAGE_SIZE, "no message in {len} bytes"),
            Ok(message) => assert_eq!(message.len(), MESSAGE_SIZE),
            Err(errno) => assert_errno(errno, "read"),
        }
    }

    /// What `poll(2)` finds.
    pub fn poll(&self, wanted: PollEvents) {
        let found = self.file.serve_poll(self.caller(), wanted);
        assert_eq!(found - PollEvents::IN, PollEvents::OUT, "an open file takes messages");
    }

    /// Closes the file, and looks that nothing is left of the client.
    pub fn close(&self) {
        OpenFile::release(&*self.file);
        assert_eq!(self.opens.load(Ordering::SeqCst), 0, "opens and closes are told in pairs");
        assert_eq!(self.session.status().expect("the device answers").bits(), 0, "a closed device has no status");
        for index in 0..u32::try_from(self.session.info().queues.len()).expect("few queues") {
            assert_ne!(self.session.queue_base(index), Err(SessionError::RingLive), "queue {index} runs on");
        }
        assert_eq!(self.session.broken(), None, "no input breaks a device");
        assert_eq!(self.file.serve(&self.client, &Ioctl { cmd: 0, arg: 0, input: &[] }), Err(Errno::ENODEV));
    }

    /// The client opens the file again.
    pub fn reopen(&mut self) {
        self.close();
        self.file = self.node.open_file(&self.client).expect("nobody has it open");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.close();
        self.session.retire();
        for client in [&self.client, &self.stranger] {
            assert_eq!(client.holders(), 0, "memory of a client is held after the close");
        }
    }
}
