//! Boxes large futures before anything else is done with them.
//!
//! Moving a future copies it. An optimised program leaves out most of these copies. An unoptimised one makes them all,
//! each on the stack of its function. A future passes a dozen functions on its way into its child, so without the box
//! 128 KiB overflow the 2 MiB stack of an executor's thread. Therefore the first function that gets a large future
//! boxes it, and only the box is moved. Small futures are not boxed here: they need no second allocation.

use std::future::Future;
use std::pin::Pin;

/// Futures above this size are boxed. A dozen copies of a future of this size fill a tenth of a thread's stack. A
/// handler with a buffer of 8 KiB, which is common, stays below it.
const LARGE: usize = 16 * 1024;

/// Returns whether futures of this type are boxed. A constant, so the branch that is not taken is not compiled in.
pub(crate) const fn is_large<F>() -> bool {
    size_of::<F>() > LARGE
}

/// A boxed large future. The type is erased, so the code that drives it is compiled once for each output type.
pub(crate) type LargeFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Evaluates an expression that moves a future of the type `F`: with the future itself, or with its box if it is large.
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
