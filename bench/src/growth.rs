//! The rows of the table that show how the cost of an operation grows with the number of connections. It should be
//! flat.

use crate::peers::Peer;
use crate::rounds::Results;
use crate::workloads::{GROWTH, Measure};

/// The costs that are compared over the numbers in [`GROWTH`]: name of the workloads, measure, and name in the table.
const FAMILIES: [(&str, Measure, &str); 4] = [
    ("echo64x{}", Measure::Cpu, "CPU per message"),
    ("connect-close-beside-{}", Measure::Cpu, "CPU per connection"),
    ("memory-of-{}", Measure::Heap, "heap per connection"),
    ("shutdown-of-{}-clients-close", Measure::Wall, "time per connection"),
];

/// The most that ebbtide's cost may grow, beside that of a peer: the kernel's costs grow with its tables, for every
/// peer.
const MUST: f64 = 1.10;

/// Returns rows for the table, with as many columns as the others.
pub(crate) fn lines(results: &[Results]) -> String {
    FAMILIES.iter().map(|family| lines_of(results, *family)).collect()
}

fn lines_of(results: &[Results], (name, measure, what): (&str, Measure, &str)) -> String {
    let costs = |peer| costs(results, name, measure, peer);
    let growth = |peer| factor(&costs(peer));
    let mut text = String::new();
    for peer in Peer::ALL {
        let Some(factor) = growth(peer) else { continue };
        let costs: Vec<String> =
            costs(peer).into_iter().map(|cost| cost.map_or("–".to_owned(), |cost| format!("{cost:.2}"))).collect();
        let must = match (peer, yardstick(growth)) {
            (Peer::Ebbtide, Some((other, theirs))) => {
                let share = factor / theirs;
                let mark = if share <= MUST || factor <= MUST { "✓" } else { "✗" };
                format!("flat, or ≤ {MUST:.2} of {}'s: {share:.2} {mark}", other.name())
            }
            _ => String::new(),
        };
        let numbers = GROWTH.map(|number| number.to_string()).join(", ");
        text += &format!(
            "| growth of {what} at {numbers} | 1 | {} | ×{factor:.2} ({}) | | | | | | | | | | | {must} | |\n",
            peer.name(),
            costs.join(", ")
        );
    }
    text
}

/// Returns the growth of epoll, or else that of tokio: of the form with the least.
fn yardstick(growth: impl Fn(Peer) -> Option<f64>) -> Option<(Peer, f64)> {
    let with_growth = |peer: &Peer| Some((*peer, growth(*peer)?));
    let of_tokio = || Peer::TOKIO.iter().filter_map(with_growth).min_by(|one, other| one.1.total_cmp(&other.1));
    with_growth(&Peer::Epoll).or_else(of_tokio)
}

fn costs(results: &[Results], name: &str, measure: Measure, peer: Peer) -> Vec<Option<f64>> {
    let cost = |number: usize| {
        let name = name.replace("{}", &number.to_string());
        let results = results.iter().find(|results| results.threads == 1 && results.workload.name == name)?;
        let value = results.median(peer, |measured| match measure {
            Measure::Wall => measure.of(measured) / measured.ops.max(1) as f64,
            _ => measure.of(measured),
        })?;
        (value > 0.0).then_some(value)
    };
    GROWTH.into_iter().map(cost).collect()
}

/// Returns the growth from 100 to 10,000 connections. With fewer than 100 the batches are smaller, and fixed costs
/// count more.
fn factor(costs: &[Option<f64>]) -> Option<f64> {
    Some((*costs.get(3)?)? / (*costs.get(1)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_from_a_hundred_to_ten_thousand() {
        assert_eq!(factor(&[Some(9.0), Some(2.0), None, Some(3.0)]), Some(1.5));
        assert_eq!(factor(&[Some(9.0), None, None, Some(3.0)]), None);
    }

    #[test]
    fn the_workloads_of_each_family_exist() {
        let names: Vec<String> = crate::workloads::all().into_iter().map(|workload| workload.name).collect();
        for (name, measure, _) in FAMILIES {
            // The memory of ten idle connections is too small to measure.
            let from = usize::from(measure == Measure::Heap);
            for number in &GROWTH[from..] {
                assert!(names.contains(&name.replace("{}", &number.to_string())), "{name} {number}");
            }
        }
    }
}
