//! Binding and unbinding.

use super::*;

#[test]
fn an_unbound_instance_has_no_nodes_until_it_is_bound_again() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let driver = daemon.path("sys/bus/mdev/drivers/vhost_mdev");
    runs(&driver, &format!("echo {uuid} > unbind"));
    assert!(!daemon.vhost_path(&uuid).exists());
    assert!(!driver.join(&uuid).exists());
    assert!(daemon.instance_dir(&uuid).exists());
    fails(&driver, &format!("/usr/bin/printf %s {uuid} > unbind"), Errno::ENODEV);
    runs(&driver, &format!("echo {uuid} > bind"));
    Client::start(daemon.root(), &uuid, Options::default()).unwrap().exchange(&[3; 60]).unwrap();
    fails(&driver, &format!("/usr/bin/printf %s {uuid} > bind"), Errno::EBUSY);
}

#[test]
fn driver_override_keeps_other_drivers_away() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let (driver, dir) = (daemon.path("sys/bus/mdev/drivers/vhost_mdev"), daemon.instance_dir(&uuid));
    assert_eq!(runs(&dir, "cat driver_override"), "(null)\n");
    runs(&driver, &format!("echo {uuid} > unbind"));
    runs(&dir, "echo another > driver_override");
    assert_eq!(runs(&dir, "cat driver_override"), "another\n");
    fails(&driver, &format!("/usr/bin/printf %s {uuid} > bind"), Errno::ENODEV);
    runs(&dir, "echo > driver_override");
    runs(&driver, &format!("echo {uuid} > bind"));
}
