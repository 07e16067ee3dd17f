//! A program without privileges that binds a port below 1024 and a Unix socket in a folder of another user: both errors
//! name the missing privilege and the remedy. If root runs the test, the program drops its privileges first.
#![cfg(target_os = "linux")]

use crate::support::on_thread;
use crate::support::process::{Process, part_to_play, this_binary};
use async_std::task;
use ebbtide::Server;
use nix::unistd::{Uid, geteuid, setuid};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Not a test by itself: the program that the tests run.
#[test]
fn the_program() {
    let Some(path) = part_to_play() else { return };
    if geteuid().is_root() {
        // The program has a network namespace of its own, and sets there which ports need a privilege. In many
        // containers no port needs one.
        std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1024").unwrap();
        setuid(Uid::from_raw(65534)).unwrap();
    }
    task::block_on(async {
        println!("PORT {}", Server::bind("0.0.0.0:80").await.unwrap_err());
        println!("PATH {}", Server::bind_unix(path).await.unwrap_err());
    });
    std::process::exit(0);
}

#[test]
fn the_errors_for_a_low_port_and_a_folder_of_another_user_name_the_missing_privilege_and_the_remedy() {
    on_thread(|| {
        let folder = crate::support::files::Folder::new();
        std::fs::set_permissions(folder.itself(), PermissionsExt::from_mode(0o555)).unwrap();
        let path = folder.path("server.sock");
        let program = this_binary(module_path!(), "the_program", path.to_str().unwrap());
        let mut command = Command::new("unshare");
        if geteuid().is_root() {
            if !Command::new("unshare").args(["--net", "true"]).output().is_ok_and(|output| output.status.success()) {
                return println!("skipped: there is no `unshare`, or it is not permitted");
            }
            command.arg("--net").arg(program.get_program());
        } else {
            let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            if first.is_ok_and(|port| port.trim().parse().is_ok_and(|port: u16| port <= 80)) {
                return println!("skipped: on this machine port 80 needs no privilege");
            }
            command = Command::new(program.get_program());
        }
        command.args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ended = Process::start(&mut command).wait();
        assert!(ended.status.success(), "{ended:?}");
        let line = |name: &str| {
            let found = ended.stdout.iter().find_map(|line| line.find(name).map(|at| &line[at..]));
            found.unwrap_or_else(|| panic!("{ended:?}")).to_owned()
        };
        let (port, unix) = (line("PORT "), line("PATH "));
        println!("{port}\n{unix}");
        assert!(port.starts_with("PORT cannot listen on `0.0.0.0:80`: Permission denied"), "{port}");
        assert!(port.contains("ports below 1024 need a privilege") && port.contains("CAP_NET_BIND_SERVICE"), "{port}");
        assert!(unix.starts_with(&format!("PATH cannot listen on `{}`: Permission denied", path.display())), "{unix}");
        assert!(unix.contains(&format!("may not make files in `{}`", folder.itself().display())), "{unix}");
    });
}
