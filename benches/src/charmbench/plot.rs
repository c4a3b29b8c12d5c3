//! Charts of runs: figures over size, log-log, with their limits, and one page that compares several runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use plotters::prelude::*;

use crate::run::{Record, Run};
use crate::table::{size, text};

#[derive(Args, Clone, PartialEq)]
pub(crate) struct Plot {
    /// Files that --json has written.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The output: an HTML page, or an SVG if its name ends in .svg.
    #[arg(long, default_value = "charmbench.html")]
    out: PathBuf,
}

/// # Errors
/// If a file cannot be read, or the picture cannot be written.
pub(crate) fn run(what: &Plot) -> Result<(), String> {
    let runs = what.files.iter().map(|path| Run::read(path)).collect::<Result<Vec<_>, _>>()?;
    let named: Vec<(String, &Run)> = what.files.iter().zip(&runs).map(|(path, run)| (name_of(path), run)).collect();
    write(&what.out, &named)
}

fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Draws runs, each with its name.
///
/// # Errors
/// If there is nothing to draw, or the file cannot be written.
pub(crate) fn write(out: &Path, runs: &[(String, &Run)]) -> Result<(), String> {
    let charts = charts(runs);
    if charts.is_empty() {
        return Err("there is nothing to draw: no row depends on a size".to_owned());
    }
    let text = if out.extension().is_some_and(|ending| ending == "svg") {
        let mut svg = String::new();
        draw(&charts, &mut svg)?;
        svg
    } else {
        page(runs, &charts)?
    };
    std::fs::write(out, text).map_err(|error| format!("{}: {error}", out.display()))
}

/// Points of figures over size.
type Points = Vec<(f64, f64)>;

/// One table of all runs that depends on size.
struct Chart {
    title: String,
    unit: String,
    /// By run: its name, the figures, and the limits.
    lines: Vec<(String, Points, Points)>,
}

fn charts(runs: &[(String, &Run)]) -> Vec<Chart> {
    let mut charts: Vec<Chart> = Vec::new();
    for (name, run) in runs {
        let mut tables: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
        for record in run.records.iter().filter(|record| record.bytes.is_some_and(|bytes| bytes > 0)) {
            tables.entry(&record.table).or_default().push(record);
        }
        for (title, records) in tables {
            let points = |value: fn(&Record) -> Option<f64>| {
                let point = |record: &&Record| Some((record.bytes? as f64, value(record)?));
                records.iter().filter_map(point).filter(|&(_, y)| y.is_finite() && y > 0.0).collect::<Points>()
            };
            let line = (name.clone(), points(|record| Some(record.figure().median())), points(|record| record.limit));
            let chart = match charts.iter_mut().find(|chart| chart.title == title) {
                Some(chart) => chart,
                None => {
                    let unit = records[0].unit.clone();
                    charts.push(Chart { title: title.to_owned(), unit, lines: Vec::new() });
                    charts.last_mut().expect("just pushed")
                }
            };
            chart.lines.push(line);
        }
    }
    charts
}

const WIDTH: u32 = 760;
const HEIGHT: u32 = 420;

/// All charts, one below the other.
fn draw(charts: &[Chart], svg: &mut String) -> Result<(), String> {
    let height = HEIGHT * u32::try_from(charts.len()).map_err(|_| "too many charts".to_owned())?;
    let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    let cannot = |error: &dyn std::fmt::Display| format!("a chart cannot be drawn: {error}");
    area.fill(&WHITE).map_err(|error| cannot(&error))?;
    for (area, chart) in area.split_evenly((charts.len(), 1)).iter().zip(charts) {
        draw_chart(area, chart).map_err(|error| cannot(&error))?;
    }
    area.present().map_err(|error| cannot(&error))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_chart(area: &Area<'_>, chart: &Chart) -> Result<(), Box<dyn std::error::Error>> {
    let all = || chart.lines.iter().flat_map(|(_, figures, limits)| figures.iter().chain(limits).copied());
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (least, most) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(a, b), v| (a.min(v), b.max(v)));
        (least / 1.5)..(most * 1.5)
    };
    let (x, y) = (range(&mut all().map(|(x, _)| x)), range(&mut all().map(|(_, y)| y)));
    let mut context = ChartBuilder::on(area)
        .caption(format!("{} ({})", chart.title, chart.unit), ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(72)
        .build_cartesian_2d(x.log_scale().base(2.0), y.log_scale().base(2.0))?;
    context
        .configure_mesh()
        .x_labels(12)
        .x_label_formatter(&|bytes| size(*bytes as usize))
        .y_label_formatter(&|value| text(*value))
        .draw()?;
    for (i, (name, figures, limits)) in chart.lines.iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let mark = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2));
        context.draw_series(LineSeries::new(figures.iter().copied(), color.stroke_width(2)))?.label(name).legend(mark);
        context.draw_series(figures.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
        if !limits.is_empty() {
            let thin = color.mix(0.5).stroke_width(1);
            let mark = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], thin);
            context
                .draw_series(LineSeries::new(limits.iter().copied(), thin))?
                .label(format!("{name}: limit"))
                .legend(mark);
        }
    }
    context
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// One page: a description of the runs, their charts, and every row.
fn page(runs: &[(String, &Run)], charts: &[Chart]) -> Result<String, String> {
    let mut html = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>charmbench</title><style>body{font-family:sans-serif;max-width:60em;\
         margin:2em auto}table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}\
         td:first-child,th:first-child{text-align:left}</style><h1>charmbench</h1><table><tr><th>run<th>machine<th>PEs<th>transport\
         <th>version<th>arguments",
    );
    let cannot = |_| "the page cannot be written".to_owned();
    for (name, run) in runs {
        let machine = format!("{} ({} cores, {})", run.machine.processor, run.machine.cores, run.machine.kernel);
        let version = format!("{} {}", run.version, run.commit.as_deref().unwrap_or_default());
        let shape = format!("{} in {} processes on {} hosts", run.pes, run.processes, run.hosts);
        let transport = run.transport.clone().unwrap_or_default();
        let cells = [name.clone(), machine, shape, transport, version, run.arguments.join(" ")];
        write!(html, "<tr><td>{}", cells.map(|cell| escaped(&cell)).join("<td>")).map_err(cannot)?;
    }
    html += "</table>";
    for chart in charts {
        draw(std::slice::from_ref(chart), &mut html)?;
    }
    html += "<h2>All figures</h2><p>Medians.</p><table><tr><th>";
    for (name, _) in runs {
        write!(html, "<th>{}", escaped(name)).map_err(cannot)?;
    }
    let mut titles: Vec<(String, &str)> = Vec::new();
    for record in runs.iter().flat_map(|(_, run)| &run.records) {
        let title = (record.title(), record.unit.as_str());
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    for (title, unit) in &titles {
        write!(html, "<tr><td>{}", escaped(&format!("{title} ({unit})"))).map_err(cannot)?;
        for (_, run) in runs {
            let found = run.records.iter().find(|record| record.title() == *title);
            let median = found.map_or_else(|| "-".to_owned(), |record| text(record.figure().median()));
            write!(html, "<td>{median}").map_err(cannot)?;
        }
    }
    html += "</table></html>\n";
    Ok(html)
}
