//! Row and column of each step.

use super::super::GraphView;

/// How often the columns are gone over to bring steps nearer to what they work on and to what works on them.
const ROUNDS: usize = 6;
/// How much more it counts that a step stands below the one it builds upon than that it is near the others.
const BASE_WEIGHT: f64 = 4.0;

/// A cell for each step, no two in one.
#[derive(Debug)]
pub(super) struct Grid {
    /// Of each step, from the top.
    pub(super) rows: Vec<usize>,
    /// Of each step, from the left.
    pub(super) columns: Vec<usize>,
    pub(super) row_count: usize,
    pub(super) column_count: usize,
    /// Stages that get a frame: name and steps.
    pub(super) frames: Vec<(String, Vec<usize>)>,
}

/// Steps that have columns to themselves, side by side, for the rows they span.
struct Lane {
    steps: Vec<usize>,
    first: usize,
    last: usize,
    width: usize,
}

impl Grid {
    pub(super) fn new(view: &GraphView) -> Self {
        let rows = rows(view);
        let frames = view.stages();
        let lanes = lanes(view, &frames, &rows);
        let tracks = tracks(view, &lanes);
        let mut grid = Self {
            row_count: rows.iter().max().map_or(0, |last| last + 1),
            columns: vec![0; rows.len()],
            rows,
            column_count: 0,
            frames,
        };
        let mut bounds = vec![(0, 0); lanes.len()];
        for track in tracks {
            let width = track.iter().map(|&lane| lanes[lane].width).max();
            for lane in track {
                bounds[lane] = (grid.column_count, lanes[lane].width);
            }
            grid.column_count += width.unwrap_or(0);
        }
        for (lane, &bounds) in lanes.iter().zip(&bounds) {
            grid.fill(lane, bounds);
        }
        for round in 0..ROUNDS {
            for (lane, &bounds) in lanes.iter().zip(&bounds) {
                if lane.width > 1 {
                    grid.sweep(view, lane, bounds, round % 2 == 0);
                }
            }
        }
        grid
    }

    /// A first place for the steps of a lane: each row from the left.
    fn fill(&mut self, lane: &Lane, (start, _): (usize, usize)) {
        for row in lane.first..=lane.last {
            let here = lane.steps.iter().filter(|&&step| self.rows[step] == row);
            for (index, &step) in here.enumerate() {
                self.columns[step] = start + index;
            }
        }
    }

    /// Orders each row of a lane by where its steps' neighbours are: those above on the way down, those below on the way
    /// up.
    fn sweep(&mut self, view: &GraphView, lane: &Lane, bounds: (usize, usize), down: bool) {
        let mut rows: Vec<usize> = (lane.first..=lane.last).collect();
        if !down {
            rows.reverse();
        }
        for row in rows {
            let here = lane.steps.iter().copied();
            let mut here: Vec<(f64, usize)> = here
                .filter(|&step| self.rows[step] == row)
                .map(|step| (self.wanted(view, step, down), step))
                .collect();
            here.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let (start, width) = bounds;
            let mut free = start;
            let count = here.len();
            for (index, (wanted, step)) in here.into_iter().enumerate() {
                let last = start + width - (count - index);
                let column = (wanted.round() as usize).clamp(free, last);
                self.columns[step] = column;
                free = column + 1;
            }
        }
    }

    /// The mean column of a step's neighbours, or where it is if it has none.
    fn wanted(&self, view: &GraphView, step: usize, down: bool) -> f64 {
        let (mut sum, mut weight) = (0.0, 0.0);
        let mut add = |neighbour: usize, is_base: bool| {
            let counts = if is_base { BASE_WEIGHT } else { 1.0 };
            sum += self.columns[neighbour] as f64 * counts;
            weight += counts;
        };
        if down {
            let this = &view.steps[step];
            for (at, input) in this.inputs.iter().enumerate() {
                add(input.step, this.base == Some(at));
            }
        } else {
            for (user, other) in view.steps.iter().enumerate().skip(step + 1) {
                for (at, input) in other.inputs.iter().enumerate() {
                    if input.step == step {
                        add(user, other.base == Some(at));
                    }
                }
            }
        }
        match weight {
            0.0 => self.columns[step] as f64,
            weight => sum / weight,
        }
    }
}

/// The longest way from a step without inputs; such a step itself stands right above the first that works on it.
fn rows(view: &GraphView) -> Vec<usize> {
    let mut rows: Vec<usize> = Vec::with_capacity(view.steps.len());
    for step in &view.steps {
        let above = step.inputs.iter().map(|input| rows[input.step] + 1);
        rows.push(above.max().unwrap_or(0));
    }
    let mut first_user: Vec<Option<usize>> = vec![None; rows.len()];
    for (at, step) in view.steps.iter().enumerate() {
        for input in &step.inputs {
            let first = &mut first_user[input.step];
            *first = Some(first.map_or(rows[at], |row| row.min(rows[at])));
        }
    }
    for (at, step) in view.steps.iter().enumerate() {
        if let (true, Some(user)) = (step.inputs.is_empty(), first_user[at]) {
            rows[at] = user - 1;
        }
    }
    rows
}

/// A lane a stage. What belongs to none goes where all its users are, or into a lane with the others of its kind.
fn lanes(view: &GraphView, stages: &[(String, Vec<usize>)], rows: &[usize]) -> Vec<Lane> {
    let mut lane_of: Vec<Option<usize>> = vec![None; view.steps.len()];
    for (lane, (_, steps)) in stages.iter().enumerate() {
        steps.iter().for_each(|&step| lane_of[step] = Some(lane));
    }
    for step in (0..view.steps.len()).rev() {
        if lane_of[step].is_some() {
            continue;
        }
        let users = view.steps.iter().enumerate();
        let users = users.filter(|(_, user)| user.inputs.iter().any(|input| input.step == step));
        let mut lanes = users.map(|(user, _)| lane_of[user]);
        if let Some(Some(first)) = lanes.next()
            && lanes.all(|lane| lane == Some(first))
        {
            lane_of[step] = Some(first);
        }
    }
    let mut lanes: Vec<Lane> = Vec::new();
    for lane in (0..stages.len()).map(Some).chain([None]) {
        let steps = (0..view.steps.len()).filter(|&step| lane_of[step] == lane);
        let steps: Vec<usize> = steps.collect();
        let spanned = steps.iter().map(|&step| rows[step]);
        let (Some(first), Some(last)) = (spanned.clone().min(), spanned.max()) else {
            continue;
        };
        let width = (first..=last)
            .map(|row| steps.iter().filter(|&&step| rows[step] == row).count())
            .max();
        lanes.push(Lane {
            first,
            last,
            width: width.unwrap_or(1),
            steps,
        });
    }
    lanes
}

/// Lanes that share columns, from left to right: each below the others of its track, connected ones near each other.
fn tracks(view: &GraphView, lanes: &[Lane]) -> Vec<Vec<usize>> {
    let mut lane_of = vec![0; view.steps.len()];
    for (at, lane) in lanes.iter().enumerate() {
        lane.steps.iter().for_each(|&step| lane_of[step] = at);
    }
    let mut ties = vec![vec![0_usize; lanes.len()]; lanes.len()];
    for (user, step) in view.steps.iter().enumerate() {
        for input in &step.inputs {
            let (a, b) = (lane_of[input.step], lane_of[user]);
            ties[a][b] += 1;
            ties[b][a] += 1;
        }
    }
    let mut order: Vec<usize> = (0..lanes.len()).collect();
    order.sort_by_key(|&lane| (lanes[lane].first, lane));
    let mut tracks: Vec<Vec<usize>> = Vec::new();
    for lane in order {
        let tie = |track: &[usize]| track.iter().map(|&o| ties[o][lane]).sum::<usize>();
        let free = |track: &&mut Vec<usize>| {
            let mut above = track.iter();
            tie(track) > 0 && above.all(|&other| lanes[other].last < lanes[lane].first)
        };
        let free: Vec<&mut Vec<usize>> = tracks.iter_mut().filter(free).collect();
        // `max_by_key` gives the last of equal ones; the leftmost is wanted.
        match free.into_iter().rev().max_by_key(|track| tie(track)) {
            Some(track) => track.push(lane),
            None => tracks.push(vec![lane]),
        }
    }
    let between = |a: &[usize], b: &[usize]| -> usize {
        let pairs = a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b)));
        pairs.map(|(a, b)| ties[a][b]).sum()
    };
    let ties: Vec<Vec<usize>> = tracks
        .iter()
        .map(|a| tracks.iter().map(|b| between(a, b)).collect())
        .collect();
    // Once as they were opened, once as their stages are written, which is platform by platform.
    let opened: Vec<usize> = (0..tracks.len()).collect();
    let mut written = opened.clone();
    written.sort_by_key(|&track| tracks[track].iter().min());
    let orders = [opened, written].map(|order| arranged(order, &ties));
    let best = orders.into_iter().min_by_key(|order| length(order, &ties));
    let best = best.unwrap_or_default();
    best.into_iter()
        .map(|track| std::mem::take(&mut tracks[track]))
        .collect()
}

/// How long the lines between tracks are together.
fn length(order: &[usize], ties: &[Vec<usize>]) -> usize {
    let mut length = 0;
    for (at, &a) in order.iter().enumerate() {
        for (distance, &b) in order[at + 1..].iter().enumerate() {
            length += (distance + 1) * ties[a][b];
        }
    }
    length
}

/// Moves one track after the other to where its lines, and those it stands between, are shortest.
fn arranged(mut order: Vec<usize>, ties: &[Vec<usize>]) -> Vec<usize> {
    for _ in 0..ROUNDS {
        for track in 0..order.len() {
            let Some(now) = order.iter().position(|&other| other == track) else {
                continue;
            };
            order.remove(now);
            let cost = |at: usize| {
                let (left, right) = order.split_at(at);
                let mut cost = 0;
                for (distance, &other) in left.iter().rev().enumerate() {
                    cost += (distance + 1) * ties[track][other];
                    cost += right
                        .iter()
                        .map(|&beyond| ties[other][beyond])
                        .sum::<usize>();
                }
                for (distance, &other) in right.iter().enumerate() {
                    cost += (distance + 1) * ties[track][other];
                }
                cost
            };
            let best = (0..=order.len()).min_by_key(|&at| (cost(at), at != now, at));
            order.insert(best.unwrap_or(now), track);
        }
    }
    order
}
