//! Random call frame programs: our row against gimli's, at every address.

use gimli::{BaseAddresses, EhFrame, LittleEndian, UnwindContext, UnwindSection as _};
use unspool_host_tests::oracle::{self, Everywhere};
use unspool_unwind::{Cursor, FindModule, Module, Pc, Section, Step};

const START: u64 = 0x40_1000;
const SIZE: u64 = 0x40;
const SECTION: u64 = 0x50_0000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % bound) as u8
    }

    /// A tracked register, or now and then one that is not.
    fn column(&mut self) -> u8 {
        if self.below(12) == 0 { 17 + self.below(30) } else { self.below(17) }
    }

    /// A register whose value makes a CFA: any but the return address, which may be.
    fn base(&mut self) -> u8 {
        self.below(16)
    }
}

/// A block of an expression that leaves a value; what it reads is aligned, as on a real stack.
fn expression(random: &mut Random) -> Vec<u8> {
    let mut code = vec![0x70 + random.base(), 8 * random.below(8)];
    match random.below(4) {
        0 => code.extend([0x06, 0x23, 8 * random.below(12)]),
        1 => code.extend([0x70 + random.base(), 8 * random.below(8), 0x22]),
        2 => code.extend([0x08, 0xf8, 0x1a, 0x06]),
        _ => code.extend([0x12, 0x31, 0x1c, 0x14, 0x2b, 0x28, 1, 0, 0x1f]),
    }
    let mut block = vec![code.len() as u8];
    block.extend(code);
    block
}

/// One instruction, as bytes; `depth` is how many states are remembered.
fn instruction(random: &mut Random, depth: &mut u32, offset_cfa: &mut Vec<bool>) -> Vec<u8> {
    let simple = *offset_cfa.last().expect("one for each state");
    match random.below(22) {
        0 => vec![0x40 + random.below(6)],
        1 => vec![0x02, random.below(8)],
        2 => vec![0x80 + random.below(16), random.below(40)],
        3 => vec![0xc0 + random.below(16)],
        4 => vec![0x05, random.column(), random.below(40)],
        5 => vec![0x06, random.column()],
        6 => vec![0x07, random.column()],
        7 => vec![0x08, random.column()],
        8 => vec![0x09, random.column(), random.base()],
        // gimli has no place for more states than this.
        9 if *depth == 0 => {
            *depth += 1;
            offset_cfa.push(simple);
            vec![0x0a]
        }
        10 if *depth > 0 => {
            *depth -= 1;
            offset_cfa.pop();
            vec![0x0b]
        }
        11 => {
            *offset_cfa.last_mut().expect("one") = true;
            vec![0x0c, random.base(), random.below(100)]
        }
        12 if simple => vec![0x0d, random.base()],
        13 if simple => vec![0x0e, random.below(100)],
        14 => {
            *offset_cfa.last_mut().expect("one") = false;
            [vec![0x0f], expression(random)].concat()
        }
        15 => [vec![0x10, random.column()], expression(random)].concat(),
        16 => vec![0x11, random.column(), random.below(128)],
        17 => {
            *offset_cfa.last_mut().expect("one") = true;
            vec![0x12, random.base(), 0x40 + random.below(64)]
        }
        18 if simple => vec![0x13, 0x40 + random.below(64)],
        19 => vec![0x14 + random.below(2), random.column(), random.below(40)],
        20 => [vec![0x16, random.column()], expression(random)].concat(),
        21 => vec![0x2e, random.below(100)],
        _ => vec![0x00],
    }
}

fn program(random: &mut Random, length: u8) -> Vec<u8> {
    let (mut depth, mut offset_cfa) = (0, vec![true]);
    let count = 1 + random.below(u64::from(length));
    (0..count).flat_map(|_| instruction(random, &mut depth, &mut offset_cfa)).collect()
}

/// Not of version 4: gimli reads it as older ones in `.eh_frame`, where GCC and binutils have the
/// sizes of addresses in it, as in `.debug_frame`.
fn section(version: u8, initial: &[u8], program: &[u8]) -> Vec<u8> {
    let entry = |id: u32, body: &[u8]| {
        let mut bytes = (body.len() as u32 + 4).to_le_bytes().to_vec();
        bytes.extend(id.to_le_bytes());
        bytes.extend(body);
        bytes
    };
    let mut cie = vec![version, b'z', b'R', 0];
    cie.extend([1, 0x78, 16, 1, 0]);
    cie.extend(initial);
    let mut bytes = entry(0, &cie);
    let mut fde = [START.to_le_bytes(), SIZE.to_le_bytes()].concat();
    fde.push(0);
    fde.extend(program);
    bytes.extend(entry(bytes.len() as u32 + 4, &fde));
    bytes.extend([0; 4]);
    bytes
}

struct One<'m>(Module<'m>);

impl FindModule for One<'_> {
    fn find(&self, address: u64) -> Option<Module<'_>> {
        self.0.contains(address).then_some(self.0)
    }
}

#[test]
fn random_programs_have_gimlis_rows() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut rows, mut ends, mut refused) = (0, 0, 0);
    for round in 0..30_000 {
        // def_cfa rsp, 8; offset ra, 1; and sometimes more.
        let mut initial = vec![0x0c, 7, 8, 0x90, 1];
        if round % 3 == 0 {
            initial.extend([0x80 + random.below(16), random.below(10)]);
        }
        let bytes = section([1, 3][round % 2], &initial, &program(&mut random, 24));
        let module = Module::new(START..START + SIZE, Section { data: &bytes, address: SECTION });
        let modules = One(module);

        let mut theirs = EhFrame::new(&bytes, LittleEndian);
        theirs.set_address_size(8);
        let bases = BaseAddresses::default().set_eh_frame(SECTION).set_text(START);
        let mut context = UnwindContext::new();
        for pc in START..START + SIZE {
            let info =
                theirs.unwind_info_for_address(&bases, &mut context, pc, EhFrame::cie_from_offset);
            let registers = oracle::registers(pc);
            let mut cursor = Cursor::new(registers, Pc::Exact(pc), Everywhere, &modules);
            match (info, cursor.step()) {
                (Ok(row), step) => {
                    let expected = oracle::caller(&theirs, row, &registers);
                    match (expected, step) {
                        (Some((cfa, caller)), Ok(Step::Caller { cfa: ours })) => {
                            assert_eq!((ours, cursor.registers()), (cfa, &caller), "{bytes:02x?}");
                            rows += 1;
                        }
                        // A CFA must lie above the stack pointer; whoever made the program up
                        // does not know that.
                        (Some((cfa, _)), Err(error)) => {
                            assert!(cfa <= registers.sp(), "{error}: {bytes:02x?}");
                            refused += 1;
                        }
                        (None, Ok(Step::End)) => ends += 1,
                        (expected, step) => panic!("{expected:x?}, {step:?}: {bytes:02x?}"),
                    }
                }
                (Err(theirs), ours) => {
                    assert!(ours.is_err(), "{theirs}, {ours:?}: {bytes:02x?}");
                    refused += 1;
                }
            }
        }
    }
    println!("{rows} rows agree, {ends} are outermost, {refused} are refused by both");
    assert!(rows > 500_000 && ends > 10_000, "{rows} rows, {ends} ends");
}
