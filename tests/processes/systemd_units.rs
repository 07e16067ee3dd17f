//! The units in `deploy/systemd`, checked by systemd's own `systemd-analyze verify`, if it is installed.
#![cfg(all(feature = "systemd", target_os = "linux"))]

use crate::support::files::Folder;
use crate::support::process::example;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The beginning of the paths of the programs that the service units start, once they are installed.
const INSTALLED: &str = "/usr/local/bin/";

const SERVICES: [&str; 2] = ["ebbtide-echo", "ebbtide-upgrade"];

#[test]
fn the_units_pass_the_check_of_systemd_without_a_warning() {
    let Some(complaints) = complaints(|text| text) else { return };
    assert_eq!(complaints, [""; 0]);
}

#[test]
fn the_check_finds_a_mistake_in_a_unit() {
    let Some(complaints) = complaints(|text| text.replace("WatchdogSec=", "WatchdogSeconds=")) else { return };
    assert!(complaints.iter().any(|line| line.contains("WatchdogSeconds")), "{complaints:?}");
}

/// Every setting of the service unit belongs to a comment above it, which the reader of the unit needs.
#[test]
fn each_group_of_settings_begins_with_a_comment() {
    for name in SERVICES {
        let text = fs::read_to_string(folder().join(format!("{name}.service"))).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let (_, service) = text.split_once("[Service]\n").expect("it has a service");
        assert!(service.starts_with('#'), "{service}");
        let needed =
            ["NotifyAccess=", "TimeoutStopSec=", "WatchdogSec=", "RestrictAddressFamilies=", "SystemCallFilter="];
        for needed in needed {
            assert!(lines.iter().any(|line| line.starts_with(needed)), "{name}: {needed}");
        }
        let families = lines.iter().find(|line| line.starts_with("RestrictAddressFamilies=")).unwrap();
        assert!(families.contains("AF_UNIX"), "without it the program cannot notify systemd: {families}");
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd")
}

/// Returns the lines that `systemd-analyze verify` prints about the units, once `change` has changed them; `None`
/// without that program.
fn complaints(change: impl Fn(String) -> String) -> Option<Vec<String>> {
    let has_it = Command::new("systemd-analyze").arg("--version").output().is_ok_and(|it| it.status.success());
    if !has_it {
        println!("skipped: there is no systemd-analyze (Debian has it in the package `systemd`)");
        return None;
    }
    let copies = Folder::new();
    let program = example("socket_activation").get_program().to_str().unwrap().to_owned();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]); // there may be no manual pages
    let mut copy = |unit: &str, installed: &str| {
        let text = fs::read_to_string(folder().join(unit)).unwrap();
        verify.arg(copies.write(unit, &change(text.replace(installed, &program))));
        text
    };
    copy("ebbtide-echo.socket", INSTALLED);
    for name in SERVICES {
        let installed = format!("{INSTALLED}{name}");
        let text = copy(&format!("{name}.service"), &installed);
        assert!(text.contains(&format!("ExecStart={installed}\n")), "{text}");
    }
    let output = verify.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // The machine's own units may have faults, of which it also complains.
    let about_ours: Vec<_> = printed.lines().filter(|line| line.contains("ebbtide-")).map(str::to_owned).collect();
    assert!(output.status.success() || !about_ours.is_empty(), "{}: {printed}", output.status);
    Some(about_ours)
}
