//! Calls on the files of a VFIO device, and on the handles that become them, with a device behind them that judges what
//! reaches it.

mod judge;

use crate::{Input, assert_errno};
use devnode::{Ioctl, IoctlReply, OpenFile};
use judge::Judge;
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::testing::{BASE, Descriptor, FakeClient};
use vfio_container::{CdevNode, ContainerFile, DeviceFile, Group, GroupFile, HandleFile};
use virtio_mdev_api::notify::EventFd;

const SET_IOMMU: u32 = 0x3b66;
const SET_CONTAINER: u32 = 0x3b68;
const UNSET_CONTAINER: u32 = 0x3b69;
const SET_IRQS: u32 = 0x3b6e;
const GET_DEVICE: u32 = 0x4048_5510;
/// Where arguments of calls lie.
const ARG: u64 = BASE;
/// Descriptors of both clients; the group is one while it is open.
const CONTAINER: i32 = 7;
const GROUP: i32 = 8;
const EVENT: i32 = 9;
const OTHER: i32 = 10;
const NAME: &str = "instance";
/// Device files that may be open at a time.
const FILES: usize = 4;

/// Runs one input: steps.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut steps = Steps::new();
    while input.more() {
        steps.step(&mut input);
        steps.compare();
    }
    steps.finish();
}

struct Steps {
    client: FakeClient,
    stranger: FakeClient,
    strange: bool,
    container: Arc<ContainerFile>,
    group: Arc<Group>,
    file: Option<Arc<GroupFile>>,
    /// Whether it was the stranger who attached the group.
    attached: Option<bool>,
    /// Whether the container has its IOMMU.
    has_iommu: bool,
    /// Open device files, and whether they came through the group.
    files: Vec<(Arc<dyn OpenFile>, Arc<DeviceFile>, bool)>,
    judge: Arc<Judge>,
    removed: bool,
}

impl Steps {
    fn new() -> Self {
        let (client, stranger) = (FakeClient::new(1), FakeClient::new(2));
        let container = Arc::new(ContainerFile::new());
        let group = Group::new(1 << 20, NAME.into());
        let judge = Arc::new(Judge::default());
        group.set_device(judge.clone());
        for client in [&client, &stranger] {
            client.install(CONTAINER, Descriptor::Device(container.clone()));
            client.install(EVENT, Descriptor::Event(EventFd::new().expect("an eventfd")));
            client.install(OTHER, Descriptor::Other);
        }
        let (file, attached, files) = (None, None, Vec::new());
        let (strange, has_iommu, removed) = (false, false, false);
        Self { client, stranger, strange, container, group, file, attached, has_iommu, files, judge, removed }
    }

    fn caller(&self) -> &FakeClient {
        if self.strange { &self.stranger } else { &self.client }
    }

    /// Device files that keep the group.
    fn through_group(&self) -> usize {
        self.files.iter().filter(|(.., through)| *through).count()
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0 | 1 => self.set_irqs(input),
            2 | 3 => self.any_call(input),
            4 | 5 => self.access(input),
            6 | 7 => self.get_device(input),
            8 => {
                let at = u64::from(input.byte()) << 3;
                let blob = input.blob();
                self.caller().put(ARG + at, blob);
            }
            9 => self.close_device(input),
            10 => self.open_or_close_group(),
            11 => self.attach(input),
            12 => self.detach(),
            13 => self.strange = !self.strange,
            14 if self.files.len() < FILES => {
                let file = CdevNode::new(self.group.clone()).open_file();
                self.files.push((file.clone(), file, false));
            }
            14 => {}
            _ => self.group_call_or_removal(input),
        }
    }

    /// What the device may be asked by the next call on a file.
    fn permit(&self, through: bool) {
        self.judge.permit(through && self.attached == Some(self.strange) && !self.removed);
    }

    fn chosen(&self, input: &mut Input<'_>) -> Option<(Arc<DeviceFile>, bool)> {
        let at = usize::from(input.byte());
        let (_, file, through) = self.files.get(at.checked_rem(self.files.len())?)?;
        Some((file.clone(), *through))
    }

    fn call(&self, file: &DeviceFile, through: bool, cmd: u32, arg: u64) -> Result<IoctlReply, Errno> {
        self.permit(through);
        let answer = checked(cmd, file.serve(self.caller(), &Ioctl { cmd, arg, input: &[] }));
        match (&answer, through) {
            (Err(Errno::ENODEV), true) => assert!(self.removed, "{cmd:#x} of a device that is there"),
            (Ok(_), _) => assert!(through && !self.removed, "{cmd:#x} of a file that is good for nothing"),
            _ => {}
        }
        answer
    }

    fn set_irqs(&self, input: &mut Input<'_>) {
        let Some((file, through)) = self.chosen(input) else { return };
        let shape = [input.byte(), input.byte(), input.byte(), input.byte()].map(u32::from);
        let [flags, index, start, count] = shape.map(|small| if small == 0xff { u32::MAX } else { small });
        let data = input.blob();
        let argsz = match input.byte() {
            0..0xf0 => 20 + u32::try_from(data.len()).unwrap_or(0),
            other => u32::from(other - 0xf0) * 4,
        };
        let head = [argsz, flags, index, start, count].map(u32::to_ne_bytes).concat();
        self.caller().put(ARG, &[&head, data].concat());
        drop(self.call(&file, through, SET_IRQS, ARG));
    }

    fn any_call(&self, input: &mut Input<'_>) {
        let Some((file, through)) = self.chosen(input) else { return };
        let cmd = match input.byte() {
            nr @ 0..0xf0 => 0x3b64 + u32::from(nr % 24),
            _ => input.word(),
        };
        let arg = match input.byte() {
            255 => input.long(),
            offset => ARG + u64::from(offset) * 8,
        };
        drop(self.call(&file, through, cmd, arg));
    }

    fn access(&self, input: &mut Input<'_>) {
        let Some((file, through)) = self.chosen(input) else { return };
        let offset = match input.byte() {
            255 => input.long(),
            region => u64::from(region) << 40 | u64::from(input.half()),
        };
        let len = usize::from(input.half());
        self.permit(through);
        let served = if input.flag() {
            file.serve_read(self.caller(), offset, len).map(|data| data.len())
        } else {
            file.serve_write(self.caller(), offset, &vec![0x5a; len])
        };
        match served {
            Ok(served) => assert!(served <= len, "{served} bytes of {len}"),
            Err(errno) => assert_errno(errno, "an access"),
        }
    }

    fn get_device(&mut self, input: &mut Input<'_>) {
        let fd = match input.byte() {
            0..0xe0 => GROUP,
            other => i32::from(other) - 0xe8,
        };
        let mut argument = fd.to_ne_bytes().to_vec();
        argument.extend([0; 4]);
        match input.byte() {
            0..0xe0 => argument.extend(NAME.as_bytes()),
            _ => argument.extend(input.blob()),
        }
        argument.resize(if input.byte() == 0xff { 71 } else { 72 }, 0);
        let handle = Arc::new(HandleFile::default());
        let whole = argument[4..].starts_with(&[0, 0, 0, 0]) && argument[8..].starts_with(b"instance\0");
        let right = fd == GROUP && whole && argument.len() == 72;
        let may = right && self.file.is_some() && self.has_iommu && !self.removed;
        self.judge.permit(may);
        let became = handle.serve(self.caller(), &Ioctl { cmd: GET_DEVICE, arg: 0, input: &argument });
        assert_eq!(became.is_ok(), may, "a handle becomes a device: {became:?}");
        match handle.device() {
            Some(device) if self.files.len() < FILES => self.files.push((handle, device, true)),
            Some(_) => OpenFile::release(&*handle),
            None => {}
        }
    }

    fn close_device(&mut self, input: &mut Input<'_>) {
        let at = usize::from(input.byte());
        if let Some(at) = at.checked_rem(self.files.len()) {
            let (file, ..) = self.files.swap_remove(at);
            file.release();
        }
        self.settle();
    }

    fn open_or_close_group(&mut self) {
        match self.file.take() {
            Some(file) => {
                for client in [&self.client, &self.stranger] {
                    client.install(GROUP, Descriptor::Other);
                }
                OpenFile::release(&*file);
            }
            None => {
                let opened = self.group.clone().open_file();
                assert_eq!(
                    opened.is_ok(),
                    self.through_group() == 0 && !self.removed,
                    "open: {opened:?}",
                    opened = opened.as_ref().err()
                );
                let Ok(file) = opened else { return };
                for client in [&self.client, &self.stranger] {
                    client.install(GROUP, Descriptor::Device(file.clone()));
                }
                self.file = Some(file);
            }
        }
        self.settle();
    }

    /// A group that nobody has any more is in no container.
    fn settle(&mut self) {
        if self.file.is_none() && self.through_group() == 0 {
            (self.attached, self.has_iommu) = (None, false);
        }
    }

    fn on_group(&self, cmd: u32, arg: u64) -> Result<IoctlReply, Errno> {
        let Some(file) = &self.file else { return Err(Errno::EBADF) };
        self.judge.permit(false);
        checked(cmd, file.serve(self.caller(), &Ioctl { cmd, arg, input: &[] }))
    }

    fn attach(&mut self, input: &mut Input<'_>) {
        self.caller().put(ARG, &CONTAINER.to_ne_bytes());
        if self.on_group(SET_CONTAINER, ARG).is_ok() {
            self.attached = Some(self.strange);
        }
        let call = Ioctl { cmd: SET_IOMMU, arg: 3, input: &[] };
        if input.flag() && self.container.serve(self.caller(), &call).is_ok() {
            self.has_iommu = true;
        }
    }

    fn detach(&mut self) {
        let left = self.on_group(UNSET_CONTAINER, 0);
        if left.is_ok() {
            assert_eq!(self.through_group(), 0, "the group left its container under a device");
            (self.attached, self.has_iommu) = (None, false);
        }
    }

    fn group_call_or_removal(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0xff => {
                self.judge.permit(false);
                self.group.remove();
                (self.removed, self.attached, self.has_iommu) = (true, None, false);
            }
            nr => {
                let cmd = 0x3b64 + u32::from(nr % 24);
                if !matches!(cmd, SET_CONTAINER | UNSET_CONTAINER) {
                    drop(self.on_group(cmd, ARG + u64::from(input.byte()) * 8));
                }
            }
        }
    }

    fn compare(&self) {
        let open = self.through_group() != 0 && !self.removed;
        assert_eq!(self.judge.is_open(), open, "the device is open while a file of it is");
        assert_eq!(self.group.device_holder().is_some(), open);
    }

    fn finish(mut self) {
        for (file, ..) in std::mem::take(&mut self.files) {
            file.release();
        }
        if let Some(file) = self.file.take() {
            OpenFile::release(&*file);
        }
        self.compare();
        assert!(self.removed || self.group.clone().open_file().is_ok(), "nobody keeps the group");
        self.group.remove();
        assert_eq!(Arc::strong_count(&self.judge), 1, "the device outlives its files");
    }
}

fn checked(cmd: u32, answer: Result<IoctlReply, Errno>) -> Result<IoctlReply, Errno> {
    match &answer {
        Ok(reply) => assert!(reply.value >= 0 && reply.output.is_empty(), "{cmd:#x} answers {reply:?}"),
        Err(errno) => assert_errno(*errno, format_args!("{cmd:#x}")),
    }
    answer
}
