//! What the examples share: their arguments, their log, and what they say when something is wrong.

use async_std::{io, task};
use femme::LevelFilter;
use std::env;
use std::future::Future;
use std::process::ExitCode;

const DEFAULT_ADDRESS: &str = "127.0.0.1:8888";

/// Runs an example with the address that it was given. An error becomes one line on standard error, and exit status 1.
///
/// The log goes to standard output, so an example that prints little logs little: `level` is how much.
pub(crate) fn run<E, F>(level: LevelFilter, example: E) -> ExitCode
where
    E: FnOnce(String) -> F,
    F: Future<Output = io::Result<()>>,
{
    let mut level = level;
    let mut address = DEFAULT_ADDRESS.to_owned();
    for argument in env::args().skip(1) {
        if argument == "--verbose" {
            level = LevelFilter::Debug;
        } else if argument.starts_with('-') {
            eprintln!("error: unknown option `{argument}`; there are `--verbose` and an address (`{DEFAULT_ADDRESS}`)");
            return ExitCode::FAILURE;
        } else {
            address = argument;
        }
    }
    femme::with_level(level);

    match task::block_on(example(address)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
