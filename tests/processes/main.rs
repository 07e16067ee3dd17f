//! Tests that start programs: the examples, tools such as HAProxy and openssl, and this test binary once more, in the
//! part of a server or a client.

mod balancer;
mod ctrlc_termination;
mod dependencies;
mod diagnostics;
mod examples;
mod faults;
mod fork;
mod hand_over;
mod haproxy;
mod http_clients;
mod kubernetes;
mod large_futures;
mod live_page;
mod missing_addresses;
mod panicking_waker;
mod pasted;
mod peer_credentials;
mod redis;
mod restart_under_load;
mod second_panics;
mod signals;
mod socket_activation;
mod stuck_logger;
#[path = "../support/mod.rs"]
mod support;
mod systemd_group;
mod systemd_notify;
mod systemd_units;
mod systemd_upgrade;
mod tls_clients;
mod unix_processes;
mod unprivileged;
mod upgrade;
mod vanished_peers;
mod what_main_prints;
