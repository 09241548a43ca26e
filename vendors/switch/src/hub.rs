//! What all ports of a switch share.

use crate::clock::{Clock, seconds};
use crate::frame::{Address, bytes_of, split};
use crate::member::{Exit, Member, Settings};
use crate::secret::Secret;
use crate::table::{PortId, Table};
use crate::vlan::Kind;
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use virtio_net::Mac;

/// The ports there are. A new one is published for every port that comes or goes; who forwards has one for a burst.
#[derive(Default)]
pub struct Topology {
    /// By id.
    members: Vec<Option<Arc<Member>>>,
    /// Uplinks, and behind them trunks.
    wide: Vec<PortId>,
    /// Access ports by VLAN.
    access: Vec<(u16, PortId)>,
    /// Whose own address it is, whichever VLAN.
    stations: HashMap<Address, Vec<PortId>, Secret>,
}

impl Topology {
    fn new(members: Vec<Option<Arc<Member>>>) -> Self {
        let mut topology = Self::default();
        for member in members.iter().flatten() {
            let settings = &member.settings;
            match (settings.membership.kind, settings.membership.native) {
                (Kind::Access, Some(vlan)) => topology.access.push((vlan, member.id)),
                _ => topology.wide.push(member.id),
            }
            if settings.address() != 0 {
                topology.stations.entry(settings.address()).or_default().push(member.id);
            }
        }
        topology.access.sort_unstable();
        let is_uplink = |id: &PortId| {
            members[usize::from(*id)].as_ref().is_some_and(|member| member.settings.membership.kind == Kind::Uplink)
        };
        topology.wide.sort_by_key(|id| !is_uplink(id));
        topology.members = members;
        topology
    }

    /// A port.
    #[inline]
    pub fn member(&self, id: PortId) -> Option<&Member> {
        self.members.get(usize::from(id))?.as_deref()
    }

    /// The port whose own address this is, in a VLAN. Of several (a guest moves from one to the other) the one that was
    /// started last.
    #[inline]
    pub fn station(&self, vid: u16, address: Address) -> Option<PortId> {
        let ports = self.stations.get(&address)?;
        let members = ports.iter().filter_map(|id| self.member(*id)).filter(|member| member.settings.is_in(vid));
        members.max_by_key(|member| member.settings.started.load(Ordering::Relaxed)).map(|member| member.id)
    }

    /// All ports of a VLAN, uplinks first.
    pub fn ports_of(&self, vid: u16) -> impl Iterator<Item = &Member> {
        let from = self.access.partition_point(|(vlan, _)| *vlan < vid);
        let access = self.access[from..].iter().take_while(move |(vlan, _)| *vlan == vid).map(|(_, id)| *id);
        let members = self.wide.iter().copied().chain(access).filter_map(|id| self.member(id));
        members.filter(move |member| member.settings.is_in(vid))
    }

    fn ids(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().flatten().map(Arc::as_ref)
    }
}

/// The switch.
pub struct Hub {
    name: String,
    topology: ArcSwap<Topology>,
    /// Taken by who publishes another one.
    changes: Mutex<()>,
    /// What was learnt.
    pub table: Table,
    clock: Arc<dyn Clock>,
    starts: AtomicU64,
}

impl Hub {
    /// A switch without ports.
    pub fn new(name: String, table: Table, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (topology, starts) = (ArcSwap::default(), AtomicU64::new(0));
        Arc::new(Self { name, topology, changes: Mutex::new(()), table, clock, starts })
    }

    /// The ports there are now.
    pub fn topology(&self) -> Guard<Arc<Topology>> {
        self.topology.load()
    }

    /// The time.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// A port joins.
    pub fn join(self: &Arc<Self>, name: String, settings: Arc<Settings>, exit: Exit) -> Joined {
        let _changes = self.changes.lock();
        let mut members = self.topology.load().members.clone();
        let free = members.iter().position(Option::is_none).unwrap_or(members.len());
        // Instances are limited to fewer.
        let id = PortId::try_from(free).unwrap_or(PortId::MAX);
        self.table.join(id, settings.max_learned);
        let member = Arc::new(Member { id, name, settings, exit });
        if free == members.len() {
            members.push(None);
        }
        members[free] = Some(Arc::clone(&member));
        self.topology.store(Arc::new(Topology::new(members)));
        Joined { hub: Arc::clone(self), id }
    }

    fn leave(&self, id: PortId) {
        let _changes = self.changes.lock();
        let mut members = self.topology.load().members.clone();
        if let Some(place) = members.get_mut(usize::from(id)) {
            *place = None;
        }
        self.topology.store(Arc::new(Topology::new(members)));
        self.table.leave(id);
    }

    /// A port has another address of its own.
    pub fn readdress(&self, settings: &Settings, address: Address) {
        let _changes = self.changes.lock();
        settings.address.store(address, Ordering::Relaxed);
        let members = self.topology.load().members.clone();
        self.topology.store(Arc::new(Topology::new(members)));
    }

    /// A driver starts with these features.
    pub fn start(&self, settings: &Settings, features: u64) {
        settings.features.store(features, Ordering::Relaxed);
        settings.started.store(self.starts.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// How many addresses are learnt at a port.
    pub fn learned(&self, id: PortId) -> usize {
        self.table.entries(seconds(self.now())).iter().filter(|entry| entry.port == id).count()
    }

    /// The forwarding table in words, a line an entry as `bridge fdb` has them.
    pub fn fdb(&self) -> String {
        let topology = self.topology.load();
        let (mut text, master) = (String::new(), &self.name);
        for member in topology.ids() {
            let membership = &member.settings.membership;
            let address = Mac::from(bytes_of(member.settings.address()));
            let vlan = match (membership.kind, membership.native) {
                (Kind::Access, Some(vlan)) => format!(" vlan {vlan}"),
                _ => String::new(),
            };
            if member.settings.address() != 0 {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{address} dev {}{vlan} master {master} permanent", member.name);
            }
        }
        let mut entries = self.table.entries(seconds(self.now()));
        entries.sort_unstable_by_key(|entry| (entry.port, entry.key));
        for entry in entries {
            let (vlan, address) = split(entry.key);
            let name = topology.member(entry.port).map_or("-", |member| &member.name);
            let (address, age) = (Mac::from(bytes_of(address)), entry.age);
            let _ = writeln!(text, "{address} dev {name} vlan {vlan} used {age} master {master}");
        }
        text
    }
}

/// A port's place in the switch, left when dropped.
pub struct Joined {
    hub: Arc<Hub>,
    id: PortId,
}

impl Joined {
    /// The place.
    pub fn id(&self) -> PortId {
        self.id
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.hub.leave(self.id);
    }
}
