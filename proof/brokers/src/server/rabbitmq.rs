//! A RabbitMQ server, with a port mapper of its own.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::{Daemon, Settings, find, free_port, named, thrice};

/// Names the server to use instead of one that is started.
const VARIABLE: &str = "ONCEKEY_RABBITMQ_URL";
const INSTALL: &str = "`rabbitmq-server` and `epmd` are not to be found. Install them: `apt-get install rabbitmq-server` on \
                       Debian and Ubuntu, `dnf install rabbitmq-server` on Fedora, `brew install rabbitmq` on macOS";
/// Where the script itself is: the one in `PATH` may be for root alone, and for the service of the system.
const SCRIPTS: [&str; 2] = ["/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"];

/// A RabbitMQ server of its own, or one that was there.
#[derive(Debug)]
pub struct RabbitMq {
    url: String,
    // In this order: the server is ended before its port mapper.
    _own: Option<(Daemon, Daemon)>,
}

impl RabbitMq {
    /// Starts one; or takes the one that `ONCEKEY_RABBITMQ_URL` names, whose user may declare queues.
    ///
    /// # Panics
    /// If there is none to start, saying what to install.
    pub fn start() -> Self {
        if let Some(url) = named(VARIABLE) {
            return Self { url, _own: None };
        }
        let (Some(program), Some(mapper)) = (find(&SCRIPTS), find(&["epmd"])) else {
            panic!("this needs a RabbitMQ server: {INSTALL}; or set {VARIABLE} to the URL of one")
        };
        thrice(|| {
            // Erlang would start one that outlives all that it starts.
            let mapped = free_port();
            let args = ["-address", "127.0.0.1", "-port"].map(OsString::from).into_iter();
            let args = args.chain([mapped.to_string().into()]).collect();
            let settings = |_: &Path| Settings { args, variables: Vec::new() };
            let mapper = Daemon::start(&mapper, settings, || accepts(mapped))?;
            let (port, peers) = (free_port(), free_port());
            let settings = |home: &Path| server(home, mapped, port, peers);
            let own = Daemon::start(&program, settings, || speaks(port))?;
            Ok(Self { url: format!("amqp://guest:guest@127.0.0.1:{port}/%2f"), _own: Some((own, mapper)) })
        })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

fn server(home: &Path, mapped: u16, port: u16, peers: u16) -> Settings {
    let plugins = home.join("plugins");
    // None. If this cannot be written, the server says that it cannot be read.
    let _written = std::fs::write(&plugins, "[].");
    let text = |value: &str| OsString::from(value);
    let variables = vec![
        ("ERL_EPMD_PORT", mapped.to_string().into()),
        ("ERL_EPMD_ADDRESS", text("127.0.0.1")),
        ("RABBITMQ_NODENAME", format!("oncekey{port}@localhost").into()),
        ("RABBITMQ_NODE_IP_ADDRESS", text("127.0.0.1")),
        ("RABBITMQ_NODE_PORT", port.to_string().into()),
        ("RABBITMQ_DIST_PORT", peers.to_string().into()),
        ("RABBITMQ_MNESIA_BASE", home.join("mnesia").into()),
        ("RABBITMQ_LOG_BASE", home.join("logs").into()),
        ("RABBITMQ_LOGS", text("-")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", plugins.into()),
        // None of the system's.
        ("RABBITMQ_CONFIG_FILE", home.join("none").into()),
        ("RABBITMQ_CONF_ENV_FILE", home.join("none").into()),
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            text("+sbwt none -kernel inet_dist_use_interface {127,0,0,1}"),
        ),
    ];
    Settings { args: Vec::new(), variables }
}

fn accepts(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Whether it answers the greeting of AMQP 0-9-1.
fn speaks(port: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        stream.read_exact(&mut [0; 7])
    };
    ask().is_ok()
}
