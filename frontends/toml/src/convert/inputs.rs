//! What a plan takes from outside, and what things are called.

use std::collections::BTreeSet;

use rbuild_dockerfile::file::Stage;
use rbuild_llb::Span;
use rbuild_llb::pattern::PatternSet;

use super::Converter;
use super::write::Value;

impl Converter<'_> {
    /// Notes what triggers of a stage that another starts from cannot take from the plan.
    pub(super) fn triggers(&mut self, stage: &Stage, from: usize) {
        let triggers: Vec<String> = self.steps[from].triggers().collect();
        for trigger in triggers {
            let keyword = trigger.split_whitespace().next().unwrap_or_default();
            if keyword.eq_ignore_ascii_case("arg") {
                let what = format!("`ONBUILD {trigger}` in a stage that this one starts from");
                let instead = "it has its default, whatever the build is given";
                self.lose(&stage.base.span, &what, instead);
            } else if trigger.contains("from=") {
                let what = format!("`ONBUILD {trigger}` in a stage that this one starts from");
                let instead = "it cannot name a stage of the file";
                self.lose(&stage.base.span, &what, instead);
            }
        }
    }

    /// What the `--from` of a COPY means: also the number of a stage.
    pub(super) fn copy_source(&mut self, from: &str, index: usize) -> String {
        match from.parse::<usize>() {
            Ok(stage) if stage < self.names.len() => {
                self.used.insert(stage);
                self.names[stage].clone()
            }
            _ => self.source(from, index),
        }
    }

    /// What the `from` of a mount means.
    pub(super) fn source(&mut self, from: &str, index: usize) -> String {
        let stages = &self.ast.stages;
        let named = stages.iter().rposition(|stage| {
            let name = stage.name.as_ref();
            name.is_some_and(|name| name.text.to_lowercase() == from.to_lowercase())
        });
        match named {
            Some(stage) => {
                if stage != index {
                    self.used.insert(stage);
                }
                self.names[stage].clone()
            }
            None if from == "scratch" => from.to_owned(),
            None => self.image(from, None),
        }
    }

    pub(super) fn image(&mut self, image: &str, platform: Option<&str>) -> String {
        let mut fields = vec![("image".to_owned(), Value::from(image))];
        match platform {
            None | Some("{platform}") => {}
            Some("{build.platform}") => fields.push(("platform".to_owned(), "build".into())),
            Some(other) => fields.push(("platform".to_owned(), other.into())),
        }
        let name = image.split('@').next().unwrap_or_default();
        let last = name.rsplit('/').next().unwrap_or_default();
        let name = match last.split(':').next().unwrap_or_default() {
            // An argument stands for the name: `{args.BASE}`.
            "" => "base",
            name if name.contains('{') => "base",
            name => name,
        };
        self.input(name, fields)
    }

    /// The build context.
    pub(super) fn context(&mut self, at: &Span) -> String {
        let mut fields = vec![("local".to_owned(), Value::from("."))];
        let lines = self.ignore.unwrap_or_default().lines();
        let lines = lines
            .map(|line| line.trim_start_matches('\u{feff}'))
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let mut patterns: Vec<String> = Vec::new();
        for line in lines {
            let pattern = match line.trim() {
                // Only at the very start of a line it is a comment.
                pattern if pattern.starts_with('#') => line,
                pattern => pattern,
            };
            let plain = pattern.trim().trim_start_matches('!').to_owned();
            if PatternSet::new(&[plain]).is_err() {
                let what = format!("the pattern `{}` of the ignore file", pattern.trim());
                self.lose(at, &what, "it is left out: nothing is built with it");
                continue;
            }
            patterns.push(pattern.to_owned());
        }
        if !patterns.is_empty() {
            fields.push(("exclude".to_owned(), patterns.into()));
        }
        fields.push(("modes".to_owned(), "exact".into()));
        self.input("context", fields)
    }

    /// The name of an input.
    pub(super) fn input(&mut self, name: &str, fields: Vec<(String, Value)>) -> String {
        if let Some((name, _)) = self.inputs.iter().find(|(_, have)| *have == fields) {
            return name.clone();
        }
        let kind = fields
            .first()
            .map_or("", |(kind, _)| kind.as_str())
            .to_owned();
        let name = simple(name);
        let name = match self.taken.contains(&name) {
            true => unique(&format!("{name}-{kind}"), &mut self.taken),
            false => unique(&name, &mut self.taken),
        };
        self.inputs.push((name.clone(), fields));
        name
    }

    /// The name of a cache.
    pub(super) fn cache(&mut self, name: &str, fields: Vec<(String, Value)>) -> String {
        if let Some((name, _)) = self.caches.iter().find(|(_, have)| *have == fields) {
            return name.clone();
        }
        let mut taken: BTreeSet<String> =
            self.caches.iter().map(|(name, _)| name.clone()).collect();
        let name = simple(name.trim_matches('/'));
        let name = unique(&name, &mut taken);
        self.caches.push((name.clone(), fields));
        name
    }
}

/// Letters, digits, `-` and `_`.
pub(super) fn simple(name: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '_' => c,
        _ => '-',
    };
    let name: String = name.chars().map(plain).collect();
    let mut short = name.trim_matches('-').to_owned();
    while short.contains("--") {
        short = short.replace("--", "-");
    }
    match short.is_empty() {
        true => "input".to_owned(),
        false => short,
    }
}

/// A name that nothing else has.
pub(super) fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let name = simple(name);
    let mut found = name.clone();
    let mut number = 2;
    while !taken.insert(found.clone()) {
        found = format!("{name}-{number}");
        number += 1;
    }
    found
}
