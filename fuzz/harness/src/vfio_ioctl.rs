//! Calls on a VFIO container and two groups, and writes of their devices, against a plain model of what is mapped and what
//! was written.

mod dirty;

use crate::model::{Intervals, coalesce};
use crate::{Input, assert_errno};
use devnode::{Ioctl, IoctlReply, OpenFile};
use dirty::Device;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::sync::Arc;
use vfio_container::testing::{BASE, Descriptor, FakeClient, SIZE};
use vfio_container::{ContainerFile, Group, GroupFile};
use virtio_mdev_api::dma::AddressSpace;

const SET_IOMMU: u32 = 0x3b66;
const SET_CONTAINER: u32 = 0x3b68;
const UNSET_CONTAINER: u32 = 0x3b69;
const MAP_DMA: u32 = 0x3b71;
const UNMAP_DMA: u32 = 0x3b72;
const DIRTY_PAGES: u32 = 0x3b75;
const V1: u64 = 1;
const V2: u64 = 3;
const UNMAP_ALL: u32 = 2;
const UNMAP_BITMAP: u32 = 1;
const PAGE: u64 = 4096;
/// Where arguments of calls lie.
const ARG: u64 = BASE;
const CONTAINER: i32 = 7;
const OTHER: i32 = 8;

/// Runs one input: how the client's memory is made, and then steps.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let stretch = if input.flag() { 0x3000 } else { SIZE as u64 };
    let mut steps = Steps::new(stretch);
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
    groups: [Arc<Group>; 2],
    files: [Option<Arc<GroupFile>>; 2],
    /// The type that SET_IOMMU was last given.
    kind: u64,
    model: Intervals,
    /// The pages written since they were last told, while they are tracked.
    dirty: Option<BTreeSet<u64>>,
    /// A device of the container, if it has one.
    device: Option<Device>,
}

impl Steps {
    fn new(stretch: u64) -> Self {
        let (client, stranger) = (FakeClient::with_stretches(1, stretch), FakeClient::new(2));
        let container = Arc::new(ContainerFile::new());
        for client in [&client, &stranger] {
            client.install(CONTAINER, Descriptor::Device(container.clone()));
            client.install(OTHER, Descriptor::Other);
        }
        let groups = [0, 1].map(|n| Group::new((1 << 20) + n, format!("instance{n}")));
        let files = groups.clone().map(|group| group.open_file().ok());
        let (model, kind) = (Intervals::default(), 0);
        Self { client, stranger, strange: false, container, groups, files, kind, model, dirty: None, device: None }
    }

    fn caller(&self) -> &FakeClient {
        if self.strange { &self.stranger } else { &self.client }
    }

    /// The memory of the container, while it has any.
    fn space(&self) -> Option<Arc<AddressSpace>> {
        let of = |client| self.groups.iter().find_map(|group| group.space_for(client));
        of(&self.client).or_else(|| of(&self.stranger))
    }

    fn on_container(&self, cmd: u32, arg: u64) -> Result<IoctlReply, Errno> {
        checked(cmd, self.container.serve(self.caller(), &Ioctl { cmd, arg, input: &[] }))
    }

    fn on_group(&self, which: usize, cmd: u32, arg: u64) -> Result<IoctlReply, Errno> {
        let Some(file) = &self.files[which] else { return Err(Errno::EBADF) };
        checked(cmd, file.serve(self.caller(), &Ioctl { cmd, arg, input: &[] }))
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 12 {
            0..3 => self.map(input),
            3 | 4 => self.unmap(input),
            5 => {
                let at = u64::from(input.byte()) << 3;
                let blob = input.blob();
                self.caller().put(ARG + at, blob);
            }
            6 => {
                let (nr, arg) = (u32::from(input.byte()), ARG + u64::from(input.byte()) * 8);
                drop(self.on_group(0, 0x3b00 | nr, arg));
            }
            7 => self.any_on_container(input),
            8 => {
                let (which, fd) = (usize::from(input.byte() % 2), input.byte());
                let fd = if fd < 0x80 { CONTAINER } else { i32::from(fd) - 0x88 };
                self.caller().put(ARG, &fd.to_ne_bytes());
                drop(self.on_group(which, SET_CONTAINER, ARG));
            }
            9 => {
                let kind = [V1, V2, V2, u64::from(input.byte())][usize::from(input.byte() % 4)];
                if self.on_container(SET_IOMMU, kind).is_ok() {
                    self.kind = kind;
                }
            }
            10 => drop(self.on_group(usize::from(input.byte() % 2), UNSET_CONTAINER, 0)),
            _ => match input.byte() {
                at @ 0x80.. => self.track_or_write(at, input),
                at if at % 4 == 0 => self.strange = !self.strange,
                at => self.open_or_close(usize::from(at % 2)),
            },
        }
    }

    /// Anything that maps nothing; what does is made by the steps of the model.
    fn any_on_container(&self, input: &mut Input<'_>) {
        let cmd = match input.byte() {
            nr @ 0..0xf0 => 0x3b64 + u32::from(nr % 24),
            _ => input.word(),
        };
        let arg = match input.byte() {
            255 => input.long(),
            offset => ARG + u64::from(offset) * 8,
        };
        if !matches!(cmd, SET_IOMMU | MAP_DMA | UNMAP_DMA | DIRTY_PAGES) {
            drop(self.on_container(cmd, arg));
        }
    }

    fn open_or_close(&mut self, which: usize) {
        match self.files[which].take() {
            Some(file) => OpenFile::release(&*file),
            None => self.files[which] = self.groups[which].clone().open_file().ok(),
        }
    }

    fn map(&mut self, input: &mut Input<'_>) {
        let (argsz, flags) = (argsz(input, 32), flags(input, 3));
        let (iova, size, vaddr) = (input.address(), input.size(), BASE.wrapping_add(input.address()));
        self.caller().put(ARG, &words(argsz, flags, &[vaddr, iova, size]));
        let made = self.on_container(MAP_DMA, ARG).map(drop);
        let permitted = self.space().is_some_and(|_| argsz >= 32) && self.may_map();
        let in_bounds = iova.checked_add(size.wrapping_sub(1)).filter(|_| size != 0);
        let last = match in_bounds {
            Some(last) if permitted && (1..=3).contains(&flags) && (iova | size | vaddr).is_multiple_of(PAGE) => last,
            _ => {
                assert!(made.is_err(), "a map that cannot be: {flags:#x} {vaddr:#x} {iova:#x}+{size:#x}");
                return;
            }
        };
        let untrackable = self.dirty.is_some() && size / PAGE >= 1 << 31;
        let expected = match vaddr.checked_add(size) {
            // The last page of the space ends at its end.
            None if vaddr.checked_add(size - 1).is_none() => Err(Errno::EINVAL),
            _ if !self.model.touching(iova, last).is_empty() => Err(Errno::EEXIST),
            None => Err(Errno::EINVAL),
            Some(end) if end <= BASE || vaddr >= BASE + SIZE as u64 => Err(Errno::EFAULT),
            Some(_) if untrackable => Err(Errno::EINVAL),
            Some(_) => Ok(()),
        };
        assert_eq!(made, expected, "map {vaddr:#x} {iova:#x}+{size:#x}");
        if made.is_ok() {
            self.model.insert(iova, last);
        }
    }

    fn unmap(&mut self, input: &mut Input<'_>) {
        let (argsz, flags) = (argsz(input, 24), flags(input, 0));
        let (iova, size) = (input.address(), input.size());
        if flags & UNMAP_BITMAP != 0 {
            return self.unmap_with_bitmap(input, argsz, flags, iova, size);
        }
        self.caller().put(ARG, &words(argsz, flags, &[iova, size]));
        let made = self.on_container(UNMAP_DMA, ARG).map(drop);
        let permitted = self.space().is_some_and(|_| argsz >= 24) && self.may_map();
        let last = match flags {
            UNMAP_ALL if iova == 0 && size == 0 => Some(u64::MAX),
            0 if (iova | size).is_multiple_of(PAGE) && size != 0 => iova.checked_add(size - 1),
            _ => None,
        };
        let Some(last) = last.filter(|_| permitted) else {
            assert!(made.is_err(), "an unmap that cannot be: {flags:#x} {iova:#x}+{size:#x}");
            return;
        };
        let mut doomed = self.model.touching(iova, last);
        let cut_below = doomed.iter().any(|&first| first < iova);
        let cut_above = doomed.iter().any(|&first| self.model.last(first) > last);
        if self.kind != V1 && (cut_below || cut_above) {
            assert_eq!(made, Err(Errno::EINVAL), "an unmap through a mapping");
            return;
        }
        if cut_below {
            doomed.clear();
        }
        assert_eq!(made, Ok(()), "unmap {iova:#x}+{size:#x}");
        self.unmapped(doomed);
    }

    /// `doomed` is no more, and the caller was told so.
    fn unmapped(&mut self, doomed: Vec<u64>) {
        let bytes = doomed.iter().fold(0u64, |sum, &first| sum.saturating_add(self.model.last(first) - first + 1));
        for &first in &doomed {
            self.take_dirty(first, self.model.last(first));
        }
        self.model.remove(doomed);
        let told = u64::from_ne_bytes(self.caller().get(ARG + 16, 8).try_into().expect("8 bytes"));
        assert_eq!(told, bytes, "unmap of so many bytes");
    }

    /// Who set the IOMMU up may map, and the container does not tell who that was.
    fn may_map(&self) -> bool {
        let probe = words(24, UNMAP_ALL | 0x80, &[0, 0]);
        let at = ARG + 0x800;
        self.caller().put(at, &probe);
        self.on_container(UNMAP_DMA, at) != Err(Errno::EPERM)
    }

    fn compare(&mut self) {
        let Some(space) = self.space() else {
            self.model.clear();
            (self.dirty, self.device) = (None, None);
            return;
        };
        let found = coalesce(space.regions().iter().map(|region| (region.iova, region.last())));
        assert_eq!(found, coalesce(self.model.iter()));
    }

    fn finish(mut self) {
        for file in self.files.iter().flatten() {
            OpenFile::release(&**file);
        }
        assert!(self.space().is_none(), "the mappings went with the last group");
        self.files = [None, None];
        self.device = None;
        for client in [&self.client, &self.stranger] {
            assert_eq!(client.holders(), 0, "memory of a client is held without a group");
        }
    }
}

fn checked(cmd: u32, answer: Result<IoctlReply, Errno>) -> Result<IoctlReply, Errno> {
    match &answer {
        Ok(reply) => assert!(reply.value >= 0 && reply.output.is_empty(), "{cmd:#x} answers {reply:?}"),
        Err(errno) => assert_errno(*errno, format_args!("{cmd:#x}")),
    }
    answer
}

/// Mostly what is right.
fn argsz(input: &mut Input<'_>, right: u32) -> u32 {
    match input.byte() {
        0..0xf0 => right,
        other => u32::from(other - 0xf0) * 4,
    }
}

/// Mostly what is usual.
fn flags(input: &mut Input<'_>, usual: u32) -> u32 {
    match input.byte() {
        0..0xc0 => usual,
        other => u32::from(other - 0xc0),
    }
}

fn words(argsz: u32, flags: u32, words: &[u64]) -> Vec<u8> {
    let mut bytes = [argsz.to_ne_bytes(), flags.to_ne_bytes()].concat();
    words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
    bytes
}
