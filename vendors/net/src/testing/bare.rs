//! A queue pair that its caller serves: no thread, no kick, no sleep.

use super::initial;
use crate::config::{LinkState, NetConfig};
use crate::lane::{Lane, Lanes};
use crate::mac::Mac;
use crate::pair::{Pair, Shared};
use crate::parameters::{DEFAULT_MTU, Doorbell, MAX_QUEUE_SIZE, NetParameters};
use crate::port::Port;
use crate::stats::CardStatistics;
use std::sync::Arc;
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_mdev_api::dma::AddressSpace;
use virtio_mdev_api::{DeviceLink, QueueConfig, QueueStart};
use virtqueue::{Health, Next, Queue, Service, Waker};

/// The only pair of a card, its queues running.
pub struct Bare<P> {
    pair: Pair<P>,
}

impl<P: Port> Bare<P> {
    /// A pair on `port` with `features` in effect, on these receive and transmit rings in `space`.
    pub fn start(port: P, features: u64, rings: [QueueConfig; 2], space: &Arc<AddressSpace>) -> Self {
        let link = DeviceLink::new("bare");
        let (health, link_state) = (Health::new(link.clone()), Arc::new(LinkState::new(link)));
        let config = Arc::new(NetConfig::new(&NetParameters {
            mac: Mac::from([2, 0, 0, 0, 0, 1]),
            mtu: DEFAULT_MTU,
            pairs: 1,
            queue_size: MAX_QUEUE_SIZE,
            features,
            speed: None,
            duplex: None,
            ring_group: false,
            doorbell: Doorbell::EventFd,
        }));
        let chooser = P::OUTSIDE.then(|| Arc::clone(&config));
        let lane = Lane::new(0, Arc::clone(&link_state), CardStatistics::new(1), chooser);
        let lanes = Lanes::new(vec![lane], Arc::clone(&config));
        let shared = Shared { config, health: Arc::clone(&health), link: link_state, lanes };
        let waker = Arc::new(Waker::new().expect("eventfd"));
        let mut pair = Pair::new(shared, 0, port, Arc::clone(&waker));
        pair.start(features).expect("a port that starts");
        for ((index, config), slot) in (0..).zip(rings).zip(pair.slots()) {
            let start = QueueStart {
                config,
                state: initial(features),
                features,
                asid: 0,
                space: Arc::clone(space),
                ring_asid: 0,
                ring_space: Arc::clone(space),
                kick: None,
                doorbell: None,
                call: Arc::default(),
                err: Arc::default(),
                dirty: DirtyRecord::new(),
            };
            let queue = Queue::start(index, start, MAX_QUEUE_SIZE, Arc::clone(&health), Arc::clone(&waker));
            slot.run(queue.expect("a ring"));
        }
        Self { pair }
    }

    /// What a thread does in one turn. A symbol of its own, so that a profiler can count in it alone.
    #[inline(never)]
    pub fn serve(&mut self) -> Next {
        self.pair.serve()
    }
}
