//! One server on several addresses, some of which cannot be bound: the machine has no address of this kind, or the port
//! is in use on one of them. The test binary runs once more in a network namespace of its own, which has such
//! addresses.
#![cfg(target_os = "linux")]

use crate::support::on_thread;
use crate::support::process::{Process, part_to_play, this_binary};
use async_std::task;
use ebbtide::Server;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

/// Not a test by itself: the program that the tests run. There the loopback interface is down, so there is no `::1`.
#[test]
fn the_program() {
    let Some(part) = part_to_play() else { return };
    let addresses = |addresses: [&str; 2]| addresses.map(|address| address.parse::<SocketAddr>().unwrap());
    task::block_on(async {
        match part.as_str() {
            "missing" => {
                for both in [["0.0.0.0:0", "[::1]:0"], ["[::1]:0", "0.0.0.0:0"]] {
                    let server = Server::bind(&addresses(both)[..]).await.unwrap();
                    println!("BOUND {:?}", server.local_addrs().map(|a| a.tcp().unwrap().ip()).collect::<Vec<_>>());
                }
                println!("FAILED {}", Server::bind(&addresses(["[::1]:0", "[::1]:1"])[..]).await.unwrap_err());
            }
            _ => {
                // The kernel has two ports to choose from, and one of them is in use for IPv6.
                std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50001").unwrap();
                let taken = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
                taken.set_only_v6(true).unwrap();
                taken.bind(&"[::]:50000".parse::<SocketAddr>().unwrap().into()).unwrap();
                taken.listen(1).unwrap();
                for _ in 0..20 {
                    let server = Server::bind(&addresses(["0.0.0.0:0", "[::]:0"])[..]).await.unwrap();
                    println!("BOUND {:?}", server.local_addrs().map(|a| a.tcp().unwrap().port()).collect::<Vec<_>>());
                }
                // If no port is left, the last error is returned.
                let _other = TcpListener::bind("0.0.0.0:50001").unwrap();
                println!("FAILED {}", Server::bind(&addresses(["0.0.0.0:0", "[::]:0"])[..]).await.unwrap_err());
            }
        }
    });
    std::process::exit(0);
}

/// Runs the program in a network of its own, and returns its `BOUND` and `FAILED` lines. `None`, with a note, if the
/// system does not allow that.
fn output_of(part: &str) -> Option<Vec<String>> {
    let program = this_binary(module_path!(), "the_program", part);
    let mut alone = Command::new("unshare");
    alone.args(["--user", "--map-root-user", "--net"]);
    if !alone.arg("true").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no `unshare`, or it is not permitted");
        return None;
    }
    let mut alone = Command::new("unshare");
    alone.args(["--user", "--map-root-user", "--net"]);
    alone.arg(program.get_program()).args(program.get_args());
    alone.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ended = Process::start(&mut alone).wait();
    assert!(ended.status.success(), "{ended:?}");
    let lines = ended.stdout.iter().filter_map(|line| line.find("BOUND").or(line.find("FAILED")).map(|at| &line[at..]));
    Some(lines.map(str::to_owned).collect())
}

#[test]
fn an_address_of_a_kind_that_the_machine_does_not_have_is_skipped_if_another_works() {
    on_thread(|| {
        let Some(lines) = output_of("missing") else { return };
        assert_eq!(lines[..2], ["BOUND [0.0.0.0]", "BOUND [0.0.0.0]"]);
        assert!(lines[2].starts_with("FAILED cannot listen on `[::1]:"), "{}", lines[2]);
    });
}

#[test]
fn a_port_in_use_on_a_later_address_is_not_chosen_for_the_first_one() {
    on_thread(|| {
        let Some(lines) = output_of("few ports") else { return };
        assert_eq!(lines[..20], ["BOUND [50001, 50001]"; 20]);
        assert!(lines[20].starts_with("FAILED cannot listen on `[::]:50000`"), "{}", lines[20]);
    });
}
