//! "Did you mean".

/// The candidate that is at most two edits away from `typed`, whatever their case, the nearest first and then the
/// first given; none if `typed` is itself a candidate, because then the name was not the problem.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    pick(candidates, |candidate| {
        distance(&typed, &candidate.to_lowercase())
    })
}

/// The same for names that people choose, which are short: most of the letters must be right.
pub fn nearest_name<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    pick(candidates, |candidate| {
        let edits = distance(&typed, &candidate.to_lowercase());
        let letters = typed.chars().count().max(candidate.chars().count());
        match 2 * edits < letters {
            true => edits,
            false if edits == 0 => 0,
            false => 3,
        }
    })
}

/// The same for names of variables, whose case counts.
pub fn nearest_variable<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    pick(candidates, |candidate| distance(typed, candidate))
}

fn pick<'a>(
    candidates: impl IntoIterator<Item = &'a str>,
    distance: impl Fn(&str) -> usize,
) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let edits = distance(candidate);
        if edits == 0 {
            return None;
        }
        if edits < best.map_or(3, |(edits, _)| edits) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Edits between two words: insertions, deletions, substitutions and swaps of neighbours; 3 when the lengths alone
/// make it 3 or more.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) >= 3 {
        return 3;
    }
    let mut table = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut edits = (table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]))
                .min(table[i - 1][j] + 1)
                .min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                edits = edits.min(table[i - 2][j - 2] + 1);
            }
            row.push(edits);
        }
        table.push(row);
    }
    table[a.len()][b.len()]
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

    #[test]
    fn most_letters_of_a_name_are_right() {
        for (typed, name, near) in [
            ("pi", "pip", true),
            ("atp", "apt", true),
            ("biuld", "build", true),
            ("deps-dve", "deps-dev", true),
            ("all", "app", false),
            ("dest", "text", false),
            ("yp", "py", false),
            ("py", "py", false),
        ] {
            assert_eq!(nearest_name(typed, [name]), near.then_some(name), "{typed}");
        }
    }
}
