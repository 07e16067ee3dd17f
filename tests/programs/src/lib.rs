//! Code that the programs share.

/// Makes this process print each log line of the crate, as `WARN text`.
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
    log::set_logger(&Print).expect("this process has no other logger");
    log::set_max_level(log::LevelFilter::Info);
}
