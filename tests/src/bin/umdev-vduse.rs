//! `umdev-vduse NAME`: a network card behind VDUSE, whose frames come back, until it is killed.

use std::process::ExitCode;
use umdev_tests::vduse::Card;

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        eprintln!("usage: umdev-vduse NAME");
        return ExitCode::from(2);
    };
    let served = Card::create(&name).and_then(|mut card| {
        println!("umdev-vduse: ready");
        card.serve()
    });
    if let Err(error) = served {
        eprintln!("umdev-vduse: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
