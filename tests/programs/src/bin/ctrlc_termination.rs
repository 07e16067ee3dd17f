//! A server in a program where another crate has turned on the feature `termination` of `ctrlc`.
//!
//! The first argument chooses the signals that stop the server. With a second one the program also has a handler of its
//! own for SIGHUP.

use async_std::task;
use ebbtide::{Connection, Server, signal};
use std::{env, io, thread};

fn main() -> io::Result<()> {
    ebbtide_test_programs::print_log();
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments.len() > 1 {
        let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGHUP])?;
        thread::spawn(move || {
            for (n, _) in signals.forever().enumerate() {
                println!("own SIGHUP {}", n + 1);
            }
        });
    }
    task::block_on(async {
        let signals = if arguments[0] == "ctrl_c" { signal::ctrl_c()? } else { signal::termination()? };
        let server = Server::bind("127.0.0.1:0").await?.shutdown_on(signals);
        println!("{server}");
        println!("{}", server.serve(async |_: Connection| {}).await?);
        Ok(())
    })
}
