//! What an access costs, counted in the compiled functions of this very program.
//!
//! ```text
//!  const, no Drop     load · ret
//!  const, Drop        test state · jump if not alive · load · ret       the rest is elsewhere,
//!  lazy               test state · jump if not alive · load · ret       and called
//! ```
//!
//! On stable, two instructions come before each of these: TP, and the offset. Functions that may
//! call align the stack for it, which is not counted; reference and value are merged from two ways.
#![cfg(all(target_arch = "x86_64", not(miri)))]

use std::cell::Cell;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};
use unspool_thread_local::thread_local;

/// Instructions that find the address of a task's copy, when they are not part of the access.
const ADDRESS: usize = if cfg!(feature = "nightly") { 0 } else { 2 };

struct Dropped(Cell<u32>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(0);
    }
}

thread_local! {
    static PLAIN: Cell<u32> = const { Cell::new(5) };
    static DROPPED: Dropped = const { Dropped(Cell::new(6)) };
    static LAZY: Cell<u32> = Cell::new(std::hint::black_box(7));
    static LAZY_DROPPED: Dropped = Dropped(Cell::new(std::hint::black_box(8)));
}

#[inline(never)]
extern "C" fn get_plain() -> u32 {
    PLAIN.get()
}

#[inline(never)]
extern "C" fn set_plain(value: u32) {
    PLAIN.set(value);
}

#[inline(never)]
extern "C" fn get_dropped() -> u32 {
    DROPPED.try_with(|value| value.0.get()).unwrap_or(0)
}

#[inline(never)]
extern "C" fn get_lazy() -> u32 {
    LAZY.try_with(Cell::get).unwrap_or(0)
}

#[inline(never)]
extern "C" fn get_lazy_dropped() -> u32 {
    LAZY_DROPPED.try_with(|value| value.0.get()).unwrap_or(0)
}

/// The instructions from the start of a function to its first return, jumps not taken: the way of
/// an access to a value that is there.
fn straight(function: *const ()) -> Vec<Instruction> {
    /// More than any of the functions has on this way.
    const MOST: usize = 32;
    // SAFETY: Code of this program; a function is followed by others, by far more than this.
    let code = unsafe { std::slice::from_raw_parts(function.cast::<u8>(), MOST * 15) };
    let mut way = Vec::new();
    for instruction in Decoder::with_ip(64, code, function.addr() as u64, DecoderOptions::NONE) {
        way.push(instruction);
        if instruction.flow_control() == FlowControl::Return {
            return way;
        }
        assert!(way.len() < MOST, "does not return: {way:?}");
    }
    unreachable!("the decoder goes on until the return")
}

fn mnemonics(way: &[Instruction]) -> Vec<Mnemonic> {
    way.iter().map(Instruction::mnemonic).collect()
}

/// The instructions of a way that the access needs; not those that prepare for the call elsewhere.
fn of_the_access(way: &[Instruction]) -> usize {
    let frame = |each: &&Instruction| matches!(each.mnemonic(), Mnemonic::Push | Mnemonic::Pop);
    way.len() - way.iter().filter(frame).count()
}

/// One byte is compared, one jump leads away if it is not as it should be, nothing is called.
fn is_one_test(way: &[Instruction]) -> bool {
    let tests = way.iter().filter(|each| matches!(each.mnemonic(), Mnemonic::Cmp | Mnemonic::Test));
    let of_a_byte =
        tests.clone().all(|each| each.memory_size().size() == 1 || each.op0_register().size() == 1);
    let jumps = way.iter().filter(|each| each.flow_control() == FlowControl::ConditionalBranch);
    let away = jumps.clone().all(|each| {
        // Behind the return: out of the line.
        each.near_branch_target() > way.last().map_or(u64::MAX, Instruction::ip)
    });
    let straight = way.iter().all(|each| {
        matches!(
            each.flow_control(),
            FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::Return
        )
    });
    tests.count() == 1 && of_a_byte && jumps.count() == 1 && away && straight
}

#[test]
fn a_const_value_without_drop_glue_is_a_bare_load() {
    let way = straight(get_plain as *const ());
    assert_eq!(way.len(), ADDRESS + 2, "{way:?}");
    assert_eq!(mnemonics(&way[ADDRESS..]), [Mnemonic::Mov, Mnemonic::Ret]);
    assert_eq!(way[0].memory_segment(), Register::FS);
    let way = straight(set_plain as *const ());
    assert_eq!(way.len(), ADDRESS + 2, "{way:?}");
    set_plain(50);
    assert_eq!(get_plain(), 50);
}

#[test]
fn a_const_value_with_drop_glue_has_one_byte_of_state_and_one_test() {
    use unspool_thread_local::__private::EagerStorage;
    assert_eq!(size_of::<EagerStorage<[u8; 7]>>(), 8);
    assert_eq!(size_of::<EagerStorage<u64>>(), 16);
    let way = straight(get_dropped as *const ());
    assert!(is_one_test(&way), "{way:?}");
    assert!(of_the_access(&way) <= 7, "{way:?}");
}

#[test]
fn a_lazy_value_has_one_test_and_the_rest_is_out_of_line() {
    use unspool_thread_local::__private::LazyStorage;
    assert_eq!(size_of::<LazyStorage<[u8; 7]>>(), 8);
    for function in [get_lazy as *const (), get_lazy_dropped as *const ()] {
        let way = straight(function);
        assert!(is_one_test(&way), "{way:?}");
        assert!(of_the_access(&way) <= 7, "{way:?}");
    }
    assert_eq!(get_lazy(), 7);
}
