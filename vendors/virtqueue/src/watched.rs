//! What wakes a task.

use crate::health::Health;
use crate::host::{drain, mark};
use crate::pool::Place;
use crate::service::Service;
use crate::sync::EventFd;
use crate::waker::Waker;
use nix::errno::Errno;
use std::sync::Arc;
use virtio_mdev_api::doorbell::Doorbell;

/// What of a task an event is about: a kick by the place of its queue, then the back ends, then the waker.
pub const BACKENDS: u16 = 1 << 15;
pub const WAKER: u16 = u16::MAX;

/// Whether it is about a kick or the waker, which are emptied.
pub fn is_notifier(what: u16) -> bool {
    matches!(what, WAKER | ..BACKENDS)
}

/// What wakes a task, and who is woken.
pub struct Watched {
    /// Who is woken.
    pub place: Option<Place>,
    /// Of the device, while it is served: a thread that has not noticed yet that it is not keeps nothing of it.
    health: Option<Arc<Health>>,
    waker: Arc<Waker>,
    /// By slot.
    kicks: Vec<Option<EventFd>>,
    doorbells: Vec<Option<Doorbell>>,
}

impl Watched {
    /// Nobody is woken, by nothing but `waker`. There are so many slots.
    pub fn new(slots: usize, waker: Arc<Waker>) -> Self {
        let (kicks, doorbells) = (vec![None; slots], vec![None; slots]);
        Self { place: None, health: None, waker, kicks, doorbells }
    }

    /// From now on who is at `place` is woken.
    pub fn settle(&mut self, place: &Place, health: &Arc<Health>, service: &impl Service) -> Result<(), Errno> {
        self.place = Some(place.clone());
        self.health = Some(Arc::clone(health));
        (0..self.kicks.len()).for_each(|slot| self.watch_kick(slot));
        let (events, mark) = (&place.host.events, |what| mark(place.id, what));
        events.watch(self.waker.fd(), mark(WAKER))?;
        for (number, (fd, interest)) in (BACKENDS..WAKER).zip(service.backends()) {
            events.watch_backend(fd, interest.events(), mark(number))?;
        }
        Ok(())
    }

    /// From now on nobody is woken; says who was.
    pub fn unsettle(&mut self, service: Option<&impl Service>) -> Option<Place> {
        self.health = None;
        let place = self.place.take()?;
        let events = &place.host.events;
        self.kicks.iter().flatten().for_each(|kick| events.forget(kick));
        events.forget(self.waker.fd());
        let backends = service.map_or(Vec::new(), Service::backends);
        backends.into_iter().for_each(|(fd, _)| events.forget_backend(fd));
        Some(place)
    }

    /// The queue in `slot` is told of by these.
    pub fn set_queue(&mut self, slot: usize, kick: Option<EventFd>, doorbell: Option<Doorbell>) {
        self.doorbells[slot] = doorbell;
        self.set_kick(slot, kick);
    }

    /// The queue in `slot` is kicked by this.
    pub fn set_kick(&mut self, slot: usize, kick: Option<EventFd>) {
        let old = std::mem::replace(&mut self.kicks[slot], kick);
        let Some(place) = &self.place else { return };
        if let Some(old) = old {
            place.host.events.forget(&old);
        }
        self.watch_kick(slot);
    }

    fn watch_kick(&self, slot: usize) {
        let (Some(place), Some(kick)) = (&self.place, &self.kicks[slot]) else { return };
        let mark = mark(place.id, u16::try_from(slot).unwrap_or(WAKER));
        if let Err(errno) = place.host.events.watch(kick, mark) {
            tracing::warn!(%errno, slot, "cannot wait for the kicks of a queue");
        }
    }

    /// Empties what `what` is about, a kick or the waker, for who has the task by the number `id`.
    pub fn drain(&self, id: u64, what: u16) {
        match what {
            _ if !self.wakes(id) => {}
            WAKER => drain(self.waker.fd()),
            slot => self.kicks.get(usize::from(slot)).into_iter().flatten().for_each(drain),
        }
    }

    /// Empties all of them.
    pub fn drain_all(&self, id: u64) {
        if self.wakes(id) {
            drain(self.waker.fd());
            self.kicks.iter().flatten().for_each(drain);
        }
    }

    fn wakes(&self, id: u64) -> bool {
        self.place.as_ref().is_some_and(|place| place.id == id)
    }

    /// Whether a queue may be rung by a store, which is no event.
    pub fn is_rung_by_stores(&self) -> bool {
        self.doorbells.iter().any(Option::is_some) && !self.is_stopped()
    }

    /// Whether one was, since this was last asked.
    pub fn take_rings(&self) -> bool {
        // Of each, not only of the first that was rung.
        let rung = |doorbell: &&Doorbell| doorbell.take();
        self.doorbells.iter().flatten().filter(rung).count() > 0 && !self.is_stopped()
    }

    fn is_stopped(&self) -> bool {
        self.health.as_ref().is_none_or(|health| health.is_stopped())
    }
}
