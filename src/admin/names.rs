//! A name for each server that is watched.

use crate::run::handle::Handle;

/// Returns the servers with their names. Two servers of one name get different ones: two samples of a metric with the
/// same labels would make the whole text invalid.
pub(super) fn named(servers: &[Handle]) -> impl Iterator<Item = (String, &Handle)> {
    let names = unique(servers.iter().map(|server| server.run().name.to_string()));
    names.into_iter().zip(servers)
}

fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in names {
        let others = (2..).map(|n| format!("{name} ({n})"));
        let free = std::iter::once(name.clone()).chain(others).find(|name| !all.contains(name));
        all.extend(free);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::unique;

    #[test]
    fn no_two_servers_have_the_same_name() {
        let names = ["echo", "echo (2)", "echo", "admin", "echo"].map(String::from);
        assert_eq!(unique(names.into_iter()), ["echo", "echo (2)", "echo (3)", "admin", "echo (4)"]);
    }
}
