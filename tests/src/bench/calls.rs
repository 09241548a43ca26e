//! What control calls cost, each beside the floor: a getattr on the same mount.

use crate::bench::samples::{Samples, timed};
use std::fs::{self, File, OpenOptions};
use std::time::Duration;
use umdev_tests::driver::{Client, Daemon, Options, memory, new_uuid};

const WARM_UP: usize = 300;

/// Each call in turn with the floor: floor, call, floor, call, …
pub fn measure(daemon: &Daemon, rounds: usize, creations: usize) -> Vec<Samples> {
    let mut samples = ioctls(daemon, rounds);
    samples.extend(creation(daemon, creations));
    samples
}

struct Floor(File);

impl Floor {
    fn of(daemon: &Daemon) -> Self {
        Self(File::open(daemon.type_dir("loopback-net").join("name")).expect("an attribute"))
    }

    /// Attributes have no life in the kernel's cache: this is a request and its answer.
    fn take(&self) -> Duration {
        timed(|| self.0.metadata().expect("getattr")).1
    }
}

fn ioctls(daemon: &Daemon, rounds: usize) -> Vec<Samples> {
    let floor = Floor::of(daemon);
    let uuid = daemon.create();
    let client = Client::start(daemon.root(), &uuid, Options::default()).expect("a driver");
    let (_, container) = client.vfio.as_ref().expect("a container");
    let (address, far) = (client.memory.address(), memory::IOVA << 8);
    let size = client.memory.size();
    let mut floors = Samples::of("getattr (the floor)");
    let mut features = Samples::of("VHOST_GET_FEATURES");
    let mut config = Samples::of("VHOST_VDPA_GET_CONFIG, 8 bytes, argument read from the caller");
    let mut map = Samples::of("VFIO_IOMMU_MAP_DMA, 4 MiB of a memfd");
    let mut unmap = Samples::of("VFIO_IOMMU_UNMAP_DMA");
    for round in 0..WARM_UP + rounds {
        let add = |samples: &mut Samples, call: &dyn Fn()| {
            let floor = floor.take();
            let ((), took) = timed(call);
            if round >= WARM_UP {
                samples.add(took, floor);
            }
        };
        add(&mut floors, &|| _ = floor.take());
        add(&mut features, &|| _ = client.vhost.features().expect("features"));
        add(&mut config, &|| drop(client.vhost.config(0, 8).expect("config")));
        add(&mut map, &|| container.map(far, size, address).expect("map"));
        add(&mut unmap, &|| _ = container.unmap(far, size).expect("unmap"));
    }
    drop(client);
    daemon.remove(&uuid, "1").expect("remove");
    [floors, features, config, map, unmap].into()
}

fn creation(daemon: &Daemon, creations: usize) -> Vec<Samples> {
    let floor = Floor::of(daemon);
    let mut create = Samples::of("create until the device node can be opened");
    let mut remove = Samples::of("remove");
    for _ in 0..creations {
        let (before, uuid) = (floor.take(), new_uuid());
        create.add(create_and_open(daemon, &uuid), before);
        let before = floor.take();
        let ((), took) = timed(|| daemon.remove(&uuid, "1").expect("remove"));
        remove.add(took, before);
    }
    [create, remove].into()
}

/// How long a write to `create` takes, and to open what it made.
pub fn create_and_open(daemon: &Daemon, uuid: &str) -> Duration {
    let create = daemon.type_dir("loopback-net").join("create");
    let node = daemon.vhost_path(uuid);
    timed(|| {
        fs::write(&create, uuid).expect("create");
        OpenOptions::new().read(true).write(true).open(&node).expect("the node")
    })
    .1
}
