//! What a network device does on its thread.

use crate::config::{LinkState, NetConfig};
use crate::control::{Control, control_queue};
use crate::features::VIRTIO_NET_F_MQ;
use crate::header::HEADER;
use crate::pair::Pair;
use crate::port::Port;
use crate::stats::CardStatistics;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use virtio_mdev_api::Refusal;
use virtqueue::{Health, Interest, Next, Queue, Queues, Service};

/// The longest frame there is: a segmented one (virtio 1.3 §5.1.6.3.1).
pub const MAX_FRAME: usize = 65_550;

/// The queue pairs of a card, a port each, and its control queue.
pub struct NetService<P> {
    ports: Vec<P>,
    config: Arc<NetConfig>,
    control: Control,
    health: Arc<Health>,
    link: Arc<LinkState>,
    statistics: Arc<CardStatistics>,
    /// In effect.
    features: u64,
    frame: Box<[u8]>,
    /// Which back end is which port's.
    watched: Vec<usize>,
}

impl<P: Port> NetService<P> {
    pub fn new(
        ports: Vec<P>,
        config: Arc<NetConfig>,
        health: Arc<Health>,
        link: Arc<LinkState>,
        statistics: Arc<CardStatistics>,
    ) -> Self {
        let frame = vec![0; HEADER + MAX_FRAME].into_boxed_slice();
        let control = Control::new(Arc::clone(&config), health.link().clone());
        let watched = (0..ports.len()).filter(|at| ports[*at].fd().is_some()).collect();
        Self { ports, config, control, health, link, statistics, features: 0, frame, watched }
    }

    /// The queues are about to start; `features` are in effect.
    pub fn start(&mut self, features: u64) -> Result<(), Refusal> {
        self.features = features;
        self.ports.iter_mut().try_for_each(|port| port.start(features))
    }

    /// Passes frames of port `number`. What comes in at a port whose pair is not enabled goes to one that is.
    fn serve_port(&mut self, queues: &mut Queues, number: u16) -> Next {
        let lane = number % self.config.enabled();
        let rx = 2 * lane;
        let [rx, tx] = if number == 0 || self.features & VIRTIO_NET_F_MQ != 0 {
            queues.two(rx, 2 * number + 1)
        } else {
            [queues.get(rx), None]
        };
        let port = &mut self.ports[usize::from(number)];
        if tx.is_none() && port.fd().is_none() {
            return Next::Wait;
        }
        let awake = |queue: &&mut Queue| !queue.is_parked();
        let mut pair = Pair {
            port,
            link: &self.link,
            statistics: self.statistics.pair(number),
            received: &self.statistics.pair(lane).rx,
            features: self.features,
            mtu: self.config.mtu(),
            shared_rx: lane != number,
            frame: &mut self.frame,
        };
        // A halt has been taken note of: the device is stopped, or one queue waits and the others may go on.
        pair.serve(rx.filter(awake), tx.filter(awake)).unwrap_or(Next::Again)
    }
}

impl<P: Port> Service for NetService<P> {
    /// Every queue gets a burst in turn, so that none waits for another.
    fn serve(&mut self, queues: &mut Queues) -> Next {
        if self.health.is_stopped() {
            return Next::Wait;
        }
        let control = control_queue(self.features, self.config.pairs()).and_then(|index| queues.get(index));
        let mut next = control.map_or(Next::Wait, |queue| self.control.serve(queue, self.features));
        for number in 0..self.config.pairs() {
            if self.serve_port(queues, number) == Next::Again {
                next = Next::Again;
            }
        }
        next
    }

    fn backends(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        let ports = self.watched.iter().map(|at| &self.ports[*at]);
        ports.filter_map(|port| Some((port.fd()?, port.interest()))).collect()
    }

    fn backend_ready(&mut self, number: usize) {
        if let Some(at) = self.watched.get(number) {
            self.ports[*at].ready();
        }
    }
}
