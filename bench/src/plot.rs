//! Draws the cost against the number of connections, as SVG. Both axes are logarithmic.

use crate::peers::Peer;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
/// The margins, for the axes and the names.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// A line of the plot: connections, and microseconds for each message.
pub(crate) type Line = (Peer, Vec<(f64, f64)>);

/// A logarithmic scale from values to positions on the page.
#[derive(Clone, Copy, Debug)]
struct Scale {
    from: f64,
    to: f64,
    /// The positions of `from` and `to`.
    page: (f64, f64),
}

impl Scale {
    fn at(self, value: f64) -> f64 {
        let part = (value / self.from).ln() / (self.to / self.from).ln();
        self.page.0 + part * (self.page.1 - self.page.0)
    }
}

fn colour(peer: Peer) -> &'static str {
    match peer {
        Peer::Ebbtide => "#0072b2",
        Peer::EbbtideUntil => "#66a9d8",
        Peer::EbbtideOnTokio => "#004b7a",
        Peer::EbbtideOnSmol => "#9467bd",
        Peer::Tokio => "#d55e00",
        Peer::TokioSpawned => "#a63603",
        Peer::TokioCurrentThread => "#fdae6b",
        Peer::JoinSet => "#000000",
        Peer::AsyncStd => "#009e73",
        Peer::AsyncStdSpawned => "#66c2a5",
        Peer::Smol => "#56b4e9",
        Peer::AsyncIo => "#f0e442",
        Peer::Epoll => "#666666",
        Peer::Tide => "#8c564b",
        Peer::Asyncio => "#e69f00",
        Peer::Go => "#cc79a7",
    }
}

pub(crate) fn svg(title: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let most = |of: fn((f64, f64)) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let least = |of: fn((f64, f64)) -> f64| points().map(of).fold(f64::MAX, f64::min);
    if lines.is_empty() || least(|point| point.0.min(point.1)) <= 0.0 {
        return String::new();
    }
    let x = Scale { from: 1.0, to: most(|point| point.0).max(10.0), page: (LEFT, WIDTH - RIGHT) };
    let (low, high) = (least(|point| point.1) / 1.2, most(|point| point.1) * 1.2);
    let y = Scale { from: low, to: high, page: (HEIGHT - BOTTOM, TOP) };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{title}</text>\n"
    );
    axes(&mut svg, x, y);
    for line in lines {
        draw(&mut svg, x, y, line);
    }
    names(&mut svg, y, lines);
    svg.push_str("</svg>\n");
    svg
}

fn axes(svg: &mut String, x: Scale, y: Scale) {
    let (left, right) = x.page;
    let (bottom, top) = y.page;
    for number in [1.0, 10.0, 100.0, 1000.0, 10_000.0].into_iter().filter(|&number| number <= x.to) {
        let at = x.at(number);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {bottom}V{top}\" stroke=\"#ddd\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{number}</text>",
            bottom + 18.0
        );
    }
    let marks =
        [1.0, 2.0, 3.0, 5.0, 7.0].into_iter().flat_map(|mark| [0.1, 1.0, 10.0, 100.0].map(|scale| mark * scale));
    for cost in marks.filter(|cost| (y.from..=y.to).contains(cost)) {
        let at = y.at(cost);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{cost}</text>",
            left - 6.0,
            at + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">connections</text>\n\
         <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">CPU µs per message</text>",
        f64::midpoint(left, right),
        bottom + 40.0,
        f64::midpoint(bottom, top)
    );
}

fn draw(svg: &mut String, x: Scale, y: Scale, (peer, points): &Line) {
    let on_page: Vec<String> =
        points.iter().map(|&(number, cost)| format!("{:.1},{:.1}", x.at(number), y.at(cost))).collect();
    let width = if *peer == Peer::Ebbtide { 3 } else { 2 };
    let colour = colour(*peer);
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
        on_page.join(" ")
    );
}

/// Writes each peer's name at the right end of its line, moved down if it would cover another.
fn names(svg: &mut String, y: Scale, lines: &[Line]) {
    let mut ends: Vec<(f64, Peer)> =
        lines.iter().filter_map(|(peer, points)| Some((y.at(points.last()?.1), *peer))).collect();
    ends.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = f64::MIN;
    for (end, peer) in ends {
        let at = end.max(free);
        free = at + 14.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{}\">{}</text>",
            WIDTH - RIGHT + 8.0,
            at + 4.0,
            colour(peer),
            peer.name()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_logarithmic_and_meets_its_ends() {
        let scale = Scale { from: 1.0, to: 100.0, page: (50.0, 250.0) };
        assert!((scale.at(1.0) - 50.0).abs() < 1e-9);
        assert!((scale.at(10.0) - 150.0).abs() < 1e-9);
        assert!((scale.at(100.0) - 250.0).abs() < 1e-9);
    }

    #[test]
    fn every_peer_has_a_line_and_a_name() {
        let lines =
            vec![(Peer::Ebbtide, vec![(1.0, 20.0), (1000.0, 4.6)]), (Peer::Tokio, vec![(1.0, 26.0), (1000.0, 4.7)])];
        let svg = svg("Echo", &lines);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains(">ebbtide</text>") && svg.contains(">tokio</text>"));
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn without_results_there_is_no_plot() {
        assert_eq!(svg("Echo", &[]), "");
        assert_eq!(svg("Echo", &[(Peer::Go, vec![(1.0, 0.0)])]), "");
    }
}
