//! The control queue (virtio 1.3 §5.1.6.5).
//!
//! Every command is done when its burst ends: none waits for anything. What a command says is taken whole or not at all.
//! Whether frames are filtered is the port's to say: one that returns what it is sent filters nothing, which the
//! specification leaves to the device.

use crate::config::{NetConfig, Wanted};
use crate::features::{
    SEVERAL_PAIRS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_HASH_REPORT,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_NOTF_COAL, VIRTIO_NET_F_RSS, VIRTIO_NET_F_VQ_NOTF_COAL,
};
use crate::filter::Mode;
use crate::hash::Hashing;
use crate::mac::Mac;
use crate::rss::Rss;
use std::sync::Arc;
use virtio_mdev_api::DeviceLink;
use virtqueue::{Chain, Halt, Io, Moderation, Next, Patience, Queue};

/// Commands of one burst.
const BURST: usize = 16;
/// Longest command: two filter tables of some thousand addresses.
const MAX_COMMAND: usize = 1 << 16;

const OK: u8 = 0;
const ERR: u8 = 1;

/// Classes, with their commands.
const RX: u8 = 0;
const MAC: u8 = 1;
const MAC_TABLE_SET: u8 = 0;
const MAC_ADDR_SET: u8 = 1;
const VLAN: u8 = 2;
const VLAN_ADD: u8 = 0;
const VLAN_DEL: u8 = 1;
const ANNOUNCE: u8 = 3;
const ANNOUNCE_ACK: u8 = 0;
const MQ: u8 = 4;
const MQ_VQ_PAIRS_SET: u8 = 0;
const MQ_RSS_CONFIG: u8 = 1;
const MQ_HASH_CONFIG: u8 = 2;
const COAL: u8 = 6;
const COAL_TX_SET: u8 = 0;
const COAL_RX_SET: u8 = 1;
const COAL_VQ_SET: u8 = 2;
const COAL_VQ_GET: u8 = 3;

/// Which queue takes commands, with `features` in effect: the last of those there are then.
pub fn control_queue(features: u64, pairs: u16) -> Option<u16> {
    let pairs = if features & SEVERAL_PAIRS != 0 { pairs } else { 1 };
    (features & VIRTIO_NET_F_CTRL_VQ != 0).then(|| 2 * pairs)
}

/// Does what a driver commands.
pub struct Control {
    config: Arc<NetConfig>,
    link: DeviceLink,
    /// Configuration space is another than before the burst.
    changed: bool,
    /// Grows to the longest command there was.
    command: Vec<u8>,
}

impl Control {
    pub fn new(config: Arc<NetConfig>, link: DeviceLink) -> Self {
        Self { config, link, changed: false, command: Vec::new() }
    }

    /// Does what waits in the queue, at most a burst of it.
    pub fn serve(&mut self, queue: &mut Queue, features: u64) -> Next {
        if queue.is_parked() {
            return Next::Wait;
        }
        let served = queue.burst(|io| self.burst(io, features));
        // Not within the burst: the notifier is the client's.
        if std::mem::take(&mut self.changed) {
            self.link.config_changed();
        }
        served.unwrap_or(Next::Again)
    }

    /// Asks the driver to tell of the next command.
    pub fn rest(&self, queue: &mut Queue) -> Next {
        if queue.is_parked() {
            return Next::Wait;
        }
        match queue.burst(|io| io.enable_notifications()) {
            Ok(false) => Next::Wait,
            Ok(true) | Err(_) => Next::Again,
        }
    }

    fn burst(&mut self, io: &mut Io<'_>, features: u64) -> Result<Next, Halt> {
        let mut next = Next::Wait;
        for _ in 0..BURST {
            let Some(chain) = io.take()? else { break };
            next = Next::Again;
            io.disable_notifications()?;
            if chain.writable == 0 {
                return Err(io.refuse(&chain, "control command without room for its answer"));
            }
            let answer = self.obey(io, &chain, features)?;
            io.write(&chain, 0, &answer)?;
            io.complete(&chain, u32::try_from(answer.len()).unwrap_or(1));
            io.commit();
        }
        Ok(next)
    }

    /// Does what is in a chain. Its answer is one byte, and then what was asked for.
    fn obey(&mut self, io: &Io<'_>, chain: &Chain, features: u64) -> Result<Vec<u8>, Halt> {
        let refused = || Ok(vec![ERR]);
        let Some(len) = usize::try_from(chain.readable).ok().filter(|len| *len <= MAX_COMMAND) else {
            return refused();
        };
        if self.command.len() < len {
            self.command.resize(len, 0);
        }
        let len = io.read(chain, 0, &mut self.command[..len])?;
        let [class, command, ref data @ ..] = self.command[..len] else { return refused() };
        let class = Class { class, command, features, config: &self.config };
        let answer = match class.ask(data) {
            Some(answer) => Some([&[OK], &answer[..]].concat()),
            None => class.obey(data, &mut self.changed).map(|()| vec![OK]),
        };
        // There is no part of an answer.
        Ok(answer.filter(|answer| answer.len() as u64 <= chain.writable).unwrap_or_else(|| vec![ERR]))
    }
}

/// A command, without what it is about.
struct Class<'c> {
    class: u8,
    command: u8,
    /// In effect.
    features: u64,
    config: &'c NetConfig,
}

impl Class<'_> {
    fn needs(&self, feature: u64) -> Option<()> {
        (self.features & feature != 0).then_some(())
    }

    /// What it asks for; `None` when it asks for nothing.
    fn ask(&self, data: &[u8]) -> Option<[u8; 8]> {
        let (COAL, COAL_VQ_GET, [low, high, _, _, ..]) = (self.class, self.command, data) else { return None };
        self.needs(VIRTIO_NET_F_VQ_NOTF_COAL)?;
        let Patience { buffers, micros } = self.moderation([*low, *high])?.patience();
        let mut answer = [0; 8];
        answer[..4].copy_from_slice(&buffers.to_le_bytes());
        answer[4..].copy_from_slice(&micros.to_le_bytes());
        Some(answer)
    }

    /// Of a queue of frames.
    fn moderation(&self, queue: [u8; 2]) -> Option<&Moderation> {
        let pairs = if self.features & SEVERAL_PAIRS != 0 { self.config.pairs() } else { 1 };
        let queue = Some(u16::from_le_bytes(queue)).filter(|queue| *queue < 2 * pairs)?;
        self.config.moderations().get(usize::from(queue)).map(|moderation| &**moderation)
    }

    /// Does it; `None` when there is no such command, or it makes no sense.
    fn obey(&self, data: &[u8], changed: &mut bool) -> Option<()> {
        match (self.class, self.command, data) {
            (RX, mode, &[on @ (0 | 1)]) => {
                let mode = Mode::of_command(mode)?;
                self.needs(if mode.is_extra() { VIRTIO_NET_F_CTRL_RX_EXTRA } else { VIRTIO_NET_F_CTRL_RX })?;
                self.change(|wanted| wanted.filter.set_mode(mode, on == 1));
            }
            (MAC, MAC_TABLE_SET, tables) => {
                self.needs(VIRTIO_NET_F_CTRL_RX)?;
                let (single, rest) = table(tables)?;
                let (group, []) = table(rest)? else { return None };
                self.change(|wanted| wanted.filter.set_addresses(single, group));
            }
            (MAC, MAC_ADDR_SET, data) => {
                self.needs(VIRTIO_NET_F_CTRL_MAC_ADDR)?;
                let mac = Mac::of_station(data.try_into().ok()?).ok()?;
                *changed |= mac != self.config.mac();
                self.config.set_mac(mac);
            }
            (VLAN, command @ (VLAN_ADD | VLAN_DEL), &[low, high]) => {
                self.needs(VIRTIO_NET_F_CTRL_VLAN)?;
                let vlan = u16::from_le_bytes([low, high]);
                return self.change(|wanted| wanted.filter.set_vlan(vlan, command == VLAN_ADD)).then_some(());
            }
            (ANNOUNCE, ANNOUNCE_ACK, []) => {
                self.needs(VIRTIO_NET_F_GUEST_ANNOUNCE)?;
                self.config.set_announce(false);
            }
            (MQ, MQ_VQ_PAIRS_SET, &[low, high]) => {
                self.needs(VIRTIO_NET_F_MQ)?;
                let pairs = u16::from_le_bytes([low, high]);
                (1..=self.config.pairs()).contains(&pairs).then_some(())?;
                self.config.enable(pairs);
                // Where frames go is the device's to say again (virtio 1.3 §5.1.6.5.6).
                self.change(|wanted| wanted.rss = None);
            }
            (MQ, MQ_RSS_CONFIG, data) => {
                self.needs(VIRTIO_NET_F_RSS)?;
                let (rss, hashing, transmit) = Rss::parse(data, self.config.pairs())?;
                self.config.enable(transmit);
                self.change(|wanted| (wanted.rss, wanted.hashing) = (Some(rss), hashing));
            }
            (MQ, MQ_HASH_CONFIG, data) => {
                self.needs(VIRTIO_NET_F_HASH_REPORT)?;
                let hashing = Hashing::parse(data)?;
                self.change(|wanted| (wanted.rss, wanted.hashing) = (None, hashing));
            }
            (COAL, direction @ (COAL_TX_SET | COAL_RX_SET), data) => {
                self.needs(VIRTIO_NET_F_NOTF_COAL)?;
                let patience = patience(data)?;
                let first = usize::from(direction == COAL_TX_SET);
                let queues = self.config.moderations().iter().skip(first).step_by(2);
                queues.for_each(|moderation| moderation.set_patience(patience));
            }
            (COAL, COAL_VQ_SET, &[low, high, _, _, ref data @ ..]) => {
                self.needs(VIRTIO_NET_F_VQ_NOTF_COAL)?;
                self.moderation([low, high])?.set_patience(patience(data)?);
            }
            _ => return None,
        }
        Some(())
    }

    fn change<R>(&self, change: impl FnOnce(&mut Wanted) -> R) -> R {
        let mut wanted = Wanted::clone(&self.config.wanted());
        let result = change(&mut wanted);
        self.config.set_wanted(wanted);
        result
    }
}

/// How long interrupts shall wait for each other (`struct virtio_net_ctrl_coal`).
fn patience(bytes: &[u8]) -> Option<Patience> {
    let (buffers, micros) = bytes.split_first_chunk()?;
    let micros = micros.try_into().ok()?;
    Some(Patience { buffers: u32::from_le_bytes(*buffers), micros: u32::from_le_bytes(micros) })
}

/// A table of addresses, which is their number and as many, and what is behind it.
fn table(bytes: &[u8]) -> Option<(&[[u8; 6]], &[u8])> {
    let (count, rest) = bytes.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(6)?;
    let (table, rest) = rest.split_at_checked(len)?;
    Some((table.as_chunks().0, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_queue_is_the_last_of_those_negotiated() {
        assert_eq!(control_queue(VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_MQ, 4), Some(8));
        assert_eq!(control_queue(VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_RSS, 4), Some(8));
        assert_eq!(control_queue(VIRTIO_NET_F_CTRL_VQ, 4), Some(2));
        assert_eq!(control_queue(0, 4), None);
    }

    #[test]
    fn f22_tables_are_as_long_as_they_say() {
        assert_eq!(table(&[0; 8]), Some((&[][..], &[0; 4][..])));
        assert_eq!(table(&[1, 0, 0, 0, 2, 2, 2, 2, 2, 2, 9]), Some((&[[2; 6]][..], &[9][..])));
        for wrong in [&[][..], &[0; 3], &[1, 0, 0, 0, 2, 2], &[0xff; 16], &[0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(table(wrong), None, "{wrong:?}");
        }
    }
}
