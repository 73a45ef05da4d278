//! Randomness from the CPU.

use x86_64::instructions::random::RdRand;

/// How often `rdrand` is asked: it may be momentarily out of numbers (Intel SDM volume 1, §7.3.17.1
/// recommends ten).
const ATTEMPTS: usize = 10;

/// A word of `rdrand`; without that, the time stamp counter.
pub(super) fn hardware() -> u64 {
    let random = RdRand::new().and_then(|rng| (0..ATTEMPTS).find_map(|_| rng.get_u64()));
    random.unwrap_or_else(super::time_stamp)
}
