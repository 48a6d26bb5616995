//! COPY and ADD.

use rbuild_llb::Diagnostic;
use rbuild_llb::Edge;
use rbuild_llb::Op;
use rbuild_llb::op::CopyAction;
use rbuild_llb::op::FileAction;
use rbuild_llb::op::FileActionKind;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::FileOp;
use rbuild_llb::op::ModeChange;
use rbuild_llb::op::Owner;
use rbuild_llb::op::UserRef;

use super::Building;
use super::Converted;
use super::Converter;
use super::Inputs;
use super::meta;
use super::remote::Remote;
use crate::ast::Head;
use crate::ast::Transfer;
use crate::ast::Word;
use crate::lexer::Heredoc;
use crate::paths;
use crate::words::Shell;

/// The copies of one instruction.
pub(super) struct Copies {
    pub(super) inputs: Inputs,
    actions: Vec<FileAction>,
    root: FileInput,
    pub(super) dest: String,
    pub(super) owner: Option<Owner>,
    pub(super) mode: Option<ModeChange>,
    pub(super) exclude: Vec<String>,
}

impl Copies {
    /// Adds a copy from `from`; `None` is an empty file system.
    pub(super) fn push(&mut self, from: Option<Edge>, copy: CopyAction) {
        let secondary = from.map_or(FileInput::Scratch, |edge| {
            FileInput::Input(self.inputs.add(edge))
        });
        let input = match self.actions.len().checked_sub(1) {
            Some(last) => FileInput::Action(last),
            None => self.root,
        };
        self.actions.push(FileAction {
            input,
            secondary,
            output: None,
            kind: FileActionKind::Copy(copy),
        });
    }

    /// A copy of one thing as it is, without patterns.
    pub(super) fn plain(&self, src: impl Into<String>) -> CopyAction {
        CopyAction {
            src: src.into(),
            dest: self.dest.clone(),
            owner: self.owner.clone(),
            mode: self.mode.clone(),
            follow_symlinks: false,
            dir_copy_contents: false,
            attempt_unpack: false,
            create_dest_path: true,
            allow_wildcard: false,
            allow_empty_wildcard: false,
            include: Vec::new(),
            exclude: self.exclude.clone(),
            always_replace_existing_dest_paths: false,
            timestamp: None,
            parents: false,
        }
    }

    fn op(mut self) -> (Op, Vec<Edge>) {
        if let Some(last) = self.actions.last_mut() {
            last.output = Some(0);
        }
        let op = Op::File(FileOp {
            actions: self.actions,
        });
        (op, self.inputs.list)
    }
}

/// The step an instruction becomes.
struct Step<'a> {
    keyword: &'static str,
    name: String,
    head: &'a Head,
}

/// An instruction's words after expansion.
struct Expanded {
    chown: Option<Word>,
    chmod: Option<Word>,
    checksum: Option<Word>,
    paths: Vec<Word>,
    dest: String,
}

impl Converter<'_> {
    /// COPY; `from` is the file system `--from` names, if there is one.
    pub(super) fn copy(
        &mut self,
        copy: &Transfer,
        from: Option<Option<Edge>>,
        head: &Head,
        to: &mut Building,
    ) -> Converted<()> {
        let words = self.words(copy, head, to)?;
        let name = self.name(head, to);
        let mut copies = begin(copy, &words, to)?;
        for path in &words.paths {
            let remote = match crate::git::parse(&path.text) {
                Some(_) => Some("a git repository"),
                None => is_http(&path.text).then_some("a URL"),
            };
            if let Some(remote) = remote {
                let message = format!("source can't be {remote} for `COPY`");
                return Err(Box::new(
                    Diagnostic::error(message, path.span.clone(), "").hint("use `ADD`"),
                ));
            }
            let source = match from {
                Some(source) => source,
                None => {
                    self.check_ignored("Copy", path, head);
                    Some(self.context(&head.span))
                }
            };
            copies.push(source, local(&copies, &path.text, copy.parents, false));
        }
        let step = Step {
            keyword: "COPY",
            name,
            head,
        };
        self.end(copy, &words, copies, step, to)
    }

    /// ADD; `from` is what stands for the build context, if another program than a Dockerfile says so.
    pub(super) fn add(
        &mut self,
        add: &Transfer,
        from: Option<Option<Edge>>,
        head: &Head,
        to: &mut Building,
    ) -> Converted<()> {
        let words = self.words(add, head, to)?;
        if let Some(checksum) = &words.checksum {
            let remote =
                |path: &Word| is_http(&path.text) || crate::git::parse(&path.text).is_some();
            let problem = match words.paths.as_slice() {
                [path] if remote(path) => None,
                [_] => Some("`--checksum` requires an HTTP(S) or git source"),
                _ => Some("`--checksum` can't be specified for several sources"),
            };
            if let Some(message) = problem {
                let span = checksum.span.clone();
                return Err(Box::new(Diagnostic::error(message, span, "")));
            }
        }
        let name = self.name(head, to);
        let mut copies = begin(add, &words, to)?;
        for path in &words.paths {
            if let Some(url) = crate::git::parse(&path.text) {
                let remote = Remote {
                    path,
                    checksum: words.checksum.as_ref(),
                    name: &name,
                };
                self.add_git(url, &remote, add, &mut copies)?;
            } else if is_http(&path.text) {
                let remote = Remote {
                    path,
                    checksum: words.checksum.as_ref(),
                    name: &name,
                };
                self.add_url(&remote, add, &mut copies)?;
            } else {
                let source = match from {
                    Some(source) => source,
                    None => {
                        self.check_ignored("Add", path, head);
                        Some(self.context(&head.span))
                    }
                };
                let unpack = add.unpack.unwrap_or(true);
                copies.push(source, local(&copies, &path.text, false, unpack));
            }
        }
        let step = Step {
            keyword: "ADD",
            name,
            head,
        };
        self.end(add, &words, copies, step, to)
    }

    fn words(&mut self, transfer: &Transfer, head: &Head, to: &Building) -> Converted<Expanded> {
        let chown = self.expand_option(transfer.chown.as_ref(), head, to)?;
        let chmod = self.expand_option(transfer.chmod.as_ref(), head, to)?;
        let checksum = self.expand_option(transfer.checksum.as_ref(), head, to)?;
        let mut paths = Vec::with_capacity(transfer.paths.len());
        for path in &transfer.paths {
            let (text, span) = (self.expand(path, head, to)?, path.span.clone());
            paths.push(Word { text, span });
        }
        Ok(Expanded {
            chown,
            chmod,
            checksum,
            paths,
            dest: self.expand(&transfer.dest, head, to)?,
        })
    }

    /// Adds the here-documents, then the step.
    fn end(
        &mut self,
        transfer: &Transfer,
        words: &Expanded,
        mut copies: Copies,
        step: Step<'_>,
        to: &mut Building,
    ) -> Converted<()> {
        let head = step.head;
        for document in &transfer.documents {
            let source = self.document(document, head, to)?;
            let copy = copies.plain(paths::absolute("/", &document.name));
            copies.push(Some(source), copy);
        }
        let mut line = vec![step.keyword];
        if transfer.parents {
            line.push(" --parents");
        }
        for (flag, word) in [(" --chown=", &words.chown), (" --chmod=", &words.chmod)] {
            if let Some(word) = word {
                line.extend([flag, &word.text]);
            }
        }
        for path in &words.paths {
            line.extend([" ", &path.text]);
        }
        for document in &transfer.documents {
            line.extend([" <<", &document.name]);
        }
        line.extend([" ", &words.dest, " # buildkit"]);
        let line = line.concat();
        let meta = meta(step.name, head, to.ignore_cache);
        let (op, inputs) = copies.op();
        if links(transfer, words) {
            self.link(op, inputs, meta, to);
        } else {
            self.step(op, inputs, meta, to);
        }
        to.state.history(line, false);
        Ok(())
    }

    /// A file system that holds a here-document as a file of its name.
    fn document(&mut self, document: &Heredoc, head: &Head, to: &Building) -> Converted<Edge> {
        let mut data = document.data();
        if document.expand {
            let shell = Shell {
                skip_quotes: true,
                ..Shell::new('\\')
            };
            data = self.expand_with(shell, &data, &head.span, head, to)?;
        }
        Ok(self.inline(&document.name, 0o644, data, head, to))
    }

    /// A file system with one file.
    pub(super) fn inline(
        &mut self,
        name: &str,
        mode: u32,
        data: String,
        head: &Head,
        to: &Building,
    ) -> Edge {
        let op = Op::File(FileOp {
            actions: vec![FileAction {
                input: FileInput::Scratch,
                secondary: FileInput::Scratch,
                output: Some(0),
                kind: FileActionKind::Mkfile {
                    path: paths::absolute("/", name),
                    mode,
                    data: data.into_bytes(),
                    owner: None,
                    timestamp: None,
                },
            }],
        });
        let platform = to.state.platform.clone();
        let name = "[internal] preparing inline document";
        self.internal(op, &platform, name, &head.span)
    }
}

/// Whether a copy is a layer of its own, whatever it is put upon. As in BuildKit, `--chmod` undoes `--link`.
fn links(transfer: &Transfer, words: &Expanded) -> bool {
    transfer.link && words.chmod.as_ref().is_none_or(|mode| mode.text.is_empty())
}

fn begin(transfer: &Transfer, words: &Expanded, to: &Building) -> Converted<Copies> {
    let mut inputs = Inputs::default();
    let below = to.state.root.filter(|_| !links(transfer, words));
    let root = below.map_or(FileInput::Scratch, |edge| {
        FileInput::Input(inputs.add(edge))
    });
    let mode = match &words.chmod {
        Some(word) => Some(mode(&word.text).ok_or_else(|| {
            let message = format!("invalid `--chmod` value `{}`", word.text);
            let label = "octal from 0 to 07777, or symbolic such as `u=rwX,go=rX`";
            Diagnostic::error(message, word.span.clone(), label)
        })?),
        None => None,
    };
    Ok(Copies {
        inputs,
        actions: Vec::new(),
        root,
        dest: paths::destination(&to.state.dir, &words.dest),
        owner: words.chown.as_ref().and_then(|word| owner(&word.text)),
        mode,
        exclude: transfer.exclude.iter().map(|w| w.text.clone()).collect(),
    })
}

/// A copy of a path of a context or stage. With `--parents` the path's part behind `/./`, or all of it, is a pattern
/// below the part in front, so that what it matches keeps its directories.
fn local(copies: &Copies, path: &str, parents: bool, unpack: bool) -> CopyAction {
    let mut copy = CopyAction {
        follow_symlinks: true,
        dir_copy_contents: true,
        attempt_unpack: unpack,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        parents,
        ..copies.plain(paths::absolute("/", path))
    };
    if parents {
        let (pivot, pattern) = path.split_once("/./").unwrap_or(("/", path));
        copy.src = paths::absolute("/", pivot);
        let below = paths::absolute("/", pattern);
        copy.include = vec![below[1..].to_owned()];
        // Without a wildcard the path was meant to be there.
        copy.allow_empty_wildcard = paths::has_wildcard(path);
    }
    copy
}

/// Whether a source is a URL (and, as far as ADD is concerned, no git repository).
pub(crate) fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// `user[:group]`, where an empty part is root; `None` if there is nothing.
///
/// As in BuildKit a number has 32 bits and a sign, and what is larger is a name. -1 changes nothing (chown(2)), which
/// leaves the file to root, who made it.
pub(super) fn owner(text: &str) -> Option<Owner> {
    let part = |text: &str| match (text, text.parse::<i32>()) {
        ("root" | "", _) | (_, Ok(-1)) => UserRef::Id(0),
        (_, Ok(id)) => UserRef::Id(id.cast_unsigned()),
        _ => UserRef::Name(text.to_owned()),
    };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    (!text.is_empty()).then(|| Owner {
        user: part(user),
        group: group.map(part),
    })
}

/// `--chmod`: octal, or symbolic as chmod(1) has it.
fn mode(text: &str) -> Option<ModeChange> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let bits = u32::from_str_radix(text, 8).ok();
        return bits.filter(|bits| *bits <= 0o7777).map(ModeChange::Octal);
    }
    let clause = |clause: &str| {
        let who = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        let mut actions = who.split(['+', '-', '=']);
        let perms = |perms: &str| {
            matches!(perms, "u" | "g" | "o") || perms.bytes().all(|b| b"rwxXst".contains(&b))
        };
        !who.is_empty() && actions.next() == Some("") && actions.all(perms)
    };
    text.split(',')
        .all(clause)
        .then(|| ModeChange::Symbolic(text.to_owned()))
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn modes_are_octal_or_symbolic() {
        for (text, want) in [
            ("755", Some(ModeChange::Octal(0o755))),
            ("0644", Some(ModeChange::Octal(0o644))),
            ("7777", Some(ModeChange::Octal(0o7777))),
            (
                "u=rwX,go=rX",
                Some(ModeChange::Symbolic("u=rwX,go=rX".into())),
            ),
            ("+x", Some(ModeChange::Symbolic("+x".into()))),
            ("g=u", Some(ModeChange::Symbolic("g=u".into()))),
            ("10000", None),
            ("888", None),
            ("u", None),
            ("u+q", None),
            ("x+r", None),
            ("u+x,", None),
        ] {
            assert_eq!(mode(text), want, "{text}");
        }
    }

    #[test]
    fn owners_are_numbers_or_names() {
        let id = UserRef::Id;
        let name = |name: &str| UserRef::Name(name.into());
        for (text, want) in [
            ("", None),
            ("1000", Some((id(1000), None))),
            ("1:2", Some((id(1), Some(id(2))))),
            ("root:app", Some((id(0), Some(name("app"))))),
            ("app", Some((name("app"), None))),
            ("app:", Some((name("app"), Some(id(0))))),
            (":2", Some((id(0), Some(id(2))))),
            ("-1:-2", Some((id(0), Some(id(u32::MAX - 1))))),
            ("2147483648", Some((name("2147483648"), None))),
        ] {
            let want = want.map(|(user, group)| Owner { user, group });
            assert_eq!(owner(text), want, "{text}");
        }
    }
}
