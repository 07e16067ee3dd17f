//! What connects servers with other systems: on top of everything else, each behind its feature.

pub mod systemd;
