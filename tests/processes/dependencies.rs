//! What each feature brings into a user's dependency tree. Only in a build with all of them: `cargo tree` works offline
//! here, and needs the packages of each feature.
#![cfg(all(feature = "smol", feature = "http", feature = "tls", feature = "systemd", feature = "proxy-protocol"))]

use std::env;
use std::process::Command;

/// The names of the packages that a user of the crate gets with these features.
fn packages(features: &str) -> Vec<String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--no-default-features"]);
    cargo.args(["--features", features, "--package", "ebbtide"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect();
    assert!(names.len() > 20, "{text}");
    names
}

fn has(names: &[String], package: &str) -> bool {
    names.iter().any(|name| name == package)
}

#[test]
fn without_its_feature_nothing_of_async_std_is_in_the_tree() {
    for features in ["", "smol", "smol,admin,tls,systemd,proxy-protocol,upgrade"] {
        let names = packages(features);
        let unwanted: Vec<_> = names.iter().filter(|name| name.starts_with("async-std")).collect();
        assert_eq!(unwanted, [""; 0], "features `{features}`");
        assert!(!has(&names, "async-global-executor"), "features `{features}`: {names:?}");
        // hyper uses tokio's channels and traits. `examples/apps` tests that nothing of its runtime is built.
        assert_eq!(has(&names, "tokio"), features.contains("admin"), "features `{features}`: {names:?}");
        assert_eq!(has(&names, "smol"), features.contains("smol"), "features `{features}`");
    }
    assert!(has(&packages("async-std"), "async-std"));
}

#[test]
fn upgrades_need_no_package_more() {
    assert_eq!(packages("async-std,upgrade"), packages("async-std"));
}

#[test]
fn an_optional_part_brings_its_packages_only_with_its_feature() {
    let plain = packages("async-std");
    for (feature, package) in [
        ("http", "hyper"),
        ("admin", "prometheus-client"),
        ("admin", "serde_json"),
        ("tls", "rustls"),
        ("systemd", "sd-listen-fds"),
        ("systemd", "sd-notify"),
        ("proxy-protocol", "ppp"),
    ] {
        assert!(!has(&plain, package), "{package}");
        if feature != "systemd" || cfg!(target_os = "linux") {
            assert!(has(&packages(&format!("async-std,{feature}")), package), "{package}");
        }
    }
}
