//! One driver and one device, step by step.

use crate::device::{Device, Wrong, call, slot};
use crate::guest::{Found, Guest, ensure};
use crate::memory::{PAGE, Pieces};
use crate::script::{Setting, Step, Take, Then, Work};
use std::collections::BTreeSet;
use std::sync::Arc;
use virtio_mdev_api::dirty::{DirtyPages, DirtyRecord, DirtyWord, SinkGuard};
use virtio_mdev_api::dma::{AddressSpace, Limits, MissHandler, Permissions};
use virtio_mdev_api::{DeviceLink, QueueStart, QueueState};
use virtqueue::{Health, Queue, Waker};

struct Asked;

impl MissHandler for Asked {
    fn miss(&self, _iova: u64, _access: Permissions) -> bool {
        true
    }
}

/// Memory in an address space.
struct Mapped {
    pieces: Pieces,
    space: Arc<AddressSpace>,
}

impl Mapped {
    fn new(setting: &Setting) -> Self {
        let pieces = Pieces::new(Guest::memory_len(setting), setting.piece, setting.kind);
        let space = AddressSpace::with_miss_handler(Limits::default(), Arc::new(Asked));
        pieces.map_all(&space);
        Self { pieces, space }
    }
}

pub struct Run {
    setting: Setting,
    guest: Guest,
    device: Device,
    /// Of buffers, and of the ring where it is elsewhere.
    memory: Vec<Mapped>,
    health: Arc<Health>,
    waker: Arc<Waker>,
    dirty: Arc<DirtyRecord>,
    pages: Option<(Arc<DirtyPages>, SinkGuard)>,
    /// The device looks without being kicked: it was not asked to rest, or found more when it was.
    awake: bool,
    /// It said that kicks are a waste.
    undisturbed: bool,
    /// It has told nobody of anything yet.
    fresh: bool,
}

impl Run {
    pub fn new(setting: Setting, wrong: Option<Wrong>) -> Self {
        let memory: Vec<_> = (0..1 + usize::from(setting.elsewhere)).map(|_| Mapped::new(&setting)).collect();
        let guest = Guest::new(&setting, &memory[memory.len() - 1].pieces, &memory[0].pieces);
        let health = Health::new(DeviceLink::new("model"));
        let waker = Arc::new(Waker::new().unwrap());
        let dirty = DirtyRecord::new();
        // Whoever begins to listen makes a system call.
        let pages = (!cfg!(miri)).then(|| {
            let pages = Arc::new(DirtyPages::new(PAGE as u64).unwrap());
            let record = if wrong == Some(Wrong::WritesUnseen) { DirtyRecord::new() } else { Arc::clone(&dirty) };
            (Arc::clone(&pages), record.add_sink(pages))
        });
        let call = call();
        let state = guest.expected_state();
        let mut run = Start { setting, memory: &memory, health: &health, waker: &waker, dirty: &dirty };
        let queue = run.queue(&guest, slot(call.as_ref()), state);
        let device = Device { queue, call, wrong, occasion: 0 };
        Self {
            setting,
            guest,
            device,
            memory,
            health,
            waker,
            dirty,
            pages,
            awake: true,
            undisturbed: false,
            fresh: true,
        }
    }

    /// What is found wrong, if something is.
    pub fn steps(&mut self, steps: &[Step]) -> Found<()> {
        for (n, step) in steps.iter().enumerate() {
            self.step(step).map_err(|words| format!("step {n}, {step:?}: {words}"))?;
        }
        self.end().map_err(|words| format!("at the end: {words}"))
    }

    fn step(&mut self, step: &Step) -> Found<()> {
        match step {
            Step::Post { shapes, publish } => {
                shapes.iter().for_each(|shape| self.guest.post(shape));
                if *publish {
                    self.publish()?
                }
            }
            // A device that rests does nothing.
            Step::Serve(work) => {
                if self.awake {
                    self.serve(work)?;
                }
            }
            Step::Collect(most) => self.guest.collect(usize::from(*most))?,
            Step::Ask(interrupts) => self.guest.ask(*interrupts),
            Step::Restart => self.restart()?,
            Step::Move(piece) => {
                for memory in &self.memory {
                    memory.pieces.move_away(&memory.space, usize::from(*piece) % memory.pieces.count());
                }
            }
            // Memory that comes back wakes a thread, by a system call.
            Step::Miss(..) if cfg!(miri) => {}
            Step::Miss(piece, work) => {
                let which = usize::from(*piece) % self.memory.len();
                let memory = &self.memory[which];
                let piece = usize::from(*piece) % memory.pieces.count();
                memory.pieces.unmap(&memory.space, piece);
                if self.awake {
                    self.serve(work)?;
                }
                let memory = &self.memory[which];
                memory.pieces.map(&memory.space, piece);
            }
        }
        Ok(())
    }

    fn publish(&mut self) -> Found<()> {
        let kick = self.guest.publish();
        ensure!(!kick || !self.undisturbed, "asks for a kick after it said that they are a waste");
        self.awake |= kick;
        Ok(())
    }

    fn snapshot(&self) -> Vec<Vec<u8>> {
        self.memory.iter().map(|memory| memory.pieces.read(0, memory.pieces.len())).collect()
    }

    fn serve(&mut self, work: &Work) -> Found<()> {
        let before = self.snapshot();
        let done = self.device.serve(work, self.guest.given);
        let after = self.snapshot();
        let interrupted = self.device.call.as_ref().map(|call| call.drain().unwrap().is_some());
        let link = self.health.link();
        ensure!(!link.needs_reset(), "the device stopped: {:?}", link.last_fault());
        let committed = !done.committed.is_empty();
        let [buffers, ring] = self.guest.check(&done, interrupted, self.fresh)?;
        self.fresh &= !committed;
        self.awake = done.halted || !matches!(done.enabled, Some((false, _)));
        if !done.halted && (done.disabled || done.enabled.is_some()) {
            // With event indices a split ring has no way to say so.
            let can_say = self.setting.is_packed() || !self.setting.has(virtio_mdev_api::features::VIRTIO_F_EVENT_IDX);
            self.undisturbed = done.disabled && can_say;
        }
        if self.memory.len() == 1 {
            let reported = self.reported();
            let allowed: Vec<_> = buffers.into_iter().chain(ring).collect();
            changes(&before[0], &after[0], &allowed, reported.as_ref())
        } else {
            let reported = self.reported();
            changes(&before[0], &after[0], &buffers, reported.as_ref())?;
            changes(&before[1], &after[1], &ring, None)
        }
    }

    /// The pages that were reported as written.
    fn reported(&self) -> Option<BTreeSet<u64>> {
        let (pages, _) = self.pages.as_ref()?;
        Some(pages.take(0, u64::MAX).into_iter().flat_map(DirtyWord::pages).collect())
    }

    fn restart(&mut self) -> Found<()> {
        let (state, expected) = (self.device.state(), self.guest.expected_state());
        ensure!(state == expected, "stands at {state:?} where {expected:?} was expected");
        self.begin(state);
        Ok(())
    }

    fn begin(&mut self, state: QueueState) {
        let start = Start {
            setting: self.setting,
            memory: &self.memory,
            health: &self.health,
            waker: &self.waker,
            dirty: &self.dirty,
        };
        self.device.queue = { start }.queue(&self.guest, slot(self.device.call.as_ref()), state);
        (self.awake, self.undisturbed, self.fresh) = (true, false, true);
    }

    /// Whatever was made available is served without another kick than those the device asked for.
    fn end(&mut self) -> Found<()> {
        self.publish()?;
        let all = Work {
            disable: false,
            takes: vec![Take { fill: 200, then: Then::Commit }; usize::from(self.setting.size) + 1],
            enable: true,
        };
        for _ in 0..4 {
            if self.awake {
                self.serve(&all)?;
            }
        }
        ensure!(!self.awake, "looks for ever");
        ensure!(self.guest.is_served(), "rests while there is something to do");
        self.guest.collect(usize::from(self.setting.size) + 1)?;
        let (state, expected) = (self.device.queue.state(), self.guest.expected_state());
        ensure!(state == expected, "stands at {state:?} where {expected:?} was expected");
        Ok(())
    }
}

/// What a queue is started with.
struct Start<'a> {
    setting: Setting,
    memory: &'a [Mapped],
    health: &'a Arc<Health>,
    waker: &'a Arc<Waker>,
    dirty: &'a Arc<DirtyRecord>,
}

impl Start<'_> {
    fn queue(&mut self, guest: &Guest, call: Arc<virtio_mdev_api::notify::CallSlot>, state: QueueState) -> Queue {
        let start = QueueStart {
            config: guest.driver.config(),
            state,
            features: self.setting.features,
            asid: 0,
            space: Arc::clone(&self.memory[0].space),
            ring_asid: u32::from(self.setting.elsewhere),
            ring_space: Arc::clone(&self.memory[self.memory.len() - 1].space),
            kick: None,
            doorbell: None,
            call,
            err: Arc::default(),
            dirty: Arc::clone(self.dirty),
        };
        Queue::start(0, start, 1 << 15, Arc::clone(self.health), Arc::clone(self.waker)).unwrap()
    }
}

/// Whether only what is `allowed` changed, and what changed was `reported`, and nothing else was.
fn changes(before: &[u8], after: &[u8], allowed: &[(u64, u64)], reported: Option<&BTreeSet<u64>>) -> Found<()> {
    let mut expected = before.to_vec();
    let mut pages = BTreeSet::new();
    for &(at, len) in allowed {
        let range = usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
        pages.extend(range.start / PAGE..=(range.end - 1) / PAGE);
        expected[range.clone()].copy_from_slice(&after[range]);
    }
    if expected != after {
        let at = expected.iter().zip(after).position(|(was, is)| was != is).unwrap();
        return Err(format!("{at:#x} was {:#x} and is {:#x}", before[at], after[at]));
    }
    let Some(reported) = reported else { return Ok(()) };
    for (page, (was, is)) in (0..).zip(before.chunks(PAGE).zip(after.chunks(PAGE))) {
        ensure!(was == is || reported.contains(&page), "page {page} was written, and not reported");
    }
    let beyond = reported.iter().find(|page| usize::try_from(**page).is_ok_and(|page| !pages.contains(&page)));
    ensure!(beyond.is_none(), "page {beyond:?} was reported, and may not have been written");
    Ok(())
}
