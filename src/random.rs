//! Random ids from the operating system, drawn in blocks.

use std::cell::RefCell;

/// How much one call to the operating system draws.
const BLOCK: usize = 1024;

struct Pool {
    bytes: [u8; BLOCK],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; BLOCK], used: BLOCK }) };
}

/// 128 random bits, with `salt` mixed in.
///
/// Bits are drawn ahead, so a copy of this process (a fork, a restored snapshot of a machine) would draw the same
/// ones. The salt is the caller's clock, which two copies do not read alike; mixing it into uniform bits leaves them
/// uniform.
///
/// # Panics
/// If the operating system has no randomness to give, as for a broken `/dev/urandom`: no safe id can be made then.
pub(crate) fn id(salt: u64) -> [u8; 16] {
    POOL.with_borrow_mut(|pool| {
        if pool.used == BLOCK {
            getrandom::fill(&mut pool.bytes).expect("the operating system gives random bytes");
            pool.used = 0;
        }
        let drawn: &mut [u8] = &mut pool.bytes[pool.used..pool.used + 16];
        let mut id: [u8; 16] = (&*drawn).try_into().expect("a range of 16 bytes");
        drawn.fill(0); // an id is not to be found in memory by who reads the pool later
        pool.used += 16;
        for (byte, salt) in id.iter_mut().zip(salt.to_le_bytes()) {
            *byte ^= salt;
        }
        id
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn ids_do_not_repeat_within_or_across_blocks_and_threads() {
        let draw = || (0..500).map(|_| super::id(7)).collect::<Vec<_>>();
        let other = std::thread::spawn(draw).join().unwrap();
        let all: HashSet<_> = draw().into_iter().chain(other).collect();
        assert_eq!(all.len(), 1000);
    }
}
