//! `umdev-leaver ROOT`: a daemon of its own making with two parents, `staying` and `leaving`, as a vendor would build
//! one. `leaving` is unregistered when a line comes on standard input, whatever its instances are doing.

use loopback::Loopback;
use std::io::BufRead;
use std::sync::Arc;
use umdevd::Daemon;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args().nth(1).ok_or("usage: umdev-leaver ROOT")?;
    let parent = |name: &str| Arc::new(Loopback::new(name, 16));
    let builder = Daemon::builder(root).parent("staying", parent("staying")).parent("leaving", parent("leaving"));
    let daemon = builder.start()?;
    let bus = daemon.bus().clone();
    // Nobody waits for it: the daemon may end before a line comes.
    std::thread::spawn(move || {
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).is_ok_and(|len| len > 0) {
            println!("{:?}", bus.unregister_parent("leaving").map_err(|error| error.to_string()));
        }
    });
    daemon.run()?;
    Ok(())
}
