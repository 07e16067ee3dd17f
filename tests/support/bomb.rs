//! A value with a destructor that panics.

use std::fmt;
use std::panic::panic_any;

/// Value that panics with this text when it is dropped. It implements `Error` too.
#[derive(Debug)]
pub struct Bomb(pub &'static str);

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error with a bomb in it")
    }
}

impl std::error::Error for Bomb {}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic_any(self.0);
    }
}
