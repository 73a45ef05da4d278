//! A guest in Rust.

/// `ALIGN` is put in as a number. Functions return 0, or the number of the check that failed.
pub const RUST: &str = r#"
#![no_std]
#![feature(thread_local, linkage)]
use core::cell::Cell;
use core::hint::black_box;

// Others': the hub's, and nobody's.
unsafe extern "C" {
    #[thread_local]
    static shared: Cell<u64>;
    static mut counter: u64;
    fn hub(x: u64) -> u64;
    #[linkage = "extern_weak"]
    static absent: Option<unsafe extern "C" fn()>;
}

#[repr(align(ALIGN))]
struct Aligned([u8; ALIGN]);

trait Shape {
    fn of(&self, x: u64) -> u64;
}
struct Square;
struct Hub(u64);
impl Shape for Square {
    fn of(&self, x: u64) -> u64 {
        x * x
    }
}
impl Shape for Hub {
    fn of(&self, x: u64) -> u64 {
        unsafe { hub(x) + self.0 }
    }
}

static SHAPES: [&(dyn Shape + Sync); 2] = [&Square, &Hub(1)];
static NAMES: [&str; 3] = ["x", "yy", "zzz"];
static NONE: [u64; 0] = [];
static mut BIG: [u64; 9000] = [0; 9000];
static mut ALIGNED_DATA: Aligned = Aligned([1; ALIGN]);
static mut ALIGNED_BSS: Aligned = Aligned([0; ALIGN]);
static ALIGNED_RODATA: Aligned = Aligned([2; ALIGN]);
static mut OFFERED: u64 = 77;

#[inline(never)]
fn pick(x: u64) -> u64 {
    match x {
        0 => 9,
        1 => unsafe { hub(x) },
        2 => unsafe { OFFERED },
        3 => NAMES[black_box(2)].as_bytes()[2].into(),
        4 => SHAPES[black_box(0)].of(x),
        5 => SHAPES[black_box(1)].of(x),
        _ => 0,
    }
}

fn at<T>(place: *const T) -> usize {
    black_box(place) as usize
}

#[unsafe(no_mangle)]
pub extern "C" fn check() -> u64 {
    for (x, picked) in [9, 4, 77, 122, 16, 17, 0].into_iter().enumerate() {
        if pick(x as u64) != picked {
            return 1 + x as u64;
        }
    }
    let big = black_box(&raw mut BIG);
    unsafe { (*big)[8999] = 6 };
    if unsafe { (*big)[8999] + (*big)[8998] } != 6 {
        return 13;
    }
    let (data, bss) = (black_box(&raw const ALIGNED_DATA), black_box(&raw const ALIGNED_BSS));
    if at(data) % ALIGN != 0 || unsafe { (*data).0[ALIGN - 1] } != 1 {
        return 14;
    }
    if at(bss) % ALIGN != 0 || unsafe { (*bss).0[ALIGN - 1] } != 0 {
        return 15;
    }
    if at(&raw const ALIGNED_RODATA) % ALIGN != 0 || black_box(&ALIGNED_RODATA).0[0] != 2 {
        return 16;
    }
    if unsafe { absent }.is_some() || at(&raw const NONE) % 8 != 0 {
        return 17;
    }
    unsafe { OFFERED += 1 };
    if pick(2) != 78 {
        return 18;
    }
    unsafe { counter += 1 };
    0
}

#[thread_local]
static OWN: Cell<u64> = Cell::new(3);
#[thread_local]
static NONE_TLS: [u64; 0] = [];
#[thread_local]
static ALIGNED_TLS: Cell<Aligned> = Cell::new(Aligned([0; ALIGN]));
#[thread_local]
static ALIGNED_TDATA: Cell<Aligned> = Cell::new(Aligned([5; ALIGN]));
#[thread_local]
#[unsafe(no_mangle)]
static offered_tls: Cell<[u64; 3]> = Cell::new([0; 3]);

#[unsafe(no_mangle)]
pub extern "C" fn check_tls() -> u64 {
    if OWN.get() != 3 {
        return 1;
    }
    OWN.set(OWN.get() + pick(0));
    if OWN.get() != 12 {
        return 2;
    }
    let (zeroed, data) = (black_box(ALIGNED_TLS.as_ptr()), black_box(ALIGNED_TDATA.as_ptr()));
    if at(zeroed) % ALIGN != 0 || unsafe { (*zeroed).0[ALIGN - 1] } != 0 {
        return 3;
    }
    if at(data) % ALIGN != 0 || unsafe { (*data).0[ALIGN - 1] } != 5 {
        return 4;
    }
    let mut offered = offered_tls.get();
    offered[2] += OWN.get();
    offered_tls.set(offered);
    if black_box(&offered_tls).get() != [0, 0, 12] || at(&raw const NONE_TLS) % 8 != 0 {
        return 5;
    }
    unsafe { shared.set(shared.get() + 1) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn where_shared() -> *const Cell<u64> {
    &raw const shared
}
"#;
