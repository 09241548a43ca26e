//! DPDK's testpmd with its virtio-user driver on the shim's socket, against a loopback instance. One port of testpmd reads frames from a capture file,
//! the other is ours; it forwards between both and writes what came back to a second capture file. The two files must hold the same frames.

use std::time::{Duration, Instant};
use umdev_tests::lab::{Daemon, DaemonOptions, LabError, LabResult, Running, Shim, claim, read_pcap, write_pcap};
use uuid::Uuid;

const FRAMES: usize = 100_000;
const SIZES: [usize; 7] = [60, 61, 64, 128, 590, 1024, 1514];
const PATIENCE: Duration = Duration::from_secs(20);

/// Each carries its number, and the bytes after it depend on that.
fn frame(number: usize) -> Vec<u8> {
    let len = SIZES[number % SIZES.len()];
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..len).map(|at| (number.wrapping_mul(131) ^ at.wrapping_mul(17)).to_le_bytes()[0]));
    frame
}

fn frames_come_back(type_name: &str, vdev_options: &str) -> LabResult<()> {
    let _claim = claim()?;
    let dir = tempfile::tempdir().map_err(LabError::io("make a directory"))?;
    let path = |name: &str| dir.path().join(name);
    let sent: Vec<_> = (0..FRAMES).map(frame).collect();
    write_pcap(&path("in.pcap"), &sent)?;

    let parents = ["loopback:loopback0"];
    let daemon = Daemon::start(&DaemonOptions { root: &path("root"), parents: &parents, netns: None })?;
    let uuid = Uuid::new_v4().to_string();
    daemon.create("loopback0", type_name, &uuid)?;
    let shim = Shim::start(&daemon, &uuid, &path("vhost-user.sock"))?;

    let command = format!(
        "stdbuf -oL dpdk-testpmd --no-huge -m 256 --no-pci --file-prefix=umdev-{uuid} --lcores 0@0,1@1 \
         --vdev net_virtio_user0,path={},queues=1{vdev_options} --vdev net_pcap0,rx_pcap={},tx_pcap={} \
         -- --nb-cores=1 --no-flush-rx --total-num-mbufs=8192 --forward-mode=io -i",
        shim.socket().display(),
        path("in.pcap").display(),
        path("out.pcap").display()
    );
    let command: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
    let mut testpmd = Running::start("testpmd", &[], &command)?;
    testpmd
        .wait_for("Done", Duration::from_secs(30))
        .map_err(|error| LabError::Wrong(format!("{error}\n{}", daemon.log())))?;
    // a full ring is waited for instead of losing the frame in testpmd itself
    testpmd.say("set fwd io retry\nset burst tx delay 10 retry 10000\n")?;
    let start = Instant::now();
    testpmd.say("start\n")?;
    let all = format!("RX-packets: {FRAMES} ");
    while !testpmd.output().contains(&all) && start.elapsed() < PATIENCE {
        testpmd.say("show port stats 0\n")?;
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("{type_name}: {FRAMES} frames in at most {:.1} s", start.elapsed().as_secs_f64());
    testpmd.say("stop\nport stop all\nquit\n")?;
    testpmd.wait_end(PATIENCE)?;
    let back = read_pcap(&path("out.pcap"))?;

    let changed = sent.iter().zip(&back).position(|(sent, back)| sent != back);
    assert_eq!(
        (back.len(), changed),
        (FRAMES, None),
        "frames that came back, and the first that differs\n{}",
        testpmd.tail()
    );
    Ok(())
}

#[test]
fn testpmd_gets_every_frame_back_in_order_and_unchanged() -> LabResult<()> {
    frames_come_back("loopback-net", ",queue_size=256")
}

#[test]
fn testpmd_gets_every_frame_back_from_the_fast_type() -> LabResult<()> {
    frames_come_back("loopback-net-fast", ",queue_size=1024,mrg_rxbuf=1,in_order=0")
}
