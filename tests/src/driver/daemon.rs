//! A daemon of its own for a test or a measurement, gone when the guard is dropped.

use super::sys;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg, send, socket,
};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the daemon has to come and to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `umdevd` with a root of its own.
#[derive(Debug)]
pub struct Daemon {
    program: PathBuf,
    child: Child,
    root: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    _dir: TempDir,
}

/// A UUID nobody has.
pub fn new_uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The program built beside the running test or measurement.
fn program() -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let found = exe.ancestors().skip(1).take(2).map(|dir| dir.join("umdevd")).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no umdevd beside {}: build the workspace first", exe.display()))
}

impl Daemon {
    /// Starts `umdevd` with one loopback parent, `loopback0`, and little patience with holders.
    pub fn start() -> Self {
        Self::with(&["--parent", "loopback:loopback0"])
    }

    /// Starts `umdevd` with these arguments behind `--root` and `--config`.
    pub fn with(arguments: &[&str]) -> Self {
        Self::configured(arguments, "")
    }

    /// The same, with more lines in its configuration.
    pub fn configured(arguments: &[&str], lines: &str) -> Self {
        Self::made_of(program(), arguments, lines)
    }

    /// The daemon of another build.
    pub fn of(program: &Path, arguments: &[&str]) -> Self {
        Self::made_of(program.to_owned(), arguments, "")
    }

    fn made_of(program: PathBuf, arguments: &[&str], lines: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("umdev-test-").tempdir().expect("a directory");
        let config = dir.path().join("config.toml");
        fs::write(&config, format!("remove_patience = 0.5\n{lines}\n")).expect("a configuration");
        let (root, log) = (dir.path().join("root"), dir.path().join("log"));
        let mut all = vec!["--root".into(), path_text(&root), "--config".into(), path_text(&config)];
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let child = spawn(&program, &all, &log);
        Self { program, child, root, log, arguments: all, _dir: dir }
    }

    /// Starts another daemon on the same root, the former one gone.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.program, &self.arguments, &self.log);
    }

    /// Runs a second daemon on the same root to its end, which is to come at once.
    pub fn second(&self) -> (ExitStatus, String) {
        let output = Command::new(&self.program).args(&self.arguments).stdin(Stdio::null()).output().expect("umdevd");
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Its mount.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file below the root.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    /// The directory of a type of `loopback0`.
    pub fn type_dir(&self, name: &str) -> PathBuf {
        self.path("sys/class/mdev_bus/loopback0/mdev_supported_types").join(name)
    }

    /// The directory of an instance.
    pub fn instance_dir(&self, uuid: &str) -> PathBuf {
        self.path("sys/bus/mdev/devices").join(uuid)
    }

    /// The vhost file of an instance.
    pub fn vhost_path(&self, uuid: &str) -> PathBuf {
        self.path("dev/vhost-mdev").join(uuid)
    }

    /// Creates an instance of `loopback-net`.
    pub fn create(&self) -> String {
        self.create_of("loopback-net")
    }

    /// Creates an instance of a type of `loopback0`.
    pub fn create_of(&self, name: &str) -> String {
        let uuid = new_uuid();
        fs::write(self.type_dir(name).join("create"), &uuid)
            .unwrap_or_else(|error| panic!("create {uuid}: {error}\n{}", self.log()));
        uuid
    }

    /// Creates an instance of `loopback-net` with parameters.
    pub fn create_with(&self, parameters: &str) -> String {
        self.try_create_with(parameters).unwrap_or_else(|error| panic!("create {parameters}: {error}\n{}", self.log()))
    }

    /// The same, unless it is refused.
    pub fn try_create_with(&self, parameters: &str) -> io::Result<String> {
        self.try_create("loopback-net", parameters)
    }

    /// Creates an instance of a type of `loopback0` with parameters, unless it is refused.
    pub fn try_create(&self, name: &str, parameters: &str) -> io::Result<String> {
        let uuid = new_uuid();
        fs::write(self.type_dir(name).join("create"), format!("{uuid} {parameters}"))?;
        Ok(uuid)
    }

    /// Writes to an instance's `remove`.
    pub fn remove(&self, uuid: &str, text: &str) -> io::Result<()> {
        fs::write(self.instance_dir(uuid).join("remove"), text)
    }

    /// Reads an attribute of an instance, without its newline.
    pub fn attribute(&self, uuid: &str, name: &str) -> String {
        let path = self.instance_dir(uuid).join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim_end().to_owned()
    }

    /// Waits until an attribute of an instance has a value.
    pub fn wait_for(&self, uuid: &str, name: &str, value: &str) {
        let reached = eventually(PATIENCE, || self.attribute(uuid, name) == value);
        assert!(
            reached,
            "{name} is {:?}, not {value:?}; {}",
            self.attribute(uuid, name),
            self.attribute(uuid, "last_fault")
        );
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Whether it runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Ends it with a signal and waits for the end.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        kill(self.pid(), signal).expect("kill");
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("umdevd does not end\n{}", self.log());
    }

    /// Open descriptors of the daemon.
    pub fn open_fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("procfs").count()
    }

    /// Mappings of the daemon.
    pub fn mappings(&self) -> usize {
        fs::read_to_string(format!("/proc/{}/maps", self.pid())).expect("procfs").lines().count()
    }

    /// The processor time of its threads.
    pub fn processor_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("its threads");
        // A thread may end meanwhile.
        let times = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
        let nanos = times.filter_map(|time| time.split(' ').next()?.parse::<u64>().ok()).sum();
        Duration::from_nanos(nanos)
    }

    /// The processor time of a parent's thread.
    pub fn thread_time(&self, parent: &str) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("its threads");
        let is_its = |name: String| name.split('/').next() == Some(parent);
        let mut tasks = tasks.flatten().map(|task| task.path());
        let task = tasks.find(|task| fs::read_to_string(task.join("comm")).is_ok_and(is_its)).expect("a thread");
        let time = fs::read_to_string(task.join("schedstat")).expect("its times");
        Duration::from_nanos(time.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number"))
    }

    /// A number of `/proc/<pid>/status`, such as `VmRSS` (in KiB) or `Threads`.
    pub fn figure(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("procfs");
        let line = status.lines().find(|line| line.split(':').next() == Some(name));
        let number = line.and_then(|line| line.split_ascii_whitespace().nth(1)).and_then(|word| word.parse().ok());
        number.unwrap_or_else(|| panic!("{name} in {status}"))
    }

    /// One request to the fd socket.
    pub fn ask(&self, request: &serde_json::Value) -> (serde_json::Value, Vec<OwnedFd>) {
        ask(&self.path("fd.sock"), request.to_string().as_bytes()).expect("fd socket")
    }

    /// The lines of the bus's event stream.
    pub fn watch(&self) -> BufReader<File> {
        let (answer, mut fds) = self.ask(&serde_json::json!({ "op": "watch" }));
        assert_eq!(answer["ok"], true, "{answer}");
        BufReader::new(File::from(fds.pop().expect("a pipe")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(self.pid(), Signal::SIGTERM);
            if !eventually(Duration::from_secs(10), || matches!(self.child.try_wait(), Ok(Some(_)))) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        // After a kill the mount is still there; after a clean end this fails, as it should.
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        if std::thread::panicking() {
            eprintln!("--- umdevd's log ---\n{}", self.log());
        }
    }
}

/// Whether `condition` becomes true in time.
pub fn eventually(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("a path of the temporary directory").to_owned()
}

fn spawn(program: &Path, arguments: &[impl AsRef<OsStr>], log: &Path) -> Child {
    let log_file = File::options().create(true).append(true).open(log).expect("a log");
    let mut command = Command::new(program);
    if cfg!(debug_assertions) {
        // One arena: else the number of its mappings tells how busy the machine was. What is measured keeps them all.
        command.env("MALLOC_ARENA_MAX", "1");
    }
    // To find the names of a panic's frames takes seconds, and a vendor that is told to panic has a deadline.
    command.env("RUST_BACKTRACE", "0");
    let mut child =
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file).spawn().expect("umdevd");
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line);
    let said = fs::read_to_string(log).unwrap_or_default();
    assert!(read.is_ok() && line.starts_with("umdevd: ready"), "umdevd did not come up (root and /dev/fuse?): {said}");
    child
}

fn ask(path: &Path, request: &[u8]) -> nix::Result<(serde_json::Value, Vec<OwnedFd>)> {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    send(socket.as_raw_fd(), request, MsgFlags::empty())?;
    let (mut text, mut space) = (vec![0; 1 << 16], nix::cmsg_space!([i32; 8]));
    let mut iov = [IoSliceMut::new(&mut text)];
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let len = received.bytes;
    let mut fds = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            fds.extend(numbers.into_iter().map(sys::own));
        }
    }
    let answer = serde_json::from_slice(&text[..len]).map_err(|_| nix::errno::Errno::EBADMSG)?;
    Ok((answer, fds))
}
