//! Compiles the frames that are walked, without frame pointers and with them.

fn main() {
    println!("cargo::rerun-if-changed=frames.c");
    for (name, option) in
        [("plain", "-fomit-frame-pointer"), ("pointers", "-fno-omit-frame-pointer")]
    {
        cc::Build::new()
            .file("frames.c")
            .define("CHAIN", name)
            .flag(option)
            .flag("-fexceptions")
            .flag("-fasynchronous-unwind-tables")
            .opt_level(2)
            .compile(&format!("frames_{name}"));
    }
}
