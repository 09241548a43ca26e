//! The driver, and what it knows of what must come of its ring.

use crate::device::{Done, Taken, answer};
use crate::memory::Pieces;
use crate::script::{Setting, Shape};
use std::collections::VecDeque;
use virtio_mdev_api::QueueState;
use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};
use virtqueue::testing::{DESC_NEXT, DESC_WRITE, Desc, Driver, DriverMemory, Interrupts, PackedDesc};

/// What the device writes of a ring begins before these pages and ends in them; the driver's area is between.
const FIRST: u64 = 0x2000;
const SECOND: u64 = 0x4000;
/// Buffers begin here.
const BUFFERS: u64 = 0x5000;
/// Room for the buffers and the table of a chain: no divisor of a page.
const ROOM: u64 = 1333;
/// What is in a writable buffer before the device writes.
const BLANK: u8 = 0xcc;

pub type Found<T> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($words:tt)*) => {
        if !$holds {
            return Err(format!($($words)*));
        }
    };
}
pub(crate) use ensure;

struct Posted {
    id: u16,
    room: u64,
    bytes: Vec<u8>,
    writable: Vec<(u64, u32)>,
    slots: u16,
    /// The most that the device ever wrote into it.
    touched: usize,
}

impl Posted {
    fn writable_len(&self) -> u64 {
        self.writable.iter().map(|&(_, len)| u64::from(len)).sum()
    }
}

/// A chain that the device gave back.
struct Used {
    posted: Posted,
    written: Vec<u8>,
}

/// What the driver asked to be interrupted for.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Always,
    Never,
    /// What is used at this position, counted from the start, and where the driver stood when it said so.
    At(u64),
}

pub struct Guest {
    setting: Setting,
    pub buffers: Pieces,
    pub driver: Driver<Pieces>,
    rooms: Vec<u64>,
    /// Made available or about to be, and not given back.
    posted: VecDeque<Posted>,
    published: usize,
    used: VecDeque<Used>,
    /// Chains given back since the beginning.
    pub given: usize,
    /// Positions on the ring since the beginning: in chains on a split ring, in descriptors on a packed one.
    published_to: u64,
    collected_to: u64,
    asked: Asked,
    seed: u64,
}

impl Guest {
    /// What a ring in this setting and its buffers need.
    pub fn memory_len(setting: &Setting) -> usize {
        usize::try_from(BUFFERS + ROOM * (u64::from(setting.size) + 1)).unwrap()
    }

    /// Areas of which the middle is on a page's border, so that what is behind a turn of the ring is on another page.
    fn areas(setting: &Setting) -> [u64; 3] {
        let half = u64::from(setting.size) / 2;
        let device = if setting.is_packed() { SECOND } else { SECOND - 4 - 8 * half };
        [FIRST - 16 * half, FIRST + 0x800, device]
    }

    pub fn new(setting: &Setting, rings: &Pieces, buffers: &Pieces) -> Self {
        let mut driver = Driver::at(Self::areas(setting), rings.clone(), setting.size, setting.features);
        if setting.is_packed() {
            driver.continue_at_slot(setting.gone % setting.size, setting.gone.is_multiple_of(2));
        } else {
            driver.continue_at(setting.gone);
        }
        let mut guest = Self {
            setting: *setting,
            buffers: buffers.clone(),
            driver,
            rooms: (0..u64::from(setting.size)).map(|n| BUFFERS + n * ROOM).collect(),
            posted: VecDeque::new(),
            published: 0,
            used: VecDeque::new(),
            given: 0,
            published_to: 0,
            collected_to: 0,
            asked: Asked::Always,
            seed: 1,
        };
        guest.ask(Interrupts::Next);
        guest
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    /// Posts a chain if there is room for it.
    pub fn post(&mut self, shape: &Shape) {
        let buffers: Vec<(u16, bool)> = shape
            .readable
            .iter()
            .map(|len| (*len, false))
            .chain(shape.writable.iter().map(|len| (*len, true)))
            .take(usize::from(self.setting.size))
            .collect();
        let table = shape.table.filter(|_| self.setting.has(VIRTIO_F_INDIRECT_DESC));
        let slots = if table.is_some() { 1 } else { u16::try_from(buffers.len()).unwrap() };
        if slots > self.driver.room() {
            return;
        }
        let Some(room) = self.rooms.pop() else { return };
        let (mut at, mut bytes, mut writable, mut chain) = (room, Vec::new(), Vec::new(), Vec::new());
        for (len, write) in buffers {
            at += self.random(5);
            if write {
                writable.push((at, u32::from(len)));
                self.buffers.write(at, &vec![BLANK; len.into()]);
            } else {
                let data = answer(usize::try_from(self.random(1 << 20)).unwrap(), len.into());
                self.buffers.write(at, &data);
                bytes.extend(data);
            }
            chain.push((at, u32::from(len), write));
            at += u64::from(len);
        }
        let id = match table {
            None => self.driver.stage(&chain),
            Some(layout) => self.stage_table(at + 3, &chain, layout),
        };
        self.posted.push_back(Posted { id, room, bytes, writable, slots, touched: 0 });
    }

    fn stage_table(&mut self, at: u64, chain: &[(u64, u32, bool)], layout: u8) -> u16 {
        let count = chain.len();
        let mut table = vec![0; 16 * count];
        // On a split ring entries may be linked in any order, from the first on.
        let turn = usize::from(layout) % (count - 1).max(1);
        let place = |n: usize| if n == 0 { 0 } else { 1 + (n - 1 + turn) % (count - 1) };
        for (n, &(addr, len, write)) in chain.iter().enumerate() {
            let flags = if write { DESC_WRITE } else { 0 };
            if self.setting.is_packed() {
                // The id means nothing here.
                table[16 * n..][..16].copy_from_slice(&PackedDesc { addr, len, id: 0xabcd, flags }.bytes());
            } else {
                let (more, next) = if n + 1 < count { (DESC_NEXT, place(n + 1)) } else { (0, 0) };
                let next = u16::try_from(next).unwrap();
                table[16 * place(n)..][..16].copy_from_slice(&Desc { addr, len, flags: flags | more, next }.bytes());
            }
        }
        self.buffers.write(at, &table);
        let writable = chain.iter().map(|&(_, len, write)| if write { len } else { 0 }).sum();
        self.driver.stage_table(at, u32::try_from(table.len()).unwrap(), writable)
    }

    /// Makes available what was posted. Says whether the device wants to know.
    pub fn publish(&mut self) -> bool {
        self.driver.publish();
        self.published = self.posted.len();
        self.driver.wants_kick()
    }

    pub fn ask(&mut self, interrupts: Interrupts) {
        // A packed ring can name what is on it, and no more.
        let interrupts = match interrupts {
            Interrupts::After(count) if self.setting.is_packed() => Interrupts::After(count % self.setting.size),
            interrupts => interrupts,
        };
        self.driver.ask_for(interrupts);
        let event_idx = self.setting.has(VIRTIO_F_EVENT_IDX);
        self.asked = match interrupts {
            Interrupts::Never => Asked::Never,
            Interrupts::After(count) if event_idx => Asked::At(self.collected_to + u64::from(count)),
            // A split ring has no way to say more.
            Interrupts::Next if event_idx && !self.setting.is_packed() => Asked::At(self.collected_to),
            Interrupts::Next | Interrupts::After(_) => Asked::Always,
        };
    }

    fn position(&self, posted: &Posted) -> u64 {
        if self.setting.is_packed() { posted.slots.into() } else { 1 }
    }

    /// Where a device has to stand that was seen to give back what it gave back.
    pub fn expected_state(&self) -> QueueState {
        let (size, to) = (u64::from(self.setting.size), self.published_to);
        if !self.setting.is_packed() {
            return QueueState::Split { avail: self.setting.gone.wrapping_add(u16::try_from(to & 0xffff).unwrap()) };
        }
        let from = u64::from(self.setting.gone % self.setting.size) + to;
        let (at, wrap) =
            (u16::try_from(from % size).unwrap(), self.setting.gone.is_multiple_of(2) ^ (from / size % 2 == 1));
        QueueState::Packed { avail: at, avail_wrap: wrap, used: at, used_wrap: wrap }
    }

    /// Whether the device must have interrupted for what was used from one position to another, and whether it may.
    fn interrupt_due(&self, from: u64, to: u64) -> (bool, bool) {
        match self.asked {
            _ if from == to => (false, false),
            Asked::Always => (true, true),
            Asked::Never if self.setting.has(VIRTIO_F_EVENT_IDX) && !self.setting.is_packed() => {
                // The index it may never pass is passed once a round of all indices.
                (false, to - self.collected_to > u64::from(u16::MAX))
            }
            Asked::Never => (false, false),
            Asked::At(event) => {
                let round = if self.setting.is_packed() { 2 * u64::from(self.setting.size) } else { 1 << 16 };
                // What was asked for long ago is asked for again a round later.
                let again = event + (from.saturating_sub(event)).div_ceil(round) * round;
                ((from..to).contains(&event), (from..to).contains(&again))
            }
        }
    }

    /// Compares what the device did with what it had to do. Says what it may have written: in the memory of the buffers, and
    /// in that of the ring.
    pub fn check(&mut self, done: &Done, interrupted: Option<bool>, fresh: bool) -> Found<[Vec<(u64, u64)>; 2]> {
        let mut written = [Vec::new(), Vec::new()];
        for taken in &done.taken {
            ensure!(taken.at < self.published, "took chain {} of {}", taken.at, self.published);
            let posted = &mut self.posted[taken.at];
            let Taken { id, bytes, readable, writable, .. } = taken;
            ensure!(*id == posted.id, "chain {} is {id}, posted was {}", taken.at, posted.id);
            ensure!(*bytes == posted.bytes, "chain {id}: read {bytes:02x?}, posted was {:02x?}", posted.bytes);
            ensure!(*readable == posted.bytes.len() as u64, "chain {id}: {readable} readable");
            ensure!(*writable == posted.writable_len(), "chain {id}: {writable} writable");
            posted.touched = posted.touched.max(taken.written.len());
            written[0].extend(posted.writable.iter().map(|&(at, len)| (at, u64::from(len))));
        }
        if let Some(at) = done.failed_at {
            ensure!(at < self.published, "took chain {at} of {}", self.published);
            let posted = &mut self.posted[at];
            posted.touched = usize::try_from(posted.writable_len()).unwrap();
            written[0].extend(posted.writable.iter().map(|&(at, len)| (at, u64::from(len))));
        }
        if let Some(at) = done.empty_at {
            ensure!(at == self.published, "found no chain {at} of {}", self.published);
        }
        if let Some((more, at)) = done.enabled {
            ensure!(more == (at < self.published), "says {more} of more than {at} of {}", self.published);
        }
        let from = self.published_to;
        for &number in &done.committed {
            let posted = self.posted.pop_front().ok_or("gave back what it never had")?;
            self.published -= 1;
            self.published_to += self.position(&posted);
            self.used.push_back(Used { posted, written: done.taken[number].written.clone() });
        }
        self.given += done.committed.len();
        self.ring_writes(from, &mut written[1]);
        let (must, may) = self.interrupt_due(from, self.published_to);
        if let Some(interrupted) = interrupted {
            let asked = self.asked;
            let range = from..self.published_to;
            ensure!(interrupted || !must, "no interrupt for {range:?} where {asked:?} was asked for");
            // A device that begins does not know what the driver was told of.
            let may = may || (fresh && !range.is_empty() && self.setting.has(VIRTIO_F_EVENT_IDX));
            ensure!(!interrupted || may, "an interrupt for {range:?} where {asked:?} was asked for");
        }
        Ok(written)
    }

    /// What of the ring a device writes that gives back what is at positions from `from` on.
    fn ring_writes(&self, from: u64, written: &mut Vec<(u64, u64)>) {
        let (size, driver) = (u64::from(self.setting.size), &self.driver);
        let gone = u64::from(self.setting.gone);
        let places = (from..self.published_to).map(|at| (gone % size + at) % size);
        if self.setting.is_packed() {
            written.extend(places.map(|slot| (driver.desc + 16 * slot, 16)));
            written.push((driver.used, 4));
        } else {
            written.extend(places.map(|slot| (driver.used + 4 + 8 * slot, 8)));
            written.extend([(driver.used, 4), (driver.used + 4 + 8 * size, 2)]);
        }
    }

    /// Takes used chains and compares them with what the device gave back.
    pub fn collect(&mut self, most: usize) -> Found<()> {
        for _ in 0..most {
            let found = self.driver.take_used();
            let Some(Used { posted, written }) = self.used.pop_front() else {
                ensure!(found.is_none(), "found {found:?} used, which is not");
                return Ok(());
            };
            let Some((id, len)) = found else {
                return Err(format!("chain {} was given back, and is not used", posted.id));
            };
            ensure!(id == posted.id, "chain {id} is used where {} was given back", posted.id);
            ensure!(len as usize == written.len(), "chain {id}: {len} bytes of {}", written.len());
            let mut content = Vec::new();
            for &(at, len) in &posted.writable {
                content.extend(self.buffers.read(at, len as usize));
            }
            ensure!(content[..written.len()] == written, "chain {id} holds {content:02x?}, written was {written:02x?}");
            let blank = content[posted.touched..].iter().all(|byte| *byte == BLANK);
            ensure!(blank, "chain {id} was written beyond {}: {content:02x?}", posted.touched);
            self.collected_to += self.position(&posted);
            self.rooms.push(posted.room);
        }
        Ok(())
    }

    /// Whether nothing is left with the device that it could see.
    pub fn is_served(&self) -> bool {
        self.published == 0
    }
}
