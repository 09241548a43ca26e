//! A 16550A by its registers (TI TL16C550C, whose automatic flow control it has too). Time does not pass in it: a byte is sent
//! when the line takes it, and the character time-out is there as soon as fewer bytes than the trigger level are.

mod bits;

use crate::fifo::{FIFO_SIZE, Fifo};
use bits::*;

/// The inputs of a port whose other side is there and ready.
pub const PEER_READY: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uart {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: [u8; 2],
    overrun: bool,
    /// The transmitter became empty and nobody was told.
    empty_untold: bool,
    /// Changes of the modem status that nobody has read.
    changes: u8,
    /// The modem status as it was looked at last.
    seen: u8,
    /// The inputs that the other side drives.
    inputs: u8,
    rx: Fifo,
    tx: Fifo,
}

/// What a port is, as plain bytes: what a saved state is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    pub ier: u8,
    pub fcr: u8,
    pub lcr: u8,
    pub mcr: u8,
    pub scr: u8,
    pub divisor: [u8; 2],
    pub overrun: bool,
    pub empty_untold: bool,
    pub changes: u8,
    pub seen: u8,
    pub rx: Fifo,
    pub tx: Fifo,
}

impl Uart {
    /// A port after power-on, whose other side drives its outputs so.
    pub fn new(inputs: u8) -> Self {
        Self { inputs, seen: inputs, ..Self::default() }
    }

    /// Reads register `at`, 0 to 7, and does what comes with it.
    pub fn read(&mut self, at: u64) -> u8 {
        match at {
            0 if self.has_dlab() => self.divisor[0],
            0 => self.rx.pop().unwrap_or(0),
            1 if self.has_dlab() => self.divisor[1],
            1 => self.ier,
            2 => self.identify(),
            3 => self.lcr,
            4 => self.mcr,
            5 => self.line_status(),
            6 => {
                let status = self.modem() | self.changes;
                self.changes = 0;
                status
            }
            7 => self.scr,
            _ => 0xff,
        }
    }

    /// Writes register `at`, 0 to 7.
    pub fn write(&mut self, at: u64, value: u8) {
        match at {
            0 if self.has_dlab() => self.divisor[0] = value,
            0 => self.transmit(value),
            1 if self.has_dlab() => self.divisor[1] = value,
            1 => {
                let enabled = value & !self.ier & IER_THRI != 0;
                self.ier = value & IER_BITS;
                self.empty_untold |= enabled && self.tx.is_empty();
            }
            2 => self.control_fifos(value),
            3 => self.lcr = value,
            4 => {
                self.mcr = value & MCR_BITS;
                self.look_at_modem();
            }
            7 => self.scr = value,
            // Line and modem status are read.
            _ => {}
        }
        self.loop_inside();
    }

    /// Whether it interrupts.
    pub fn interrupts(&self) -> bool {
        self.reason() != IIR_NONE
    }

    /// The bytes that the line may take now, in order.
    pub fn to_send(&self) -> impl Iterator<Item = u8> {
        let stopped = self.has(MCR_LOOP) || (self.has(MCR_AFE) && self.modem() & MSR_CTS == 0);
        let count = if stopped { 0 } else { self.tx.len() };
        self.tx.iter().take(count).copied()
    }

    /// The first of them.
    pub fn next_to_send(&self) -> Option<u8> {
        self.to_send().next()
    }

    /// The line took the first `count` of [`to_send`](Self::to_send).
    pub fn sent(&mut self, count: usize) {
        self.tx.drop_first(count);
        self.empty_untold |= count > 0 && self.tx.is_empty();
    }

    /// A byte arrives from the line. It is lost where there is no room, as the line status tells.
    pub fn receive(&mut self, byte: u8) {
        if !self.has(MCR_LOOP) {
            self.take_in(byte);
        }
    }

    /// How many bytes may arrive and not be lost, and are asked for: none without RTS, which goes at the trigger level where
    /// flow control is automatic.
    pub fn room(&self) -> usize {
        let limit = if self.has(MCR_AFE) { self.trigger() } else { self.depth() };
        let asked = self.has(MCR_RTS) && !self.has(MCR_LOOP);
        if asked { limit.saturating_sub(self.rx.len()) } else { 0 }
    }

    /// The other side drives its outputs so: of CTS, DSR, RI and DCD those that are up.
    pub fn set_inputs(&mut self, inputs: u8) {
        self.inputs = inputs;
        self.look_at_modem();
    }

    /// What the port drives, as the inputs of one that is plugged into itself: RTS to CTS, DTR to DSR and DCD.
    pub fn plugged_in_itself(&self) -> u8 {
        let ready = !self.has(MCR_AFE) || self.rx.len() < self.trigger();
        let rts = if self.has(MCR_RTS) && ready { MSR_CTS } else { 0 };
        let dtr = if self.has(MCR_DTR) { MSR_DSR | MSR_DCD } else { 0 };
        if self.has(MCR_LOOP) { 0 } else { rts | dtr }
    }

    /// What it is, the other side aside.
    pub fn registers(&self) -> Registers {
        let Self { ier, fcr, lcr, mcr, scr, divisor, overrun, empty_untold, changes, seen, rx, tx, inputs: _ } = *self;
        Registers { ier, fcr, lcr, mcr, scr, divisor, overrun, empty_untold, changes, seen, rx, tx }
    }

    /// A port of these registers, `None` when there can be no such port.
    pub fn of(registers: &Registers) -> Option<Self> {
        let Registers { ier, fcr, lcr, mcr, scr, divisor, overrun, empty_untold, changes, seen, rx, tx } = *registers;
        let uart = Self {
            ier,
            fcr,
            lcr,
            mcr,
            scr,
            divisor,
            overrun,
            empty_untold,
            changes,
            seen,
            inputs: if mcr & MCR_LOOP == 0 { seen } else { 0 },
            rx,
            tx,
        };
        let possible = ier & !IER_BITS == 0
            && fcr & !FCR_BITS == 0
            && (fcr == 0 || fcr & FCR_ENABLE != 0)
            && mcr & !MCR_BITS == 0
            && changes & !MSR_CHANGES == 0
            && seen & MSR_CHANGES == 0
            && rx.len() <= uart.depth()
            && tx.len() <= uart.depth();
        possible.then_some(uart)
    }

    fn has(&self, bits: u8) -> bool {
        self.mcr & bits != 0
    }

    fn has_dlab(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    fn has_fifos(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.has_fifos() { FIFO_SIZE } else { 1 }
    }

    fn trigger(&self) -> usize {
        match self.fcr >> 6 {
            _ if !self.has_fifos() => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    fn reason(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        if enabled(IER_RLSI) && self.overrun {
            IIR_LINE
        } else if enabled(IER_RDI) && self.rx.len() >= self.trigger() {
            IIR_DATA
        } else if enabled(IER_RDI) && !self.rx.is_empty() {
            IIR_TIMEOUT
        } else if enabled(IER_THRI) && self.empty_untold {
            IIR_EMPTY
        } else if enabled(IER_MSI) && self.changes != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn identify(&mut self) -> u8 {
        let reason = self.reason();
        if reason == IIR_EMPTY {
            self.empty_untold = false;
        }
        reason | if self.has_fifos() { IIR_FIFOS } else { 0 }
    }

    fn line_status(&mut self) -> u8 {
        let data = if self.rx.is_empty() { 0 } else { LSR_DATA };
        let empty = if self.tx.is_empty() { LSR_EMPTY } else { 0 };
        let overrun = if std::mem::take(&mut self.overrun) { LSR_OVERRUN } else { 0 };
        data | empty | overrun
    }

    fn transmit(&mut self, byte: u8) {
        // A character has 5 to 8 bits.
        let character = byte & (0xff >> (3 - (self.lcr & 3)));
        if self.tx.len() < self.depth() {
            self.tx.push(character);
        }
        self.empty_untold = false;
    }

    fn take_in(&mut self, byte: u8) {
        if self.rx.len() < self.depth() {
            self.rx.push(byte);
            return;
        }
        self.overrun = true;
        if !self.has_fifos() {
            // The one register has what came last.
            self.rx.clear();
            self.rx.push(byte);
        }
    }

    fn control_fifos(&mut self, value: u8) {
        let switched = (value ^ self.fcr) & FCR_ENABLE != 0;
        self.fcr = if value & FCR_ENABLE == 0 { 0 } else { value & FCR_BITS };
        if switched || value & FCR_CLEAR_RX != 0 {
            self.rx.clear();
        }
        if switched || value & FCR_CLEAR_TX != 0 {
            self.sent(self.tx.len());
        }
    }

    /// In loop mode the transmitter feeds the receiver, and nothing reaches the line.
    fn loop_inside(&mut self) {
        while self.has(MCR_LOOP)
            && let Some(byte) = self.tx.pop()
        {
            self.empty_untold |= self.tx.is_empty();
            self.take_in(byte);
        }
    }

    /// The upper half of the modem status.
    fn modem(&self) -> u8 {
        if !self.has(MCR_LOOP) {
            return self.inputs;
        }
        let follows = [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)];
        follows.iter().filter(|(output, _)| self.has(*output)).fold(0, |status, (_, input)| status | input)
    }

    fn look_at_modem(&mut self) {
        let now = self.modem();
        let changed = now ^ self.seen;
        let ring = if changed & self.seen & MSR_RI != 0 { MSR_RI_ENDED } else { 0 };
        self.changes |= ((changed & !MSR_RI) >> 4) | ring;
        self.seen = now;
    }
}

#[cfg(test)]
mod tests;
