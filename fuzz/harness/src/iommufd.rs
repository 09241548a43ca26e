//! Calls on an iommufd and on devices that are bound to it, against a plain model of what is mapped in each IOAS.

mod device;

use crate::model::{Intervals, coalesce};
use crate::{Input, assert_errno};
use device::Instance;
use devnode::{Ioctl, OpenFile};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;
use vfio_container::iommufd::{IommuFile, IommuNode};
use vfio_container::testing::{BASE, Descriptor, FakeClient, SIZE};

const DESTROY: u32 = 0x3b80;
const IOAS_ALLOC: u32 = 0x3b81;
const IOAS_COPY: u32 = 0x3b83;
const IOAS_MAP: u32 = 0x3b85;
const IOAS_UNMAP: u32 = 0x3b86;
const OPTION: u32 = 0x3b87;
const IOAS_MAP_FILE: u32 = 0x3b8f;
const FIXED: u32 = 1;
const WRITE: u32 = 2;
const READ: u32 = 4;
const PAGE: u64 = 4096;
/// Where arguments of calls lie.
const ARG: u64 = BASE;
const IOMMU: i32 = 7;

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
    clients: [FakeClient; 2],
    /// Which of them calls.
    now: usize,
    /// Which of them used the context first.
    home: Option<usize>,
    file: Arc<IommuFile>,
    ioases: BTreeMap<u32, Intervals>,
    instances: [Instance; 2],
}

impl Steps {
    fn new(stretch: u64) -> Self {
        let clients = [FakeClient::with_stretches(1, stretch), FakeClient::new(2)];
        let file = Arc::new(IommuNode::new()).open_file(&clients[0]).expect("a context");
        clients.iter().for_each(|client| client.install(IOMMU, Descriptor::Device(file.clone())));
        let instances = [0, 1].map(Instance::new);
        Self { clients, now: 0, home: None, file, ioases: BTreeMap::new(), instances }
    }

    fn client(&self) -> &FakeClient {
        &self.clients[self.now]
    }

    fn call(&self, cmd: u32, arg: u64) -> Result<(), Errno> {
        let answer = self.file.serve(self.client(), &Ioctl { cmd, arg, input: &[] });
        if let Err(errno) = &answer {
            assert_errno(*errno, format_args!("{cmd:#x}"));
        }
        answer.map(drop)
    }

    /// A call that changes something; `None` when it is refused because of who calls.
    fn change(&mut self, cmd: u32, words: &[u32]) -> Option<Result<(), Errno>> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.client().put(ARG, &bytes);
        let made = self.call(cmd, ARG);
        if *self.home.get_or_insert(self.now) == self.now {
            return Some(made);
        }
        assert_eq!(made, Err(Errno::EPERM), "{cmd:#x} of a stranger");
        None
    }

    fn told(&self, offset: u64) -> u64 {
        u64::from_ne_bytes(self.client().get(ARG + offset, 8).try_into().expect("8 bytes"))
    }

    /// Mostly the number of an IOAS.
    fn id(&self, input: &mut Input<'_>) -> u32 {
        let byte = input.byte();
        let at = usize::from(byte) % (self.ioases.len() + 1);
        self.ioases.keys().nth(at).copied().unwrap_or(u32::from(byte))
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 13 {
            0 => self.alloc(),
            1..4 => self.map(input),
            4 | 5 => self.copy(input),
            6 | 7 => self.unmap(input),
            8 => self.destroy(input),
            9 => {
                let at = u64::from(input.byte()) << 3;
                let blob = input.blob();
                self.client().put(ARG + at, blob);
            }
            10 => self.anything(input),
            11 => {
                let (which, deed, id) = (usize::from(input.byte() % 2), input.byte(), self.id(input));
                let is_ioas = self.ioases.contains_key(&id);
                self.instances[which].step(&self.clients[self.now], self.now, deed, id, is_ioas);
            }
            _ => self.now = 1 - self.now,
        }
    }

    /// Anything that maps nothing; what does is made by the steps of the model.
    fn anything(&mut self, input: &mut Input<'_>) {
        let cmd = match input.byte() {
            nr @ 0..0xf0 => 0x3b7e + u32::from(nr % 26),
            _ => input.word(),
        };
        let arg = match input.byte() {
            255 => input.long(),
            offset => ARG + u64::from(offset) * 8,
        };
        if !matches!(cmd, DESTROY | IOAS_ALLOC | IOAS_COPY | IOAS_MAP | IOAS_UNMAP) {
            // Who asks first without changing anything has not used it.
            if self.home.is_some() || !matches!(cmd, 0x3b82 | OPTION | 0x3b88 | IOAS_MAP_FILE) {
                _ = self.call(cmd, arg);
            }
        }
    }

    fn alloc(&mut self) {
        if self.ioases.len() < 4 && self.change(IOAS_ALLOC, &[12, 0, 0]) == Some(Ok(())) {
            let id = u32::try_from(self.told(4) >> 32).expect("32 bits");
            assert!(self.ioases.insert(id, Intervals::default()).is_none(), "object {id} was there");
            let is_device = |instance: &Instance| instance.devid() == Some(id);
            assert!(id != 0 && !self.instances.iter().any(is_device), "object {id} is a device");
        }
    }

    fn destroy(&mut self, input: &mut Input<'_>) {
        let id = self.id(input);
        let Some(made) = self.change(DESTROY, &[8, id]) else { return };
        let attached = self.instances.iter().any(|instance| instance.attached() == Some(id));
        let device = self.instances.iter().any(|instance| instance.devid() == Some(id));
        let expected = match self.ioases.contains_key(&id) {
            true if !attached => Ok(()),
            false if !device => Err(Errno::ENOENT),
            _ => Err(Errno::EBUSY),
        };
        assert_eq!(made, expected, "destroy {id}");
        if made.is_ok() {
            self.ioases.remove(&id);
        }
    }

    fn map(&mut self, input: &mut Input<'_>) {
        let (id, flags) = (self.id(input), flags(input));
        let (iova, length, va) = (input.address(), input.size(), BASE.wrapping_add(input.address()));
        let words = [&[40, flags, id, 0][..], &halves(va), &halves(length), &halves(iova)].concat();
        let Some(made) = self.change(IOAS_MAP, &words) else { return };
        let in_memory = va.checked_add(length).is_some_and(|end| va < BASE + SIZE as u64 && end > BASE);
        let right = in_memory && va.is_multiple_of(PAGE);
        let at = made.map(|()| self.told(32));
        self.placed(id, flags, iova, at, &[length], right);
    }

    fn copy(&mut self, input: &mut Input<'_>) {
        let (from, to, flags) = (self.id(input), self.id(input), flags(input));
        let (source, iova, length) = (input.address(), input.address(), input.size());
        let words = [&[40, flags, to, from][..], &halves(length), &halves(iova), &halves(source)].concat();
        let Some(made) = self.change(IOAS_COPY, &words) else { return };
        let pieces = self.ioases.get(&from).and_then(|ioas| pieces(ioas, source, length));
        let may_be_read_only = flags & WRITE != 0 && made == Err(Errno::EPERM);
        let right = pieces.is_some() && source.is_multiple_of(PAGE) && !may_be_read_only;
        let at = made.map(|()| self.told(24));
        self.placed(to, flags, iova, at, &pieces.unwrap_or_default(), right);
    }

    /// Mappings of these lengths were to be put one after the other, and were put at `made`; `right` when nothing but the
    /// place could be wrong.
    fn placed(&mut self, id: u32, flags: u32, iova: u64, made: Result<u64, Errno>, lengths: &[u64], right: bool) {
        let iova = made.unwrap_or(iova);
        let length = lengths.iter().fold(0u64, |sum, length| sum.saturating_add(*length));
        let permission = flags & (READ | WRITE) != 0 && flags & !(FIXED | READ | WRITE) == 0;
        let last = iova.checked_add(length.wrapping_sub(1)).filter(|_| length != 0);
        let aligned = (iova | length).is_multiple_of(PAGE);
        let Some(ioas) = self.ioases.get_mut(&id) else { return assert!(made.is_err(), "in object {id}") };
        let free = last.is_some_and(|last| ioas.touching(iova, last).is_empty());
        let can_be = right && permission && aligned && free;
        if made.is_ok() {
            assert!(can_be, "{flags:#x} at {iova:#x}+{length:#x}");
            let mut at = iova;
            for length in lengths {
                ioas.insert(at, at + (length - 1));
                at = at.wrapping_add(*length);
            }
        } else {
            assert!(!can_be || flags & FIXED == 0, "refused: {flags:#x} at {iova:#x}+{length:#x}: {made:?}");
        }
    }

    fn unmap(&mut self, input: &mut Input<'_>) {
        let id = self.id(input);
        let (iova, length) = match input.byte() {
            255 => (0, u64::MAX),
            _ => (input.address(), input.size()),
        };
        let words = [&[24, id][..], &halves(iova), &halves(length)].concat();
        let Some(made) = self.change(IOAS_UNMAP, &words) else { return };
        let Some(ioas) = self.ioases.get_mut(&id) else { return assert_eq!(made, Err(Errno::ENOENT)) };
        let all = (iova, length) == (0, u64::MAX);
        let last = if all { Some(u64::MAX) } else { iova.checked_add(length.wrapping_sub(1)).filter(|_| length != 0) };
        let Some(last) = last.filter(|_| all || (iova != u64::MAX && length != u64::MAX)) else {
            return assert!(matches!(made, Err(Errno::EINVAL | Errno::EOVERFLOW)), "{made:?}");
        };
        let doomed = ioas.touching(iova, last);
        let whole = doomed.iter().all(|&first| first >= iova && ioas.last(first) <= last);
        if !whole || (doomed.is_empty() && !all) {
            return assert_eq!(made, Err(Errno::ENOENT), "unmap {iova:#x}+{length:#x}");
        }
        assert_eq!(made, Ok(()), "unmap {iova:#x}+{length:#x}");
        let bytes = doomed.iter().fold(0u64, |sum, &first| sum.saturating_add(ioas.last(first) - first + 1));
        ioas.remove(doomed);
        assert_eq!(self.told(16), bytes, "unmap of so many bytes");
    }

    fn compare(&self) {
        for instance in &self.instances {
            let seen = instance.sees();
            assert_eq!(seen.is_some(), instance.attached().is_some(), "a device has memory while it is attached");
            if let (Some(seen), Some(id)) = (seen, instance.attached()) {
                assert_eq!(coalesce(seen.into_iter()), coalesce(self.ioases[&id].iter()), "IOAS {id}");
            }
        }
    }

    fn finish(mut self) {
        OpenFile::release(&*self.file);
        self.compare();
        self.instances.iter_mut().for_each(Instance::close);
        drop((self.instances, self.file));
        for client in &self.clients {
            client.forget_descriptors();
            assert_eq!(client.holders(), 0, "memory of a client is held without a context");
        }
    }
}

/// The lengths of what is mapped in a range, if that is all mapped.
fn pieces(ioas: &Intervals, first: u64, length: u64) -> Option<Vec<u64>> {
    let last = first.checked_add(length.checked_sub(1)?)?;
    let mut at = Some(first);
    let mut pieces = Vec::new();
    for begin in ioas.touching(first, last) {
        let from = at.filter(|&at| begin <= at)?;
        let to = ioas.last(begin).min(last);
        pieces.push(to - from + 1);
        at = to.checked_add(1);
    }
    (at == last.checked_add(1)).then_some(pieces)
}

/// Mostly what is usual.
fn flags(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        0..0x80 => FIXED | READ | WRITE,
        0x80..0xc0 => READ | WRITE,
        other => u32::from(other & 0x1f),
    }
}

fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}
