//! The ways in which QEMU takes a vhost-vdpa device.

use std::path::{Path, PathBuf};

/// A vhost-vdpa device and how QEMU is to drive it.
#[derive(Debug, Clone)]
pub struct Vdpa {
    path: PathBuf,
    way: VdpaWay,
}

/// How QEMU drives a vhost-vdpa device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VdpaWay {
    /// Opens it, and gives it the guest's rings.
    Plain,
    /// Is given it open (`vhostfd=`).
    Descriptor,
    /// Gives it rings of its own and copies between those and the guest's (`x-svq=on`).
    ShadowQueues,
    /// Translates what the guest's driver gives it through a virtual IOMMU, page by page.
    Iommu,
    /// Shows the device as it is, without a network card of its own (`vhost-vdpa-device-pci`, QEMU 10.0 alone).
    Generic,
    /// Opens it, and gives each of the guest's queues a page to kick it by (`page-per-vq=on`).
    PagePerQueue,
    /// So many pairs of queues, and a control queue.
    Pairs(u16),
    /// The same with packed rings.
    PackedPairs(u16),
}

/// What runs a program that is to have the file `path` open as descriptor 9.
pub(super) fn with_descriptor_9(path: &Path) -> Vec<String> {
    ["/bin/sh", "-c", "exec 9<>\"$0\" && exec \"$@\"", &path.to_string_lossy()].map(str::to_owned).into()
}

/// What makes a card of QEMU one with so many pairs.
fn several(pairs: u16) -> String {
    format!(",mq=on,vectors={}", 2 * pairs + 2)
}

impl Vdpa {
    /// The device behind the file `path`.
    pub fn new(path: PathBuf, way: VdpaWay) -> Self {
        Self { path, way }
    }

    /// Pairs of queues.
    pub(super) fn pairs(&self) -> u16 {
        if let VdpaWay::Pairs(pairs) | VdpaWay::PackedPairs(pairs) = self.way { pairs } else { 1 }
    }

    /// What runs QEMU.
    pub(super) fn wrapper(&self) -> Vec<String> {
        if self.way != VdpaWay::Descriptor {
            return Vec::new();
        }
        with_descriptor_9(&self.path)
    }

    /// QEMU's arguments.
    pub(super) fn arguments(&self) -> String {
        let path = self.path.display();
        let (netdev, card) = match self.way {
            VdpaWay::Plain => (format!("vhostdev={path}"), String::new()),
            VdpaWay::Descriptor => ("vhostfd=9".to_owned(), String::new()),
            VdpaWay::ShadowQueues => (format!("vhostdev={path},x-svq=on"), String::new()),
            VdpaWay::Iommu => (format!("vhostdev={path}"), ",iommu_platform=on".to_owned()),
            VdpaWay::PagePerQueue => (format!("vhostdev={path}"), ",page-per-vq=on".to_owned()),
            VdpaWay::Pairs(pairs) => (format!("vhostdev={path},queues={pairs}"), several(pairs)),
            VdpaWay::PackedPairs(pairs) => (format!("vhostdev={path},queues={pairs}"), several(pairs) + ",packed=on"),
            VdpaWay::Generic => return format!("-device vhost-vdpa-device-pci,vhostdev={path}"),
        };
        let iommu = if self.way == VdpaWay::Iommu { "-device intel-iommu,caching-mode=on,intremap=off " } else { "" };
        format!(
            "{iommu}-netdev vhost-vdpa,id=n,{netdev} -device virtio-net-pci,netdev=n,disable-legacy=on,romfile={card}"
        )
    }

    /// What the guest's kernel is told, a blank before each word.
    pub(super) fn kernel_words(&self) -> &'static str {
        if self.way == VdpaWay::Iommu { " intel_iommu=on" } else { "" }
    }
}
