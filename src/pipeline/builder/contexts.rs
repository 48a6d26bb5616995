//! The files of contexts that a daemon may have: exactly those that some step takes, and the directories above them.
//!
//! A context is scanned as in every build, so the daemon gets what a build here would have seen: the same selection, the
//! same modes, hard links as such. Which of it steps take is found out on the tree, with the links that lead there.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use rbuild_cache::ContextFiles;
use rbuild_cache::Entry;
use rbuild_cache::FileNode;
use rbuild_cache::Follow;
use rbuild_cache::Node;
use rbuild_cache::TreeError;
use rbuild_cache::TreeRef;
use rbuild_cache::Trees;
use rbuild_cache::scan_context;
use rbuild_llb::CancelToken;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::op::CopyAction;
use rbuild_llb::op::FileActionKind;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::Op;
use rbuild_llb::op::SourceOp;
use rbuild_llb::pattern::Selection;

use super::Job;
use super::local_failure;
use super::users;
use crate::buildkit::Directory;
use crate::buildkit::SentFile;
use crate::buildkit::SentKind;
use crate::ops::OpError;
use crate::ops::copy;
use crate::ops::copy::CopyError;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::solver::PlanError;

/// How many links a path may lead over; the kernel follows 40 (path_resolution(7)).
const MAX_LINKS: usize = 255;

/// The contexts of a build.
#[derive(Default)]
pub(super) struct Contexts {
    /// What each is called, by its step.
    pub(super) names: BTreeMap<VertexId, String>,
    /// Their files, by these names.
    pub(super) directories: BTreeMap<String, Arc<Directory>>,
}

/// Scans all contexts of a graph.
pub(super) fn find(job: &Job<'_>, cancel: &CancelToken) -> Result<Contexts, BuildError> {
    let mut contexts = Contexts::default();
    let users = users(job.definition);
    for (id, vertex) in job.definition.iter() {
        let Op::Source(SourceOp::Local(local)) = &vertex.op else {
            continue;
        };
        let failed = |step: VertexId, source: OpError| {
            let name = String::new();
            let vertex = step;
            let error = PlanError {
                vertex,
                name,
                source,
            };
            local_failure::plan(error, job.definition, job.plan)
        };
        let tree = scan(job, local, cancel).map_err(|error| failed(id, error))?;
        let mut taken = Taken::new(job.store.trees(), tree);
        let outputs = &job.definition.outputs;
        if outputs
            .iter()
            .filter_map(|o| o.root)
            .any(|root| root.vertex == id)
        {
            taken.all();
        }
        for user in users.get(&id).into_iter().flatten() {
            let vertex = &job.definition.get(user).expect("users are steps");
            taken
                .by(vertex, &id)
                .map_err(|error| failed(*user, error.into()))?;
        }
        let directory = directory(job, local, &taken).map_err(|error| failed(id, error))?;
        let name = match contexts.directories.contains_key(&local.name) {
            false => local.name.clone(),
            // The same directory with another selection: to the daemon it is another one.
            true => format!("{}-{}", local.name, id.short()),
        };
        contexts.directories.insert(name.clone(), directory?);
        contexts.names.insert(id, name);
    }
    Ok(contexts)
}

fn scan(job: &Job<'_>, local: &LocalSource, cancel: &CancelToken) -> Result<TreeRef, OpError> {
    let root = job.locals.get(&local.name).ok_or(OpError::NoContext)?;
    let select = Selection::new(&local.include, &local.exclude)?;
    let selection = format!("{:?} {:?}", local.include, local.exclude);
    let stats = job.store.stat_cache(&root.path, &selection);
    let trees = job.store.trees();
    let scan = scan_context(&root.path, &select, local.modes, &stats, trees, cancel)?;
    Ok(scan.tree)
}

/// The files that steps take, in the order in which they are sent.
fn directory(
    job: &Job<'_>,
    local: &LocalSource,
    taken: &Taken<'_>,
) -> Result<Result<Arc<Directory>, BuildError>, OpError> {
    let root = job.locals.get(&local.name).ok_or(OpError::NoContext)?;
    let files = ContextFiles::open_root(&root.path)?;
    let mut list = List::default();
    list.add_directory(taken, &taken.tree, &mut Vec::new(), taken.is_whole(b""))
        .map_err(CopyError::from)?;
    if let Some(path) = list.unsayable {
        let error = anyhow::anyhow!(
            "`{}` cannot be sent to a builder: its name, or where it leads, is not UTF-8",
            files.display(&path).display()
        );
        let error = BuildError::new(ErrorKind::Request, error);
        return Ok(Err(error.hint("add it to `.dockerignore`, or rename it")));
    }
    Ok(Ok(Arc::new(Directory {
        path: root.path.clone(),
        files: list.files,
        open: Box::new(move |path| files.open(path.as_bytes())),
    })))
}

/// What is taken of a tree.
struct Taken<'a> {
    trees: &'a Trees,
    tree: TreeRef,
    /// Paths of which all is taken.
    whole: BTreeSet<Vec<u8>>,
    /// Symbolic links on the way to them.
    links: BTreeSet<Vec<u8>>,
}

impl<'a> Taken<'a> {
    fn new(trees: &'a Trees, tree: TreeRef) -> Self {
        Self {
            trees,
            tree,
            whole: BTreeSet::new(),
            links: BTreeSet::new(),
        }
    }

    fn all(&mut self) {
        self.whole.insert(Vec::new());
    }

    fn is_whole(&self, path: &[u8]) -> bool {
        self.whole.contains(path)
    }

    /// Whether something below a directory is taken.
    fn holds(&self, directory: &[u8]) -> bool {
        let mut below = directory.to_vec();
        below.push(b'/');
        let first = |set: &BTreeSet<Vec<u8>>| {
            let mut rest = set.range(below.clone()..);
            rest.next().is_some_and(|path| path.starts_with(&below))
        };
        first(&self.whole) || first(&self.links)
    }

    /// Adds what a step takes of the source `id`.
    fn by(&mut self, vertex: &Vertex, id: &VertexId) -> Result<(), CopyError> {
        let is = |index: usize| vertex.inputs.get(index).is_some_and(|i| i.vertex == *id);
        match &vertex.op {
            Op::File(file) => {
                for action in &file.actions {
                    match (&action.kind, action.secondary) {
                        (FileActionKind::Copy(copy), FileInput::Input(from)) if is(from) => {
                            self.copied(copy)?;
                        }
                        _ => {}
                    }
                    if matches!(action.input, FileInput::Input(base) if is(base)) {
                        self.all();
                    }
                }
            }
            Op::Exec(exec) => {
                for mount in exec.mounts.iter().filter(|m| m.input.is_some_and(is)) {
                    match copy::clean(&mount.selector).as_slice() {
                        b"" => self.all(),
                        path => self.lead(path)?,
                    }
                }
            }
            Op::Merge | Op::Diff | Op::Source(_) => self.all(),
        }
        Ok(())
    }

    /// Adds what a copy takes; it is an error here, as everywhere, if that is nothing.
    fn copied(&mut self, action: &CopyAction) -> Result<(), CopyError> {
        let sources = copy::sources(self.trees, &self.tree, action)?;
        let asked = copy::clean(&action.src);
        if sources.iter().any(|source| source.path.is_empty()) {
            self.all();
            return Ok(());
        }
        match sources.as_slice() {
            [only] if only.path == asked => drop(self.whole.insert(asked)),
            // Names that a pattern met are where they are, but that links may have led there.
            several
                if several
                    .iter()
                    .all(|s| is_below_plain(&asked, &s.path, &s.name)) =>
            {
                self.whole
                    .extend(several.iter().map(|source| source.path.clone()));
            }
            _ if action.allow_wildcard && asked.iter().any(|b| b"*?[\\".contains(b)) => self.all(),
            _ => self.lead(&asked)?,
        }
        Ok(())
    }

    /// Adds what a path leads to, with the links on the way.
    fn lead(&mut self, path: &[u8]) -> Result<(), CopyError> {
        let mut open: Vec<Vec<u8>> = components(path);
        open.reverse();
        let mut at: Vec<u8> = Vec::new();
        let mut followed = 0;
        while let Some(name) = open.pop() {
            match name.as_slice() {
                b".." => at.truncate(at.iter().rposition(|&b| b == b'/').unwrap_or(0)),
                name => at = copy::join(&at, name),
            }
            let found = self.trees.lookup(&self.tree.tree, &at, Follow::NotLast)?;
            let Some(Entry {
                node: Node::Symlink { target },
                ..
            }) = found.map(|found| found.entry)
            else {
                continue;
            };
            followed += 1;
            if followed > MAX_LINKS {
                let path = String::from_utf8_lossy(path).into_owned();
                return Err(CopyError::Loop { path });
            }
            self.links.insert(at.clone());
            at = match target.starts_with(b"/") {
                true => Vec::new(),
                false => copy::split(&at).0.to_vec(),
            };
            let mut rest = components(&target);
            rest.reverse();
            open.extend(rest);
        }
        self.whole.insert(at);
        Ok(())
    }
}

/// Whether a match of a pattern lies where the pattern says it does, no link having been followed.
fn is_below_plain(pattern: &[u8], path: &[u8], name: &[u8]) -> bool {
    let wild = |part: &&[u8]| !part.iter().any(|b| b"*?[\\".contains(b));
    let plain: Vec<&[u8]> = pattern.split(|&b| b == b'/').take_while(wild).collect();
    let plain = plain.join(&b'/');
    let below = path
        .strip_prefix(plain.as_slice())
        .is_some_and(|rest| plain.is_empty() || rest.is_empty() || rest.starts_with(b"/"));
    below
        && copy::split(path).1 == name
        && path.split(|&b| b == b'/').count() == pattern.split(|&b| b == b'/').count()
}

fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|&b| b == b'/');
    let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
    parts.map(<[u8]>::to_vec).collect()
}

/// The files of a directory, as they are sent.
#[derive(Default)]
struct List {
    files: Vec<SentFile>,
    /// The first path of files that are one.
    links: BTreeMap<(u32, rbuild_llb::FileDigest), String>,
    /// What has no name that can be sent.
    unsayable: Option<Vec<u8>>,
}

impl List {
    /// Adds what is taken of a directory; `whole` says that it is all.
    fn add_directory(
        &mut self,
        taken: &Taken<'_>,
        tree: &TreeRef,
        path: &mut Vec<u8>,
        whole: bool,
    ) -> Result<(), TreeError> {
        let directory = match path.is_empty() {
            // The object of a file system holds its root.
            true => match taken.trees.root(&tree.tree)?.node {
                Node::Dir(root) => taken.trees.get(&root.tree)?,
                _ => return Ok(()),
            },
            false => taken.trees.get(&tree.tree)?,
        };
        for entry in &directory.entries {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            let whole = whole || taken.is_whole(path);
            let is_link = taken.links.contains(path.as_slice());
            match &entry.node {
                Node::Dir(below) if whole || taken.holds(path) => {
                    self.add(path, entry, SentKind::Directory);
                    self.add_directory(taken, &below.entries(), path, whole)?;
                }
                Node::Dir(_) | Node::Whiteout => {}
                node if whole || is_link => {
                    let kind = self.kind(path, node);
                    self.add(path, entry, kind);
                }
                _ => {}
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn kind(&mut self, path: &[u8], node: &Node) -> SentKind {
        match node {
            Node::File(FileNode {
                size, link, digest, ..
            }) => {
                let own = || String::from_utf8_lossy(path).into_owned();
                let first = link.map(|link| self.links.entry((link, *digest)).or_insert_with(own));
                match first {
                    Some(first) if first.as_bytes() != path => {
                        SentKind::HardLink { to: first.clone() }
                    }
                    _ => SentKind::File { size: *size },
                }
            }
            Node::Symlink { target } => SentKind::Symlink {
                target: self.text(path, target),
            },
            Node::Char { major, minor } => SentKind::Device {
                char: true,
                major: *major,
                minor: *minor,
            },
            Node::Block { major, minor } => SentKind::Device {
                char: false,
                major: *major,
                minor: *minor,
            },
            Node::Fifo => SentKind::Fifo,
            Node::Dir(_) | Node::Whiteout => SentKind::Directory,
        }
    }

    fn add(&mut self, path: &[u8], entry: &Entry, kind: SentKind) {
        let mtime = &entry.meta.mtime;
        let mut xattrs = Vec::new();
        for (name, value) in &entry.meta.xattrs {
            xattrs.push((self.text(path, name), value.clone()));
        }
        let file = SentFile {
            path: self.text(path, path),
            mode: entry.meta.mode,
            mtime: mtime.secs.saturating_mul(1_000_000_000) + i64::from(mtime.nanos),
            xattrs,
            kind,
        };
        self.files.push(file);
    }

    fn text(&mut self, path: &[u8], bytes: &[u8]) -> String {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                self.unsayable.get_or_insert_with(|| path.to_vec());
                String::new()
            }
        }
    }
}

#[cfg(test)]
mod t {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rbuild_llb::op::FileModes;

    use super::*;

    /// What is sent of a directory for copies of these sources.
    fn sent(sources: &[&str]) -> Result<Vec<SentFile>, CopyError> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("context");
        fs::create_dir_all(root.join("d/e")).unwrap();
        for name in ["a.txt", "b.txt", "d/f", "d/g.txt", "d/e/h", "d.x"] {
            fs::write(root.join(name), name).unwrap();
        }
        fs::hard_link(root.join("d/f"), root.join("twin")).unwrap();
        for (name, target) in [
            ("link", "d"),
            ("absolute", "/d/f"),
            ("up", "d/e/../../link/f"),
            ("round", "round"),
        ] {
            symlink(target, root.join(name)).unwrap();
        }
        let trees = Trees::open(&dir.path().join("trees"));
        let select = Selection::new(&[], &[]).unwrap();
        let (modes, stats) = (FileModes::Exact, dir.path().join("stats"));
        let scan = scan_context(&root, &select, modes, &stats, &trees, &CancelToken::new());
        let tree = scan.unwrap().tree;
        let mut taken = Taken::new(&trees, tree);
        for src in sources {
            taken.copied(&CopyAction {
                src: (*src).to_owned(),
                follow_symlinks: true,
                allow_wildcard: true,
                ..CopyAction::default()
            })?;
        }
        let mut list = List::default();
        list.add_directory(&taken, &tree, &mut Vec::new(), taken.is_whole(b""))?;
        Ok(list.files)
    }

    #[test]
    fn what_steps_take_is_sent_and_nothing_else() {
        for (sources, want) in [
            (&["a.txt"][..], "a.txt"),
            (&["/a.txt", "d/e/"], "a.txt d d/e d/e/h"),
            (&["*.txt"], "a.txt b.txt"),
            (&["d/*.txt", "d/f"], "d d/f d/g.txt"),
            (&["?/e"], "d d/e d/e/h"),
            // A daemon resolves links itself, so it must have them.
            (&["link/f"], "d d/f link"),
            (&["absolute"], "absolute d d/f"),
            (&["up"], "d d/f link up"),
            (&["link"], "d d/e d/e/h d/f d/g.txt link"),
        ] {
            let files = sent(sources).unwrap();
            let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
            assert_eq!(paths.join(" "), want, "{sources:?}");
        }
        let all = sent(&["."]).unwrap();
        assert_eq!(all.len(), 13);
        // Behind a pattern links are not followed (Go's filepath.Match, as BuildKit uses it).
        for none in ["none", "l*/f"] {
            assert!(matches!(sent(&[none]), Err(CopyError::NotFound { .. })));
        }
        assert!(matches!(sent(&["round/x"]), Err(CopyError::Loop { .. })));
    }

    #[test]
    fn names_of_one_file_are_links_among_those_that_are_sent() {
        let kinds = |sources: &[&str]| -> Vec<(String, bool)> {
            let files = sent(sources).unwrap().into_iter();
            let files = files.filter(|file| file.kind != SentKind::Directory);
            files
                .map(|file| {
                    let linked = matches!(file.kind, SentKind::HardLink { .. });
                    (file.path, linked)
                })
                .collect()
        };
        let both = [("d/f".to_owned(), false), ("twin".to_owned(), true)];
        assert_eq!(kinds(&["d/f", "twin"]), both);
        assert_eq!(kinds(&["twin"]), [("twin".to_owned(), false)]);
    }
}
