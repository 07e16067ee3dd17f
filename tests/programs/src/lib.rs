//! What the programs share.

/// From now on this process prints what the crate logs: `WARN text`.
pub fn print_log() {
    struct Print;
    impl log::Log for Print {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target() == "ebbtide"
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                println!("{} {}", record.level(), record.args());
            }
        }

        fn flush(&self) {}
    }
    log::set_logger(&Print).expect("it is the only logger of this process");
    log::set_max_level(log::LevelFilter::Info);
}
