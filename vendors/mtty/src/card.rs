//! The card: its ports, its configuration space, and where its interrupt goes.

use crate::config::{CONFIG_SIZE, Config};
use crate::fifo::FIFO_SIZE;
use crate::pty::Pty;
use crate::state::{self, BadState};
use crate::uart::{PEER_READY, Uart};
use nix::errno::Errno;
use std::sync::Arc;
use virtio_mdev_api::Refusal;
use virtio_mdev_api::vfio::Interrupts;

/// `VFIO_PCI_INTX_IRQ_INDEX`.
pub const INTX: u32 = 0;
/// `VFIO_PCI_MSI_IRQ_INDEX`.
pub const MSI: u32 = 1;
/// `VFIO_PCI_CONFIG_REGION_INDEX`.
pub const CONFIG: u32 = 7;

/// A card.
#[derive(Debug)]
pub struct Card {
    config: Config,
    ports: Vec<Port>,
    /// Of the client that has the card open.
    interrupts: Option<Arc<Interrupts>>,
    /// Whether it interrupts.
    up: bool,
    /// Whether bytes stand still.
    stopped: bool,
}

/// A port and its line.
#[derive(Debug)]
pub struct Port {
    uart: Uart,
    /// `None`: plugged into itself.
    pty: Option<Pty>,
    /// What the poller waits for at the terminal.
    watched: Wanted,
}

/// What a port waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// That there is something to read.
    pub input: bool,
    /// That something can be written.
    pub output: bool,
}

impl Card {
    /// A card with a port for each line.
    pub fn new(lines: Vec<Option<Pty>>) -> Self {
        let port = |pty| Port { uart: Uart::default(), pty, watched: Wanted::default() };
        let ports: Vec<_> = lines.into_iter().map(port).collect();
        let mut card = Self { config: Config::new(ports.len()), ports, interrupts: None, up: false, stopped: false };
        card.reset();
        card
    }

    /// The ports.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Back to the state after power-on, and at work.
    pub fn reset(&mut self) {
        self.config = Config::new(self.ports.len());
        self.stopped = false;
        for port in &mut self.ports {
            port.uart = Uart::default();
            port.uart = Uart::new(port.line_inputs());
        }
        self.settle();
    }

    /// A client has the card from now on, and is interrupted so.
    pub fn open(&mut self, interrupts: Arc<Interrupts>) {
        self.interrupts = Some(interrupts);
        self.up = false;
        self.settle();
    }

    /// The client is gone.
    pub fn release(&mut self) {
        self.interrupts = None;
    }

    /// No byte moves by itself from now on, or they do again.
    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
        self.settle();
    }

    /// Reads what a client reads.
    pub fn read(&mut self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal> {
        if region == CONFIG {
            self.config.read(config_at(offset, out.len())?, out);
            return Ok(());
        }
        let port = self.port(region)?;
        for (at, byte) in (offset..).zip(out) {
            *byte = port.uart.read(at);
        }
        self.settle();
        Ok(())
    }

    /// Writes what a client writes.
    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        if region == CONFIG {
            let at = config_at(offset, data.len())?;
            self.config.write(at, data);
        } else {
            let port = self.port(region)?;
            for (at, byte) in (offset..).zip(data) {
                port.uart.write(at, *byte);
            }
        }
        self.settle();
        Ok(())
    }

    fn port(&mut self, region: u32) -> Result<&mut Port, Refusal> {
        let port = usize::try_from(region).ok().and_then(|at| self.ports.get_mut(at));
        port.ok_or_else(|| Refusal::new(Errno::EINVAL, format!("there is no region {region}")))
    }

    /// The client changed whom interrupts of `index` go to: one that comes to a line that is up has missed its edge.
    pub fn irqs_changed(&mut self, index: u32) {
        if index == MSI {
            self.up = false;
        }
        self.settle();
    }

    /// What the poller is to wait for at each terminal; from now on it does.
    pub fn watch(&mut self) -> Vec<Wanted> {
        let is_used = self.is_used();
        let watch = |port: &mut Port| {
            port.watched = port.wanted(is_used);
            port.watched
        };
        self.ports.iter_mut().map(watch).collect()
    }

    /// Whether the poller waits for something else than it should.
    pub fn is_watched_wrongly(&self) -> bool {
        let is_used = self.is_used();
        self.ports.iter().any(|port| port.watched != port.wanted(is_used))
    }

    /// Moves what can be moved, the terminals read and written included.
    pub fn serve_lines(&mut self) {
        self.ports.iter_mut().for_each(|port| port.watched = Wanted::default());
        self.settle();
    }

    /// The state of the card.
    pub fn save(&self) -> Vec<u8> {
        let ports: Vec<_> = self.ports.iter().map(|port| port.uart.registers()).collect();
        state::encode(self.config.bytes(), &ports)
    }

    /// Takes a state, or leaves everything as it is.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), BadState> {
        let (config, registers) = state::decode(bytes, self.ports.len())?;
        let config = self.config.with(&config).ok_or(BadState::Config)?;
        let uarts = registers.iter().map(Uart::of).collect::<Option<Vec<_>>>().ok_or(BadState::Registers)?;
        self.config = config;
        for (port, uart) in self.ports.iter_mut().zip(uarts) {
            port.uart = uart;
        }
        self.up = false;
        self.settle();
        Ok(())
    }

    fn is_used(&self) -> bool {
        self.interrupts.is_some() && !self.stopped
    }

    /// After anything happened: bytes move as far as they can, and the client is interrupted or no more.
    fn settle(&mut self) {
        if !self.stopped {
            let is_used = self.is_used();
            self.ports.iter_mut().for_each(|port| port.serve_line(is_used));
        }
        let up = self.ports.iter().any(|port| port.uart.interrupts());
        self.config.show_interrupt(up);
        if let Some(interrupts) = &self.interrupts {
            let by_message = interrupts.is_enabled(MSI);
            interrupts.set_level(INTX, 0, up && !by_message && self.config.allows_intx());
            if up && !self.up && by_message {
                interrupts.raise(MSI, 0);
            }
        }
        self.up = up;
    }
}

impl Port {
    /// Its terminal, where it has one.
    pub fn pty(&self) -> Option<&Pty> {
        self.pty.as_ref()
    }

    /// What it waits for.
    fn wanted(&self, is_used: bool) -> Wanted {
        let has_line = is_used && self.pty.as_ref().is_some_and(|pty| pty.path().is_some());
        Wanted { input: has_line && self.uart.room() > 0, output: has_line && self.uart.next_to_send().is_some() }
    }

    /// What the other side drives.
    fn line_inputs(&self) -> u8 {
        match &self.pty {
            None => self.uart.plugged_in_itself(),
            Some(pty) if pty.path().is_some() => PEER_READY,
            Some(_) => 0,
        }
    }

    fn look_at_line(&mut self) {
        self.uart.set_inputs(self.line_inputs());
    }

    /// Moves bytes as far as the line and the port can. What the poller waits for is left to it.
    fn serve_line(&mut self, is_used: bool) {
        self.look_at_line();
        let Some(pty) = &mut self.pty else {
            while let Some(byte) = self.uart.next_to_send() {
                self.uart.sent(1);
                self.uart.receive(byte);
                self.look_at_line();
            }
            return;
        };
        if !self.watched.output {
            let (mut bytes, mut len) = ([0; FIFO_SIZE], 0);
            for (to, byte) in bytes.iter_mut().zip(self.uart.to_send()) {
                *to = byte;
                len += 1;
            }
            self.uart.sent(pty.write(&bytes[..len]));
        }
        if is_used && !self.watched.input {
            pty.read(self.uart.room()).for_each(|byte| self.uart.receive(byte));
        }
        self.look_at_line();
    }
}

/// The session has checked the range against the region.
fn config_at(offset: u64, len: usize) -> Result<usize, Refusal> {
    let at = usize::try_from(offset).ok().filter(|at| at.checked_add(len).is_some_and(|end| end <= CONFIG_SIZE));
    at.ok_or_else(|| Refusal::new(Errno::EINVAL, format!("{len} bytes at {offset:#x} are no configuration space")))
}
