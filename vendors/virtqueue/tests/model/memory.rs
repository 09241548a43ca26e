//! Memory in pieces, each of them shared or private, that may go elsewhere while the driver sees it where it was.

use parking_lot::Mutex;
use std::sync::Arc;
use virtio_mdev_api::dma::{AddressSpace, Region};
use virtqueue::testing::{DriverMemory, Ram};

/// Bytes of the smallest piece.
pub const PAGE: usize = 0x1000;
/// What is in a place that is not in use: not what anybody wrote.
const GONE: u8 = 0xee;

/// In which kind of memory a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Mapped by the device.
    Shared,
    /// Reached through the client.
    Remote,
    /// Some pieces of each.
    Mixed,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    remote: bool,
    at: usize,
}

/// Addresses from 0 on, in pieces of equal length.
#[derive(Debug, Clone)]
pub struct Pieces {
    piece: usize,
    kind: Kind,
    banks: [Ram; 2],
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    places: Vec<Place>,
    /// By bank.
    free: [Vec<usize>; 2],
}

impl Pieces {
    /// At least `len` bytes in pieces of `piece`, a multiple of [`PAGE`]; all in one where that is 0.
    pub fn new(len: usize, piece: usize, kind: Kind) -> Self {
        let piece = if piece == 0 { len.next_multiple_of(PAGE) } else { piece };
        let count = len.div_ceil(piece);
        // Each may move, and there is more than one place to move to.
        let places = count + 2;
        let bank = |wanted: bool| if wanted { places * piece } else { PAGE };
        let banks = [Ram::shared(bank(kind != Kind::Remote)), Ram::private(bank(kind != Kind::Shared))];
        let all = |wanted: bool| if wanted { (0..places).rev().map(|n| n * piece).collect() } else { Vec::new() };
        let mut table = Table { places: Vec::new(), free: [all(kind != Kind::Remote), all(kind != Kind::Shared)] };
        for n in 0..count {
            let remote = kind == Kind::Remote || (kind == Kind::Mixed && n % 3 == 1);
            let at = table.free[usize::from(remote)].pop().unwrap();
            table.places.push(Place { remote, at });
        }
        Self { piece, kind, banks, table: Arc::new(Mutex::new(table)) }
    }

    pub fn count(&self) -> usize {
        self.table.lock().places.len()
    }

    pub fn len(&self) -> usize {
        self.count() * self.piece
    }

    fn region(&self, piece: usize) -> Region {
        let Place { remote, at } = self.table.lock().places[piece];
        self.banks[usize::from(remote)].region((piece * self.piece) as u64, at, self.piece)
    }

    pub fn map_all(&self, space: &AddressSpace) {
        space.map_all((0..self.count()).map(|piece| self.region(piece)).collect()).unwrap();
    }

    pub fn map(&self, space: &AddressSpace, piece: usize) {
        space.map(self.region(piece)).unwrap();
    }

    pub fn unmap(&self, space: &AddressSpace, piece: usize) {
        let first = (piece * self.piece) as u64;
        space.unmap(first, first + self.piece as u64 - 1);
    }

    /// The driver's system puts a piece elsewhere. What was there is overwritten.
    pub fn move_away(&self, space: &AddressSpace, piece: usize) {
        self.unmap(space, piece);
        {
            let mut table = self.table.lock();
            let old = table.places[piece];
            let remote = old.remote ^ (self.kind == Kind::Mixed);
            let at = table.free[usize::from(remote)].pop().unwrap();
            let bytes = self.banks[usize::from(old.remote)].read(old.at as u64, self.piece);
            self.banks[usize::from(remote)].write(at as u64, &bytes);
            self.banks[usize::from(old.remote)].write(old.at as u64, &vec![GONE; self.piece]);
            // The place left is the last to be taken again.
            table.free[usize::from(old.remote)].insert(0, old.at);
            table.places[piece] = Place { remote, at };
        }
        self.map(space, piece);
    }

    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_into(at, &mut bytes);
        bytes
    }

    /// Bank, place, and how many bytes are in one piece.
    fn find(&self, at: u64) -> (&Ram, u64, usize) {
        let at = usize::try_from(at).unwrap();
        let place = self.table.lock().places[at / self.piece];
        let skipped = at % self.piece;
        (&self.banks[usize::from(place.remote)], (place.at + skipped) as u64, self.piece - skipped)
    }
}

impl DriverMemory for Pieces {
    fn read_into(&self, mut at: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (ram, place, room) = self.find(at);
            let (now, later) = out.split_at_mut(room.min(out.len()));
            ram.read_into(place, now);
            at += now.len() as u64;
            out = later;
        }
    }

    fn write(&self, mut at: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let (ram, place, room) = self.find(at);
            let (now, later) = data.split_at(room.min(data.len()));
            ram.write(place, now);
            at += now.len() as u64;
            data = later;
        }
    }

    fn load(&self, at: u64) -> u16 {
        let (ram, place, _) = self.find(at);
        ram.load(place)
    }

    fn store(&self, at: u64, value: u16) {
        let (ram, place, _) = self.find(at);
        ram.store(place, value);
    }
}
