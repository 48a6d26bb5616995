//! Which step of an earlier build a step is to be compared with: the one that stood in its place, also where others have come
//! or gone before it.

use std::collections::BTreeMap;

/// A step as it is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// What it is found among: a stage and a platform.
    pub group: &'a str,
    /// The instruction's first word. Steps of different instructions are not compared.
    pub instruction: &'a str,
    /// The instruction.
    pub text: &'a str,
}

/// Groups whose changed parts have more pairs of steps than this are paired by their text alone.
const MAX_PAIRS: usize = 1 << 16;
/// How much more an equal text counts than one that is only alike.
const EQUAL: usize = 1000;
/// The most that texts count that are alike.
const ALIKE: usize = 100;

/// For each step of `now` the position of its counterpart among `earlier`. Within a group the pairs do not cross; of all ways
/// to pair, the texts are most alike in this one.
pub fn pair(earlier: &[Place<'_>], now: &[Place<'_>]) -> Vec<Option<usize>> {
    let mut groups: BTreeMap<&str, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (at, place) in earlier.iter().enumerate() {
        groups.entry(place.group).or_default().0.push(at);
    }
    for (at, place) in now.iter().enumerate() {
        groups.entry(place.group).or_default().1.push(at);
    }
    let mut pairs = vec![None; now.len()];
    for (old, new) in groups.into_values() {
        let same = |old: &usize, new: &usize| earlier[*old] == now[*new];
        let begin = old.iter().zip(&new).take_while(|(o, n)| same(o, n)).count();
        let (old_rest, new_rest) = (&old[begin..], &new[begin..]);
        let backwards = old_rest.iter().rev().zip(new_rest.iter().rev());
        let end = backwards.take_while(|(o, n)| same(o, n)).count();
        let old_rest = &old_rest[..old_rest.len() - end];
        let new_rest = &new_rest[..new_rest.len() - end];
        let equal = old.iter().zip(&new).take(begin);
        let equal = equal.chain(old.iter().rev().zip(new.iter().rev()).take(end));
        equal.for_each(|(&old, &new)| pairs[new] = Some(old));

        let texts = |list: &[usize], places: &[Place<'_>]| -> Vec<(usize, Vec<char>)> {
            let text = |&at: &usize| (at, places[at].text.chars().collect());
            list.iter().map(text).collect()
        };
        if old_rest.len() * new_rest.len() > MAX_PAIRS {
            let mut by_text: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for &at in old_rest.iter().rev() {
                by_text.entry(earlier[at].text).or_default().push(at);
            }
            for &at in new_rest {
                pairs[at] = by_text.get_mut(now[at].text).and_then(Vec::pop);
            }
            continue;
        }
        let (old_texts, new_texts) = (texts(old_rest, earlier), texts(new_rest, now));
        for (old, new) in align(&old_texts, &new_texts, |old, new| {
            match earlier[old.0].instruction == now[new.0].instruction {
                true => likeness(&old.1, &new.1),
                false => 0,
            }
        }) {
            pairs[new_texts[new].0] = Some(old_texts[old].0);
        }
    }
    pairs
}

/// The pairs, none crossing another, whose scores add up to the most. What scores 0 is no pair.
fn align<T>(old: &[T], new: &[T], score: impl Fn(&T, &T) -> usize) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    let mut scores = Vec::with_capacity(old.len() * new.len());
    for old in old {
        scores.extend(new.iter().map(|new| score(old, new)));
    }
    // `best[i][j]` is of what comes from `i` and `j` on.
    let mut best = vec![0; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let skip = best[(i + 1) * width + j].max(best[i * width + j + 1]);
            let both = scores[i * new.len() + j] + best[(i + 1) * width + j + 1];
            best[i * width + j] = skip.max(both);
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < old.len() && j < new.len() {
        let here = best[i * width + j];
        let score = scores[i * new.len() + j];
        if score > 0 && here == score + best[(i + 1) * width + j + 1] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if here == best[(i + 1) * width + j] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

/// How alike two texts are: more than nothing, less than equal ones.
fn likeness(old: &[char], new: &[char]) -> usize {
    if old == new {
        return EQUAL;
    }
    let shorter = old.len().min(new.len());
    let begin = old.iter().zip(new).take_while(|(o, n)| o == n).count();
    let backwards = old.iter().rev().zip(new.iter().rev());
    let end = backwards
        .take(shorter - begin)
        .take_while(|(o, n)| o == n)
        .count();
    1 + ALIKE * (begin + end) / old.len().max(new.len()).max(1)
}

#[cfg(test)]
mod t {
    use super::*;

    /// `group: INSTRUCTION …`
    fn places<'a>(lines: &[&'a str]) -> Vec<Place<'a>> {
        let place = |line: &&'a str| {
            let (group, text) = line.split_once(": ").unwrap();
            Place {
                group,
                instruction: text.split(' ').next().unwrap(),
                text,
            }
        };
        lines.iter().map(place).collect()
    }

    #[test]
    fn steps_find_what_stood_in_their_place() {
        const FILE: [&str; 4] = ["a: FROM x", "a: COPY p /", "a: RUN install", "a: COPY . /"];
        let none: &[Option<usize>] = &[];
        for (earlier, now, want) in [
            (
                &FILE[..],
                &FILE[..],
                &[Some(0), Some(1), Some(2), Some(3)][..],
            ),
            // Something is put in between, and something else is changed.
            (
                &FILE,
                &[
                    "a: FROM x",
                    "a: RUN apt",
                    "a: COPY p /",
                    "a: RUN install more",
                    "a: COPY . /",
                ],
                &[Some(0), None, Some(1), Some(2), Some(3)],
            ),
            (
                &FILE,
                &[
                    "a: FROM x",
                    "a: RUN apt",
                    "a: COPY p q /",
                    "a: RUN install",
                    "a: COPY . /",
                ],
                &[Some(0), None, Some(1), Some(2), Some(3)],
            ),
            // Something is taken out.
            (
                &FILE,
                &["a: FROM x", "a: RUN install", "a: COPY . /"],
                &[Some(0), Some(2), Some(3)],
            ),
            // Two changed, of which each is more like the one it was.
            (
                &["a: RUN make one", "a: RUN test two"],
                &["a: RUN make 1", "a: RUN new", "a: RUN test 2"],
                &[Some(0), None, Some(1)],
            ),
            // Another instruction, and another stage, is another thing.
            (&["a: RUN x"], &["a: COPY x"], &[None]),
            (
                &["a: RUN x", "b: RUN y"],
                &["b: RUN x", "a: RUN y"],
                &[Some(1), Some(0)],
            ),
            (&["a: RUN x"], &["c: RUN x"], &[None]),
            (&[], &["a: RUN x"], &[None]),
            (&["a: RUN x"], &[], none),
            // The same twice.
            (
                &["a: RUN x", "a: RUN x"],
                &["a: RUN x", "a: RUN y", "a: RUN x"],
                &[Some(0), None, Some(1)],
            ),
        ] {
            assert_eq!(
                pair(&places(earlier), &places(now)),
                want,
                "{earlier:?} {now:?}"
            );
        }
    }

    #[test]
    fn a_long_plan_is_paired_in_time() {
        let line = |at: usize| format!("a: RUN step {at}");
        let earlier: Vec<String> = (0..3000).map(line).collect();
        let now: Vec<String> = (0..3000).rev().map(line).collect();
        let earlier: Vec<&str> = earlier.iter().map(String::as_str).collect();
        let now: Vec<&str> = now.iter().map(String::as_str).collect();
        let pairs = pair(&places(&earlier), &places(&now));
        let want: Vec<Option<usize>> = (0..3000).rev().map(Some).collect();
        assert_eq!(pairs, want);
    }
}
