//! Git repositories, with the `git` program: it knows every protocol, and the user's credentials.
//!
//! A commit becomes archives in the store, one for it and one for each submodule, and is found there by its id from then
//! on. `git archive` gives every file its commit's time and 0644 or 0755, whatever the umask; BuildKit, which checks out,
//! gives them the time of the check-out. The repositories fetched into are kept beside cache mounts.
//!
//! Of the user's configuration only what git reads from the home directory counts (credentials, `url.….insteadOf`,
//! proxies), and no filters. Nothing is asked at a terminal, and only `git`, `http`, `https` and `ssh` are spoken.

use std::ffi::OsStr;
use std::io;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use rbuild_cache::BlobOptions;
use rbuild_cache::CacheMountName;
use rbuild_cache::Compression;
use rbuild_cache::FileBytes;
use rbuild_cache::FileNode;
use rbuild_cache::KnownLayer;
use rbuild_cache::LayerRef;
use rbuild_cache::Lease;
use rbuild_cache::LeaseRoot;
use rbuild_cache::NewNode;
use rbuild_cache::Origin;
use rbuild_cache::Ownership;
use rbuild_cache::ScanKind;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_cache::StoredUrl;
use rbuild_cache::TreeBuilder;
use rbuild_cache::empty_mount;
use rbuild_cache::wait::silently;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::op::CacheSharing;
use rbuild_llb::op::GitSource;

use super::Engine;
use super::OpError;
use super::http;
use super::turn;
use crate::image::media_type;
use crate::registry::download::shown;

/// What git leaves out of archives, and puts into their files, is for releases; what filters the user has is nothing the
/// commit says.
const ATTRIBUTES: &str = "* -export-ignore -export-subst -filter\n";
/// Whose cache mounts the repositories are, in the place of an id map: git runs outside of them, and all files are the
/// user's own.
const REPOSITORIES: &str = "git";
/// How deep submodules may have submodules.
const MAX_DEPTH: usize = 16;
/// How much of what git says is shown.
const MAX_SAID: usize = 2000;

/// The commit a reference stands for now.
///
/// # Errors
/// If the remote cannot be asked, or has no such reference.
pub(crate) fn commit(git: &GitSource, offline: bool) -> Result<String, OpError> {
    named_commit(git, offline).map(|(commit, _)| commit)
}

/// The same, and the whole name of the reference, such as `refs/tags/v1.2` or `HEAD`; nothing for one that is pinned.
///
/// # Errors
/// As [`commit`].
pub(crate) fn named_commit(git: &GitSource, offline: bool) -> Result<(String, String), OpError> {
    if let Some(commit) = &git.commit {
        check(git, commit, &[commit])?;
        return Ok((commit.clone(), String::new()));
    }
    if offline {
        return Err(OpError::Offline {
            what: git.remote.clone(),
        });
    }
    let reference = match git.reference.as_str() {
        "" => "HEAD",
        reference => reference,
    };
    let peeled = format!("{reference}^{{}}");
    let args = ["ls-remote", "--", &git.remote, reference, &peeled];
    let listed = run(Path::new("/"), &git.remote, args)?;
    let listed = String::from_utf8_lossy(&listed);
    let refs: Vec<(&str, &str)> = listed.lines().filter_map(|l| l.split_once('\t')).collect();
    // In BuildKit's order (source/git); of a tag with a message what it is put on.
    let found = [
        reference.to_owned(),
        format!("refs/{reference}"),
        format!("refs/heads/{reference}"),
        format!("refs/tags/{reference}"),
    ];
    let of = |name: &str| {
        let found = refs.iter().find(|(_, have)| *have == name);
        found.map(|(id, _)| (*id).to_owned())
    };
    let Some((tip, name)) = found.iter().find_map(|name| Some((of(name)?, name))) else {
        return Err(OpError::GitReference {
            remote: git.remote.clone(),
            reference: git.reference.clone(),
        });
    };
    let commit = of(&format!("{name}^{{}}")).unwrap_or_else(|| tip.clone());
    check(git, &commit, &[&commit, &tip])?;
    Ok((commit, name.clone()))
}

/// Refuses a commit if neither it nor the tag object upon it begins as it was demanded.
fn check(git: &GitSource, commit: &str, ids: &[&str]) -> Result<(), OpError> {
    match &git.checksum {
        Some(wanted) if !ids.iter().any(|id| id.starts_with(wanted.as_str())) => {
            Err(OpError::GitChecksum {
                wanted: wanted.clone(),
                reference: match git.reference.as_str() {
                    "" => "the default branch".to_owned(),
                    reference => format!("`{reference}`"),
                },
                commit: commit.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Runs git in `dir`, and gives what it prints.
fn run<I: IntoIterator<Item: AsRef<OsStr>>>(
    dir: &Path,
    remote: &str,
    args: I,
) -> Result<Vec<u8>, OpError> {
    printed(git(dir).args(args), remote)
}

/// What a command prints that ends well.
fn printed(command: &mut Command, remote: &str) -> Result<Vec<u8>, OpError> {
    let output = command
        .output()
        .map_err(|source| not_started(remote, source))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(refused(remote, &output.stderr)),
    }
}

fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    // A build may be started by a hook, in whose environment git means the hook's repository.
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_COMMON_DIR",
        "GIT_NAMESPACE",
    ] {
        git.env_remove(name);
    }
    git.current_dir(dir)
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        .env("GIT_ALLOW_PROTOCOL", "git:http:https:ssh")
        .args([
            "-c",
            "safe.directory=*",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.attributesFile=/dev/null",
            "-c",
            "core.autocrlf=false",
            "-c",
            "tar.umask=0022",
            "-c",
            "gc.auto=0",
        ]);
    git
}

fn not_started(remote: &str, source: io::Error) -> OpError {
    match source.kind() {
        io::ErrorKind::NotFound => OpError::NoGit {
            remote: remote.to_owned(),
        },
        _ => OpError::io("run", "git".as_ref(), source),
    }
}

fn refused(remote: &str, stderr: &[u8]) -> OpError {
    let said = String::from_utf8_lossy(stderr);
    let said: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let mut said = said.join("; ");
    if let Some((end, _)) = said.char_indices().nth(MAX_SAID) {
        said.truncate(end);
    }
    OpError::Git {
        remote: remote.to_owned(),
        said,
    }
}

/// What is fetched, and where it goes.
#[derive(Debug, Clone)]
struct Part {
    remote: String,
    commit: String,
    /// What to ask for where a server does not give commits by their id.
    reference: String,
    /// Only this directory of it.
    subdir: String,
    /// Where it lies in the whole, with a slash at its end; empty for the whole itself.
    prefix: String,
    /// The time of its files, in seconds since 1970: that of the whole's commit. `None` for the whole itself.
    time: Option<String>,
}

impl Part {
    /// What its archive is found by in the store.
    fn key(&self, what: &str) -> String {
        let Self {
            remote,
            commit,
            subdir,
            prefix,
            time,
            ..
        } = self;
        let time = time.as_deref().unwrap_or_default();
        format!("git\0{what}\0{remote}\0{commit}\0{subdir}\0{prefix}\0{time}")
    }
}

/// Gets commits into the store.
pub(crate) struct Fetcher<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    pub(crate) cancel: &'a CancelToken,
    pub(crate) offline: bool,
}

impl Fetcher<'_> {
    /// The archives that a pinned source is made of, the repository's own first.
    ///
    /// # Errors
    /// If it cannot be had.
    pub(crate) fn archives(&self, source: &GitSource) -> Result<Vec<OciDigest>, OpError> {
        let commit = source.commit.clone().ok_or_else(|| OpError::GitReference {
            remote: source.remote.clone(),
            reference: source.reference.clone(),
        })?;
        let whole = Part {
            remote: source.remote.clone(),
            commit,
            reference: source.reference.clone(),
            subdir: source.subdir.clone(),
            prefix: String::new(),
            time: None,
        };
        let mut archives = Vec::new();
        match source.skip_submodules {
            true => archives.push(self.archive(&whole)?),
            false => self.add(&whole, 0, &mut archives)?,
        }
        if source.keep_git_dir && source.subdir.is_empty() {
            archives.push(self.git_dir(&whole)?);
        }
        Ok(archives)
    }

    /// The archive of a part and of its submodules.
    fn add(&self, part: &Part, depth: usize, to: &mut Vec<OciDigest>) -> Result<(), OpError> {
        if depth > MAX_DEPTH {
            return Err(refused(&part.remote, b"its submodules are nested too deep"));
        }
        to.push(self.archive(part)?);
        for module in self.modules(part)? {
            self.add(&module, depth + 1, to)?;
        }
        Ok(())
    }

    /// What was made before under a key, or what `make` makes.
    fn once(
        &self,
        key: &str,
        remote: &str,
        make: impl FnOnce() -> Result<StoredUrl, OpError>,
    ) -> Result<OciDigest, OpError> {
        let there = || -> Result<Option<OciDigest>, OpError> {
            let Some(known) = self.store.url(key)?.map(|known| known.checksum) else {
                return Ok(None);
            };
            self.lease.protect(LeaseRoot::Blob(known))?;
            Ok(self.store.blobs().contains(&known).then_some(known))
        };
        if let Some(there) = there()? {
            return Ok(there);
        }
        if self.offline {
            return Err(OpError::Offline {
                what: remote.to_owned(),
            });
        }
        turn::once(self.store, self.cancel, key, there, || {
            let made = make()?;
            self.store.set_url(key, &made)?;
            Ok(made.checksum)
        })
    }

    fn archive(&self, part: &Part) -> Result<OciDigest, OpError> {
        self.once(&part.key("files"), &part.remote, || {
            self.in_repository(part, |repository| {
                let info = repository.join("info");
                let attributes = info.join("attributes");
                std::fs::create_dir_all(&info)
                    .and_then(|()| std::fs::write(&attributes, ATTRIBUTES))
                    .map_err(|error| OpError::io("write", &attributes, error))?;
                let tree = match (part.subdir.as_str(), &part.time) {
                    ("", None) => part.commit.clone(),
                    _ => commit_of_files(repository, part)?,
                };
                let prefix = format!("--prefix={}", part.prefix);
                let mut git = git(repository);
                git.args(["archive", "--format=tar", &prefix, &tree]);
                self.output_of(git, &part.remote)
            })
        })
    }

    /// Keeps what a command prints.
    fn output_of(&self, mut command: Command, remote: &str) -> Result<StoredUrl, OpError> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| not_started(remote, source))?;
        let mut printed = child.stdout.take().expect("it is piped");
        // What it says is short, and waits in the pipe.
        let kept = http::keep(self.store, remote, &mut printed);
        drop(printed);
        let output = child
            .wait_with_output()
            .map_err(|error| OpError::io("run", "git".as_ref(), error))?;
        match output.status.success() {
            true => kept,
            false => Err(refused(remote, &output.stderr)),
        }
    }

    /// Does something in a bare repository that has the part's commit.
    fn in_repository<T>(
        &self,
        part: &Part,
        work: impl FnOnce(&Path) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let name = CacheMountName {
            id: shown(&part.remote),
            domain: REPOSITORIES.to_owned(),
            // Who asks as somebody else may be given something else.
            begins: blake3::hash(part.remote.as_bytes()).to_hex().to_string(),
        };
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let begin =
            |dir: &Path| Ok::<_, OpError>(empty_mount(dir, 0o700, (user, group), Ownership::Keep)?);
        let (locked, cancel) = (CacheSharing::Locked, self.cancel);
        let locked = self
            .store
            .cache_mount(&name, locked, &begin, cancel, &mut silently)?
            .ok_or(OpError::Cancelled)?;
        let repository = locked.path();
        let run = |args: &[&str]| run(repository, &part.remote, args);
        if !repository.join("HEAD").exists() {
            run(&["init", "--quiet", "--bare", "."])?;
        }
        let wanted = format!("{}^{{commit}}", part.commit);
        let has = || run(&["cat-file", "-e", &wanted]).is_ok();
        if !has() {
            let fetch = |what: &[&str]| {
                let mut args = vec!["fetch", "--quiet", "--no-tags", "--force"];
                args.extend(what);
                run(&args)
            };
            let remote = part.remote.as_str();
            // Not every server gives a commit by its id; some refuse to be shallow.
            let mut last = fetch(&["--depth=1", "--", remote, &part.commit]);
            if last.is_err() && !part.reference.is_empty() {
                last = fetch(&["--depth=1", "--", remote, &part.reference]);
            }
            if !has() {
                last = fetch(&[
                    "--",
                    remote,
                    "+refs/heads/*:refs/heads/*",
                    "+refs/tags/*:refs/tags/*",
                ]);
            }
            if !has() {
                last?;
                return Err(OpError::GitReference {
                    remote: part.remote.clone(),
                    reference: part.commit.clone(),
                });
            }
        }
        work(repository)
    }

    /// The submodules of a part that lie in it.
    fn modules(&self, part: &Part) -> Result<Vec<Part>, OpError> {
        let key = part.key("submodules");
        let list = self.once(&key, &part.remote, || {
            self.in_repository(part, |repository| {
                let listed = self.list_modules(repository, part)?;
                http::keep(self.store, &part.remote, &mut listed.as_bytes())
            })
        })?;
        let mut text = String::new();
        self.store
            .blobs()
            .open(&list)?
            .read_to_string(&mut text)
            .map_err(|error| OpError::io("read", self.store.path(), error))?;
        let parts = text.lines().filter_map(|line| {
            let mut fields = line.splitn(4, '\t');
            let mut next = || fields.next();
            let (time, commit, remote, path) = (next()?, next()?, next()?, next()?);
            Some(Part {
                remote: remote.to_owned(),
                commit: commit.to_owned(),
                reference: String::new(),
                subdir: String::new(),
                prefix: format!("{}{path}/", part.prefix),
                time: Some(time.to_owned()),
            })
        });
        Ok(parts.collect())
    }

    /// A line a submodule: time of its files, commit, URL, path below the part's directory.
    fn list_modules(&self, repository: &Path, part: &Part) -> Result<String, OpError> {
        let run = |args: &[&str]| run(repository, &part.remote, args);
        let file = format!("{}:.gitmodules", part.commit);
        if run(&["cat-file", "-e", &file]).is_err() {
            return Ok(String::new());
        }
        let time = time_of_files(repository, part)?;
        let settings = run(&["config", "--blob", &file, "--null", "--list"])?;
        let settings = String::from_utf8_lossy(&settings);
        let pairs: Vec<(&str, &str)> = settings
            .split('\0')
            .filter_map(|pair| pair.split_once('\n'))
            .collect();
        let tree = run(&["ls-tree", "-r", "-z", &part.commit])?;
        let tree = String::from_utf8_lossy(&tree);
        let mut lines = String::new();
        for entry in tree.split('\0') {
            let Some((kind, path)) = entry.split_once('\t') else {
                continue;
            };
            let Some(commit) = kind.strip_prefix("160000 commit ") else {
                continue;
            };
            let inside = match part.subdir.as_str() {
                "" => Some(path),
                subdir => path.strip_prefix(subdir).and_then(|p| p.strip_prefix('/')),
            };
            let url = pairs
                .iter()
                .find(|(key, value)| *value == path && key.ends_with(".path"))
                .and_then(|(key, _)| {
                    let url = format!("{}.url", key.strip_suffix(".path")?);
                    pairs.iter().find(|(key, _)| *key == url)
                })
                .map(|(_, url)| resolve(&part.remote, url));
            // One that `.gitmodules` does not name stays an empty directory, as after a clone.
            if let (Some(path), Some(url)) = (inside, url) {
                lines.push_str(&format!("{time}\t{commit}\t{url}\t{path}\n"));
            }
        }
        Ok(lines)
    }

    /// The archive of a `.git` directory with the one commit.
    fn git_dir(&self, part: &Part) -> Result<OciDigest, OpError> {
        self.once(&part.key("git-dir"), &part.remote, || {
            self.in_repository(part, |repository| self.make_git_dir(repository, part))
        })
    }

    fn make_git_dir(&self, repository: &Path, part: &Part) -> Result<StoredUrl, OpError> {
        let scratch = self.store.scratch()?;
        let work = scratch.path().join("work");
        std::fs::create_dir(&work).map_err(|error| OpError::io("create", &work, error))?;
        let run = |args: &[&str]| run(&work, &part.remote, args);
        run(&["init", "--quiet", "--template=", "."])?;
        run(&["remote", "add", "origin", &part.remote])?;
        let from = repository.to_string_lossy().into_owned();
        let mut fetch = git(&work);
        fetch
            .env("GIT_ALLOW_PROTOCOL", "file")
            .args(["fetch", "--quiet", "--depth=1", "--no-tags"])
            .args([&format!("file://{from}"), &part.commit]);
        printed(&mut fetch, &part.remote)?;
        run(&["update-ref", "--no-deref", "HEAD", &part.commit])?;
        run(&["read-tree", "HEAD"])?;
        let head = work.join(".git/FETCH_HEAD");
        std::fs::write(&head, format!("{}\t\t{}\n", part.commit, part.remote))
            .map_err(|error| OpError::io("write", &head, error))?;

        let trees = self.store.trees();
        let found = rbuild_cache::scan_dir(trees, &work, ScanKind::Plain, self.cancel)?;
        let mut builder = TreeBuilder::new();
        trees.walk(&found.tree, &mut |path, entry| {
            let mut meta = entry.meta.clone();
            (meta.uid, meta.gid) = (0, 0);
            if let Some(node) = NewNode::of(&entry.node)
                && !path.is_empty()
            {
                meta.mode = match node {
                    NewNode::Dir => 0o755,
                    _ => 0o644,
                };
                builder.insert(path, meta, node);
            }
            std::ops::ControlFlow::Continue(())
        })?;
        let tree = builder.finish(trees);
        let mut archive = Vec::new();
        let options = BlobOptions {
            compression: Compression::None,
            clamp: None,
        };
        let open = |path: &[u8], _: &FileNode| {
            let path = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path);
            std::fs::File::open(work.join(path)).map(FileBytes::from)
        };
        rbuild_cache::write_layer(
            trees,
            &tree.tree,
            &options,
            &open,
            &mut archive,
            self.cancel,
        )?;
        http::keep(self.store, &part.remote, &mut archive.as_slice())
    }
}

/// A commit of the part's files with their time: the files of a tree that is no commit's would have that of the fetch.
fn commit_of_files(repository: &Path, part: &Part) -> Result<String, OpError> {
    let date = format!("@{} +0000", time_of_files(repository, part)?);
    let tree = format!("{}:{}", part.commit, part.subdir);
    let mut commit = git(repository);
    commit
        .args(["commit-tree", "-m", "", &tree])
        .envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|name| (name, "rbuild")))
        .envs(["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|name| (name, "rbuild")))
        .envs(["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"].map(|name| (name, &date)));
    line(&mut commit, &part.remote)
}

fn time_of_files(repository: &Path, part: &Part) -> Result<String, OpError> {
    match &part.time {
        Some(time) => Ok(time.clone()),
        None => line(
            git(repository).args(["show", "-s", "--format=%ct", &part.commit]),
            &part.remote,
        ),
    }
}

/// The one line a command prints.
fn line(command: &mut Command, remote: &str) -> Result<String, OpError> {
    let text = printed(command, remote)?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// A submodule's URL: `./` and `../` start from the repository's own (gitmodules(5)).
fn resolve(remote: &str, url: &str) -> String {
    if !url.starts_with("./") && !url.starts_with("../") {
        return url.to_owned();
    }
    let mut base = remote.trim_end_matches('/').to_owned();
    let mut rest = url;
    loop {
        if let Some(tail) = rest.strip_prefix("./") {
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("../") {
            let cut = base.rfind(['/', ':']).unwrap_or(0);
            base.truncate(cut);
            rest = tail;
        } else {
            return format!("{base}/{rest}");
        }
    }
}

impl Engine<'_> {
    /// The files of a pinned commit: a layer for the repository and one for each submodule.
    pub(super) fn git(&self, source: &GitSource) -> Result<Snapshot, OpError> {
        let fetcher = Fetcher {
            store: self.store,
            lease: self.lease,
            cancel: self.cancel,
            offline: self.options.offline,
        };
        let mut snapshot = self.empty();
        for archive in fetcher.archives(source)? {
            self.lease.protect(LeaseRoot::Blob(archive))?;
            let known = unpacked(self.store, self.lease, &archive)?;
            let layer = LayerRef {
                layer: known.layer,
                origin: Some(Origin {
                    digest: archive,
                    size: known.tar_size,
                    media_type: media_type::OCI_LAYER.to_owned(),
                    diff_id: known.diff_id,
                    source: None,
                    urls: Vec::new(),
                }),
                created: None,
                single: false,
            };
            snapshot = self.stack(&snapshot, layer)?;
        }
        Ok(snapshot)
    }
}

/// The tree of an archive in the store.
pub(crate) fn unpacked(
    store: &Store,
    lease: &Lease,
    archive: &OciDigest,
) -> Result<KnownLayer, OpError> {
    lease.protect(LeaseRoot::Blob(*archive))?;
    if let Some(known) = store.known_layer(archive)?
        && store.trees().get(&known.layer.tree).is_ok()
    {
        return Ok(known);
    }
    let read = rbuild_cache::read_layer(store.trees(), store.blobs().open(archive)?, None)?;
    {
        let _held = lease.hold()?;
        store.trees().persist(&read.layer.tree)?;
        lease.protect(LeaseRoot::Tree(read.layer.tree))?;
    }
    let known = KnownLayer {
        layer: read.layer,
        diff_id: read.diff_id,
        tar_size: read.tar_size,
    };
    store.set_known_layer(archive, &known)?;
    Ok(known)
}

#[cfg(test)]
mod t {
    use super::resolve;

    #[test]
    fn urls_of_submodules_are_resolved_as_git_does() {
        for (remote, url, want) in [
            ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
            ("https://h/a/b.git/", "../../c", "https://h/c"),
            ("git@h:a/b.git", "../c.git", "git@h:a/c.git"),
            ("https://h/a", "./c", "https://h/a/c"),
            ("https://h/a", "ssh://x/y", "ssh://x/y"),
        ] {
            assert_eq!(resolve(remote, url), want);
        }
    }
}
