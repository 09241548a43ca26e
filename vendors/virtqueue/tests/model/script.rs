//! What a driver and its device are made to do: a setting, and steps of both.

use crate::memory::{Kind, PAGE};
use proptest::prelude::*;
use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED};
use virtqueue::testing::Interrupts;

/// What was negotiated, and where things are.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub features: u64,
    pub size: u16,
    /// Bytes of a piece of memory; 0: all in one.
    pub piece: usize,
    pub kind: Kind,
    /// The ring is in an address space of its own.
    pub elsewhere: bool,
    /// How many chains or descriptors went before, of those after which indices or wrap counters turn.
    pub gone: u16,
}

impl Setting {
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    pub fn is_packed(&self) -> bool {
        self.has(VIRTIO_F_RING_PACKED)
    }

    /// Every combination of features in one format, with sizes and memory of all kinds.
    pub fn all(packed: bool) -> Vec<Self> {
        let sizes: &[u16] = if packed { &[1, 3, 8, 61] } else { &[1, 2, 8, 64] };
        let memory = [(0, Kind::Shared), (PAGE, Kind::Shared), (0, Kind::Remote), (PAGE, Kind::Mixed)];
        let mut all = Vec::new();
        for choice in 0..8_u64 {
            let pick = |bit: u64, feature: u64| if choice & bit != 0 { feature } else { 0 };
            let features = pick(1, VIRTIO_F_INDIRECT_DESC)
                | pick(2, VIRTIO_F_EVENT_IDX)
                | pick(4, VIRTIO_F_IN_ORDER)
                | if packed { VIRTIO_F_RING_PACKED } else { 0 };
            for &size in sizes {
                for (piece, kind) in memory {
                    for elsewhere in [false, true] {
                        let gone = if elsewhere { u16::MAX - size / 2 } else { 0 };
                        all.push(Self { features, size, piece, kind, elsewhere, gone });
                    }
                }
            }
        }
        all
    }
}

/// A chain to post.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Lengths of its buffers.
    pub readable: Vec<u16>,
    pub writable: Vec<u16>,
    /// In a table, where that was negotiated: how its entries are laid out.
    pub table: Option<u8>,
}

/// What a device does with the chains it takes, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Take {
    /// How much it writes, of 255 parts.
    pub fill: u8,
    pub then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Commit,
    Hold,
    Rewind,
}

#[derive(Debug, Clone)]
pub struct Work {
    pub disable: bool,
    pub takes: Vec<Take>,
    pub enable: bool,
}

#[derive(Debug, Clone)]
pub enum Step {
    Post {
        shapes: Vec<Shape>,
        publish: bool,
    },
    Serve(Work),
    Collect(u8),
    Ask(Interrupts),
    /// The queue stops, and another goes on where it says it stood.
    Restart,
    /// Memory goes elsewhere.
    Move(u8),
    /// The device works while a piece of memory is not mapped.
    Miss(u8, Work),
}

fn shape() -> impl Strategy<Value = Shape> {
    let lens = |most| prop::collection::vec(prop_oneof![4 => 1_u16..30, 1 => 30_u16..200], 0..=most);
    (lens(3), lens(3), prop::option::of(any::<u8>())).prop_map(|(readable, mut writable, table)| {
        if readable.is_empty() && writable.is_empty() {
            writable.push(1);
        }
        Shape { readable, writable, table }
    })
}

fn work() -> impl Strategy<Value = Work> {
    let then = prop_oneof![4 => Just(Then::Commit), 3 => Just(Then::Hold), 1 => Just(Then::Rewind)];
    let fill = prop_oneof![2 => Just(0_u8), 2 => Just(255), 1 => any::<u8>()];
    let take = (fill, then).prop_map(|(fill, then)| Take { fill, then });
    let takes = prop_oneof![3 => prop::collection::vec(take.clone(), 0..8), 1 => prop::collection::vec(take, 0..90)];
    (any::<bool>(), takes, any::<bool>()).prop_map(|(disable, takes, enable)| Work { disable, takes, enable })
}

fn step() -> impl Strategy<Value = Step> {
    let ask = prop_oneof![
        Just(Interrupts::Next),
        Just(Interrupts::Never),
        (0_u16..6).prop_map(Interrupts::After),
        (0_u16..70).prop_map(Interrupts::After),
    ];
    let posts = prop_oneof![3 => prop::collection::vec(shape(), 1..4), 1 => prop::collection::vec(shape(), 1..70)];
    prop_oneof![
        6 => (posts, prop::bool::weighted(0.8)).prop_map(|(shapes, publish)| Step::Post { shapes, publish }),
        6 => work().prop_map(Step::Serve),
        4 => prop_oneof![Just(255), 0_u8..5].prop_map(Step::Collect),
        2 => ask.prop_map(Step::Ask),
        1 => Just(Step::Restart),
        1 => any::<u8>().prop_map(Step::Move),
        1 => (any::<u8>(), work()).prop_map(|(piece, work)| Step::Miss(piece, work)),
    ]
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..if cfg!(miri) { 20 } else { 60 })
}
