//! Files that a step gets.

use rbuild_dockerfile::program::Heredoc;
use rbuild_dockerfile::program::Kind;
use rbuild_dockerfile::program::StageId;
use rbuild_dockerfile::program::Step as Instruction;
use rbuild_dockerfile::program::Transfer;
use rbuild_dockerfile::program::Word;
use rbuild_llb::Diagnostic;

use super::From;
use super::Git;
use super::Lowering;
use super::Url;
use super::body::word;
use crate::read::List;
use crate::read::Text;
use crate::schema::Copy;
use crate::schema::Words;
use crate::values::Scope;

/// What a copy takes files from.
enum Source {
    Stage(Option<StageId>),
    Url(Url),
    Git(Git),
}

impl Lowering<'_> {
    pub(super) fn copy(&mut self, stage: StageId, copy: &Copy, scope: Scope<'_>) -> Option<()> {
        let set =
            |flag: &Option<crate::read::At<bool>>| flag.as_ref().is_some_and(|flag| flag.value);
        let mut transfer = Box::new(Transfer {
            from: None,
            chown: self.optional(copy.owner.as_ref(), scope)?,
            chmod: self.optional(copy.mode.as_ref(), scope)?,
            link: set(&copy.link),
            parents: set(&copy.parents),
            exclude: Vec::new(),
            keep_git_dir: None,
            checksum: None,
            unpack: None,
            paths: Vec::new(),
            documents: Vec::new(),
            dest: word(self.word(&copy.to, scope)?, &copy.to.span),
        });
        // Not words: Dockerfiles have no variables there.
        for pattern in copy.exclude.iter().flat_map(|list| &list.value) {
            transfer
                .exclude
                .push(word(self.plain(pattern, scope)?, &pattern.span));
        }
        let source = match (&copy.from, &copy.text) {
            (Some(from), None) => match self.from(scope.module, from)? {
                From::Url(url) => Source::Url(url),
                // ADD gives all of a repository; a part of it is copied from it.
                From::Git(git) if copy.path.is_none() && copy.include.is_none() => Source::Git(git),
                other => {
                    let at = self.place(scope.module, from);
                    Source::Stage(self.stage_of(&from.text, other, &at))
                }
            },
            (None, Some(text)) => return self.document(stage, copy, text, transfer, scope),
            (None, None) => return self.wrong(copy, "a copy has no `from`, and no `text`"),
            (Some(_), Some(_)) => return self.wrong(copy, "a copy has both `from` and `text`"),
        };
        if let Some(name) = &copy.name {
            let message = "`name` is the name of a file with `text`";
            self.errors
                .push(Diagnostic::error(message, name.span.clone(), ""));
            return None;
        }
        let unpack = copy.unpack.as_ref().map(|flag| flag.value);
        let (kind, sources) = match source {
            Source::Url(url) => {
                if copy.path.is_some() || copy.include.is_some() {
                    return self
                        .wrong(copy, "a URL is one file: it has no `path` and no `include`");
                }
                transfer.paths = vec![word(
                    rbuild_dockerfile::program::literal(&url.url.text),
                    &url.url.span,
                )];
                transfer.checksum = url.checksum.map(|text| word(text.text, &text.span));
                let mode = url.mode.map(|mode| word(mode.text, &mode.span));
                transfer.chmod = transfer.chmod.or(mode);
                transfer.unpack = unpack;
                (Kind::Add(transfer), Vec::new())
            }
            Source::Git(git) if rbuild_dockerfile::git_context(&git.url.text, None).is_some() => {
                transfer.paths = vec![word(
                    rbuild_dockerfile::program::literal(&git.url.text),
                    &git.url.span,
                )];
                transfer.checksum = git.commit.map(|text| word(text.text, &text.span));
                transfer.keep_git_dir = git.keep_git_dir;
                (Kind::Add(transfer), Vec::new())
            }
            Source::Git(git) => {
                let name = copy.from.as_ref().map_or("", |from| from.text.as_str());
                let from = self.stage_of(name, From::Git(git), &copy.span);
                self.local(copy, scope, from, transfer)?
            }
            Source::Stage(from) => self.local(copy, scope, from, transfer)?,
        };
        self.program.push(
            stage,
            Instruction {
                kind,
                sources,
                title: None,
                at: copy.span.clone(),
            },
        );
        Some(())
    }

    fn wrong<T>(&mut self, copy: &Copy, message: &str) -> Option<T> {
        self.errors
            .push(Diagnostic::error(message, copy.span.clone(), ""));
        None
    }

    fn optional(&mut self, text: Option<&Text>, scope: Scope<'_>) -> Option<Option<Word>> {
        match text {
            None => Some(None),
            Some(text) => {
                let value = self.word(text, scope)?;
                Some(Some(word(value, &text.span)))
            }
        }
    }

    /// A copy of paths of a stage or a context.
    fn local(
        &mut self,
        copy: &Copy,
        scope: Scope<'_>,
        stage: Option<StageId>,
        mut transfer: Box<Transfer>,
    ) -> Option<(Kind, Vec<Option<StageId>>)> {
        let from = copy.from.as_ref()?;
        transfer.from = Some(word(from.text.clone(), &from.span));
        let optional = copy.optional.as_ref().is_some_and(|flag| flag.value);
        let all = [Text {
            text: ".".to_owned(),
            span: from.span.clone(),
        }];
        let paths = match &copy.path {
            Some(Words(paths)) => paths.as_slice(),
            None => &all,
        };
        match &copy.include {
            Some(include) => {
                transfer.parents = true;
                self.included(copy, include, paths, scope, optional, &mut transfer)?;
            }
            None => {
                for path in paths {
                    let mut text = self.word(path, scope)?;
                    if optional {
                        text = pattern_of(&text);
                    }
                    transfer.paths.push(word(text, &path.span));
                }
            }
        }
        transfer.unpack = copy.unpack.as_ref().map(|flag| flag.value);
        // Only ADD unpacks, or leaves it.
        Some(match transfer.unpack {
            Some(_) => (Kind::Add(transfer), vec![stage]),
            None => (Kind::Copy(transfer), vec![stage]),
        })
    }

    /// `include`: what COPY calls `--parents`, below the path.
    fn included(
        &mut self,
        copy: &Copy,
        include: &List<Text>,
        paths: &[Text],
        scope: Scope<'_>,
        optional: bool,
        transfer: &mut Transfer,
    ) -> Option<()> {
        let [path] = paths else {
            return self.wrong(copy, "a copy with `include` has one `path`");
        };
        if copy.unpack.is_some() {
            return self.wrong(copy, "a copy with `include` does not unpack");
        }
        let base = self.word(path, scope)?;
        for pattern in &include.value {
            let mut text = self.word(pattern, scope)?;
            if optional {
                text = pattern_of(&text);
            }
            let text = text.trim_start_matches('/');
            transfer.paths.push(word(
                format!("{}/./{text}", base.trim_end_matches('/')),
                &pattern.span,
            ));
        }
        Some(())
    }

    /// A file whose content stands in the plan.
    fn document(
        &mut self,
        stage: StageId,
        copy: &Copy,
        text: &Text,
        mut transfer: Box<Transfer>,
        scope: Scope<'_>,
    ) -> Option<()> {
        for (there, key) in [
            (copy.path.is_some(), "path"),
            (copy.include.is_some(), "include"),
            (copy.exclude.is_some(), "exclude"),
            (copy.unpack.is_some(), "unpack"),
            (copy.optional.is_some(), "optional"),
        ] {
            if there {
                return self.wrong(copy, &format!("a copy with `text` has no `{key}`"));
            }
        }
        let name = match &copy.name {
            Some(name) if name.text.is_empty() || name.text.contains(['/', '\0', '\n']) => {
                let message = format!("`{}` cannot be the name of a file", name.text);
                self.errors
                    .push(Diagnostic::error(message, name.span.clone(), ""));
                return None;
            }
            Some(name) => name.text.clone(),
            None if copy.to.text.ends_with('/') => {
                return self.wrong(
                    copy,
                    "the file needs a `name`, or a `to` that is no directory",
                );
            }
            None => "EOF".to_owned(),
        };
        let content = self.plain(text, scope)?;
        transfer.documents.push(Heredoc {
            name,
            expand: false,
            chomp: false,
            content,
        });
        self.program.push(
            stage,
            Instruction {
                kind: Kind::Copy(transfer),
                sources: Vec::new(),
                title: None,
                at: copy.span.clone(),
            },
        );
        Some(())
    }

    /// Permission bits.
    pub(super) fn octal(&mut self, text: &Text) -> Option<u32> {
        let bits = match text.text.bytes().all(|b| b.is_ascii_digit()) {
            true => u32::from_str_radix(&text.text, 8).ok(),
            false => None,
        };
        match bits.filter(|bits| *bits <= 0o7777) {
            Some(bits) => Some(bits),
            None => {
                let message = format!("`{}` is no mode", text.text);
                let label = "octal digits, such as `755`";
                self.errors
                    .push(Diagnostic::error(message, text.span.clone(), label));
                None
            }
        }
    }

    /// Checks the patterns of a local input.
    pub(super) fn check_patterns(
        &mut self,
        include: &Option<List<Text>>,
        exclude: &Option<List<Text>>,
    ) -> Option<()> {
        let mut whole = true;
        for text in [include, exclude]
            .into_iter()
            .flatten()
            .flat_map(|list| &list.value)
        {
            let pattern = text.text.strip_prefix('!').unwrap_or(&text.text);
            let set = rbuild_llb::pattern::PatternSet::new(&[pattern.to_owned()]);
            if let Err(error) = set {
                self.errors
                    .push(Diagnostic::error(error.to_string(), text.span.clone(), ""));
                whole = false;
            }
        }
        whole.then_some(())
    }
}

/// A path as a pattern that matches it and nothing else: of a pattern nothing needs to be there.
fn pattern_of(path: &str) -> String {
    if path.contains(['*', '?', '[']) {
        return path.to_owned();
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match path.char_indices().rev().find(|(_, c)| plain(*c)) {
        Some((at, c)) => format!("{}[{c}]{}", &path[..at], &path[at + 1..]),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn a_path_becomes_a_pattern_of_itself() {
        for (path, want) in [
            ("extra.cfg", "extra.cf[g]"),
            ("dir/", "di[r]/"),
            ("a*", "a*"),
            ("'a b'", "'a [b]'"),
            (".", "."),
        ] {
            assert_eq!(pattern_of(path), want);
        }
    }
}
