//! A tree of plain files that imitates the daemon's, and the real binary run on it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub const IDLE: &str = "11111111-1111-4111-8111-111111111111";
pub const BUSY: &str = "22222222-2222-4222-8222-222222222222";
pub const NEW: &str = "33333333-3333-4333-8333-333333333333";

pub const MDEV: &str = "sys/devices/virtual/mdev";

/// A tree below a directory that goes away with it.
pub struct Fixture {
    dir: TempDir,
}

impl Fixture {
    /// Two parents, one type that both have, two instances: one idle, one in use by a guest.
    pub fn new() -> Self {
        let fixture = Self::empty();
        for (parent, kind, available, description) in [
            ("loopback0", "loopback0-net", "15", "What is sent comes back\n"),
            ("loopback0", "net", "3", ""),
            ("tap0", "net", "0", "low: 1\nhigh: \u{1b}[31mred\n"),
        ] {
            let dir = format!("{MDEV}/{parent}/mdev_supported_types/{kind}");
            fixture.file(&format!("{dir}/create"), "");
            fixture.file(&format!("{dir}/available_instances"), &format!("{available}\n"));
            fixture.file(&format!("{dir}/device_api"), "virtio-mdev\n");
            fixture.file(&format!("{dir}/name"), &format!("{parent} network device\n"));
            fixture.file(&format!("{dir}/dma_model"), "vfio\n");
            fixture.file(&format!("{dir}/last_error"), "\n");
            if kind == "loopback0-net" {
                fixture.file(&format!("{dir}/parameters"), "mtu 68..65535 1500 largest packet\nmac SHAPE - address\n");
            }
            if !description.is_empty() {
                fixture.file(&format!("{dir}/description"), description);
            }
            fixture.file(&format!("{MDEV}/{parent}/last_error"), "\n");
            fixture.link(&format!("sys/class/mdev_bus/{parent}"), &format!("../../devices/virtual/mdev/{parent}"));
        }
        fixture.instance(IDLE, "loopback0", "loopback0-net", 1_048_576, "idle", "root");
        fixture.instance(BUSY, "tap0", "net", 1_048_577, "running", "alice");
        fixture
    }

    /// A directory and nothing in it.
    pub fn empty() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory for the tree") }
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root().join(below)
    }

    /// Writes a file, with the directories above it.
    pub fn file(&self, below: &str, content: &str) {
        self.above(below);
        fs::write(self.path(below), content).expect("write a file of the tree");
    }

    /// Makes a link, in place of a file that may be there.
    pub fn link(&self, below: &str, target: &str) {
        self.above(below);
        let _ = fs::remove_file(self.path(below));
        symlink(target, self.path(below)).expect("make a link of the tree");
    }

    pub fn read(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).expect("read a file of the tree")
    }

    pub fn instance(&self, uuid: &str, parent: &str, kind: &str, group: u32, state: &str, owner: &str) {
        let dir = format!("{MDEV}/{parent}/{uuid}");
        self.file(&format!("{dir}/remove"), "");
        self.file(&format!("{dir}/state"), &format!("{state}\n"));
        self.file(&format!("{dir}/owner"), &format!("{owner}\n"));
        self.file(&format!("{dir}/driver_override"), "(null)\n");
        self.file(&format!("{dir}/last_error"), "\n");
        self.file(&format!("{dir}/uevent"), "DRIVER=vhost_mdev\n");
        self.file(&format!("{dir}/vfio-dev/vfio0/dev"), "");
        self.link(&format!("{dir}/mdev_type"), &format!("../mdev_supported_types/{kind}"));
        self.link(&format!("{dir}/iommu_group"), &format!("../../../../kernel/iommu_groups/{group}"));
        self.link(&format!("{dir}/driver"), "../../../../bus/mdev/drivers/vhost_mdev");
        self.link(&format!("{dir}/subsystem"), "../../../../bus/mdev");
        self.link(&format!("sys/bus/mdev/devices/{uuid}"), &format!("../../../devices/virtual/mdev/{parent}/{uuid}"));
        self.file(&format!("dev/vhost-mdev/{uuid}"), "");
        self.file(&format!("dev/vfio/{group}"), "");
        self.link(&format!("dev/vhost-vdpa-{}", group - 1_048_576), &format!("vhost-mdev/{uuid}"));
    }

    /// The binary on this tree, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umdev"));
        command.arg("--root").arg(self.root()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(self, self.command(args).output().expect("run umdev"))
    }

    fn above(&self, below: &str) {
        let above = self.path(below);
        fs::create_dir_all(above.parent().expect("a directory above")).expect("make a directory of the tree");
    }
}

/// How a run ended; the root in its output reads `ROOT`.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn of(fixture: &Fixture, output: Output) -> Self {
        let root = fixture.root().to_str().expect("a root in UTF-8");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output in UTF-8").replace(root, "ROOT");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The output of a run that went well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }

    /// The words of a run that was refused.
    #[track_caller]
    pub fn refused(self) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(1), ""), "{self:?}");
        self.err
    }
}

/// Compares with a file of `tests/golden`; `UMDEV_BLESS=1` writes it anew.
#[track_caller]
pub fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UMDEV_BLESS").is_some() {
        fs::write(&path, actual).expect("write the golden file");
    }
    let expected = fs::read_to_string(&path).expect("read the golden file");
    assert_eq!(actual, expected, "{name} differs");
}
