//! [`thread_local!`](crate::thread_local): from the declaration to a storage and a key.
//!
//! ```text
//!  #[attr] vis static NAME: T = init;
//!     │     │          │   │     └► storage: const + no drop glue ─► static T
//!     ▼     ▼          ▼   ▼                 const + drop glue    ─► static EagerStorage<T>
//!  #[attr] vis const NAME: LocalKey<T>       lazy                 ─► static LazyStorage<T>
//! ```
//!
//! A declaration list is parsed in one go, so its length does not count against the recursion
//! limit. What the expansion names is spelled from `$crate`, and its own items have names that no
//! user's expression refers to by accident. The statics are the compiler's with the feature
//! `nightly`, and those of `arch` without.

/// Declares values that every task has its own of, as `std::thread_local!` does.
///
/// Takes any number of statics, each with attributes, visibility and an initialiser that is an
/// expression, run on a task's first access, or a `const` block, evaluated by the compiler. The
/// last semicolon is optional. A name becomes a `const` of type [`LocalKey`](crate::LocalKey).
///
/// ```
/// use core::cell::Cell;
///
/// unspool_thread_local::thread_local! {
///     static STARTED: Cell<bool> = const { Cell::new(false) };
///     pub(crate) static DEPTH: Cell<usize> = Cell::new(1 + 1)
/// }
///
/// assert!(!STARTED.replace(true));
/// assert!(STARTED.get());
/// assert_eq!(DEPTH.get(), 2);
/// ```
#[macro_export]
macro_rules! thread_local {
    ($(
        $(#[$attr:meta])* $vis:vis static $name:ident: $T:ty =
            $(const $eager:block)? $($lazy:expr_2021)?
    );* $(;)?) => {$(
        $(#[$attr])*
        $vis const $name: $crate::LocalKey<$T> =
            $crate::__thread_local_key!($T, $(const $eager)? $($lazy)?);
    )*};
}

/// The value of the `const` for one static.
///
/// `find` is a constant of its own so that the user's expression is not inside an `unsafe` block,
/// and so that lifetimes left out of the type mean `'static`.
#[doc(hidden)]
#[macro_export]
macro_rules! __thread_local_key {
    ($T:ty, const $eager:block) => {{
        const __UNSPOOL_INITIAL: $T = $eager;
        const __UNSPOOL_FIND: $crate::__private::Find<$T> = |_| {
            if $crate::__private::needs_drop::<$T>() {
                let __unspool_storage = $crate::__thread_local_static!(
                    $crate::__private::EagerStorage<$T>,
                    $crate::__private::EagerStorage::new(__UNSPOOL_INITIAL)
                );
                // SAFETY: A task's own static, used through its key only.
                unsafe { (*__unspool_storage).get() }
            } else {
                $crate::__thread_local_static!($T, __UNSPOOL_INITIAL)
            }
        };
        // SAFETY: Both statics are the task's own and in place until its destructors have run;
        // the storage returns null once the value is destroyed, the plain value never is.
        unsafe { $crate::LocalKey::new(__UNSPOOL_FIND) }
    }};
    ($T:ty, $lazy:expr) => {{
        const __UNSPOOL_FIND: $crate::__private::Find<$T> = |__unspool_given| {
            // With its type, which expressions may be coerced to.
            let __unspool_init = || -> $T { $lazy };
            let __unspool_storage = $crate::__thread_local_static!(
                $crate::__private::LazyStorage<$T>,
                $crate::__private::LazyStorage::new()
            );
            // SAFETY: A task's own static, used through its key only.
            unsafe { (*__unspool_storage).get_or_init(__unspool_given, __unspool_init) }
        };
        // SAFETY: The static is the task's own and in place until its destructors have run; the
        // storage returns null once the value is destroyed.
        unsafe { $crate::LocalKey::new(__UNSPOOL_FIND) }
    }};
}

/// Where the running task's copy of a static of this type and initial value is.
#[cfg(feature = "nightly")]
#[doc(hidden)]
#[macro_export]
// What is unstable is this macro's, not that of the crate that uses it.
#[allow_internal_unstable(thread_local)]
macro_rules! __thread_local_static {
    ($T:ty, $initial:expr) => {{
        #[thread_local]
        static __UNSPOOL_STATIC: $T = $initial;
        &raw const __UNSPOOL_STATIC
    }};
}
