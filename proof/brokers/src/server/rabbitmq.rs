//! A RabbitMQ server, with a port mapper of its own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use oncekey_store_testing::server::{Daemon, Home, Port, Program, find, named, thrice};

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
    _own: Option<(Daemon, Daemon, [Port; 3])>,
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
            let ports = [Port::free(), Port::free(), Port::free()];
            let [mapped, port, peers] = &ports;
            let number = mapped.number().to_string();
            let mapper = Program::new(&mapper).args(["-address", "127.0.0.1", "-port", &number]);
            let mapper = Daemon::new(Home::new("epmd"), mapper);
            mapper.start(|| TcpStream::connect(mapped.addr()).is_ok())?;
            let home = Home::new("rabbitmq");
            let program = server(&program, &home, mapped, port, peers);
            let own = Daemon::new(home, program);
            own.start(|| speaks(port.addr()))?;
            let url = format!("amqp://guest:guest@{}/%2f", port.addr());
            Ok(Self { url, _own: Some((own, mapper, ports)) })
        })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

fn server(program: &Path, home: &Home, mapped: &Port, port: &Port, peers: &Port) -> Program {
    // None of the system's plugins and settings.
    let plugins = home.write("plugins", "[].");
    let none = home.path().join("none");
    Program::new(program)
        .env("ERL_EPMD_PORT", mapped.number().to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", format!("oncekey{}@localhost", port.number()))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.number().to_string())
        .env("RABBITMQ_DIST_PORT", peers.number().to_string())
        .env("RABBITMQ_MNESIA_BASE", home.path().join("mnesia"))
        .env("RABBITMQ_LOG_BASE", home.path().join("logs"))
        .env("RABBITMQ_LOGS", "-")
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins)
        .env("RABBITMQ_CONFIG_FILE", &none)
        .env("RABBITMQ_CONF_ENV_FILE", &none)
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+sbwt none -kernel inet_dist_use_interface {127,0,0,1}")
}

/// Whether it answers the greeting of AMQP 0-9-1.
fn speaks(addr: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        stream.read_exact(&mut [0; 7])
    };
    ask().is_ok()
}
