//! The configuration space of the card: what it says of itself, and the few bits that can be written.

/// Bytes of configuration space.
pub const CONFIG_SIZE: usize = 256;
/// I/O ports of a BAR.
pub const BAR_SIZE: u64 = 8;

const COMMAND: usize = 0x04;
/// I/O space, bus master, and no INTx.
const COMMAND_BITS: u16 = 0x0405;
const COMMAND_NO_INTX: u16 = 0x0400;
const STATUS: usize = 0x06;
const STATUS_INTERRUPT: u8 = 0x08;
const BAR: usize = 0x10;
const BAR_IS_IO: u8 = 0x01;
const INTERRUPT_LINE: usize = 0x3c;

/// What the card is, as far as it is not zero: from which byte on, and the bytes.
const FIXED: [(usize, &[u8]); 9] = [
    // Vendor and device.
    (0x00, &[0x48, 0x43, 0x53, 0x32]),
    // I/O space is on.
    (COMMAND, &[0x01, 0x00]),
    // Medium device select timing.
    (STATUS, &[0x00, 0x02]),
    // Revision, and the class: a serial controller, 16550.
    (0x08, &[0x10, 0x02, 0x00, 0x07]),
    // Subsystem.
    (0x2c, &[0x48, 0x43, 0x53, 0x32]),
    // Interrupt pin A.
    (0x3d, &[0x01]),
    // The vendor's own.
    (0x40, &[0x23, 0x00, 0x00, 0x80, 0x23]),
    (0x48, &[0x23, 0x00, 0x00, 0x00, 0x23]),
    (0x60, b"PCI Serial/UART"),
];

/// The configuration space of one card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    bytes: [u8; CONFIG_SIZE],
    /// Which bits can be written.
    writable: [u8; CONFIG_SIZE],
}

impl Config {
    /// That of a card with so many ports, each with a BAR.
    pub fn new(ports: usize) -> Self {
        let mut config = Self { bytes: [0; CONFIG_SIZE], writable: [0; CONFIG_SIZE] };
        for (at, bytes) in FIXED {
            config.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        }
        config.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_BITS.to_le_bytes());
        config.writable[INTERRUPT_LINE] = 0xff;
        for bar in (BAR..).step_by(4).take(ports) {
            config.bytes[bar] = BAR_IS_IO;
            // Eight ports: the lower three bits of the address are not decoded.
            config.writable[bar..bar + 4].copy_from_slice(&[0xf8, 0xff, 0xff, 0xff]);
        }
        config
    }

    /// Fills `out` from `at`; all of it is within the space.
    pub fn read(&self, at: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes[at..at + out.len()]);
    }

    /// Writes what of `data` can be written.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        for (at, byte) in (at..).zip(data) {
            let writable = self.writable[at];
            self.bytes[at] = (self.bytes[at] & !writable) | (byte & writable);
        }
    }

    /// Whether the card may use its interrupt pin.
    pub fn allows_intx(&self) -> bool {
        u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]]) & COMMAND_NO_INTX == 0
    }

    /// Shows whether the card interrupts.
    pub fn show_interrupt(&mut self, up: bool) {
        self.bytes[STATUS] = if up { STATUS_INTERRUPT } else { 0 };
    }

    /// The whole space.
    pub fn bytes(&self) -> &[u8; CONFIG_SIZE] {
        &self.bytes
    }

    /// This space with what can be written taken from `bytes`; `None` where anything else is different, that the card
    /// interrupts aside.
    pub fn with(&self, bytes: &[u8; CONFIG_SIZE]) -> Option<Self> {
        let mut config = self.clone();
        config.write(0, bytes);
        config.bytes[STATUS] = bytes[STATUS] & STATUS_INTERRUPT;
        (config.bytes == *bytes).then_some(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(config: &Config, at: usize) -> u32 {
        let mut bytes = [0; 4];
        config.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn the_card_says_what_the_kernels_sample_says() {
        let config = Config::new(2);
        assert_eq!(word(&config, 0x00), 0x3253_4348);
        assert_eq!(word(&config, 0x04), 0x0200_0001);
        assert_eq!(word(&config, 0x08), 0x0700_0210);
        assert_eq!(word(&config, 0x2c), 0x3253_4348);
        assert_eq!(word(&config, 0x34), 0, "no capabilities");
        assert_eq!(word(&config, 0x3c), 0x0000_0100);
    }

    #[test]
    fn a_bar_is_sized_by_writing_ones() {
        let mut config = Config::new(1);
        config.write(0x10, &[0xff; 8]);
        assert_eq!(word(&config, 0x10), 0xffff_fff9);
        assert_eq!(word(&config, 0x14), 0, "one port, one BAR");
        config.write(0x10, &0xc157_u32.to_le_bytes());
        assert_eq!(word(&config, 0x10), 0xc151);
    }

    #[test]
    fn bits_that_cannot_be_written_stay() {
        let mut config = Config::new(2);
        config.write(0, &[0xff; CONFIG_SIZE]);
        assert_eq!(word(&config, 0x00), 0x3253_4348);
        assert_eq!(word(&config, 0x04), 0x0200_0405);
        assert_eq!(word(&config, 0x3c), 0x0000_01ff);
        assert!(!config.allows_intx());
        config.write(0, &[0; CONFIG_SIZE]);
        assert_eq!(word(&config, 0x04), 0x0200_0000);
        assert_eq!(word(&config, 0x10), 1);
    }
}
