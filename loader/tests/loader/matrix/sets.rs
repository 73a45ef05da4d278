//! The guests of the matrix in sets, where each reaches variables of the guest before it, in its own
//! way.
//!
//! ```text
//!   hub ◄── guest 0 ◄── guest 1 ◄── guest 2 …        hub ◄── all
//!             counter, shared: what the guest before offers, in the place of the hub's
//! ```
//!
//! objcopy gives what guests define names of their own.

use super::{Combination, Guests, HUB, objects};
use crate::compile;
use crate::memory::HostMemory;
use crate::program::registry;
use crate::relocations::far;
use crate::stacks::Frames;
use crate::task;
use std::process::Command;
use unspool_loader::{Input, Loader, Set};
use unspool_tls::{Registry, Template};

/// What all guests define.
const DEFINED: [&str; 8] =
    ["check", "check_tls", "where_shared", "offered", "offered_tls", "pick", "none", "none_there"];

type Guest = (Combination, Vec<u8>);

fn is_rust(guest: &Guest) -> bool {
    guest.0.compiler == "rustc"
}

/// The guest with this number among others, or nothing where there is no objcopy.
fn numbered(guests: &[&Guest], number: usize) -> Option<Vec<u8>> {
    let mut names: Vec<_> =
        DEFINED.iter().map(|name| ((*name).into(), format!("{name}_{number}"))).collect();
    if let Some(before) = number.checked_sub(1) {
        names.push(("shared".into(), format!("offered_tls_{before}")));
        // Those in Rust offer no other.
        if !is_rust(guests[before]) {
            names.push(("counter".into(), format!("offered_{before}")));
        }
    }
    renamed(&guests[number].1, &names)
}

/// The object with other names for some of its symbols, or `None` where there is no `objcopy`.
fn renamed(object: &[u8], names: &[(String, String)]) -> Option<Vec<u8>> {
    if !compile::exists("objcopy") {
        return None;
    }
    let file = compile::scratch("o");
    std::fs::write(&file, object).unwrap();
    let mut command = Command::new("objcopy");
    for (old, new) in names {
        command.arg("--redefine-sym").arg(format!("{old}={new}"));
    }
    let output = command.arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let object = std::fs::read(&file).unwrap();
    std::fs::remove_file(file).unwrap();
    Some(object)
}

/// Loads a hub and these guests as one set, asks them, and unloads them; nothing where there is no
/// objcopy. `full` leaves them no space in areas.
fn meet(
    hub: &[u8],
    guests: &[&Guest],
    tls: &Registry,
    memory: HostMemory,
    full: bool,
) -> Option<()> {
    let program = Guests::program();
    let mut files = vec![hub.to_vec()];
    for number in 0..guests.len() {
        files.push(numbered(guests, number)?);
    }
    let label = |(what, _): &&Guest| format!("{} {}", what.compiler, what.flags.join(" "));
    let names: Vec<_> = ["hub".into()].into_iter().chain(guests.iter().map(label)).collect();
    let inputs = names.iter().zip(&files).map(|(name, file)| Input::new(name, file));
    let inputs: Vec<_> = inputs.collect();
    let loader = Loader::new(&memory, &program, tls);
    let old = tls.new_area(0).unwrap();
    let rest = full.then(|| tls.reserve(tls.surplus_free(), 1).unwrap());
    let set = loader.load_set(&Set::new("guests", &inputs));
    let set = set.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(set.tls_block().unwrap().is_static, !full);
    let call = |name: &str, number| function!(set, &format!("{name}_{number}"), fn() -> u64)();
    for number in 0..guests.len() {
        assert_eq!(call("check", number), 0, "{}", names[number + 1]);
    }
    for (number, pair) in guests.windows(2).enumerate().filter(|(_, pair)| !is_rust(pair[0])) {
        let offered = set.symbol(&format!("offered_{number}")).unwrap() as *const u64;
        // SAFETY: a variable of the guest's, which is loaded.
        assert_eq!(unsafe { offered.read() }, 79, "{:?}", pair[1].0);
    }
    for area in [old, tls.new_area(0).unwrap()] {
        let run = |name: String| task::run(&area, function!(set, &name, fn() -> u64));
        for (number, name) in names[1..].iter().enumerate() {
            assert_eq!(run(format!("check_tls_{number}")), 0, "{name}");
        }
        let first = run("where_shared_0".into());
        assert_eq!(first, run("where_shared".into()));
        for (number, name) in (0..guests.len()).zip(&names[1..]).skip(1) {
            let variable = run(format!("where_shared_{number}")) as *const [u64; 3];
            // SAFETY: the variable of the guest before, in the area.
            assert_eq!(unsafe { variable.read() }, [1, 0, 12], "{name}");
        }
    }
    loader.unload(&set, &Frames::none()).unwrap();
    assert_eq!(memory.live(), 0);
    drop(rest);
    Some(())
}

/// All guests in groups, each a set; nothing where there is no objcopy.
fn all_meet(hub: &[u8], groups: &[Vec<&Guest>], memory: fn() -> HostMemory) -> Option<()> {
    let tls = Registry::new(Template::EMPTY, 4 << 20).unwrap();
    groups.iter().try_for_each(|guests| meet(hub, guests, &tls, memory(), false))?;
    assert_eq!(tls.surplus_free(), 4 << 20);
    Some(())
}

fn groups_of<'g>(guests: &[&'g Guest], count: usize) -> Vec<Vec<&'g Guest>> {
    guests.chunks(count).map(<[_]>::to_vec).collect()
}

#[test]
fn guests_of_all_compilers_and_models_reach_each_other_in_sets() {
    let Some(hub) = compile::c(HUB, &["-fPIC"]) else { return };
    let mut mixed: Vec<_> = objects().iter().collect();
    mixed.sort_by_key(|(what, _)| (what.align, what.compiler, &what.flags));
    // Of one code model, whatever compiler and TLS model; of all code models, in pairs.
    let of_model = |code| mixed.iter().copied().filter(|(what, _)| what.code == code).collect();
    let models: Vec<Vec<&Guest>> = super::CODE_MODELS.map(of_model).into();
    let there_is = all_meet(&hub, &models, HostMemory::default)
        .and_then(|()| all_meet(&hub, &groups_of(&mixed, 2), HostMemory::default));
    if there_is.is_none() {
        return;
    }
    let apart: Vec<_> = mixed.iter().copied().filter(|(what, _)| what.far).collect();
    all_meet(&hub, &groups_of(&apart, 50), far).unwrap();
    // Without space in areas, those that can.
    mixed.retain(|(what, _)| what.dynamic);
    assert!(mixed.len() >= 6);
    let tls = registry();
    for guests in groups_of(&mixed, 20) {
        meet(&hub, &guests, &tls, far(), true).unwrap();
    }
}
