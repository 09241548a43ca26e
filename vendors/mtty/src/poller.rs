//! The device as the contract has it, and the thread that waits at its terminals.

use crate::card::{CONFIG, Card, Wanted};
use crate::config::{BAR_SIZE, CONFIG_SIZE};
use crate::ports::Taken;
use crate::state;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::vfio::flags::*;
use virtio_mdev_api::vfio::{DeviceShape, IrqShape, Movable, Opened, RegionShape, VfioMdev};
use virtio_mdev_api::{AttributeSpec, Refusal};

/// `VFIO_PCI_NUM_REGIONS`.
const REGIONS: usize = 9;
/// `VFIO_PCI_NUM_IRQS`.
const IRQS: usize = 5;

/// A card with a client's calls on one side and terminals on the other.
pub struct Device {
    shared: Arc<Shared>,
    poller: Option<JoinHandle<()>>,
    ports: usize,
    _seats: Taken,
}

struct Shared {
    card: Mutex<Card>,
    /// Ends the poller's waiting.
    waker: EventFd,
    ended: AtomicBool,
}

impl Device {
    /// The device of `card`, in whose place `seats` are taken. A card with terminals has a thread.
    pub fn new(name: &str, card: Card, seats: Taken) -> Result<Self, Refusal> {
        let waker = EventFd::new().map_err(|errno| Refusal::new(errno, "no eventfd"))?;
        let ports = card.ports().len();
        let terminals = terminals(&card).map_err(|errno| Refusal::new(errno, "no descriptor for a terminal"))?;
        let shared = Arc::new(Shared { card: Mutex::new(card), waker, ended: AtomicBool::new(false) });
        let poller = (!terminals.is_empty()).then(|| {
            let shared = Arc::clone(&shared);
            let name = format!("mtty {}", name.get(..8).unwrap_or(name));
            std::thread::Builder::new().name(name).spawn(move || shared.wait_at(&terminals))
        });
        let poller = poller.transpose().map_err(|_| Refusal::new(Errno::EAGAIN, "no thread for the terminals"))?;
        Ok(Self { shared, poller, ports, _seats: seats })
    }

    fn with<R>(&self, work: impl FnOnce(&mut Card) -> R) -> R {
        let mut card = self.shared.card.lock();
        let result = work(&mut card);
        if self.poller.is_some() && card.is_watched_wrongly() {
            self.shared.wake();
        }
        result
    }
}

/// The terminals of a card, for a thread to wait at without its lock.
fn terminals(card: &Card) -> Result<Vec<OwnedFd>, Errno> {
    let terminals = card.ports().iter().filter_map(|port| port.pty());
    terminals.map(|pty| nix::unistd::dup(pty.fd())).collect()
}

impl Shared {
    fn wake(&self) {
        if let Err(errno) = self.waker.signal() {
            tracing::error!(%errno, "cannot wake a serial card's thread");
        }
    }

    /// The poller: it waits for what the ports want, and moves it.
    fn wait_at(&self, terminals: &[OwnedFd]) {
        while !self.ended.load(Ordering::Acquire) {
            let wanted = self.card.lock().watch();
            let mut fds = vec![PollFd::new(self.waker.as_fd(), PollFlags::POLLIN)];
            // One that nothing is wanted of is left out: its hang-up would be told without end.
            let waited = terminals.iter().zip(&wanted).filter(|(_, wanted)| **wanted != Wanted::default());
            fds.extend(waited.map(|(terminal, wanted)| PollFd::new(terminal.as_fd(), events(*wanted))));
            if let Err(errno) = poll(&mut fds, PollTimeout::NONE)
                && errno != Errno::EINTR
            {
                tracing::error!(%errno, "a serial card's terminals cannot be waited at");
                return;
            }
            let _ = self.waker.drain();
            self.card.lock().serve_lines();
        }
    }
}

fn events(wanted: Wanted) -> PollFlags {
    let input = if wanted.input { PollFlags::POLLIN } else { PollFlags::empty() };
    input | if wanted.output { PollFlags::POLLOUT } else { PollFlags::empty() }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(Err(_)) = self.poller.take().map(JoinHandle::join) {
            tracing::error!("a serial card's thread panicked");
        }
    }
}

impl VfioMdev for Device {
    fn shape(&self) -> DeviceShape {
        let mut regions = vec![RegionShape::default(); REGIONS];
        let bars = regions.iter_mut().take(self.ports);
        bars.for_each(|bar| *bar = RegionShape { size: BAR_SIZE, readable: true, writable: true });
        let config = RegionShape { size: CONFIG_SIZE as u64, readable: true, writable: true };
        if let Some(region) = usize::try_from(CONFIG).ok().and_then(|at| regions.get_mut(at)) {
            *region = config;
        }
        let mut irqs = vec![IrqShape::default(); IRQS];
        let intx = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
        irqs[0] = IrqShape { count: 1, flags: intx };
        irqs[1] = IrqShape { count: 1, flags: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE };
        DeviceShape { flags: VFIO_DEVICE_FLAGS_PCI, resettable: true, regions, irqs }
    }

    fn movable(&self) -> Option<Movable> {
        let size = u64::try_from(self.shared.card.lock().save().len()).ok()?;
        Some(Movable { identity: state::identity(self.ports), size })
    }

    fn open(&mut self, opened: Opened) -> Result<(), Refusal> {
        self.with(|card| card.open(opened.interrupts));
        Ok(())
    }

    fn release(&mut self) {
        self.with(Card::release);
    }

    fn read(&mut self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal> {
        self.with(|card| card.read(region, offset, out))
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.with(|card| card.write(region, offset, data))
    }

    fn irqs_changed(&mut self, index: u32) {
        self.with(|card| card.irqs_changed(index));
    }

    fn reset(&mut self) -> Result<(), Refusal> {
        self.with(Card::reset);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Refusal> {
        self.with(|card| card.set_stopped(true));
        Ok(())
    }

    fn run(&mut self) -> Result<(), Refusal> {
        self.with(|card| card.set_stopped(false));
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, Refusal> {
        Ok(self.with(|card| card.save()))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), Refusal> {
        Ok(self.with(|card| card.restore(state))?)
    }

    fn attributes(&self) -> Vec<AttributeSpec> {
        let terminals = (0..self.ports).map(|port| format!("tty{port}")).filter(|_| self.poller.is_some());
        let names = ["ports", "backend"].map(str::to_owned).into_iter().chain(terminals);
        names.map(|name| AttributeSpec { name, writable: false }).collect()
    }

    fn show_attribute(&mut self, name: &str) -> Result<String, Refusal> {
        match name {
            "ports" => return Ok(self.ports.to_string()),
            "backend" => return Ok(if self.poller.is_some() { "pty" } else { "loop" }.to_owned()),
            _ => {}
        }
        let card = self.shared.card.lock();
        let port = name.strip_prefix("tty").and_then(|number| number.parse::<usize>().ok());
        let pty = port.and_then(|port| card.ports().get(port)).and_then(|port| port.pty());
        let pty = pty.ok_or_else(|| Refusal::new(Errno::ENOENT, format!("no attribute {name}")))?;
        // A terminal that is lost has no name.
        Ok(pty.path().map_or_else(String::new, |path| path.display().to_string()))
    }
}
