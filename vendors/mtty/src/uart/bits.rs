//! The bits of a port's registers.

/// Interrupt enable: received data, transmitter empty, line status, modem status.
pub const IER_RDI: u8 = 0x01;
pub const IER_THRI: u8 = 0x02;
pub const IER_RLSI: u8 = 0x04;
pub const IER_MSI: u8 = 0x08;
pub const IER_BITS: u8 = 0x0f;

/// Interrupt identification, by priority.
pub const IIR_LINE: u8 = 0x06;
pub const IIR_DATA: u8 = 0x04;
pub const IIR_TIMEOUT: u8 = 0x0c;
pub const IIR_EMPTY: u8 = 0x02;
pub const IIR_MODEM: u8 = 0x00;
pub const IIR_NONE: u8 = 0x01;
pub const IIR_FIFOS: u8 = 0xc0;

/// FIFO control.
pub const FCR_ENABLE: u8 = 0x01;
pub const FCR_CLEAR_RX: u8 = 0x02;
pub const FCR_CLEAR_TX: u8 = 0x04;
/// What of it stays: enable, DMA mode and trigger level.
pub const FCR_BITS: u8 = 0xc9;

/// Line control: the divisor is where data and interrupt enable are.
pub const LCR_DLAB: u8 = 0x80;

/// Modem control.
pub const MCR_DTR: u8 = 0x01;
pub const MCR_RTS: u8 = 0x02;
pub const MCR_OUT1: u8 = 0x04;
pub const MCR_OUT2: u8 = 0x08;
pub const MCR_LOOP: u8 = 0x10;
pub const MCR_AFE: u8 = 0x20;
pub const MCR_BITS: u8 = 0x3f;

/// Line status.
pub const LSR_DATA: u8 = 0x01;
pub const LSR_OVERRUN: u8 = 0x02;
pub const LSR_EMPTY: u8 = 0x60;

/// Modem status: the changes are four bits below what changed.
pub const MSR_CTS: u8 = 0x10;
pub const MSR_DSR: u8 = 0x20;
pub const MSR_RI: u8 = 0x40;
pub const MSR_DCD: u8 = 0x80;
/// Of RI only its end is told.
pub const MSR_RI_ENDED: u8 = 0x04;
pub const MSR_CHANGES: u8 = 0x0f;
