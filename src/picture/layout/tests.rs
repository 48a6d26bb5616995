//! What holds of every layout, and a few that are known.

use proptest::prelude::*;

use super::super::tests::random_view;
use super::super::tests::step;
use super::*;

fn laid_out(view: &GraphView) -> Layout {
    let size = |at: usize| Size {
        width: 150.0 + (at % 5) as f64 * 20.0,
        height: 40.0 + (at % 3) as f64 * 16.0,
    };
    let sizes: Vec<Size> = (0..view.steps.len()).map(size).collect();
    layout(view, &sizes)
}

fn overlap(a: &Rect, b: &Rect) -> bool {
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.bottom() && b.y < a.bottom()
}

/// The pieces of a line as rectangles without breadth, without the ends that touch its boxes.
fn pieces(line: &Line) -> Vec<Rect> {
    let pairs = line.points.windows(2);
    let piece = |pair: &[(f64, f64)]| {
        let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
        assert!(ax == bx || ay == by, "{line:?} is aslant");
        Rect {
            x: ax.min(bx),
            y: ay.min(by),
            width: (ax - bx).abs(),
            height: (ay - by).abs(),
        }
    };
    pairs.map(piece).collect()
}

proptest! {
    #[test]
    fn boxes_and_lines_keep_apart(view in random_view()) {
        let layout = laid_out(&view);
        for (at, placed) in layout.boxes.iter().enumerate() {
            prop_assert!(placed.x >= 0.0 && placed.x + placed.width <= layout.width);
            prop_assert!(placed.y >= 0.0 && placed.bottom() <= layout.height);
            for other in &layout.boxes[at + 1..] {
                prop_assert!(!overlap(placed, other), "{placed:?} lies on {other:?}");
            }
        }
        for line in &layout.lines {
            let (from, to) = (layout.boxes[line.from], layout.boxes[line.to]);
            prop_assert!(from.bottom() < to.y, "what is worked on stands above");
            prop_assert_eq!(line.points[0].1, from.bottom());
            prop_assert_eq!(line.points[line.points.len() - 1].1, to.y);
            for piece in pieces(line) {
                let through = layout.boxes.iter().find(|placed| overlap(placed, &piece));
                prop_assert_eq!(through, None, "{:?} goes through a box", line);
            }
        }
    }

    /// Where lines of two steps ran on top of each other, nobody could tell which is which.
    #[test]
    fn lines_of_two_steps_share_no_track(view in random_view()) {
        let layout = laid_out(&view);
        for (at, line) in layout.lines.iter().enumerate() {
            for other in layout.lines[at + 1..].iter().filter(|other| other.from != line.from) {
                for (a, b) in pieces(line).iter().flat_map(|a| pieces(other).into_iter().map(move |b| (*a, b))) {
                    let upright = a.width == 0.0 && b.width == 0.0 && a.x == b.x;
                    let level = a.height == 0.0 && b.height == 0.0 && a.y == b.y;
                    let meet = upright && a.y < b.bottom() && b.y < a.bottom()
                        || level && a.x < b.x + b.width && b.x < a.x + a.width;
                    prop_assert!(!meet, "{line:?} and {other:?}");
                }
            }
        }
    }
}

/// A stage reads from top to bottom: one straight line.
#[test]
fn a_stage_is_one_column() {
    let mut steps = vec![step(0, "[build 1/4] FROM a", &[])];
    for at in 1..4 {
        steps.push(step(
            at,
            &format!("[build {}/4] RUN {at}", at + 1),
            &[at - 1],
        ));
    }
    let layout = laid_out(&GraphView::new(steps, Vec::new()));
    assert!(layout.boxes.windows(2).all(|pair| pair[0].x == pair[1].x));
    assert!(layout.lines.iter().all(|line| line.points.len() == 2));
    assert_eq!(layout.frames.len(), 1);
}

/// Two stages that do not need each other stand side by side, and what takes from both below.
#[test]
fn independent_stages_stand_side_by_side() {
    let steps = vec![
        step(0, "[a 1/2] FROM x", &[]),
        step(1, "[a 2/2] RUN a", &[0]),
        step(2, "[b 1/2] FROM y", &[]),
        step(3, "[b 2/2] RUN b", &[2]),
        step(4, "[c 1/2] COPY --from=a", &[1]),
        step(5, "[c 2/2] COPY --from=b", &[4, 3]),
    ];
    let layout = laid_out(&GraphView::new(steps, Vec::new()));
    let [a, a2, b, b2, c, c2] = &layout.boxes[..] else {
        panic!("six boxes");
    };
    assert_eq!((a.y, a2.y), (b.y, b2.y));
    assert!(a.x != b.x && c.y > a2.y && c2.y > c.y);
}
