//! DPDK's testpmd, driven through its prompt.

use std::time::Duration;
use umdev_tests::lab::{LabError, LabResult, Running};

const READY: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(10);
const QUIT: Duration = Duration::from_secs(10);

/// A running testpmd. Its first port is the one that is measured.
#[derive(Debug)]
pub struct Testpmd {
    running: Running,
}

/// What a port has passed since it was started, and how much of it a second since it was last asked.
#[derive(Debug, Clone, Copy)]
pub struct PortStats {
    pub received: u64,
    pub sent: u64,
    pub received_per_second: f64,
    pub sent_per_second: f64,
}

/// What one stretch of forwarding was, by testpmd's own account.
#[derive(Debug, Clone, Copy)]
pub struct Forwarded {
    /// Frames it gave up, because the ring was full.
    pub dropped: u64,
    /// Cycles that it worked for each frame; those in which it looked in vain are not counted.
    pub cycles: Option<f64>,
}

impl Testpmd {
    /// Starts one on the processor `cpu`, called `name`, with these devices, options of its own behind them. It is a session
    /// of its own with the most weight there is, so that other work on the machine gets the least of its processor.
    pub fn start(name: &str, cpu: usize, devices: &str, options: &str) -> LabResult<Self> {
        let line = format!(
            "setsid nice -n -20 stdbuf -oL dpdk-testpmd --no-huge -m 256 --no-pci --file-prefix={name} --lcores 0@{cpu},1@{cpu} \
             --log-level=pmd.net.virtio.driver:info {devices} -- --nb-cores=1 --no-flush-rx --total-num-mbufs=16384 \
             --record-core-cycles {options} -i"
        );
        let command: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let running = Running::start(name, &[], &command)?;
        running.wait_for("Done", READY)?;
        prefer(running.pid());
        Ok(Self { running })
    }

    /// The features that its virtio-user device accepted.
    pub fn features(&self) -> LabResult<u64> {
        let output = self.running.output();
        let found = output.rsplit_once("set features: 0x").map(|(_, behind)| behind);
        let digits = found.and_then(|behind| behind.split(|c: char| !c.is_ascii_hexdigit()).next());
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.ok_or_else(|| LabError::Wrong(format!("testpmd does not say what it negotiated:\n{output}")))
    }

    /// Gives a command that answers with a line containing `end`; what it said until then.
    pub fn ask(&mut self, command: &str, end: &str) -> LabResult<String> {
        let before = self.running.output().len();
        self.running.say(&format!("{command}\n"))?;
        let begun = std::time::Instant::now();
        loop {
            let output = self.running.output();
            let said = output.get(before..).unwrap_or_default();
            if let Some(at) = said.find(end) {
                // to the end of the line, which is read as a whole
                let line = said[at..].find('\n').map_or(said.len(), |len| at + len);
                return Ok(said[..line].to_owned());
            }
            if begun.elapsed() > ANSWER || !self.running.is_alive() {
                let tail = self.running.tail();
                return Err(LabError::Timeout { what: format!("{end:?} after {command:?}"), after: ANSWER, tail });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Gives a command that answers nothing.
    pub fn say(&mut self, command: &str) -> LabResult<()> {
        self.running.say(&format!("{command}\n"))
    }

    /// The figures of its first port.
    pub fn stats(&mut self) -> LabResult<PortStats> {
        // an empty line is answered by the prompt alone
        let text = self.ask("show port stats 0", "Tx-pps:")?;
        let number = |name: &str| {
            let behind = text.rsplit_once(name).map(|(_, behind)| behind.trim_start());
            let digits = behind.and_then(|behind| behind.split(|c: char| !c.is_ascii_digit()).next());
            let number = digits.and_then(|digits| digits.parse::<u64>().ok());
            number.ok_or_else(|| LabError::Wrong(format!("no {name} in what testpmd says:\n{text}")))
        };
        let rate = |name| number(name).map(|rate| f64::from(u32::try_from(rate).unwrap_or(u32::MAX)));
        Ok(PortStats {
            received: number("RX-packets:")?,
            sent: number("TX-packets:")?,
            received_per_second: rate("Rx-pps:")?,
            sent_per_second: rate("Tx-pps:")?,
        })
    }

    /// Stops forwarding.
    pub fn stop(&mut self) -> LabResult<Forwarded> {
        let text = self.ask("stop", "\nDone.")?;
        let behind = |name: &str| text.rsplit_once(name).map(|(_, behind)| behind.trim_start());
        let dropped = behind("TX-dropped:").and_then(|behind| behind.split_whitespace().next()?.parse().ok());
        let cycles = behind("CPU cycles/packet=").and_then(|behind| behind.split_whitespace().next()?.parse().ok());
        let dropped =
            dropped.ok_or_else(|| LabError::Wrong(format!("testpmd does not say what it dropped:\n{text}")))?;
        Ok(Forwarded { dropped, cycles })
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // one that is killed leaves its files behind
        let _ = self.running.say("stop\nport stop all\nquit\n");
        let _ = self.running.wait_end(QUIT);
    }
}

/// Gives the session of a process the most weight. Where the kernel does not weigh sessions there is nothing to do.
pub fn prefer(process: nix::unistd::Pid) {
    let _ = std::fs::write(format!("/proc/{process}/autogroup"), "-20");
}
