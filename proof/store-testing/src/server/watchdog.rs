//! Ends a server whose test process is gone, whatever ended that: statics are not dropped, and a killed process drops
//! nothing.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Reads its orders from a pipe. When that ends without `done`, the other end is gone: the server is asked to end, then
/// killed with its process group, and its directory deleted.
const SCRIPT: &str = r#"
pid=
while read -r word value; do
    case $word in
    pid) pid=$value ;;
    done) exit 0 ;;
    esac
done
if [ -n "$pid" ]; then
    kill -s "$2" "$pid"
    tries=0
    while kill -0 "$pid" && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -s KILL "$pid"
    kill -s KILL -- "-$pid"
    sleep 0.2
fi
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"#;

/// A shell that waits for the end of this process.
pub(super) struct Watchdog {
    shell: Child,
    orders: ChildStdin,
}

impl Watchdog {
    /// Watches over a directory; `signal` asks its server to end, such as `TERM`.
    pub(super) fn over(dir: &Path, signal: &str) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "watchdog"]).arg(dir).arg(signal).current_dir("/").process_group(0);
        // It must hold on to nothing that somebody waits for the end of.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = command.spawn().expect("/bin/sh can be started");
        let orders = shell.stdin.take().expect("it was asked for");
        Self { shell, orders }
    }

    /// Says which process is the server now; `None`: there is none.
    pub(super) fn server(&mut self, pid: Option<u32>) {
        let pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
        self.order(&format!("pid {pid}\n"));
    }

    fn order(&mut self, order: &str) {
        // A watchdog that somebody killed takes no orders; what it was for still works as long as this process does.
        let _taken = self.orders.write_all(order.as_bytes());
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.order("done\n");
        let _reaped = self.shell.wait();
    }
}
