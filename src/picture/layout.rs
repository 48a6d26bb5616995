//! Where everything of a drawn graph goes; pure geometry, in pixels.
//!
//! Boxes stand in a grid. A row is a layer: every step is below all that it works on. A stage keeps to columns of its
//! own, so that it reads from top to bottom as it is written; stages whose rows do not overlap share columns. Lines run
//! only between boxes: down a column where it is free, sideways in the gaps between rows, and down the gutters between
//! columns. All lines from one step share their tracks, those of two steps never do.

mod grid;
mod route;
#[cfg(test)]
mod tests;

use super::GraphView;

pub(super) use route::Line;

/// What is known of a box before it has a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A rectangle; `y` grows downwards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A drawn graph.
#[derive(Debug)]
pub(super) struct Layout {
    /// Of each step.
    pub(super) boxes: Vec<Rect>,
    /// The stages' names, and what frames their steps.
    pub(super) frames: Vec<(String, Rect)>,
    /// One for each pair of a step and another that works on it.
    pub(super) lines: Vec<Line>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Around everything.
const MARGIN: f64 = 24.0;
/// Of a gutter and of a gap, without tracks.
const GUTTER: f64 = 48.0;
const GAP: f64 = 30.0;
/// Between two tracks.
const TRACK: f64 = 8.0;
/// A frame is that much larger than its boxes, and has its name above them.
const FRAME: f64 = 12.0;
pub(super) const FRAME_NAME: f64 = 22.0;

/// Lays a graph out, with boxes at least as large as `sizes` says for each step.
pub(super) fn layout(view: &GraphView, sizes: &[Size]) -> Layout {
    let grid = grid::Grid::new(view);
    let routed = route::route(view, &grid, sizes);
    let frames = grid.frames.iter().map(|(name, steps)| {
        let mut around = routed.boxes[steps[0]];
        for &step in steps {
            around = around.union(&routed.boxes[step]);
        }
        let frame = Rect {
            x: around.x - FRAME,
            y: around.y - FRAME - FRAME_NAME,
            width: around.width + 2.0 * FRAME,
            height: around.height + 2.0 * FRAME + FRAME_NAME,
        };
        (name.clone(), frame)
    });
    Layout {
        frames: frames.collect(),
        boxes: routed.boxes,
        lines: routed.lines,
        width: routed.width,
        height: routed.height,
    }
}

impl Rect {
    fn union(&self, other: &Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        Self {
            x,
            y,
            width: (self.x + self.width).max(other.x + other.width) - x,
            height: (self.y + self.height).max(other.y + other.height) - y,
        }
    }

    pub(super) fn bottom(&self) -> f64 {
        self.y + self.height
    }

    pub(super) fn center(&self) -> f64 {
        self.x + self.width / 2.0
    }
}
