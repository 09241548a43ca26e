//! The driver of devices that are no virtio devices, `vfio_mdev`: a client drives the instance through VFIO alone.

use super::face::{self, Face};
use super::nodes::Nodes;
use super::{Traces, on_open};
use devnode::{Ioctl, IoctlReply, Tree};
use mdev_parent::{Binding, Instance, MdevDriver};
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::{Client, DeviceShape, IrqChange, Migratable, VfioDevice};
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_mdev_api::dma::AddressSpace;
use virtio_mdev_api::vfio::{OwnCall, VfioSession};
use virtio_mdev_api::{HasErrno, Refusal};

/// The driver.
pub(super) struct VfioMdevDriver {
    tree: Tree,
    traces: Arc<Traces>,
}

impl VfioMdevDriver {
    pub fn new(tree: Tree, traces: Arc<Traces>) -> Self {
        Self { tree, traces }
    }
}

impl MdevDriver for VfioMdevDriver {
    fn name(&self) -> &str {
        "vfio_mdev"
    }

    fn matches(&self, instance: &Instance) -> bool {
        instance.vfio_session().is_some()
    }

    fn probe(&self, instance: &Arc<Instance>) -> Result<Arc<dyn Binding>, Refusal> {
        let session = instance.vfio_session().ok_or_else(|| Refusal::new(Errno::ENODEV, "a virtio device"))?;
        let (group, trace) = face::group_of(instance);
        group.set_device(Arc::new(Translated { session: Arc::clone(session), on_open: on_open(instance) }));
        let nodes = Nodes::of_group(&self.tree, instance, &group);
        let face = Face::show(instance.uuid(), group, trace, nodes, &self.traces)?;
        Ok(Arc::new(Bound { face, session: Arc::clone(session) }))
    }
}

/// The device as the VFIO device file knows it.
struct Translated {
    session: Arc<VfioSession>,
    on_open: Box<dyn Fn(bool) + Send + Sync>,
}

impl VfioDevice for Translated {
    fn shape(&self) -> DeviceShape {
        self.session.shape().clone()
    }

    fn open(&self) -> Result<(), Refusal> {
        self.session.open()?;
        (self.on_open)(true);
        Ok(())
    }

    fn close(&self) {
        self.session.close();
        (self.on_open)(false);
    }

    fn set_memory(&self, memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal> {
        Ok(self.session.set_memory(memory)?)
    }

    fn read(&self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal> {
        Ok(self.session.read(region, offset, out)?)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        Ok(self.session.write(region, offset, data)?)
    }

    fn set_irqs(&self, change: IrqChange) -> Result<(), Refusal> {
        Ok(self.session.set_irqs(&change)?)
    }

    fn reset(&self) -> Result<(), Refusal> {
        Ok(self.session.reset()?)
    }

    fn ioctl(&self, _client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let own = OwnCall { cmd: call.cmd, arg: call.arg, input: call.input.to_vec() };
        let answer = self.session.ioctl(own).map_err(|error| error.errno())?;
        Ok(IoctlReply { value: answer.value, output: answer.output })
    }

    fn migration(&self) -> Option<&dyn Migratable> {
        self.session.movable().map(|_| self as &dyn Migratable)
    }

    fn dirty(&self) -> Option<&Arc<DirtyRecord>> {
        Some(self.session.dirty())
    }
}

impl Migratable for Translated {
    fn identity(&self) -> Vec<u8> {
        self.session.movable().map(|movable| movable.identity.clone()).unwrap_or_default()
    }

    fn accepts(&self, identity: &[u8]) -> Result<(), Refusal> {
        Ok(self.session.accepts(identity)?)
    }

    fn stop(&self) -> Result<(), Refusal> {
        Ok(self.session.stop()?)
    }

    fn run(&self) -> Result<(), Refusal> {
        Ok(self.session.run()?)
    }

    fn save(&self) -> Result<Vec<u8>, Refusal> {
        Ok(self.session.save()?)
    }

    fn state_size(&self) -> u64 {
        self.session.movable().map_or(0, |movable| movable.size)
    }

    fn restore(&self, state: &[u8]) -> Result<(), Refusal> {
        Ok(self.session.restore(state)?)
    }
}

struct Bound {
    face: Face,
    session: Arc<VfioSession>,
}

impl Binding for Bound {
    fn holder(&self) -> Option<String> {
        self.face.group.device_holder().map(face::holder)
    }

    fn ask(&self) {
        self.session.ask();
    }

    fn remove(&self) {
        self.face.hide();
        self.face.end();
    }
}
