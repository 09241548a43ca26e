//! Whom a device interrupts, and what is masked.
//!
//! The client changes it at any time; the device interrupts from any thread, and never waits for a change. An interrupt is
//! an edge, or a line that is held: of a line the client is told when it goes up, and again at an unmask while it is up. That is
//! how PCI's INTx is served without missing or repeating one: the mask comes with the signal (`VFIO_IRQ_INFO_AUTOMASKED`),
//! and goes when the client has handled it.

use super::flags::{VFIO_IRQ_INFO_AUTOMASKED, VFIO_IRQ_INFO_MASKABLE};
use super::{IrqAction, IrqChange, IrqData, IrqShape};
use crate::Refusal;
use crate::notify::{CallSlot, EventFd};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Somebody is to be interrupted.
const ENABLED: u32 = 1;
/// The client masked it, or a signal did.
const MASKED: u32 = 2;
/// The device is stopped.
const HELD: u32 = 4;
/// The line is up.
const LEVEL: u32 = 8;
/// It was to be signalled while it could not be.
const PENDING: u32 = 16;
/// A signal masks it. Never changes.
const AUTOMASKED: u32 = 32;

/// The interrupts of one device.
#[derive(Debug)]
pub struct Interrupts {
    indices: Vec<Index>,
    /// Held by whoever changes something.
    changes: Mutex<()>,
}

#[derive(Debug)]
struct Index {
    maskable: bool,
    vectors: Box<[Vector]>,
}

#[derive(Debug, Default)]
struct Vector {
    state: AtomicU32,
    call: CallSlot,
}

impl Interrupts {
    /// The interrupts of a device with `irqs`. Nobody is interrupted.
    pub fn new(irqs: &[IrqShape]) -> Self {
        let index = |irq: &IrqShape| {
            let first = if irq.flags & VFIO_IRQ_INFO_AUTOMASKED == 0 { 0 } else { AUTOMASKED };
            let vector = |_| Vector { state: AtomicU32::new(first), call: CallSlot::default() };
            Index { maskable: irq.flags & VFIO_IRQ_INFO_MASKABLE != 0, vectors: (0..irq.count).map(vector).collect() }
        };
        Self { indices: irqs.iter().map(index).collect(), changes: Mutex::new(()) }
    }

    /// Interrupts once. Who is masked hears of it later; where nobody is to be interrupted, nobody will be.
    pub fn raise(&self, index: u32, vector: u32) {
        if let Some(vector) = self.vector(index, vector) {
            vector.update(|state| (state, state & ENABLED != 0));
        }
    }

    /// Holds the line up, or lets it down.
    pub fn set_level(&self, index: u32, vector: u32, up: bool) {
        let Some(vector) = self.vector(index, vector) else { return };
        vector.update(|state| match up {
            true => (state | LEVEL, state & LEVEL == 0),
            false => (state & !(LEVEL | PENDING), false),
        });
    }

    /// Whether somebody is to be interrupted by `index`.
    pub fn is_enabled(&self, index: u32) -> bool {
        let vectors = usize::try_from(index).ok().and_then(|index| self.indices.get(index));
        vectors.is_some_and(|index| index.vectors.iter().any(Vector::is_enabled))
    }

    /// Does what a client asked for. EINVAL for what is not there or not set up, ENOTTY for what cannot be done.
    pub fn change(&self, change: &IrqChange) -> Result<(), Refusal> {
        let _changes = self.changes.lock();
        let index = usize::try_from(change.index).ok().and_then(|index| self.indices.get(index));
        let index = index.filter(|index| !index.vectors.is_empty());
        let index = index.ok_or_else(|| refused(Errno::EINVAL, format!("there is no interrupt {}", change.index)))?;
        match (change.action, &change.data) {
            (IrqAction::Trigger, IrqData::None(0)) => {
                index.vectors.iter().for_each(|vector| vector.set_call(None));
                Ok(())
            }
            (IrqAction::Trigger, IrqData::EventFd(calls)) => {
                let vectors = index.range(change.start, calls.len())?;
                vectors.iter().zip(calls).for_each(|(vector, call)| vector.set_call(call.clone()));
                Ok(())
            }
            (IrqAction::Trigger, data) => {
                index.check_enabled()?;
                index.chosen(change.start, data, Vector::signal)
            }
            _ if !index.maskable => Err(refused(Errno::ENOTTY, "the interrupt cannot be masked")),
            (_, IrqData::EventFd(_)) => Err(refused(Errno::ENOTTY, "interrupts are not masked by eventfd")),
            (IrqAction::Mask, data) => {
                index.check_enabled()?;
                index.chosen(change.start, data, |vector| vector.update(|state| (state | MASKED, false)))
            }
            (IrqAction::Unmask, data) => {
                index.check_enabled()?;
                let unmask = |state: u32| (state & !MASKED, state & MASKED != 0 && state & (LEVEL | PENDING) != 0);
                index.chosen(change.start, data, |vector| vector.update(unmask))
            }
        }
    }

    /// Nobody is interrupted any more.
    pub(super) fn clear(&self) {
        let _changes = self.changes.lock();
        self.vectors().for_each(|vector| {
            vector.set_call(None);
            vector.state.fetch_and(AUTOMASKED, Ordering::AcqRel);
        });
    }

    /// From now on nobody is interrupted; what is to be signalled meanwhile is kept.
    pub(super) fn hold(&self) {
        self.vectors().for_each(|vector| vector.update(|state| (state | HELD, false)));
    }

    /// Undoes [`hold`](Self::hold), and tells what was kept.
    pub(super) fn let_go(&self) {
        self.vectors().for_each(|vector| vector.update(|state| (state & !HELD, state & PENDING != 0)));
    }

    fn vectors(&self) -> impl Iterator<Item = &Vector> {
        self.indices.iter().flat_map(|index| index.vectors.iter())
    }

    fn vector(&self, index: u32, vector: u32) -> Option<&Vector> {
        self.indices.get(usize::try_from(index).ok()?)?.vectors.get(usize::try_from(vector).ok()?)
    }
}

impl Index {
    fn range(&self, start: u32, count: usize) -> Result<&[Vector], Refusal> {
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let vectors = start.checked_add(count).and_then(|end| self.vectors.get(start..end));
        vectors.ok_or_else(|| refused(Errno::EINVAL, format!("there are {} interrupts", self.vectors.len())))
    }

    /// As the kernel has it: what nobody set up can be neither masked nor tried.
    fn check_enabled(&self) -> Result<(), Refusal> {
        let enabled = self.vectors.iter().any(Vector::is_enabled);
        if enabled { Ok(()) } else { Err(refused(Errno::EINVAL, "the interrupt is not set up")) }
    }

    fn chosen(&self, start: u32, data: &IrqData, work: impl Fn(&Vector)) -> Result<(), Refusal> {
        match data {
            IrqData::None(count) => {
                let vectors = self.range(start, usize::try_from(*count).unwrap_or(usize::MAX))?;
                vectors.iter().for_each(work);
            }
            IrqData::Bool(which) => {
                let vectors = self.range(start, which.len())?.iter().zip(which);
                vectors.filter(|(_, chosen)| **chosen).for_each(|(vector, _)| work(vector));
            }
            IrqData::EventFd(_) => {}
        }
        Ok(())
    }
}

impl Vector {
    fn is_enabled(&self) -> bool {
        self.state.load(Ordering::Acquire) & ENABLED != 0
    }

    /// Takes `call`, unmasked; a line that is up is told at once.
    fn set_call(&self, call: Option<EventFd>) {
        let enabled = call.is_some();
        self.state.fetch_and(!(ENABLED | MASKED | PENDING), Ordering::AcqRel);
        self.call.set(call);
        if enabled {
            self.update(|state| (state | ENABLED, state & LEVEL != 0));
        }
    }

    /// Takes a new state; where `change` says that the client is to be told, it is told now, or once it can be.
    fn update(&self, change: impl Fn(u32) -> (u32, bool)) {
        let mut before = self.state.load(Ordering::Acquire);
        loop {
            let (new, tell) = change(before);
            let tell = tell && new & ENABLED != 0;
            let fire = tell && new & (MASKED | HELD) == 0;
            let after = match (fire, tell) {
                (true, _) if new & AUTOMASKED != 0 => (new & !PENDING) | MASKED,
                (true, _) => new & !PENDING,
                (false, true) => new | PENDING,
                (false, false) => new,
            };
            match self.state.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if fire => return self.signal(),
                Ok(_) => return,
                Err(other) => before = other,
            }
        }
    }

    fn signal(&self) {
        if let Err(errno) = self.call.signal() {
            tracing::debug!(%errno, "an interrupt was lost");
        }
    }
}

fn refused(errno: Errno, reason: impl Into<String>) -> Refusal {
    Refusal::new(errno, reason)
}

#[cfg(test)]
mod tests {
    use super::super::flags::VFIO_IRQ_INFO_EVENTFD;
    use super::*;

    const INTX: u32 = 0;
    const MSI: u32 = 1;

    fn interrupts() -> Interrupts {
        let intx = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
        Interrupts::new(&[
            IrqShape { count: 1, flags: intx },
            IrqShape { count: 4, flags: VFIO_IRQ_INFO_EVENTFD },
            IrqShape::default(),
        ])
    }

    fn ask(interrupts: &Interrupts, index: u32, action: IrqAction, data: IrqData) -> Result<(), Errno> {
        interrupts.change(&IrqChange { index, start: 0, action, data }).map_err(|refusal| refusal.errno())
    }

    fn with_call(index: u32) -> (Interrupts, EventFd) {
        let (interrupts, call) = (interrupts(), EventFd::new().unwrap());
        ask(&interrupts, index, IrqAction::Trigger, IrqData::EventFd(vec![Some(call.clone())])).unwrap();
        (interrupts, call)
    }

    #[test]
    fn a_line_that_is_up_is_told_once_and_again_at_every_unmask() {
        let (interrupts, call) = with_call(INTX);
        interrupts.set_level(INTX, 0, true);
        interrupts.set_level(INTX, 0, true);
        assert_eq!(call.drain(), Ok(Some(1)));
        ask(&interrupts, INTX, IrqAction::Unmask, IrqData::None(1)).unwrap();
        assert_eq!(call.drain(), Ok(Some(1)));
        interrupts.set_level(INTX, 0, false);
        ask(&interrupts, INTX, IrqAction::Unmask, IrqData::None(1)).unwrap();
        assert_eq!(call.drain(), Ok(None));
        interrupts.set_level(INTX, 0, true);
        assert_eq!(call.drain(), Ok(Some(1)));
    }

    #[test]
    fn a_line_that_went_up_before_anybody_listened_is_told_to_who_comes() {
        let (interrupts, call) = (interrupts(), EventFd::new().unwrap());
        interrupts.set_level(INTX, 0, true);
        ask(&interrupts, INTX, IrqAction::Trigger, IrqData::EventFd(vec![Some(call.clone())])).unwrap();
        assert_eq!(call.drain(), Ok(Some(1)));
    }

    #[test]
    fn a_mask_holds_back_and_an_unmask_of_what_is_not_masked_tells_nothing() {
        let (interrupts, call) = with_call(INTX);
        ask(&interrupts, INTX, IrqAction::Mask, IrqData::Bool(vec![true])).unwrap();
        interrupts.raise(INTX, 0);
        assert_eq!(call.drain(), Ok(None));
        ask(&interrupts, INTX, IrqAction::Unmask, IrqData::Bool(vec![false])).unwrap();
        assert_eq!(call.drain(), Ok(None));
        ask(&interrupts, INTX, IrqAction::Unmask, IrqData::Bool(vec![true])).unwrap();
        assert_eq!(call.drain(), Ok(Some(1)));
    }

    #[test]
    fn edges_are_counted_and_lost_where_nobody_listens() {
        let (interrupts, call) = with_call(MSI);
        interrupts.raise(MSI, 0);
        interrupts.raise(MSI, 0);
        interrupts.raise(MSI, 3);
        interrupts.raise(MSI, 9);
        interrupts.raise(9, 0);
        assert_eq!(call.drain(), Ok(Some(2)));
        ask(&interrupts, MSI, IrqAction::Trigger, IrqData::None(0)).unwrap();
        assert!(!interrupts.is_enabled(MSI));
        interrupts.raise(MSI, 0);
        assert_eq!(call.drain(), Ok(None));
    }

    #[test]
    fn a_client_can_try_what_it_set_up() {
        let (interrupts, call) = with_call(MSI);
        ask(&interrupts, MSI, IrqAction::Trigger, IrqData::None(1)).unwrap();
        ask(&interrupts, MSI, IrqAction::Trigger, IrqData::Bool(vec![true, true])).unwrap();
        assert_eq!(call.drain(), Ok(Some(2)));
        assert_eq!(ask(&interrupts, INTX, IrqAction::Trigger, IrqData::None(1)), Err(Errno::EINVAL));
    }

    #[test]
    fn what_is_not_there_or_cannot_be_done_is_refused() {
        let (interrupts, _call) = with_call(MSI);
        assert_eq!(ask(&interrupts, 2, IrqAction::Trigger, IrqData::None(0)), Err(Errno::EINVAL));
        assert_eq!(ask(&interrupts, 9, IrqAction::Trigger, IrqData::None(0)), Err(Errno::EINVAL));
        assert_eq!(ask(&interrupts, MSI, IrqAction::Trigger, IrqData::None(5)), Err(Errno::EINVAL));
        assert_eq!(ask(&interrupts, MSI, IrqAction::Mask, IrqData::None(1)), Err(Errno::ENOTTY));
        assert_eq!(ask(&interrupts, INTX, IrqAction::Unmask, IrqData::None(1)), Err(Errno::EINVAL));
        assert_eq!(ask(&interrupts, INTX, IrqAction::Unmask, IrqData::EventFd(vec![None])), Err(Errno::ENOTTY));
        let beyond = IrqChange { index: MSI, start: u32::MAX, action: IrqAction::Trigger, data: IrqData::None(1) };
        assert_eq!(interrupts.change(&beyond).unwrap_err().errno(), Errno::EINVAL);
    }

    #[test]
    fn what_comes_while_the_device_is_held_is_told_when_it_is_let_go() {
        let (interrupts, call) = with_call(INTX);
        interrupts.hold();
        interrupts.set_level(INTX, 0, true);
        assert_eq!(call.drain(), Ok(None));
        interrupts.let_go();
        assert_eq!(call.drain(), Ok(Some(1)));
        interrupts.clear();
        assert!(!interrupts.is_enabled(INTX));
    }

    #[test]
    fn a_call_replaced_while_threads_interrupt_loses_none_of_the_line() {
        let (interrupts, call) = with_call(INTX);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..2000).for_each(|turn| interrupts.set_level(INTX, 0, turn % 2 == 0)));
            for _ in 0..200 {
                ask(&interrupts, INTX, IrqAction::Trigger, IrqData::EventFd(vec![Some(call.clone())])).unwrap();
                ask(&interrupts, INTX, IrqAction::Unmask, IrqData::None(1)).unwrap();
            }
        });
        call.drain().unwrap();
        ask(&interrupts, INTX, IrqAction::Unmask, IrqData::None(1)).unwrap();
        assert_eq!(call.drain(), Ok(None), "the line is down");
        interrupts.set_level(INTX, 0, true);
        assert_eq!(call.drain(), Ok(Some(1)));
    }

    #[test]
    fn no_interrupt_of_a_line_is_lost_however_its_handling_and_the_device_meet() {
        let (interrupts, call) = with_call(INTX);
        let raised = AtomicU32::new(0);
        std::thread::scope(|scope| {
            // The device: raises the line anew as soon as it sees it handled, whether it is unmasked yet or not.
            scope.spawn(|| {
                for turn in 1..=20_000 {
                    raised.store(turn, Ordering::SeqCst);
                    interrupts.set_level(INTX, 0, true);
                    while raised.load(Ordering::SeqCst) != 0 {
                        std::thread::yield_now();
                    }
                }
                raised.store(u32::MAX, Ordering::SeqCst);
                interrupts.set_level(INTX, 0, true);
            });
            // The client: waits for a signal, has the device lower its line, and unmasks.
            loop {
                let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&call), nix::poll::PollFlags::POLLIN)];
                assert_eq!(nix::poll::poll(&mut fds, 10_000_u16), Ok(1), "the signal of turn {raised:?} is lost");
                call.drain().unwrap();
                interrupts.set_level(INTX, 0, false);
                if raised.swap(0, Ordering::SeqCst) == u32::MAX {
                    break;
                }
                ask(&interrupts, INTX, IrqAction::Unmask, IrqData::None(1)).unwrap();
            }
        });
    }
}
