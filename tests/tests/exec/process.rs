//! The program is a process as it would be without `umdev exec`.

use crate::{INSIDE, exec, inside, said, supervisors, umdev};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use umdev_tests::driver::{Daemon, eventually};

const PATIENCE: Duration = Duration::from_secs(10);

fn run(daemon: &Daemon, program: &str, arguments: &[&str]) -> Output {
    exec(daemon.root(), program, arguments).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn exit_codes_and_signals_are_the_programs() {
    let daemon = Daemon::start();
    for code in [0, 1, 42, 255] {
        assert_eq!(run(&daemon, "sh", &["-c", &format!("exit {code}")]).status.code(), Some(code));
    }
    for signal in [2, 9, 15] {
        assert_eq!(run(&daemon, "sh", &["-c", &format!("kill -{signal} $$")]).status.signal(), Some(signal));
    }
}

#[test]
fn a_program_that_cannot_be_started_is_told_as_env_does() {
    let daemon = Daemon::start();
    let missing = run(&daemon, "/nowhere/program", &[]);
    assert_eq!(missing.status.code(), Some(127));
    assert_eq!(words(&missing), "umdev: /nowhere/program: No such file or directory (ENOENT)\n");
    let unfit = run(&daemon, "/etc/passwd", &[]);
    assert_eq!(unfit.status.code(), Some(126));
    assert_eq!(words(&unfit), "umdev: /etc/passwd: Permission denied (EACCES)\n");
}

#[test]
fn it_has_the_number_that_its_caller_knows() {
    let daemon = Daemon::start();
    let child = exec(daemon.root(), "sh", &["-c", "echo $$"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let number = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), number.to_string());
}

#[test]
fn arguments_are_the_programs_own() {
    let daemon = Daemon::start();
    let output = run(&daemon, "printf", &["%s\n", "--root", "-h", "--", "--json"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "--root\n-h\n--\n--json\n");
}

#[test]
fn exec_within_exec_is_refused_in_words() {
    let daemon = Daemon::start();
    let umdev = umdev();
    let root = daemon.root().to_str().unwrap();
    let output = run(&daemon, umdev.to_str().unwrap(), &["--root", root, "exec", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(words(&output).contains("runs under a seccomp supervisor already"), "{}", words(&output));
}

#[test]
fn a_root_that_nobody_serves_is_told_in_words() {
    let dir = tempfile::tempdir().unwrap();
    for (root, said) in
        [(dir.path(), "there is no tree of umdevd"), (Path::new("/nowhere"), "No such file or directory")]
    {
        let output = Command::new(umdev()).arg("--root").arg(root).args(["exec", "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        assert!(words(&output).contains(said), "{}", words(&output));
    }
}

#[test]
fn what_a_program_leaves_behind_is_served_as_long_as_it_runs() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let dir = tempfile::tempdir().unwrap();
    let (gate, answer) = (dir.path().join("gate"), dir.path().join("answer"));
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (gate_path, answer_path) = (gate.to_str().unwrap(), answer.to_str().unwrap());
    let script =
        format!("(read line < {gate_path}; {INSIDE} device {uuid} > {answer_path}) > /dev/null 2>&1 < /dev/null &");
    said(&run(&daemon, "setsid", &["sh", "-c", &script]));
    assert_eq!(supervisors(&daemon), 1);
    std::fs::write(&gate, "now\n").unwrap();
    assert!(eventually(PATIENCE, || supervisors(&daemon) == 0), "the supervisor stays");
    let answer = std::fs::read_to_string(answer).unwrap();
    assert!(answer.starts_with("regions 2"), "{answer}");
}

#[test]
fn who_waits_for_the_end_of_a_pipe_waits_for_the_program_alone() {
    let daemon = Daemon::start();
    // Not for the supervisor of what the program left running.
    let output = run(&daemon, "sh", &["-c", "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!"]);
    assert_eq!(supervisors(&daemon), 1);
    let sleeper = nix::unistd::Pid::from_raw(said(&output).parse().unwrap());
    nix::sys::signal::kill(sleeper, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(eventually(PATIENCE, || supervisors(&daemon) == 0));
}

#[test]
fn a_program_has_no_children_that_it_did_not_make() {
    let daemon = Daemon::start();
    let builtin = "children=; read children < /proc/$$/task/$$/children; echo children: $children";
    assert_eq!(said(&run(&daemon, "sh", &["-c", builtin])), "children:");
}

#[test]
fn a_program_may_have_a_filter_of_its_own() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let served = inside(&daemon, "device", &uuid);
    let filtered = run(&daemon, "setpriv", &["--no-new-privs", INSIDE, "device", &uuid]);
    assert_eq!(said(&filtered), served);
}
