//! What is where, and whose.

use super::*;

#[test]
fn a_type_lists_and_reads_as_sysfs_does() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    let listing = runs(&dir, "ls -l");
    let mode = |name: &str| {
        let line = listing.lines().find(|line| line.ends_with(&format!(" {name}"))).expect("listed");
        line.split(' ').next().expect("a mode").to_owned()
    };
    assert_eq!(mode("create"), "--w-------", "{listing}");
    for name in ["name", "description", "device_api", "available_instances", "dma_model", "last_error"] {
        assert_eq!(mode(name), "-r--r--r--", "{listing}");
        let text = runs(&dir, &format!("cat {name}"));
        assert!(text.ends_with('\n'), "{name}: {text:?}");
    }
    assert_eq!(runs(&dir, "cat device_api"), "virtio-mdev\n");
    assert_eq!(runs(&dir, "cat dma_model"), "vfio\n");
}

#[test]
fn every_link_of_the_tree_leads_somewhere() {
    let daemon = Daemon::start();
    daemon.create();
    let broken = runs(daemon.root(), "find . -xtype l");
    assert_eq!(broken, "");
    let links = runs(daemon.root(), "find . -type l | wc -l");
    assert!(links.trim().parse::<u32>().unwrap() >= 7, "{links}");
}

#[test]
fn an_instance_is_where_tools_look_for_it() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let dir = daemon.instance_dir(&uuid);
    let leads_to = |name: &str, end: &str| {
        let path = dir.join(name).canonicalize().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(path.ends_with(end), "{}", path.display());
    };
    leads_to("mdev_type", "loopback0/mdev_supported_types/loopback-net");
    leads_to("driver", "sys/bus/mdev/drivers/vhost_mdev");
    leads_to("subsystem", "sys/bus/mdev");
    let group = fs::read_link(dir.join("iommu_group")).unwrap();
    let number: u32 = group.file_name().unwrap().to_str().unwrap().parse().unwrap();
    assert!(number >= 1 << 20);
    assert!(daemon.path(format!("dev/vfio/{number}")).exists());
    assert!(daemon.path(format!("sys/kernel/iommu_groups/{number}/devices/{uuid}")).exists());
    assert!(daemon.path(format!("sys/bus/mdev/drivers/vhost_mdev/{uuid}")).exists());
    assert!(dir.canonicalize().unwrap().ends_with(format!("sys/devices/virtual/mdev/loopback0/{uuid}")));
}

#[test]
fn modes_and_owners_of_nodes_are_kept() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let node = daemon.vhost_path(&uuid);
    assert_eq!(fs::metadata(&node).unwrap().mode() & 0o777, 0o600);
    fs::set_permissions(&node, fs::Permissions::from_mode(0o660)).unwrap();
    chown(&node, Some(1234), Some(5678)).unwrap();
    for _ in 0..2 {
        let now = fs::metadata(&node).unwrap();
        assert_eq!((now.mode() & 0o777, now.uid(), now.gid()), (0o660, 1234, 5678));
        drop(File::open(&node).unwrap());
    }
}

#[test]
fn owner_hands_every_node_of_an_instance_to_a_user() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    runs(&dir, &format!("echo {UUID} owner=1234:5678 > create"));
    let group = umdev_tests::driver::group_number(daemon.root(), UUID).unwrap();
    for node in [daemon.vhost_path(UUID), daemon.path(format!("dev/vfio/{group}"))] {
        let of = fs::metadata(&node).unwrap();
        assert_eq!((of.uid(), of.gid()), (1234, 5678), "{}", node.display());
    }
    assert_eq!(daemon.attribute(UUID, "owner"), "1234:5678");
}
