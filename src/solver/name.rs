//! The names of steps as progress shows them: `[linux/amd64 build 2/5] RUN npm ci`.

/// A name taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepName<'a> {
    /// What stands in brackets before the number, and the number; nothing for steps that no stage numbers.
    pub place: Option<(&'a str, u32)>,
    /// What follows the brackets, or all.
    pub text: &'a str,
}

impl<'a> StepName<'a> {
    /// Takes a name apart.
    pub fn of(name: &'a str) -> Self {
        let unplaced = Self {
            place: None,
            text: name,
        };
        let Some((inside, text)) = name
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("] "))
        else {
            return unplaced;
        };
        let (before, count) = inside.rsplit_once(' ').unwrap_or(("", inside));
        let numbers = count.split_once('/');
        let numbers = numbers.and_then(|(n, of)| Some((n.parse().ok()?, of.parse::<u32>().ok()?)));
        match numbers {
            Some((number, _)) => Self {
                place: Some((before.trim_end(), number)),
                text,
            },
            None => unplaced,
        }
    }

    /// The stage: `build`, or empty for the only one of a file; nothing for steps that belong to none.
    pub fn stage(&self) -> Option<String> {
        let (before, _) = self.place?;
        let words = before.split_whitespace();
        let words: Vec<&str> = words.filter(|word| !word.contains('/')).collect();
        Some(words.join(" "))
    }

    /// The instruction: `RUN`.
    pub fn instruction(&self) -> &'a str {
        self.text.split_whitespace().next().unwrap_or_default()
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn names_taken_apart() {
        for (name, stage, number, text) in [
            ("[build 2/5] RUN npm ci", Some("build"), 2, "RUN npm ci"),
            (
                "[linux/amd64 build  2/15] RUN npm ci",
                Some("build"),
                2,
                "RUN npm ci",
            ),
            (
                "[linux/amd64->arm64 build 2/5] RUN",
                Some("build"),
                2,
                "RUN",
            ),
            ("[2/5] RUN npm ci", Some(""), 2, "RUN npm ci"),
            ("[linux/arm64 2/5] RUN npm ci", Some(""), 2, "RUN npm ci"),
            (
                "[internal] load build context",
                None,
                0,
                "[internal] load build context",
            ),
            (
                "[context other] load from client",
                None,
                0,
                "[context other] load from client",
            ),
            ("[[ -e x ]] echo", None, 0, "[[ -e x ]] echo"),
            ("RUN [x 1/2] y", None, 0, "RUN [x 1/2] y"),
            ("", None, 0, ""),
        ] {
            let got = StepName::of(name);
            assert_eq!(got.stage().as_deref(), stage, "{name}");
            assert_eq!(got.place.map_or(0, |(_, number)| number), number, "{name}");
            assert_eq!(got.text, text, "{name}");
        }
        assert_eq!(StepName::of("[2/5] RUN npm ci").instruction(), "RUN");
    }
}
