//! How costs grow with the number of connections: for each operation they should not.

use crate::peers::Peer;
use crate::rounds::Results;
use crate::workloads::{GROWTH, Measure};

/// Costs that are had at each of these numbers of connections: how the workloads are named, and what is compared.
const FAMILIES: [(&str, Measure, &str); 4] = [
    ("echo64x{}", Measure::Cpu, "CPU per message"),
    ("connect-close-beside-{}", Measure::Cpu, "CPU per connection"),
    ("memory-of-{}", Measure::Heap, "heap per connection"),
    ("shutdown-of-{}-clients-close", Measure::Wall, "time per connection"),
];

/// The kernel's own costs grow with its tables, and show in every peer: what is more than that is ours.
const MUST: f64 = 1.10;

/// Lines for the table, with as many columns.
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
        let yardstick = [Peer::Epoll, Peer::Tokio].into_iter().find(|&other| other != peer && growth(other).is_some());
        let must = match (peer, yardstick.and_then(|other| Some((other, growth(other)?)))) {
            (Peer::Ebbtide, Some((other, theirs))) => {
                let share = factor / theirs;
                let mark = if share <= MUST || factor <= MUST { "✓" } else { "✗" };
                format!("flat, or ≤ {MUST:.2} of {}'s: {share:.2} {mark}", other.name())
            }
            _ => String::new(),
        };
        let numbers = GROWTH.map(|number| number.to_string()).join(", ");
        text += &format!(
            "| growth of {what} at {numbers} | 1 | {} | ×{factor:.2} ({}) | | | | | | | | | | {must} | |\n",
            peer.name(),
            costs.join(", ")
        );
    }
    text
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

/// From a hundred to ten thousand: with fewer than that there are batches to be had, and what is fixed weighs.
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
    fn its_workloads_exist() {
        let names: Vec<String> = crate::workloads::all().into_iter().map(|workload| workload.name).collect();
        for (name, measure, _) in FAMILIES {
            // An idle connection's memory is too little to see at ten of them.
            let from = usize::from(measure == Measure::Heap);
            for number in &GROWTH[from..] {
                assert!(names.contains(&name.replace("{}", &number.to_string())), "{name} {number}");
            }
        }
    }
}
