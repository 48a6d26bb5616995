//! "Did you mean".

/// The candidate that is at most two edits away from `typed`, the nearest first and then the first given; none if
/// `typed` is itself a candidate, because then the name was not the problem.
pub(crate) fn nearest<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let edits = distance(&typed, &candidate.to_lowercase());
        if edits == 0 {
            return None;
        }
        if edits < best.map_or(3, |(edits, _)| edits) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in characters, or 3 when the lengths alone make it 3 or more.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) >= 3 {
        return 3;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn two_edits_are_near_enough() {
        for (typed, want) in [
            ("RNU", Some("RUN")),
            ("FORM", Some("FROM")),
            ("copi", Some("COPY")),
            ("RUN", None),
            ("EXPLODE", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, ["FROM", "RUN", "COPY"]), want, "{typed}");
        }
    }
}
