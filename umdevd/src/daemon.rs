//! The daemon put together: a mount, a bus, the stock driver, the parents, and what `create` made before.

use crate::config::ParentSpec;
use crate::drivers::{self, Traces};
use crate::lock::RootLock;
use crate::socket::Service;
use crate::state::{Journal, Record};
use crate::tree::TreeView;
use crate::{DaemonError, kinds, lock, ready};
use devnode::{Broadcast, FdSocket, Server, ServerConfig, Tree};
use mdev_parent::{Bus, BusOptions, CreateText, Restore};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vfio_container::iommufd::IommuNode;
use vfio_container::{ContainerNode, HandleNode, StreamNode};
use vhost_net::VhostNet;
use virtio_mdev_api::Parent;

/// `/dev/vfio/vfio` is everybody's, as the kernel's is.
const CONTAINER_MODE: u16 = 0o666;
/// So is `/dev/iommu`, unlike the kernel's: nothing is pinned, and an instance's owner, who need not be the superuser, maps
/// no other memory than his own.
const IOMMU_MODE: u16 = 0o666;
/// Everybody may have a handle: what it becomes is proven by a descriptor of another file.
const HANDLE_MODE: u16 = 0o666;
/// `/dev/vhost-net` is the superuser's, as the kernel's is.
const VHOST_NET_MODE: u16 = 0o600;
/// Everybody may greet and watch; the service checks the rest.
const SOCKET_MODE: u16 = 0o666;
/// How often the daemon looks whether it was unmounted, in milliseconds.
const LOOK: u16 = 500;

/// What a daemon is to be.
pub struct Builder {
    root: PathBuf,
    state_dir: Option<PathBuf>,
    options: BusOptions,
    parents: Vec<(String, Arc<dyn Parent>)>,
}

impl Builder {
    /// Registers `parent` under `name`.
    #[must_use]
    pub fn parent(mut self, name: &str, parent: Arc<dyn Parent>) -> Self {
        self.parents.push((name.to_owned(), parent));
        self
    }

    /// Registers the stock parents that `specs` ask for.
    pub fn stock_parents(mut self, specs: &[ParentSpec]) -> Result<Self, DaemonError> {
        for spec in specs {
            self.parents.push((spec.name.clone(), kinds::make_parent(spec)?));
        }
        Ok(self)
    }

    /// Where the lock and the journal are kept; `<root>.state` if not said.
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// How long a holder has to let go of an instance that is to be removed.
    #[must_use]
    pub fn remove_patience(mut self, patience: Duration) -> Self {
        self.options.remove_patience = patience;
        self
    }

    /// How long one call of vendor code may take.
    #[must_use]
    pub fn vendor_deadline(mut self, deadline: Duration) -> Self {
        self.options.vendor_deadline = deadline;
        self
    }

    /// Mounts the root, registers the parents, restores what `create` made earlier in this boot, and serves.
    pub fn start(mut self) -> Result<Daemon, DaemonError> {
        let state_dir = self.state_dir.unwrap_or_else(|| beside(&self.root, ".state"));
        fs::create_dir_all(&state_dir).map_err(DaemonError::path("make", &state_dir))?;
        let lock = lock::take(&self.root, &state_dir)?;
        let signals = Signals::block()?;
        raise_descriptor_limit();

        match devnode::can_map() {
            Ok(()) => self.options.doorbell_pages = true,
            Err(errno) => tracing::info!(%errno, "no doorbell pages: clients cannot map files here"),
        }
        let tree = Tree::new();
        let incomplete = |error: devnode::TreeError| DaemonError::Serve(std::io::Error::other(error));
        let (view, bus) = TreeView::new(tree.clone(), self.options).map_err(incomplete)?;
        let vfio = tree.dirs(tree.root(), "dev/vfio").map_err(incomplete)?;
        tree.device(vfio, "vfio", CONTAINER_MODE, Arc::new(ContainerNode::new())).map_err(incomplete)?;
        tree.device(vfio, "handle", HANDLE_MODE, Arc::new(HandleNode)).map_err(incomplete)?;
        tree.device(vfio, "stream", HANDLE_MODE, Arc::new(StreamNode)).map_err(incomplete)?;

        let vhost_net = VhostNet::new();
        let dev = tree.dirs(tree.root(), "dev").map_err(incomplete)?;
        tree.device(dev, "iommu", IOMMU_MODE, Arc::new(IommuNode::new())).map_err(incomplete)?;
        tree.device(dev, "vhost-net", VHOST_NET_MODE, Arc::clone(&vhost_net) as _).map_err(incomplete)?;

        let traces = Arc::new(Traces::default());
        drivers::register(&bus, &tree, &traces).map_err(|error| DaemonError::Config(error.to_string()))?;
        for (name, parent) in self.parents {
            let refused =
                |error: mdev_parent::BusError| DaemonError::Parent { name: name.clone(), reason: error.to_string() };
            bus.register_parent(&name, parent).map_err(refused)?;
        }
        let (journal, records) = Journal::open(&state_dir)?;
        view.keep_journal(journal);
        restore(&bus, records);

        let fuse = mount(&self.root)?;
        let config = ServerConfig { root: Some(self.root.clone()), ..ServerConfig::default() };
        let server = Arc::new(Server::start(tree, fuse, config).map_err(DaemonError::Serve)?);
        let events = Arc::new(Broadcast::new());
        pump_events(&bus, &events).map_err(DaemonError::Serve)?;
        let service = Service::new(traces, events, vhost_net, Arc::downgrade(&server));
        let socket = FdSocket::serve(&server, &self.root.join("fd.sock"), SOCKET_MODE, Arc::new(service));
        let socket = socket.map_err(DaemonError::Serve)?;
        ready::announce(&self.root);
        tracing::info!(root = %self.root.display(), "serving");
        Ok(Daemon { root: self.root, bus, server, socket, signals, _lock: lock })
    }
}

/// A serving daemon.
pub struct Daemon {
    root: PathBuf,
    bus: Bus,
    server: Arc<Server>,
    socket: FdSocket,
    signals: Signals,
    _lock: RootLock,
}

impl Daemon {
    /// Begins a daemon that serves `root`.
    pub fn builder(root: impl Into<PathBuf>) -> Builder {
        Builder { root: root.into(), state_dir: None, options: BusOptions::default(), parents: Vec::new() }
    }

    /// The bus, for parents that come and go while the daemon runs.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Serves until SIGTERM or SIGINT, or until somebody unmounts the root; then unmounts and leaves. What `create`
    /// made comes back with the next daemon of this boot.
    pub fn run(self) -> Result<(), DaemonError> {
        self.signals.wait(&self.server);
        tracing::info!("leaving");
        drop(self.socket);
        for instance in self.bus.instances() {
            instance.engine().retire();
        }
        if let Err(error) = devnode::unmount(&self.root) {
            tracing::debug!(%error, "already unmounted");
        }
        drop(self.server);
        Ok(())
    }
}

/// Every instance in use holds a few descriptors; the soft limit is meant for programs that use select(2).
fn raise_descriptor_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn restore(bus: &Bus, records: Vec<Record>) {
    for Record { uuid, parent, type_name, index, parameters, owner, driver_override } in records {
        let text = CreateText { uuid, parameters, owner };
        let restore = Restore { index: Some(index), driver_override };
        match bus.create(&parent, &type_name, text, restore) {
            Ok(_) => tracing::info!(%uuid, parent, type_name, "restored"),
            Err(error) => tracing::error!(%uuid, parent, type_name, %error, "not restored"),
        }
    }
}

fn mount(root: &Path) -> Result<OwnedFd, DaemonError> {
    let failed = |error| DaemonError::Mount { root: root.to_owned(), error };
    if devnode::is_stale(root) {
        tracing::warn!(root = %root.display(), "replacing the mount of a dead daemon");
        devnode::unmount(root).map_err(failed)?;
    }
    fs::create_dir_all(root).map_err(DaemonError::path("make", root))?;
    devnode::mount(root).map_err(failed)
}

fn beside(root: &Path, suffix: &str) -> PathBuf {
    let mut name = root.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn pump_events(bus: &Bus, to: &Arc<Broadcast>) -> std::io::Result<()> {
    let (events, to) = (bus.subscribe(), Arc::clone(to));
    let pump = move || {
        for event in events {
            match serde_json::to_string(&event) {
                Ok(line) => to.publish(&line),
                Err(error) => tracing::error!(%error, "an event was not told"),
            }
        }
    };
    std::thread::Builder::new().name("events".into()).spawn(pump).map(|_| ())
}

/// The signals that end the daemon. Blocked before any thread starts, so that no thread is interrupted by them.
struct Signals(SignalFd);

impl Signals {
    fn block() -> Result<Self, DaemonError> {
        let set: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        let blocked = set.thread_block().and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC));
        blocked.map(Self).map_err(|errno| DaemonError::Serve(errno.into()))
    }

    /// Returns at the first signal, or when the server ends by itself.
    fn wait(&self, server: &Server) {
        while !server.has_ended() {
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(LOOK)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return,
                Err(error) => tracing::error!(%error, "signals cannot be waited for"),
            }
        }
    }
}
