//! Exceptions of C++ through frames of Rust, and panics through frames of C++.

use std::panic::catch_unwind;

struct Noisy(&'static str);

impl Drop for Noisy {
    fn drop(&mut self) {
        println!("drop {}", self.0);
    }
}

unsafe extern "C-unwind" {
    /// Calls `body`; says what it throws, and throws it again if it is no int.
    fn cpp_catch(body: extern "C-unwind" fn());
    fn cpp_throw();
    /// Calls `body` with an object to destroy.
    fn cpp_through(body: extern "C-unwind" fn());
}

extern "C-unwind" fn throws() {
    let _noisy = Noisy("between two languages");
    unsafe { cpp_throw() }
}

extern "C-unwind" fn panics() {
    let _noisy = Noisy("below C++");
    panic!("through C++")
}

extern "C-unwind" fn catches() {
    let caught = catch_unwind(|| unsafe { cpp_through(panics) });
    println!("{:?}", caught.unwrap_err().downcast_ref::<&str>());
}

extern "C-unwind" fn panics_again() {
    let caught = catch_unwind(|| unsafe { cpp_catch(panics) });
    println!("{}", caught.is_err());
}

fn main() {
    std::panic::set_hook(Box::new(|info| println!("hook: {}", info.payload_as_str().unwrap())));
    unsafe { cpp_catch(throws) };
    catches();
    unsafe { cpp_catch(catches) };
    panics_again();
    let _ = catch_unwind(|| unsafe { cpp_throw() });
    println!("never");
}
