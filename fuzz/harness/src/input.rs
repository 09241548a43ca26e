//! The bytes of an input, read from front to back.

/// What is left of an input. Behind its end are zeros.
#[derive(Debug, Clone)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether there is more.
    pub fn more(&self) -> bool {
        !self.0.is_empty()
    }

    /// At most `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// `len` bytes.
    pub fn filled(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = self.take(len).to_vec();
        bytes.resize(len, 0);
        bytes
    }

    /// A byte that says how many bytes follow, and those.
    pub fn blob(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte());
        self.take(len)
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The lowest bit of a byte.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// Two bytes, the least significant first.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// An address in one of 2^8 pages, unless its highest values stand for the end of the space and for anything.
    pub fn address(&mut self) -> u64 {
        match self.byte() {
            255 => self.long(),
            254 => u64::MAX - u64::from(self.half()),
            253 => u64::from(self.word()),
            page => u64::from(page) << 12,
        }
    }

    /// A size in pages, unless its highest values stand for bytes and for anything.
    pub fn size(&mut self) -> u64 {
        match self.byte() {
            255 => self.long(),
            254 => u64::from(self.half()),
            pages => u64::from(pages & 0x1f) << 12,
        }
    }
}
