//! Draws the charts of a comparison as SVG files. Labels are SVG text, so drawing needs no font.

use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::metric::{CPU_US_PER_DELIVERY, DELIVERIES, Metric, PRIVATE, figure};
use super::schedule::Kind;
use super::servers::Server;
use super::store::{Measured, Results, hgrm_path};

/// Memory per connection of the article's PHP server, as given in the article, in bytes.
const ARTICLE_BYTES: f64 = 9000.0;
const ARTICLE: &str = "the article's PHP";
const SIZE: (u32, u32) = (960, 520);
/// Width of the legend at the right of a chart, in pixels.
const LEGEND_WIDTH: u32 = 180;
const FONT: &str = "sans-serif";
/// Distinct colours for the servers of a comparison. A comparison of more than 12 servers repeats the colours.
const COLOURS: [RGBColor; 12] = [
    RGBColor(214, 39, 40),
    RGBColor(255, 127, 14),
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
    RGBColor(188, 189, 34),
    RGBColor(23, 190, 207),
    RGBColor(0, 0, 0),
    RGBColor(100, 149, 237),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One server's line in a line chart.
struct Line<'a> {
    name: &'a str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// One server's bar in the memory chart.
struct Bar {
    name: String,
    colour: RGBColor,
    bytes: f64,
}

/// Draws every chart that the results have data for, into `directory`.
pub(crate) fn draw_all(results: &Results, directory: &Path) -> Result<(), String> {
    for kind in [Kind::Echo, Kind::Broadcast] {
        for Measured { point, .. } in results.points(kind) {
            let lines = each_server(results, |name| percentiles(directory, &point, name));
            let words = [&format!("{point}: latency by percentile"), "percentile", "ms"];
            let path = directory.join(format!("{point}-latency.svg"));
            draw_lines(&path, words, lines, percentile_label)?;
        }
    }
    for (metric, file, title) in [
        (DELIVERIES, "storm-deliveries.svg", "storm: deliveries per second by number of clients"),
        (CPU_US_PER_DELIVERY, "storm-cost.svg", "storm: server CPU per delivery by number of clients"),
    ] {
        let lines = each_server(results, |name| by_clients(results, &metric, name));
        draw_lines(&directory.join(file), [title, "clients", metric.title], lines, |x| figure(*x))?;
    }
    draw_memory(results, &directory.join("memory.svg"))
}

fn each_server<'a>(results: &'a Results, points: impl Fn(&str) -> Vec<(f64, f64)>) -> Vec<Line<'a>> {
    let servers = results.environment.servers.iter().zip(COLOURS.iter().cycle());
    let line = |(server, &colour): (&'a Server, &RGBColor)| {
        let name = server.name.as_str();
        Line { name, colour, points: points(name) }
    };
    servers.map(line).filter(|line| !line.points.is_empty()).collect()
}

/// Reads a server's latency distribution. Returns pairs of 1 / (1 - percentile) and latency in milliseconds.
fn percentiles(directory: &Path, point: &str, server: &str) -> Vec<(f64, f64)> {
    let text = fs::read_to_string(hgrm_path(directory, point, server)).unwrap_or_default();
    let row = |line: &str| {
        let mut fields = line.split_whitespace().map(str::parse);
        let value: f64 = fields.next()?.ok()?;
        let odds: f64 = fields.nth(2)?.ok()?;
        // Zero latencies are left out, because a logarithmic axis has no zero.
        (value > 0.0).then_some((odds, value))
    };
    text.lines().filter_map(row).collect()
}

fn percentile_label(odds: &f64) -> String {
    let percent = 100.0 - 100.0 / odds;
    format!("{}%", (percent * 1e6).round() / 1e6)
}

/// Returns a pair for each storm that the server passed: the number of clients and the median of `metric`.
fn by_clients(results: &Results, metric: &Metric, server: &str) -> Vec<(f64, f64)> {
    let points = results.points(Kind::Storm).into_iter();
    let value = |Measured { point, connections }| {
        let median = metric.of(&results.runs(server, &point))?.median;
        (median > 0.0).then_some((connections as f64, median))
    };
    points.filter_map(value).collect()
}

/// Draws a line chart with logarithmic axes into the file `path`. Draws nothing if `lines` is empty.
fn draw_lines(
    path: &Path,
    [title, x_title, y_title]: [&str; 3],
    lines: Vec<Line<'_>>,
    x_label: impl Fn(&f64) -> String,
) -> Result<(), String> {
    let all = || lines.iter().flat_map(|line| &line.points);
    if lines.is_empty() {
        return Ok(());
    }
    let (x_least, x_most) = bounds(all().map(|point| point.0), 1.0);
    let (y_least, y_most) = bounds(all().map(|point| point.1), 1.3);
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let draw = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, (FONT, 20))
            .margin(12)
            .margin_right(LEGEND_WIDTH + 24)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d((x_least..x_most).log_scale(), (y_least..y_most).log_scale())?;
        chart
            .configure_mesh()
            .x_desc(x_title)
            .y_desc(y_title)
            .x_label_formatter(&x_label)
            .y_label_formatter(&|y| figure(*y))
            .light_line_style(BLACK.mix(0.06))
            .draw()?;
        let left = (SIZE.0 - LEGEND_WIDTH) as i32;
        for (Line { name, colour, points }, row) in lines.into_iter().zip(0..) {
            let style = colour.stroke_width(if name.starts_with("uproar") { 3 } else { 1 });
            chart.draw_series(LineSeries::new(points, style).point_size(2))?;
            let y = 60 + 22 * row;
            area.draw(&PathElement::new([(left, y), (left + 22, y)], style))?;
            area.draw(&Text::new(name, (left + 30, y - 7), (FONT, 14)))?;
        }
        area.present()
    };
    draw().map_err(|error| format!("{} cannot be drawn: {error}", path.display()))
}

/// Returns the lower and the upper bound of an axis: the least value divided by `room`, and the largest value
/// multiplied by `room`. The upper bound is always above the lower bound.
fn bounds(values: impl Iterator<Item = f64>, room: f64) -> (f64, f64) {
    let (least, most) = values
        .fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), value| (least.min(value), most.max(value)));
    (least / room, (most * room).max(least * 1.01))
}

/// Draws the memory chart: private bytes per idle connection, one bar per server and one for the article's server.
fn draw_memory(results: &Results, path: &Path) -> Result<(), String> {
    let points = results.points(Kind::Idle);
    let Some(largest) = points.iter().max_by_key(|measured| measured.connections) else { return Ok(()) };
    let servers = results.environment.servers.iter().zip(COLOURS.iter().cycle());
    let measured = servers.filter_map(|(server, &colour)| {
        let (runs, connections) = results.nearest(&server.name, Kind::Idle, &largest.point)?;
        let bytes = PRIVATE.of(&runs)?.median.max(0.0);
        Some(Bar { name: format!("{} ({connections})", server.name), colour, bytes })
    });
    let mut bars: Vec<Bar> = measured.collect();
    if bars.is_empty() {
        return Ok(());
    }
    bars.push(Bar { name: ARTICLE.to_owned(), colour: RGBColor(190, 190, 190), bytes: ARTICLE_BYTES });
    bars.sort_by(|one, other| one.bytes.total_cmp(&other.bytes));
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    draw_bars(&area, &bars).map_err(|error| format!("{} cannot be drawn: {error}", path.display()))
}

fn draw_bars(area: &Area<'_>, bars: &[Bar]) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let most = bars.iter().map(|bar| bar.bytes).fold(1.0, f64::max) * 1.15;
    let rows = bars.len() as f64;
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption("private memory of the server per idle connection (connections held)", (FONT, 20))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(200)
        .build_cartesian_2d(0.0..most, 0.0..rows)?;
    // Row 0 is at the top. Server names are drawn as text beside the bars, not as labels of an axis.
    chart
        .configure_mesh()
        .disable_y_axis()
        .disable_y_mesh()
        .x_desc("bytes")
        .x_label_formatter(&|x| figure(*x))
        .draw()?;
    for (row, Bar { name, colour, bytes }) in bars.iter().enumerate() {
        let top = rows - row as f64;
        let bar = Rectangle::new([(0.0, top - 0.2), (*bytes, top - 0.8)], colour.filled());
        chart.draw_series([bar])?;
        let (x, y) = chart.backend_coord(&(*bytes, top - 0.5));
        area.draw(&Text::new(figure(*bytes), (x + 6, y - 7), (FONT, 14)))?;
        area.draw(&Text::new(name.clone(), (12, y - 7), (FONT, 14)))?;
    }
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_an_axis_differ() {
        assert_eq!(bounds([2.0, 8.0].into_iter(), 2.0), (1.0, 16.0));
        assert_eq!(bounds([2.0].into_iter(), 1.0), (2.0, 2.02));
    }

    #[test]
    fn percentiles_are_labelled_in_percent() {
        for (odds, label) in [(1.0, "0%"), (10.0, "90%"), (1000.0, "99.9%"), (100_000.0, "99.999%")] {
            assert_eq!(percentile_label(&odds), label);
        }
    }
}
