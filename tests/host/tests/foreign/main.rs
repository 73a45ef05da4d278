//! Programs that nobody here wrote the compiler of, each with libgcc's unwinder and with ours.
//!
//! ```text
//!   programs/*.cpp, *.c, *.rs ─ g++, clang++, gcc, rustc ─► program ─┬─ libgcc_s.so.1 ─────┐
//!        LD_LIBRARY_PATH with ours in its place ─────────────────────┼─ ours ── same output?
//!        LD_PRELOAD of ours ─────────────────────────────────────────┴─ ours ──────────────┘
//! ```

mod discovery;
mod harness;
mod jit;
mod library;

use std::process::Command;

use harness::{OK, compare, compile, ours, output, with_ours, without_dl_find_object};

#[test]
fn cpp_exceptions_of_every_kind_are_the_same() {
    for compiler in [["g++", "-O2"], ["g++", "-O0"], ["clang++", "-O2"]] {
        let name = compiler.concat();
        let program = compile(&format!("exceptions-{name}"), &compiler, &["exceptions.cpp"]);
        compare(&program, "caught 42 while 1 in flight\nstill text\n");
        compare(&program, "exit status: 7");
    }
}

/// Landing pads begin with `endbr64` then.
#[test]
fn code_made_for_control_flow_enforcement_is_unwound() {
    for compiler in ["g++", "clang++"] {
        let compiler = [compiler, "-O2", "-fcf-protection=full"];
        let program = compile(&format!("cet-{}", compiler[0]), &compiler, &["exceptions.cpp"]);
        compare(&program, "caught 42 while 1 in flight\nstill text\n");
    }
}

#[test]
fn broken_exception_specifications_end_alike() {
    for compiler in [["g++", "-O2"], ["g++", "-O0"], ["clang++", "-O2"]] {
        let name = format!("specifications-{}", compiler.concat());
        let compiler = [&compiler[..], &["-std=c++14", "-w"]].concat();
        let program = compile(&name, &compiler, &["specifications.cpp"]);
        compare(&program, "terminate\nbecause of unlisted\nended with 8\n");
        compare(&program, "unexpected: an int instead\n~caller\nint 7\nended with 0\n");
        compare(&program, "unexpected: again\n~caller\nbad_exception\nended with 0\n");
    }
}

#[test]
fn the_personality_of_cpp_is_called_unless_it_is_libstdcxx_where_nothing_depends_on_it() {
    // What it is called for, by the report on stderr: a line for each part.
    let report = |text: &str| -> (Vec<u32>, String) {
        let (asked, other) = text.lines().partition::<Vec<_>, _>(|line| line.starts_with("asked "));
        let number = |line: &&str| line[6..].split(',').next().unwrap().parse().unwrap();
        (asked.iter().map(number).collect(), other.join("\n"))
    };
    let common = ["g++", "-O2", "-pthread", "-rdynamic"];
    let program = compile("asked", &common, &["asked.cpp"]);
    let (theirs, printed) = report(&output(&mut Command::new(&program)));
    assert!(printed.contains("~passed\ncaught an int\npasses done"), "{printed}");
    for (name, value) in [("LD_LIBRARY_PATH", &ours().place), ("LD_PRELOAD", &ours().library)] {
        let (asked, same) = report(&output(Command::new(&program).env(name, value)));
        assert_eq!(same, printed, "{name}");
        // The part that is within another has been counted there. Forced unwinding asks every frame.
        let (inner, forced) = (theirs.len() - 2, theirs.len() - 1);
        for (part, (asked, theirs)) in asked.iter().zip(&theirs).enumerate() {
            let is_same = part == inner || part == forced;
            assert!(if is_same { asked == theirs } else { asked < theirs }, "{name}: {part}");
        }
    }
    let others: [&[&str]; 3] = [&["-DOWN"], &["-static-libstdc++"], &["-no-pie", "-fno-pie"]];
    for (number, more) in others.into_iter().enumerate() {
        let compiler = [&common[..], more].concat();
        let program = compile(&format!("asked-{number}"), &compiler, &["asked.cpp"]);
        compare(&program, &format!("asked {}, own", theirs[0]));
    }
}

#[test]
fn frames_of_every_shape_are_unwound() {
    for compiler in [["g++", "-O2"], ["g++", "-O0"], ["clang++", "-O1"]] {
        let program = compile(&format!("frames-{}", compiler.concat()), &compiler, &["frames.cpp"]);
        compare(&program, OK);
    }
}

#[test]
fn c_frames_are_cleaned_up_on_the_way() {
    for (c, cpp) in [("gcc", "g++"), ("clang", "clang++")] {
        let name = format!("cleanup-{c}.o");
        let object = compile(&name, &[c, "-O2", "-fexceptions", "-c"], &["cleanup.c"]);
        let compiler = [cpp, "-O2", object.to_str().unwrap()];
        compare(&compile(&format!("through-{c}"), &compiler, &["through.cpp"]), "out of qsort 9");
    }
}

#[test]
fn exceptions_leave_signal_handlers_on_any_stack() {
    let compiler = ["g++", "-O1", "-fnon-call-exceptions"];
    compare(&compile("signals", &compiler, &["signals.cpp"]), OK);
}

#[test]
fn threads_end_by_force_with_their_cleanups() {
    for compiler in ["g++", "clang++"] {
        let program = compile(&format!("threads-{compiler}"), &[compiler, "-O2"], &["threads.cpp"]);
        compare(&program, "handler pushed\n~outer\njoined: cancelled");
    }
}

#[test]
fn backtraces_of_the_c_library_are_the_same() {
    compare(&compile("backtrace", &["gcc", "-O1"], &["backtrace.c"]), "handler: ");
}

#[test]
fn code_made_at_run_time_is_unwound_while_it_is_registered() {
    compare(&compile("jit", &["g++", "-O2"], &["jit.cpp"]), "caught 5\n1\ncaught 5\nterminate\n");
}

#[test]
fn rust_panics_on_std_are_the_same() {
    for level in ["opt-level=0", "opt-level=3"] {
        let compiler = ["rustc", "--edition=2024", "-C", level];
        compare(&compile(&format!("panics-{level}"), &compiler, &["panics.rs"]), OK);
    }
}

#[test]
fn rust_programs_end_alike_in_the_midst_of_unwinding() {
    for level in ["opt-level=0", "opt-level=3"] {
        let compiler = ["rustc", "--edition=2024", "-C", level];
        let program = compile(&format!("ends-{level}"), &compiler, &["ends.rs"]);
        compare(&program, "hook: panic in a destructor during cleanup\n");
        compare(&program, "drop element 0 (true)\ndrop element 1 (true)\ncaught: true\n");
    }
}

#[test]
fn exceptions_pass_from_language_to_language() {
    for cpp in ["g++", "clang++"] {
        let object = compile(&format!("mixed-{cpp}.o"), &[cpp, "-O2", "-c"], &["mixed.cpp"]);
        let object = format!("link-arg={}", object.display());
        let compiler = ["rustc", "--edition=2024", "-O", "-C", &object, "-lstdc++"];
        let program = compile(&format!("mixed-{cpp}"), &compiler, &["mixed.rs"]);
        compare(&program, "cannot catch foreign exceptions");
    }
}

#[test]
fn a_throw_in_a_process_fits_in_two_kib_and_allocates_nothing() {
    let program = compile("paint", &["g++", "-O2", "-pthread"], &["paint.cpp"]);
    for ours in [ours(), without_dl_find_object()] {
        // Binding a function when it is called first takes the dynamic linker 2.5 KiB.
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", &ours.place).env("LD_BIND_NOW", "1");
        let printed = output(&mut command);
        // One allocation is `__cxa_allocate_exception`'s: four throws, in two threads and through an
        // expression.
        let allocations = "1 ".repeat(12);
        let number = |name: &str| -> usize {
            let (_, number) = printed.split_once(name).expect(&printed);
            number.lines().next().unwrap().parse().expect("a number of bytes")
        };
        assert!(printed.contains(&format!("\n{allocations}\n")), "{printed}");
        let (used, deep) = (number("\nbytes: "), number("\nthrough a deep expression: "));
        println!("a throw used {used} bytes of stack, {deep} with a deep expression");
        assert!((256..=2048).contains(&used), "{used} bytes");
        // As the module `raise` has it.
        assert!((used + 1..=2304).contains(&deep), "{deep} bytes with a deep expression");
    }
}

#[test]
fn cleanups_have_the_control_words_that_the_unwinding_began_with() {
    // GCC's own leaves what a stop function made of them.
    let program = compile("control", &["g++", "-O1"], &["control.cpp"]);
    assert_eq!(with_ours(&program), format!("cleanup: kept\ncleanup: kept\nend of stack\n{OK}\n"));
}

#[test]
fn walks_of_smashed_stacks_end_without_a_fault() {
    // GCC's own cannot be compared: it does not survive this.
    let program = compile("smash", &["gcc", "-O1", "-fno-stack-protector"], &["smash.c"]);
    let expected = format!("9000 walks ended, after some frames\n{OK}\n");
    assert_eq!(with_ours(&program), expected);
}

#[test]
fn walks_end_where_a_stack_that_is_not_the_threads_own_ends() {
    // GCC's own does not survive this either.
    let program = compile("edge", &["gcc", "-O1", "-pthread"], &["edge.c"]);
    let expected = format!("{}all walks ended\n{OK}\n", "some frames\n".repeat(10));
    assert_eq!(with_ours(&program), expected);
}

#[test]
fn it_is_our_library_that_unwinds() {
    let program = compile("through-which", &["g++", "-O1"], &["jit.cpp"]);
    for (name, value) in [("LD_LIBRARY_PATH", &ours().place), ("LD_PRELOAD", &ours().library)] {
        let trace = output(Command::new(&program).env(name, value).env("LD_DEBUG", "bindings"));
        let binding = trace.lines().find(|line| line.contains("`_Unwind_RaiseException'"));
        let binding = binding.expect("libstdc++ asks for it");
        let (_, to) = binding.split_once(" to ").expect("a binding");
        assert!(to.starts_with(value.to_str().unwrap()), "{binding}");
    }
}
