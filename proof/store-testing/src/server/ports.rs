//! Free ports.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Below those that a system gives to outgoing connections: a client that tries again and again while its server is
/// down would sooner or later be given the server's port, and be connected to itself.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A port of 127.0.0.1 that nobody listens on now. Somebody may take it before the caller does: try again then.
pub(crate) fn free() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Processes that start together begin at different places.
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let start = nanos.wrapping_add(std::process::id().wrapping_mul(7919));
    let count = u32::from(PORTS.end - PORTS.start);
    for _ in 0..count {
        let offset = start.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(31)) % count;
        let port = PORTS.start + u16::try_from(offset).expect("less than the number of ports");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of 127.0.0.1 is free between {} and {}", PORTS.start, PORTS.end)
}
