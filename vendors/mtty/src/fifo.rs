//! Bytes on their way through a port.

/// Bytes that a 16550A keeps in each direction.
pub const FIFO_SIZE: usize = 16;

/// At most [`FIFO_SIZE`] bytes, first in first out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fifo {
    bytes: [u8; FIFO_SIZE],
    first: usize,
    len: usize,
}

impl Fifo {
    /// The bytes in order; `None` for more than there is room for.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut fifo = Self::default();
        bytes.iter().all(|byte| fifo.push(*byte)).then_some(fifo)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a byte; whether there was room.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.len == FIFO_SIZE {
            return false;
        }
        self.bytes[(self.first + self.len) % FIFO_SIZE] = byte;
        self.len += 1;
        true
    }

    /// Takes the first byte.
    pub fn pop(&mut self) -> Option<u8> {
        let byte = *self.iter().next()?;
        self.drop_first(1);
        Some(byte)
    }

    /// Forgets the first `count` bytes.
    pub fn drop_first(&mut self, count: usize) {
        let count = count.min(self.len);
        self.first = (self.first + count) % FIFO_SIZE;
        self.len -= count;
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The bytes in order.
    pub fn iter(&self) -> impl Iterator<Item = &u8> {
        self.bytes.iter().cycle().skip(self.first).take(self.len)
    }
}
