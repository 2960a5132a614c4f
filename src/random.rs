//! Random ids, from a generator under a key that the operating system gave.
//!
//! The generator is ChaCha with 8 rounds. Each step replaces its key by a part of what it makes, so
//! nothing that it keeps tells the ids of steps before ("fast key erasure").

use std::array;
use std::cell::RefCell;

/// How many blocks a step makes, side by side.
const BLOCKS: usize = 4;
/// One word of each block.
type Row = [u32; BLOCKS];
/// Rows of a step that become ids; the two others are the next key.
const IDS: usize = 14;
/// Steps until the operating system is asked again.
const STEPS: u32 = 64;

#[derive(Clone)]
struct Generator {
    key: [u32; 8],
    /// Of these, the first `left` are not given out.
    ids: [Row; IDS],
    left: usize,
    steps: u32,
}

thread_local! {
    static GENERATOR: RefCell<Generator> = const { RefCell::new(Generator::new()) };
}

/// 128 random bits, with `salt` mixed in.
///
/// Bits are made ahead, so a copy of this process (a fork, a restored snapshot of a machine) would
/// make the same ones. The salt is the caller's clock, which two copies do not read alike. It is
/// mixed into each step, so copies go ways of their own from the next one on, and into each id.
/// Mixing it into uniform bits leaves them uniform.
///
/// # Panics
/// If the operating system has no randomness to give, as for a broken `/dev/urandom`: no safe id
/// can be made then.
pub(crate) fn id(salt: u64) -> [u8; 16] {
    GENERATOR.with_borrow_mut(|generator| generator.id(salt))
}

/// Random bits for what is no id, such as a pause.
pub(crate) fn bits() -> u64 {
    let [low @ .., _, _, _, _, _, _, _, _] = id(0);
    u64::from_le_bytes(low)
}

impl Generator {
    const fn new() -> Self {
        Self { key: [0; 8], ids: [[0; BLOCKS]; IDS], left: 0, steps: 0 }
    }

    fn id(&mut self, salt: u64) -> [u8; 16] {
        if self.left == 0 {
            self.step(salt);
        }
        self.left -= 1;
        // It does not stay here for somebody who reads this memory later.
        let [a, b, c, d] = std::mem::take(&mut self.ids[self.left]).map(u128::from);
        ((a | b << 32 | c << 64 | d << 96) ^ u128::from(salt)).to_le_bytes()
    }

    #[cold]
    fn step(&mut self, salt: u64) {
        if self.steps == 0 {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).expect("the operating system gives random bytes");
            for (word, bytes) in self.key.iter_mut().zip(seed.chunks_exact(4)) {
                *word ^= u32::from_le_bytes(bytes.try_into().expect("chunks of four bytes"));
            }
            self.steps = STEPS;
        }
        self.steps -= 1;
        let rows = chacha::<8>(&self.key, 0, u128::from(salt) << 32);
        let (ids, key) = rows.split_at(IDS);
        self.key.copy_from_slice(key.as_flattened());
        self.ids.copy_from_slice(ids);
        self.left = IDS;
    }
}

/// Four blocks of RFC 8439's ChaCha, numbered from `counter` on; `nonce` has 96 bits, and each row
/// one word of the four.
fn chacha<const ROUNDS: usize>(key: &[u32; 8], counter: u32, nonce: u128) -> [Row; 16] {
    let word = |at: u32| u32::try_from(nonce >> at & u128::from(u32::MAX)).expect("masked to 32 bits");
    let [a, b, c, d, e, f, g, h] = *key;
    let [i, j, k, l] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
    let mut begin =
        [i, j, k, l, a, b, c, d, e, f, g, h, counter, word(0), word(32), word(64)].map(|word| [word; BLOCKS]);
    begin[12] = [0, 1, 2, 3].map(|block| counter.wrapping_add(block));
    let mut rows = begin;
    for _ in 0..ROUNDS / 2 {
        quarter_round(&mut rows, 0, 4, 8, 12);
        quarter_round(&mut rows, 1, 5, 9, 13);
        quarter_round(&mut rows, 2, 6, 10, 14);
        quarter_round(&mut rows, 3, 7, 11, 15);
        quarter_round(&mut rows, 0, 5, 10, 15);
        quarter_round(&mut rows, 1, 6, 11, 12);
        quarter_round(&mut rows, 2, 7, 8, 13);
        quarter_round(&mut rows, 3, 4, 9, 14);
    }
    array::from_fn(|row| add(rows[row], begin[row]))
}

#[inline(always)]
fn quarter_round(rows: &mut [Row; 16], a: usize, b: usize, c: usize, d: usize) {
    rows[a] = add(rows[a], rows[b]);
    rows[d] = xor_rotated(rows[d], rows[a], 16);
    rows[c] = add(rows[c], rows[d]);
    rows[b] = xor_rotated(rows[b], rows[c], 12);
    rows[a] = add(rows[a], rows[b]);
    rows[d] = xor_rotated(rows[d], rows[a], 8);
    rows[c] = add(rows[c], rows[d]);
    rows[b] = xor_rotated(rows[b], rows[c], 7);
}

#[inline(always)]
fn add(one: Row, other: Row) -> Row {
    array::from_fn(|block| one[block].wrapping_add(other[block]))
}

#[inline(always)]
fn xor_rotated(one: Row, other: Row, left: u32) -> Row {
    array::from_fn(|block| (one[block] ^ other[block]).rotate_left(left))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_do_not_repeat_within_or_across_steps_seeds_and_threads() {
        let draw = || (0..2000).map(|_| id(7)).collect::<Vec<_>>();
        let other = std::thread::spawn(draw).join().unwrap();
        let all: HashSet<_> = draw().into_iter().chain(other).collect();
        assert_eq!(all.len(), 4000);
    }

    fn first_block<const ROUNDS: usize>(key: &[u32; 8], counter: u32, nonce: u128) -> [u32; 16] {
        chacha::<ROUNDS>(key, counter, nonce).map(|[word, ..]| word)
    }

    /// RFC 8439, section 2.3.2: 20 rounds.
    #[test]
    fn the_block_is_that_of_the_rfc() {
        let key = array::from_fn(|word| {
            u32::from_le_bytes(array::from_fn(|byte| u8::try_from(word * 4 + byte).unwrap()))
        });
        let nonce = [0, 0, 0, 9, 0, 0, 0, 0x4a, 0, 0, 0, 0, 0, 0, 0, 0];
        let expected = [
            0xe4e7_f110,
            0x1559_3bd1,
            0x1fdd_0f50,
            0xc471_20a3,
            0xc7f4_d1c7,
            0x0368_c033,
            0x9aaa_2204,
            0x4e6c_d4c3,
            0x4664_82d2,
            0x09aa_9f07,
            0x05d7_c214,
            0xa202_8bd9,
            0xd19c_12b5,
            0xb94e_16de,
            0xe883_d0cb,
            0x4e3c_50a2,
        ];
        assert_eq!(first_block::<20>(&key, 1, u128::from_le_bytes(nonce)), expected);
    }

    /// Key and nonce of zeros, 8 rounds: the first case of
    /// draft-strombergson-chacha-test-vectors-01.
    #[test]
    fn eight_rounds_are_those_of_the_draft() {
        let expected = [
            0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6, 0x7f, 0x5b, 0xb8, 0xe8, 0x1f, 0x09, 0xa5, 0xa1,
            0x2c, 0x84, 0x0e, 0xc3, 0xce, 0x9a, 0x7f, 0x3b, 0x18, 0x1b, 0xe1, 0x88, 0xef, 0x71, 0x1a, 0x1e,
            0x98, 0x4c, 0xe1, 0x72, 0xb9, 0x21, 0x6f, 0x41, 0x9f, 0x44, 0x53, 0x67, 0x45, 0x6d, 0x56, 0x19,
            0x31, 0x4a, 0x42, 0xa3, 0xda, 0x86, 0xb0, 0x01, 0x38, 0x7b, 0xfd, 0xb8, 0x0e, 0x0c, 0xfe, 0x42,
        ];
        let block = first_block::<8>(&[0; 8], 0, 0).map(u32::to_le_bytes);
        assert_eq!(block.as_flattened(), expected);
    }

    #[test]
    fn blocks_side_by_side_are_those_one_after_the_other() {
        let (key, nonce) = ([0x0123_4567; 8], 1 << 95 | 3);
        let rows = chacha::<8>(&key, u32::MAX - 1, nonce);
        for (block, counter) in [u32::MAX - 1, u32::MAX, 0, 1].into_iter().enumerate() {
            assert_eq!(rows.map(|row| row[block]), first_block::<8>(&key, counter, nonce));
        }
    }

    /// The salt's part of an id.
    fn unsalted(id: [u8; 16], salt: u64) -> u128 {
        u128::from_le_bytes(id) ^ u128::from(salt)
    }

    /// As a fork or a restored snapshot is: what was made ahead differs by the clock, and the next
    /// step by all its bits.
    #[test]
    fn a_copy_whose_clock_reads_otherwise_makes_other_ids() {
        let mut one = Generator::new();
        let _first = one.id(0);
        let mut other = one.clone();
        for ahead in (0..IDS - 1).rev() {
            let (a, b) = (one.id(1), other.id(2));
            assert!(a != b && unsalted(a, 1) == unsalted(b, 2), "{ahead} more were made ahead");
        }
        for _ in 0..IDS {
            assert_ne!(unsalted(one.id(1), 1), unsalted(other.id(2), 2));
        }
    }

    /// A copy whose clock stands still is apart from here on too.
    #[test]
    fn the_operating_system_is_asked_again_after_some_steps() {
        let mut one = Generator::new();
        let _first = one.id(0);
        let mut other = one.clone();
        for _ in 1..IDS * STEPS as usize {
            assert_eq!(one.id(0), other.id(0));
        }
        assert_ne!(one.id(0), other.id(0));
    }

    #[test]
    fn what_was_given_out_is_not_in_memory() {
        let mut generator = Generator::new();
        let _first = generator.id(0);
        let key = generator.key;
        while generator.left > 0 {
            let _id = generator.id(0);
        }
        assert_eq!(generator.ids, [[0; BLOCKS]; IDS]);
        let _next = generator.id(0);
        assert!(key.iter().all(|word| !generator.key.contains(word)), "the key of the step before is gone");
    }
}
