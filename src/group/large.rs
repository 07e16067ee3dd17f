//! Large futures go to the heap before anything else is done with them.
//!
//! To move a future is to copy it. An optimised program leaves most of these copies out; an unoptimised one makes them
//! all, each on the stack of its function. A future passes a dozen functions on its way into its child, so 128 KiB once
//! overflowed the 2 MiB of an executor's thread. A future that is large is therefore boxed by the first function that
//! gets it, and only the box is moved. All others stay as they are: they cost no second allocation.

use std::future::Future;
use std::pin::Pin;

/// A larger future is boxed. A dozen copies of one that is not are a tenth of a thread's stack; and the buffer of
/// 8 KiB that many handlers hold is not boxed.
const LARGE: usize = 16 * 1024;

/// Known when the program is compiled, so the branch that is not taken costs nothing.
pub(crate) const fn is_large<F>() -> bool {
    size_of::<F>() > LARGE
}

/// A large future. Without the type of the future in its own, so that the code which drives it is compiled once for
/// each output.
pub(crate) type LargeFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Evaluates an expression that moves a future of the type `F`: as it is, or boxed if it is large.
macro_rules! boxed_if_large {
    ($future:ident: $F:ty => $moves:expr) => {
        if const { $crate::group::is_large::<$F>() } {
            let $future: $crate::group::LargeFuture<<$F as ::std::future::Future>::Output> =
                ::std::boxed::Box::pin($future);
            $moves
        } else {
            $moves
        }
    };
}

pub(crate) use boxed_if_large;
