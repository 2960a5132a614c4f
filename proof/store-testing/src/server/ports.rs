//! Free ports.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::net::TcpSocket;

/// Below those that a system gives to outgoing connections: a client that tries again and again while its server is
/// down would sooner or later be given the server's port, and be connected to itself.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A port of 127.0.0.1 for a server of a test. As long as this lives, no other test is given the port, also while its server
/// is down.
///
/// The server must bind it with `SO_REUSEADDR`, as servers do.
pub struct Port {
    number: u16,
    /// Bound, and not listening. It was bound without `SO_REUSEADDR`, which fails where another socket has the port. It has
    /// the option now, so that the server can bind the port beside it.
    _reserved: TcpSocket,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port({})", self.number)
    }
}

impl Port {
    /// Takes one that nobody has.
    ///
    /// # Panics
    /// If there is none.
    pub fn free() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Processes that start together begin at different places.
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let start = nanos.wrapping_add(std::process::id().wrapping_mul(7919));
        let count = u32::from(PORTS.end - PORTS.start);
        for _ in 0..count {
            let offset = start.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(31)) % count;
            let number = PORTS.start + u16::try_from(offset).expect("less than the number of ports");
            if let Ok(reserved) = reserve(number) {
                return Self { number, _reserved: reserved };
            }
        }
        panic!("no port of 127.0.0.1 is free between {} and {}", PORTS.start, PORTS.end)
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

fn reserve(number: u16) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, number).into())?;
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_port_is_nobody_elses_while_its_server_is_down() {
        let port = Port::free();
        for _ in 0..2 {
            let server = TcpListener::bind(port.addr()).expect("the server binds it");
            TcpStream::connect(port.addr()).expect("the server is up");
            drop(server);
            assert!(TcpStream::connect(port.addr()).is_err(), "the server is down");
            assert!(reserve(port.number()).is_err(), "another test is given it");
        }
    }
}
