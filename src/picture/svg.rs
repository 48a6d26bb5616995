//! A picture. One file that refers to no other: no script, no font, no image. It is light or dark as its reader is.

use std::fmt::Write as _;

use super::GraphView;
use super::duration;
use super::layout;
use super::layout::FRAME_NAME;
use super::layout::Layout;
use super::layout::Line;
use super::layout::Rect;
use super::layout::Size;
use super::one_line;
use super::shortened;

/// Pixels between lines of text, and what a character is taken to be wide: every monospaced font is about 0.6 em.
const LINE: f64 = 16.0;
const CHAR: f64 = 7.3;
const SMALL_CHAR: f64 = 6.7;
/// Between a box and its text.
const PAD: f64 = 12.0;
const NARROWEST: f64 = 150.0;
/// Characters a line and lines of a label.
const LABEL: usize = 38;
const LABEL_LINES: usize = 2;
/// Of a line's corners.
const RADIUS: f64 = 7.0;
const PILL: f64 = 18.0;

const STYLE: &str = "
text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace; font-size: 12px; fill: #1f2328; }
.page { fill: #ffffff; }
.title { font-size: 15px; font-weight: 600; }
.small { font-size: 11px; fill: #59636e; }
.frame { fill: #f6f8fa; stroke: #d1d9e0; }
.stage { font-weight: 600; fill: #59636e; }
.box { fill: #ffffff; stroke: #afb8c1; }
.cached .box { fill: #f0fbf3; }
.cached .label { fill: #59636e; }
.bar { stroke: none; }
.cached .bar { fill: #2da44e; }
.run .bar { fill: #e16f24; }
.undecided .bar { fill: #d4a72c; }
.read .bar { fill: #54aeff; }
.undecided .box { stroke-dasharray: 5 3; }
.critical .box { stroke: #cf222e; stroke-width: 2; }
.line { fill: none; stroke: #afb8c1; stroke-width: 1.3; }
.tip { fill: #afb8c1; }
.line.hot { stroke: #cf222e; stroke-width: 2.2; }
.tip.hot { fill: #cf222e; }
.pill { fill: #0969da; }
.out { font-size: 11px; fill: #ffffff; }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; }
.page { fill: #0d1117; }
.small, .stage, .cached .label { fill: #9198a1; }
.frame { fill: #151b23; stroke: #3d444d; }
.box { fill: #0d1117; stroke: #656c76; }
.cached .box { fill: #0f2418; }
.cached .bar { fill: #3fb950; }
.run .bar { fill: #f0883e; }
.undecided .bar { fill: #d29922; }
.read .bar { fill: #58a6ff; }
.critical .box { stroke: #ff7b72; }
.line { stroke: #656c76; }
.tip { fill: #656c76; }
.line.hot { stroke: #ff7b72; }
.tip.hot { fill: #ff7b72; }
.pill { fill: #1f6feb; }
}
";

/// What stands in a box.
struct Card {
    label: Vec<String>,
    second: String,
    /// The outputs that are this step's result.
    outputs: Option<String>,
}

/// The graph as SVG 1.1.
pub fn svg(view: &GraphView) -> String {
    let cards: Vec<Card> = (0..view.steps.len()).map(|at| card(view, at)).collect();
    let sizes: Vec<Size> = cards.iter().map(Card::size).collect();
    let placed = layout::layout(view, &sizes);
    let head = Head::new(view);
    let width = placed.width.max(head.width);
    let height = placed.height + head.height;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" role=\"img\">\n\
         <title>{2}</title>\n<style>{STYLE}</style>\n<rect class=\"page\" width=\"{0}\" height=\"{1}\"/>\n",
        number(width),
        number(height),
        escaped(&head.title),
    );
    head.draw(&mut text);
    // What is narrower than its heading stands in the middle.
    let left = (width - placed.width) / 2.0;
    let _ = writeln!(
        text,
        "<g transform=\"translate({} {})\">",
        number(left),
        number(head.height)
    );
    draw(view, &placed, &cards, &mut text);
    text.push_str("</g>\n</svg>\n");
    text
}

fn draw(view: &GraphView, placed: &Layout, cards: &[Card], text: &mut String) {
    for (name, frame) in &placed.frames {
        let chars = ((frame.width - 2.0 * PAD) / CHAR) as usize;
        let _ = writeln!(
            text,
            "<g><title>{}</title>{}<text class=\"stage\" x=\"{}\" y=\"{}\">{}</text></g>",
            escaped(name),
            rect("frame", frame, 10.0),
            number(frame.x + PAD),
            number(frame.y + FRAME_NAME - 4.0),
            escaped(&shortened(&one_line(name), chars)),
        );
    }
    // What matters is drawn over what does not.
    let (hot, cold): (Vec<&Line>, Vec<&Line>) = placed
        .lines
        .iter()
        .partition(|line| view.is_critical_edge(line.from, line.to));
    for (lines, class) in [(cold, ""), (hot, " hot")] {
        for line in lines {
            let _ = writeln!(
                text,
                "<path class=\"line{class}\" d=\"{}\"/>",
                path(&line.points)
            );
            if let Some(&(x, y)) = line.points.last() {
                let tip = format!("M{0} {1}l-4 -7h8z", number(x), number(y));
                let _ = writeln!(text, "<path class=\"tip{class}\" d=\"{tip}\"/>");
            }
        }
    }
    for (at, card) in cards.iter().enumerate() {
        card.draw(view, at, &placed.boxes[at], text);
    }
}

fn card(view: &GraphView, at: usize) -> Card {
    let step = &view.steps[at];
    let mut second = format!("#{} {}", at + 1, step.state.word());
    if let Some(millis) = step.millis {
        let _ = write!(second, " · {}", duration(millis));
    }
    let outputs = view.outputs.iter();
    let outputs: Vec<String> = outputs
        .filter(|output| output.root.is_some_and(|root| root.step == at))
        .map(super::OutputView::label)
        .collect();
    Card {
        label: wrapped(&step.label()),
        second,
        outputs: (!outputs.is_empty()).then(|| shortened(&outputs.join(", "), LABEL)),
    }
}

impl Card {
    fn size(&self) -> Size {
        let label = self.label.iter().map(|line| columns(line) * CHAR);
        let pill = self.outputs.as_ref().map(|text| pill_width(text) + PAD);
        let texts = label
            .chain([columns(&self.second) * SMALL_CHAR])
            .chain(pill);
        let lines = self.label.len() as f64 + 1.0;
        Size {
            width: (texts.fold(0.0, f64::max) + 2.0 * PAD + 4.0).max(NARROWEST),
            height: lines * LINE + 14.0,
        }
    }

    fn draw(&self, view: &GraphView, at: usize, place: &Rect, text: &mut String) {
        let state = view.steps[at].state.word();
        let critical = if view.is_critical(at) {
            " critical"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "<g class=\"{state}{critical}\">\n<title>{}</title>",
            escaped(&tooltip(view, at))
        );
        let _ = writeln!(text, "{}", rect("box", place, 6.0));
        let bar = Rect {
            x: place.x + 5.0,
            y: place.y + 6.0,
            width: 4.0,
            height: place.height - 12.0,
        };
        let _ = writeln!(text, "{}", rect("bar", &bar, 2.0));
        let x = number(place.x + PAD + 4.0);
        let lines = self.label.len() as f64 + 1.0;
        let mut y = place.y + (place.height - lines * LINE) / 2.0 + 12.0;
        for line in &self.label {
            let line = escaped(line);
            let _ = writeln!(
                text,
                "<text class=\"label\" x=\"{x}\" y=\"{}\">{line}</text>",
                number(y)
            );
            y += LINE;
        }
        let second = escaped(&self.second);
        let _ = writeln!(
            text,
            "<text class=\"small\" x=\"{x}\" y=\"{}\">{second}</text>",
            number(y)
        );
        if let Some(outputs) = &self.outputs {
            let pill = Rect {
                x: place.x + PAD,
                y: place.bottom() - 4.0,
                width: pill_width(outputs),
                height: PILL,
            };
            let _ = writeln!(
                text,
                "{}<text class=\"out\" x=\"{}\" y=\"{}\">{}</text>",
                rect("pill", &pill, PILL / 2.0),
                number(pill.x + PILL / 2.0),
                number(pill.y + 13.0),
                escaped(outputs),
            );
        }
        text.push_str("</g>\n");
    }
}

/// What stands above the graph.
struct Head {
    title: String,
    lines: Vec<String>,
    width: f64,
    height: f64,
}

/// What the colours mean: class of a state, or of the critical path, and words.
const LEGEND: [(&str, &str); 5] = [
    ("cached", "cached"),
    ("run", "to run"),
    ("undecided", "to run if inputs change"),
    ("read", "files read each time"),
    ("critical", "critical path"),
];

impl Head {
    fn new(view: &GraphView) -> Self {
        let outputs: Vec<String> = view.outputs.iter().map(super::OutputView::label).collect();
        let title = shortened(&outputs.join(", "), 80);
        let mut lines = vec![view.counts()];
        lines.push(view.times());
        lines.retain(|line| !line.is_empty());
        let texts = lines.iter().map(|line| columns(line) * CHAR);
        let widest = texts.chain([columns(&title) * 9.2, legend_end()]);
        Self {
            width: widest.fold(0.0, f64::max) + 48.0,
            height: 62.0 + LINE * lines.len() as f64,
            title,
            lines,
        }
    }

    fn draw(&self, text: &mut String) {
        let title = escaped(&self.title);
        let _ = writeln!(
            text,
            "<text class=\"title\" x=\"24\" y=\"34\">{title}</text>"
        );
        let mut y = 54.0;
        for line in &self.lines {
            let line = escaped(line);
            let _ = writeln!(text, "<text x=\"24\" y=\"{}\">{line}</text>", number(y));
            y += LINE;
        }
        let mut x = 24.0;
        y += 4.0;
        for (class, words) in LEGEND {
            let swatch = Rect {
                x,
                y: y - 9.0,
                width: 18.0,
                height: 12.0,
            };
            let bar = Rect {
                x: x + 2.5,
                y: y - 7.0,
                width: 3.0,
                height: 8.0,
            };
            let bar = match class {
                "critical" => String::new(),
                _ => rect("bar", &bar, 1.0),
            };
            let _ = writeln!(
                text,
                "<g class=\"{class}\">{}{bar}<text class=\"small\" x=\"{}\" y=\"{}\">{words}</text></g>",
                rect("box", &swatch, 3.0),
                number(x + 24.0),
                number(y + 1.0),
            );
            x += legend_width(words);
        }
    }
}

fn legend_width(words: &str) -> f64 {
    42.0 + columns(words) * SMALL_CHAR
}

fn legend_end() -> f64 {
    LEGEND.iter().map(|(_, words)| legend_width(words)).sum()
}

fn tooltip(view: &GraphView, at: usize) -> String {
    let step = &view.steps[at];
    let mut lines = vec![step.name.clone(), step.platform.clone()];
    if let Some(place) = &step.at {
        lines.push(format!("{}:{}", place.file, place.line));
    }
    lines.push(match view.why(at) {
        Some(why) => format!("{}: {why}", step.state.word()),
        None => step.state.word().to_owned(),
    });
    if let Some(millis) = step.millis {
        lines.push(format!("last run {}", duration(millis)));
    }
    lines.join("\n")
}

/// A label in lines of [`LABEL`] characters, broken between words where there are any.
fn wrapped(label: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut rest = label;
    while lines.len() + 1 < LABEL_LINES && rest.chars().count() > LABEL {
        let end = rest
            .char_indices()
            .nth(LABEL)
            .map_or(rest.len(), |(at, _)| at);
        // A break that leaves most of the line empty is worse than one inside a word.
        let space = match rest[end..].starts_with(' ') {
            true => Some(end),
            false => rest[..end].rfind(' ').filter(|&at| at >= end / 2),
        };
        let mark = |at: usize| at + 1;
        let space = space.or_else(|| rest[..end].rfind([',', '/', '=', ':']).map(mark));
        let (line, next) = rest.split_at(space.unwrap_or(end));
        lines.push(line.to_owned());
        rest = next.trim_start();
    }
    lines.push(shortened(rest, LABEL));
    lines
}

/// East Asian characters and pictures, which take two cells in a monospaced font.
const WIDE: [std::ops::RangeInclusive<char>; 7] = [
    '\u{1100}'..='\u{115f}',
    '\u{2e80}'..='\u{a4cf}',
    '\u{ac00}'..='\u{d7a3}',
    '\u{f900}'..='\u{faff}',
    '\u{ff00}'..='\u{ff60}',
    '\u{1f300}'..='\u{1faff}',
    '\u{20000}'..='\u{3fffd}',
];

/// How many cells a text takes.
fn columns(text: &str) -> f64 {
    let cells = |c: char| {
        if WIDE.iter().any(|range| range.contains(&c)) {
            2.0
        } else {
            1.0
        }
    };
    text.chars().map(cells).sum()
}

fn pill_width(text: &str) -> f64 {
    columns(text) * SMALL_CHAR + PILL
}

/// A line through the points, its corners round.
fn path(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (at, &(x, y)) in points.iter().enumerate() {
        let (before, after) = (at.checked_sub(1).map(|at| points[at]), points.get(at + 1));
        match (before, after) {
            (None, _) => {
                let _ = write!(path, "M{} {}", number(x), number(y));
            }
            (Some(before), Some(&after)) => {
                let (from, to) = (toward((x, y), before), toward((x, y), after));
                let _ = write!(
                    path,
                    "L{} {}Q{} {} {} {}",
                    number(from.0),
                    number(from.1),
                    number(x),
                    number(y),
                    number(to.0),
                    number(to.1)
                );
            }
            (Some(_), None) => {
                let _ = write!(path, "L{} {}", number(x), number(y));
            }
        }
    }
    path
}

/// A radius away from a corner, or half way to the next.
fn toward(corner: (f64, f64), next: (f64, f64)) -> (f64, f64) {
    let (x, y) = (next.0 - corner.0, next.1 - corner.1);
    let distance = x.hypot(y);
    if distance == 0.0 {
        return corner;
    }
    let part = (RADIUS / distance).min(0.5);
    (corner.0 + x * part, corner.1 + y * part)
}

fn rect(class: &str, rect: &Rect, radius: f64) -> String {
    format!(
        "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"{}\"/>",
        number(rect.x),
        number(rect.y),
        number(rect.width),
        number(rect.height),
        number(radius)
    )
}

/// With one decimal at most.
fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    match text.strip_suffix(".0") {
        Some("-0") => "0".to_owned(),
        Some(whole) => whole.to_owned(),
        None => text,
    }
}

/// Text of an element. XML 1.0 (section 2.2) has no control characters but white space, not even as references.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}
