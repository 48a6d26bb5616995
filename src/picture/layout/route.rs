//! Lines between the cells of a grid, and with them the sizes of gaps and gutters, and every position.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::super::GraphView;
use super::FRAME;
use super::FRAME_NAME;
use super::GAP;
use super::GUTTER;
use super::MARGIN;
use super::Rect;
use super::Size;
use super::TRACK;
use super::grid::Grid;

/// Between two lines that enter a box.
const PORT: f64 = 14.0;

/// A line from one step to another that works on it.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Line {
    pub(in super::super) from: usize,
    pub(in super::super) to: usize,
    /// Its corners; each piece is level or upright.
    pub(in super::super) points: Vec<(f64, f64)>,
}

/// Everything placed.
pub(super) struct Routed {
    pub(super) boxes: Vec<Rect>,
    pub(super) lines: Vec<Line>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// The way a line goes down past the rows between its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descent {
    /// In the column of the step it comes from, which is free.
    Source,
    /// In the column of the step it goes to, which is free.
    Target,
    /// In the gutter to the left of this column.
    Gutter(usize),
}

/// Tracks that lines share a gap or a gutter by: each step that has lines there gets one, such that lines of different
/// steps on one track do not meet.
#[derive(Default)]
struct Tracks {
    spans: BTreeMap<usize, (f64, f64)>,
    track: BTreeMap<usize, usize>,
    count: usize,
}

impl Tracks {
    fn add(&mut self, step: usize, a: f64, b: f64) {
        let (low, high) = (a.min(b), a.max(b));
        let span = self.spans.entry(step).or_insert((low, high));
        *span = (span.0.min(low), span.1.max(high));
    }

    /// Gives each span the first track that is free there, with `clearance` between two on one.
    fn assign(&mut self, clearance: f64) {
        let mut spans: Vec<(usize, (f64, f64))> = self.spans.clone().into_iter().collect();
        spans.sort_by(|a, b| a.1.0.total_cmp(&b.1.0).then(a.0.cmp(&b.0)));
        let mut ends: Vec<f64> = Vec::new();
        for (step, (low, high)) in spans {
            let track = match ends.iter().position(|&end| end + clearance < low) {
                Some(track) => track,
                None => {
                    ends.push(high);
                    ends.len() - 1
                }
            };
            ends[track] = high;
            self.track.insert(step, track);
        }
        self.count = ends.len();
    }

    /// Where the step's track is, from the start of the first.
    fn offset(&self, step: usize) -> f64 {
        self.track[&step] as f64 * TRACK
    }

    fn breadth(&self) -> f64 {
        self.count.saturating_sub(1) as f64 * TRACK
    }
}

pub(super) fn route(view: &GraphView, grid: &Grid, sizes: &[Size]) -> Routed {
    let pairs = pairs(view);
    let descents: Vec<Descent> = pairs
        .iter()
        .map(|&(a, b)| descent(view, grid, a, b))
        .collect();

    let Across {
        gutters,
        mut boxes,
        width,
    } = across(grid, sizes, &pairs, &descents);
    let ports = ports(view, grid, &pairs, &descents, &boxes);

    // Down: gaps are as high as their tracks.
    let upright = |line: usize| -> f64 {
        let (from, _) = pairs[line];
        match descents[line] {
            Descent::Source => boxes[from].center(),
            Descent::Target => ports[line],
            Descent::Gutter(gutter) => {
                let (x, tracks) = &gutters[gutter];
                x + tracks.offset(from)
            }
        }
    };
    let uprights: Vec<f64> = (0..pairs.len()).map(upright).collect();
    let mut gaps: Vec<Tracks> = Vec::new();
    gaps.resize_with(grid.row_count, Tracks::default);
    for (line, &(from, to)) in pairs.iter().enumerate() {
        let (start, middle, end) = (boxes[from].center(), uprights[line], ports[line]);
        if start != middle {
            gaps[grid.rows[from]].add(from, start, middle);
        }
        if middle != end {
            gaps[grid.rows[to] - 1].add(from, middle, end);
        }
    }
    gaps.iter_mut().for_each(|gap| gap.assign(TRACK));
    let (row_y, gap_y, height) = down(grid, &boxes, &gaps);
    for (step, placed) in boxes.iter_mut().enumerate() {
        placed.y = row_y[grid.rows[step]];
    }

    let lines = pairs.iter().enumerate().map(|(line, &(from, to))| {
        let (first, last) = (grid.rows[from], grid.rows[to] - 1);
        let (start, middle, end) = (boxes[from].center(), uprights[line], ports[line]);
        let mut points = vec![(start, boxes[from].bottom())];
        if start != middle {
            let y = gap_y[first] + gaps[first].offset(from);
            points.extend([(start, y), (middle, y)]);
        }
        if middle != end {
            let y = gap_y[last] + gaps[last].offset(from);
            points.extend([(middle, y), (end, y)]);
        }
        points.push((end, boxes[to].y));
        Line { from, to, points }
    });
    Routed {
        lines: lines.collect(),
        boxes,
        width,
        height,
    }
}

/// What is known once everything has its place from left to right.
struct Across {
    /// The first track of each gutter, and its tracks.
    gutters: Vec<(f64, Tracks)>,
    /// The boxes, all at the top.
    boxes: Vec<Rect>,
    width: f64,
}

/// Gutters are as wide as their tracks, columns as their widest box; rows are as high as their highest.
fn across(grid: &Grid, sizes: &[Size], pairs: &[(usize, usize)], descents: &[Descent]) -> Across {
    let mut tracks: Vec<Tracks> = Vec::new();
    tracks.resize_with(grid.column_count + 1, Tracks::default);
    for (&(from, to), descent) in pairs.iter().zip(descents) {
        if let Descent::Gutter(gutter) = *descent {
            tracks[gutter].add(from, grid.rows[from] as f64, grid.rows[to] as f64 - 1.0);
        }
    }
    let mut widths = vec![0.0_f64; grid.column_count];
    let mut heights = vec![0.0_f64; grid.row_count];
    for (step, size) in sizes.iter().enumerate() {
        let (column, row) = (grid.columns[step], grid.rows[step]);
        widths[column] = widths[column].max(size.width);
        heights[row] = heights[row].max(size.height);
    }
    let mut gutters = Vec::with_capacity(tracks.len());
    let mut column_x = Vec::with_capacity(widths.len());
    let mut x = MARGIN;
    for (at, mut gutter) in tracks.into_iter().enumerate() {
        gutter.assign(0.0);
        let first = x + GUTTER / 2.0;
        x += GUTTER + gutter.breadth();
        gutters.push((first, gutter));
        if let Some(width) = widths.get(at) {
            column_x.push(x);
            x += width;
        }
    }
    let place = |step: usize| Rect {
        x: column_x[grid.columns[step]],
        y: 0.0,
        width: widths[grid.columns[step]],
        height: heights[grid.rows[step]],
    };
    Across {
        gutters,
        boxes: (0..sizes.len()).map(place).collect(),
        width: x + MARGIN,
    }
}

/// Top of each row, first track of the gap below it, and the bottom of all.
fn down(grid: &Grid, boxes: &[Rect], gaps: &[Tracks]) -> (Vec<f64>, Vec<f64>, f64) {
    let frame_rows = |pick: fn(std::vec::IntoIter<usize>) -> Option<usize>| -> BTreeSet<usize> {
        let frames = grid.frames.iter();
        let rows = |steps: &Vec<usize>| -> Vec<usize> {
            steps.iter().map(|&step| grid.rows[step]).collect()
        };
        frames
            .filter_map(|(_, steps)| pick(rows(steps).into_iter()))
            .collect()
    };
    let mut heights = vec![0.0; grid.row_count];
    for (placed, &row) in boxes.iter().zip(&grid.rows) {
        heights[row] = placed.height;
    }
    let begin = frame_rows(Iterator::min);
    let end = frame_rows(Iterator::max);
    let (mut row_y, mut gap_y) = (Vec::new(), Vec::new());
    let mut y = MARGIN;
    for (row, height) in heights.iter().enumerate() {
        if begin.contains(&row) {
            y += FRAME + FRAME_NAME;
        }
        row_y.push(y);
        y += height;
        if end.contains(&row) {
            y += FRAME;
        }
        gap_y.push(y + GAP / 2.0);
        y += GAP + gaps[row].breadth();
    }
    (row_y, gap_y, y)
}

/// Each step with each that works on it, once.
fn pairs(view: &GraphView) -> Vec<(usize, usize)> {
    let mut pairs = BTreeSet::new();
    for (to, step) in view.steps.iter().enumerate() {
        pairs.extend(step.inputs.iter().map(|input| (input.step, to)));
    }
    pairs.into_iter().collect()
}

fn is_base(view: &GraphView, from: usize, to: usize) -> bool {
    let step = &view.steps[to];
    let base = step.base.and_then(|base| step.inputs.get(base));
    base.is_some_and(|base| base.step == from)
}

fn descent(view: &GraphView, grid: &Grid, from: usize, to: usize) -> Descent {
    let (above, below) = (grid.rows[from], grid.rows[to]);
    let free = |column: usize| {
        !(0..grid.rows.len()).any(|step| {
            grid.columns[step] == column && (above + 1..below).contains(&grid.rows[step])
        })
    };
    let (left, right) = (grid.columns[from], grid.columns[to]);
    if below == above + 1 || free(left) && (left == right || is_base(view, from, to)) {
        return Descent::Source;
    }
    // The middle of a column is for lines from its own steps.
    if !is_base(view, from, to) && free(right) {
        return Descent::Target;
    }
    Descent::Gutter(if left <= right { right } else { right + 1 })
}

/// Where each line enters its box: the one from the base in the middle, the others beside it in the order they come
/// from. Where a line from another step runs down the middle of the column to above the box, none of these may.
fn ports(
    view: &GraphView,
    grid: &Grid,
    pairs: &[(usize, usize)],
    descents: &[Descent],
    boxes: &[Rect],
) -> Vec<f64> {
    // Who runs down the middle of a column in a gap.
    let mut taken: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (&(from, to), descent) in pairs.iter().zip(descents) {
        let first = grid.rows[from];
        let last = match descent {
            Descent::Source => grid.rows[to] - 1,
            Descent::Target | Descent::Gutter(_) => first,
        };
        for gap in first..=last {
            taken.insert((grid.columns[from], gap), from);
        }
    }
    let mut entering: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (line, &(_, to)) in pairs.iter().enumerate() {
        entering.entry(to).or_default().push(line);
    }
    let mut ports = vec![0.0; pairs.len()];
    for (to, mut lines) in entering {
        let center = boxes[to].center();
        let place = |line: usize| boxes[pairs[line].0].center();
        lines.sort_by(|&a, &b| place(a).total_cmp(&place(b)).then(a.cmp(&b)));
        let middle = match taken.get(&(grid.columns[to], grid.rows[to] - 1)) {
            Some(&from) => lines.iter().position(|&line| pairs[line].0 == from),
            None => {
                let mut lines = lines.iter();
                lines.position(|&line| is_base(view, pairs[line].0, to))
            }
        };
        // Where nothing enters in the middle, the lines are half a distance off it.
        let middle = middle.map_or_else(
            || lines.iter().filter(|&&line| place(line) < center).count() as f64 - 0.5,
            |middle| middle as f64,
        );
        let reach = boxes[to].width / 2.0 - PORT;
        let most = middle.max(lines.len() as f64 - 1.0 - middle).max(1.0);
        let distance = PORT.min(reach / most);
        for (index, line) in lines.into_iter().enumerate() {
            ports[line] = center + (index as f64 - middle) * distance;
        }
    }
    ports
}
