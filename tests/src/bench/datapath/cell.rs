//! What is measured: which way frames go, on which ring, how long they are.

use std::fmt;

const VIRTIO_NET_F_MRG_RXBUF: u64 = 1 << 15;
const VIRTIO_F_RING_PACKED: u64 = 1 << 34;
const VIRTIO_F_IN_ORDER: u64 = 1 << 35;

/// Which way frames go. The names are vhost's: what it enqueues is what the driver receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The client sends what it receives, and so does the backend.
    Loop,
    /// The backend fills the client's receive ring.
    Enqueue,
    /// The backend empties the client's transmit ring.
    Dequeue,
}

/// How the ring is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A split ring.
    Split,
    /// A packed ring.
    Packed,
    /// A split ring whose buffers are used in order.
    InOrder,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Which way frames go.
    pub way: Way,
    /// On which ring.
    pub format: Format,
    /// Whether receive buffers merge.
    pub mergeable: bool,
    /// Bytes of a frame, without check sequence.
    pub bytes: usize,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Loop, Self::Enqueue, Self::Dequeue];

    /// The type of ours that answers.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Loop => "loopback-net-fast",
            Self::Enqueue => "loopback-source-fast",
            Self::Dequeue => "loopback-sink-fast",
        }
    }

    /// testpmd's way to forward, on the client's side and on that of the backend.
    pub fn forwarding(self) -> [&'static str; 2] {
        match self {
            Self::Loop => ["io", "io"],
            Self::Enqueue => ["rxonly", "txonly"],
            Self::Dequeue => ["txonly", "rxonly"],
        }
    }
}

impl Format {
    pub const ALL: [Self; 3] = [Self::Split, Self::Packed, Self::InOrder];
}

impl Cell {
    /// All of them, those of a kind beside each other.
    pub fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for way in Way::ALL {
            for format in Format::ALL {
                for mergeable in [false, true] {
                    cells.extend([64, 512, 1518].map(|bytes| Self { way, format, mergeable, bytes }));
                }
            }
        }
        cells
    }

    /// Options of testpmd's virtio-user device.
    pub fn device_options(&self) -> String {
        let flag = |set| u8::from(set);
        format!(
            "mrg_rxbuf={},packed_vq={},in_order={}",
            flag(self.mergeable),
            flag(self.format == Format::Packed),
            flag(self.format == Format::InOrder)
        )
    }

    /// Why a device that accepted `features` is none of this cell.
    pub fn misses(&self, features: u64) -> Option<String> {
        let wanted = [
            (VIRTIO_NET_F_MRG_RXBUF, "mrg_rxbuf", self.mergeable),
            (VIRTIO_F_RING_PACKED, "ring_packed", self.format == Format::Packed),
            (VIRTIO_F_IN_ORDER, "in_order", self.format == Format::InOrder),
        ];
        let (_, name, wanted) = wanted.into_iter().find(|(bit, _, wanted)| (features & bit != 0) != *wanted)?;
        Some(format!("{name} was {}negotiated", if wanted { "not " } else { "" }))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loop => "loop",
            Self::Enqueue => "enqueue",
            Self::Dequeue => "dequeue",
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Split => "split",
            Self::Packed => "packed",
            Self::InOrder => "in-order",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, format, mergeable, bytes } = self;
        write!(f, "{way}/{format}/{}/{bytes}", if *mergeable { "mergeable" } else { "plain" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_absent_where_its_ring_was_not_negotiated() {
        let cell = Cell { way: Way::Loop, format: Format::Packed, mergeable: true, bytes: 64 };
        assert_eq!(cell.to_string(), "loop/packed/mergeable/64");
        assert_eq!(cell.device_options(), "mrg_rxbuf=1,packed_vq=1,in_order=0");
        assert_eq!(cell.misses(VIRTIO_NET_F_MRG_RXBUF | VIRTIO_F_RING_PACKED), None);
        assert_eq!(cell.misses(VIRTIO_NET_F_MRG_RXBUF), Some("ring_packed was not negotiated".to_owned()));
        let split = Cell { format: Format::Split, ..cell };
        assert_eq!(
            split.misses(VIRTIO_NET_F_MRG_RXBUF | VIRTIO_F_IN_ORDER),
            Some("in_order was negotiated".to_owned())
        );
        assert_eq!(Cell::all().len(), 54);
    }
}
