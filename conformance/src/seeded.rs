//! Numbers from a seed: the same everywhere, for what has to happen again.

/// The SplitMix64 generator: one number a step, and any seed will do.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, and not with, 1.
    pub(crate) fn unit(&mut self) -> f64 {
        // 53 bits fit a double exactly.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 1 to `most`; 1 if that is zero.
    pub(crate) fn one_to(&mut self, most: u32) -> u32 {
        let drawn = self.next() % u64::from(most.max(1));
        u32::try_from(drawn).expect("less than a 32-bit number") + 1
    }
}

#[cfg(test)]
mod tests {
    use super::SplitMix;

    /// The first numbers of seed 1234567 in the reference implementation (Vigna, splitmix64.c).
    #[test]
    fn the_numbers_are_those_of_the_reference() {
        let mut random = SplitMix::new(1_234_567);
        let drawn = [(); 3].map(|()| random.next());
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
