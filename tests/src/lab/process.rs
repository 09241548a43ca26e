//! Programs that are run to their end, and programs that run beside the test.

use super::{LabError, LabResult};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How much of the output an error shows.
const TAIL: usize = 40;

/// Runs a command line in a shell, as a user would; its standard output.
pub fn shell(line: &str) -> LabResult<String> {
    run(Command::new("/bin/sh").args(["-c", line]))
}

/// Runs a program to its end; its standard output.
pub fn run(command: &mut Command) -> LabResult<String> {
    let line = command_line(command);
    let output = command.stdin(Stdio::null()).output().map_err(LabError::io(&line))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let why = format!("{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Err(LabError::Command { command: line, output: why.trim_end().to_owned() })
}

/// Asks again and again until `condition` holds.
pub fn wait_until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) -> LabResult<()> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > patience {
            return Err(LabError::Timeout { what: what.into(), after: patience, tail: String::new() });
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A program that runs beside the test, its output kept. Killed on drop, and by the kernel when the thread that started it ends.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    output: Arc<Output>,
    stdin: Option<std::process::ChildStdin>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    open_streams: usize,
}

impl Running {
    /// Starts `command`, a program and its arguments, behind `wrapper` (a program that runs another, or nothing).
    pub fn start(name: &str, wrapper: &[String], command: &[String]) -> LabResult<Self> {
        let mut words = wrapper.to_vec();
        words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(String::from));
        words.extend_from_slice(command);
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(LabError::io(format!("start {}", words.join(" "))))?;
        let output = Arc::new(Output::default());
        output.lock().open_streams = 2;
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            output.follow(stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            output.follow(stderr);
        }
        Ok(Self { name: name.into(), child, output, stdin })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Writes to its standard input.
    pub fn say(&mut self, text: &str) -> LabResult<()> {
        use std::io::Write;
        let name = &self.name;
        let stdin = self.stdin.as_mut().ok_or_else(|| LabError::Wrong(format!("{name}'s input is closed")))?;
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).map_err(LabError::io(format!("write to {name}")))
    }

    /// Closes its standard input.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Waits for a line that contains `text`; the line. An error when the program ends or the time is over before.
    pub fn wait_for(&self, text: &str, patience: Duration) -> LabResult<String> {
        let found = self.output.wait(patience, |lines| lines.iter().find(|line| line.contains(text)).cloned());
        found.ok_or_else(|| self.missed(format!("{text:?} of {}", self.name), patience))
    }

    /// Waits for its end.
    pub fn wait_end(&mut self, patience: Duration) -> LabResult<ExitStatus> {
        let start = Instant::now();
        loop {
            let status = self.child.try_wait().map_err(LabError::io(format!("wait for {}", self.name)))?;
            if let Some(status) = status {
                // what it wrote last is still on its way
                self.output.wait(Duration::from_secs(1), |_| None::<()>);
                return Ok(status);
            }
            if start.elapsed() > patience {
                return Err(self.missed(format!("the end of {}", self.name), patience));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it runs still.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) -> LabResult<()> {
        // A child that was not waited for keeps its number.
        if self.is_alive() {
            kill(self.pid(), signal).map_err(LabError::errno(format!("signal {}", self.name)))?;
        }
        Ok(())
    }

    /// Everything it wrote so far.
    pub fn output(&self) -> String {
        self.output.lock().lines.join("\n")
    }

    /// The last lines it wrote.
    pub fn tail(&self) -> String {
        let lines = self.output.lock();
        lines.lines[lines.lines.len().saturating_sub(TAIL)..].join("\n")
    }

    fn missed(&self, what: String, after: Duration) -> LabError {
        LabError::Timeout { what, after, tail: self.tail() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {}:\n{}\n---", self.name, self.tail());
        }
    }
}

impl Output {
    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut bytes = Vec::new();
            while matches!(stream.read_until(b'\n', &mut bytes), Ok(read) if read > 0) {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                bytes.clear();
                output.lock().lines.push(line);
                output.more.notify_all();
            }
            output.lock().open_streams -= 1;
            output.more.notify_all();
        });
    }

    /// Waits until `look` finds something, both streams are closed, or the time is over.
    fn wait<T>(&self, patience: Duration, mut look: impl FnMut(&[String]) -> Option<T>) -> Option<T> {
        let start = Instant::now();
        let mut lines = self.lock();
        loop {
            let found = look(&lines.lines);
            let left = patience.saturating_sub(start.elapsed());
            if found.is_some() || left.is_zero() || lines.open_streams == 0 {
                return found;
            }
            lines = self.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
