//! Line 2 of the pipeline for a context that is no directory of this machine: it is put into the store, and the plan
//! is read out of it.
//!
//! As with BuildKit the files of such a context keep the owners and times that the archive gives them, and its
//! `.dockerignore` leaves nothing out. `-f` names a file in it.
//!
//! An `rbuild.toml`, which BuildKit does not know, names directories: its context is unpacked and built as the directory that
//! it was, so that a check-out and a URL have the same keys.

use std::collections::BTreeSet;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::Follow;
use rbuild_cache::Lease;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Node;
use rbuild_cache::Ownership;
use rbuild_cache::Store;
use rbuild_cache::Unpack;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use rbuild_llb::SourceFile;
use rbuild_llb::frontend::GitState;
use rbuild_llb::frontend::MainContext;
use rbuild_llb::op::GitSource;
use rbuild_llb::op::HttpSource;
use rbuild_llb::op::SourceOp;

use super::failure;
use super::files;
use super::files::Language;
use super::lock;
use super::plan;
use super::plan::Home;
use super::plan::Plan;
use super::plan::unreadable;
use crate::ops::OpError;
use crate::ops::git;
use crate::ops::http;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::registry;
use crate::registry::download::shown;
use crate::request::BuildRequest;
use crate::request::ContextSource;
use crate::request::PlanFile;

/// Standard input as a URL: what came on it is found in the store like any other.
const STDIN: &str = "http://stdin/context";
/// What BuildKit calls the file a remote context comes in.
const FILE_NAME: &str = "context";

/// As many bytes as tell an archive from a Dockerfile.
const HEAD: usize = 512;

/// Whether what begins with `head` is a tar or something compressed, and not text.
fn begins_archive(head: &[u8]) -> bool {
    const MAGICS: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh"];
    let compressed = MAGICS.iter().any(|magic| head.starts_with(magic));
    compressed || head.get(257..262).is_some_and(|magic| magic == b"ustar")
}

/// What a URL stands for: a git repository, or a file. `keep_git_dir` is the build argument about that.
pub(super) fn source(url: &str, keep_git_dir: Option<&str>) -> Result<SourceOp, BuildError> {
    match rbuild_dockerfile::git_context(url, keep_git_dir) {
        Some(Ok(git)) => Ok(SourceOp::Git(git)),
        Some(Err(why)) => {
            let error = anyhow::anyhow!("`{}` cannot be used: {why}", shown(url));
            Err(BuildError::new(ErrorKind::Request, error))
        }
        None => Ok(file_of(url, None)),
    }
}

/// Reads what is elsewhere.
pub(super) struct Remote<'a> {
    request: &'a BuildRequest,
    store: &'a Store,
    lease: &'a Lease,
    registry: &'a registry::Client,
}

impl<'a> Remote<'a> {
    pub(super) fn new(
        request: &'a BuildRequest,
        store: &'a Store,
        lease: &'a Lease,
        registry: &'a registry::Client,
    ) -> Self {
        Self {
            request,
            store,
            lease,
            registry,
        }
    }

    /// Gets the context, and reads the plan.
    pub(super) fn read(&self) -> Result<Plan, BuildError> {
        match (&self.request.context, &self.request.file) {
            (ContextSource::Directory(dir), Some(PlanFile::Url(url))) => {
                let (name, text) = self.plan_by_url(url)?;
                plan::beside(self.request, dir, None, plan::source_file(name, text))
            }
            (ContextSource::Remote(url), _) => match source(url, self.keep_git_dir())? {
                SourceOp::Git(git) => self.repository(git),
                _ => self.url(url),
            },
            _ => self.stdin(),
        }
    }

    fn keep_git_dir(&self) -> Option<&str> {
        let build_args = &self.request.build_args;
        build_args
            .get("BUILDKIT_CONTEXT_KEEP_GIT_DIR")
            .map(String::as_str)
    }

    fn plan_by_url(&self, url: &str) -> Result<(String, String), BuildError> {
        let digest = self.fetch(url)?;
        let text = self
            .store
            .blobs()
            .open(&digest)
            .map_err(|error| failure::op(error.into()))
            .and_then(|file| {
                plan::read_text(file).map_err(|error| unreadable(&shown(url), error))
            })?;
        Ok((shown(url), text))
    }

    /// A file by its URL, in the store.
    fn fetch(&self, url: &str) -> Result<OciDigest, BuildError> {
        let stored = http::current(
            self.store,
            self.lease,
            self.registry,
            url,
            self.request.offline,
            &CancelToken::new(),
        )
        .map_err(failure::op)?;
        self.keep(stored.checksum)
    }

    fn keep(&self, digest: OciDigest) -> Result<OciDigest, BuildError> {
        self.lease
            .protect(LeaseRoot::Blob(digest))
            .map_err(failure::store)?;
        Ok(digest)
    }

    fn url(&self, url: &str) -> Result<Plan, BuildError> {
        let digest = self.fetch(url)?;
        let file = self
            .store
            .blobs()
            .open(&digest)
            .map_err(|error| failure::op(error.into()))?;
        if rbuild_cache::is_archive(file).map_err(|error| unreadable(&shown(url), error))? {
            return self.archive(digest, url);
        }
        if let Some(PlanFile::Path(path)) = &self.request.file {
            return Err(no_archive(path, &format!("`{}`", shown(url))));
        }
        let (name, text) = self.plan_by_url(url)?;
        let context = MainContext::Files(file_of(url, Some(digest)));
        self.dockerfile(plan::source_file(name, text), context, &shown(url))
    }

    fn stdin(&self) -> Result<Plan, BuildError> {
        let failed = |error| unreadable("standard input", error);
        let mut stdin = io::stdin().lock();
        let mut head = Vec::new();
        stdin
            .by_ref()
            .take(HEAD as u64)
            .read_to_end(&mut head)
            .map_err(failed)?;
        let archive = begins_archive(&head);
        let mut all = io::Cursor::new(head).chain(stdin);
        if archive {
            let kept = http::keep(self.store, "standard input", &mut all).map_err(failure::op)?;
            self.store.set_url(STDIN, &kept).map_err(failure::store)?;
            return self.archive(self.keep(kept.checksum)?, STDIN);
        }
        match &self.request.file {
            Some(PlanFile::Path(path)) => Err(no_archive(path, "what comes on standard input")
                .hint("pipe in a tar, or leave `-f` out for a Dockerfile without a context")),
            Some(PlanFile::Url(_)) => {
                let error = anyhow::anyhow!("standard input is no archive, and so no context");
                Err(BuildError::new(ErrorKind::Request, error))
            }
            Some(PlanFile::Stdin) | None => {
                let text = plan::read_text(all).map_err(failed)?;
                let source = plan::source_file("-".to_owned(), text);
                self.dockerfile(source, MainContext::Local, "-")
            }
        }
    }

    /// A Dockerfile whose context is `context`.
    fn dockerfile(
        &self,
        source: Arc<SourceFile>,
        context: MainContext,
        identity: &str,
    ) -> Result<Plan, BuildError> {
        if files::is_plan(&source) {
            let error = anyhow::anyhow!(
                "`{}` is a plan, and comes without the files beside it",
                source.name
            );
            return Err(BuildError::new(ErrorKind::Request, error).hint(
                "name the directory, archive or repository it is in, or fetch it into a directory",
            ));
        }
        Ok(Plan {
            context,
            ..self.bare(source, identity)?
        })
    }

    /// A plan with nothing around it.
    fn bare(&self, source: Arc<SourceFile>, identity: &str) -> Result<Plan, BuildError> {
        Ok(Plan {
            language: Language::of(&source),
            source,
            context: MainContext::Local,
            home: Home::default(),
            files: Default::default(),
            git: None,
            lock_path: None,
            locks: Vec::new(),
            ignore: None,
            locals: plan::named_directories(self.request)?,
            identity: identity.to_owned(),
            remark: None,
        })
    }

    /// A plan that is in its context.
    fn unpacked(
        &self,
        archives: &[OciDigest],
        source: Arc<SourceFile>,
        git: Option<GitState>,
        identity: &str,
    ) -> Result<Plan, BuildError> {
        let scratch = self.store.scratch().map_err(failure::store)?;
        for archive in archives {
            self.unpack(archive, scratch.path()).map_err(failure::op)?;
        }
        let name = Path::new(&source.name);
        let shown = match self.request.file {
            None | Some(PlanFile::Path(_)) => name.parent().unwrap_or(name).to_owned(),
            Some(PlanFile::Stdin | PlanFile::Url(_)) => PathBuf::new(),
        };
        let home = Home {
            dir: scratch.path().join(&shown),
            shown,
            fence: Some(scratch),
        };
        let frontend = rbuild_plan::Plan::default();
        let files = files::read(&frontend, &source, &home, &self.request.set)?;
        Ok(Plan {
            language: Language::Plan(Box::new(frontend)),
            home,
            files,
            git,
            ..self.bare(source, identity)?
        })
    }

    /// Writes the files of an archive as this user's.
    fn unpack(&self, archive: &OciDigest, into: &Path) -> Result<(), OpError> {
        let trees = self.store.trees();
        let mut unpack = Unpack::new(into, Ownership::Logical)?;
        let blob = self.store.blobs().open(archive)?;
        let read = rbuild_cache::read_layer(trees, blob, Some(&mut unpack))?;
        unpack.finish(trees, &read.layer.tree)?;
        Ok(())
    }

    /// An archive in the store as the context.
    fn archive(&self, digest: OciDigest, url: &str) -> Result<Plan, BuildError> {
        let (name, text) = self.plan_in(&[digest], "the archive that is the context")?;
        let source = plan::source_file(name, text);
        let plan = match files::is_plan(&source) {
            true => self.unpacked(&[digest], source, None, &shown(url))?,
            false => {
                let context = MainContext::Archive(file_of(url, Some(digest)));
                self.dockerfile(source, context, &shown(url))?
            }
        };
        self.with_lock(plan, &[digest])
    }

    /// A commit as the context.
    fn repository(&self, mut source: GitSource) -> Result<Plan, BuildError> {
        let offline = self.request.offline;
        let (commit, reference) = git::named_commit(&source, offline).map_err(failure::op)?;
        source.commit = Some(commit.clone());
        source.checksum = None;
        let fetcher = git::Fetcher {
            store: self.store,
            lease: self.lease,
            cancel: &CancelToken::new(),
            offline,
        };
        let archives = fetcher.archives(&source).map_err(failure::op)?;
        for archive in &archives {
            self.keep(*archive)?;
        }
        let (name, text) = self.plan_in(&archives, &format!("`{}`", source.remote))?;
        let identity = source.remote.clone();
        let file = plan::source_file(name, text);
        let plan = match files::is_plan(&file) {
            true => self.unpacked(&archives, file, Some(state(commit, &reference)), &identity)?,
            false => self.dockerfile(file, MainContext::Files(SourceOp::Git(source)), &identity)?,
        };
        self.with_lock(plan, &archives)
    }

    /// The same with the lock file beside it, if it is from there and has one.
    fn with_lock(&self, plan: Plan, archives: &[OciDigest]) -> Result<Plan, BuildError> {
        if !matches!(self.request.file, None | Some(PlanFile::Path(_))) {
            return Ok(plan);
        }
        let own = Path::new(&plan.source.name);
        let path = lock::path(own.parent().unwrap_or(own), Some(own));
        let name = path.display().to_string();
        for archive in archives {
            if let Some(text) = self.text_in(archive, &name).map_err(failure::op)? {
                let locks = vec![lock::source_file(name, text)];
                return Ok(Plan { locks, ..plan });
            }
        }
        Ok(plan)
    }

    /// The plan, by the name that was asked for or by one of the usual ones.
    fn plan_in(&self, archives: &[OciDigest], place: &str) -> Result<(String, String), BuildError> {
        let names: Vec<String> = match &self.request.file {
            Some(PlanFile::Path(path)) => vec![path.to_string_lossy().into_owned()],
            Some(PlanFile::Url(url)) => return self.plan_by_url(url),
            Some(PlanFile::Stdin) => return Ok(("-".to_owned(), plan::stdin()?)),
            None => plan::NAMES.map(str::to_owned).to_vec(),
        };
        for name in &names {
            for archive in archives {
                let found = self.text_in(archive, name).map_err(|error| {
                    let error = anyhow::Error::new(error).context(format!("cannot read {place}"));
                    BuildError::new(ErrorKind::Request, error)
                })?;
                if let Some(text) = found {
                    return Ok((name.clone(), text));
                }
            }
        }
        let wanted = match names.as_slice() {
            [only] => format!("no `{only}`"),
            names => {
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                format!("none of {}", names.join(", "))
            }
        };
        let error = anyhow::anyhow!("there is {wanted} in {place}");
        Err(BuildError::new(ErrorKind::Request, error).hint("`-f` names a file in it"))
    }

    /// The text of a file in an archive, if there is one of that name.
    fn text_in(&self, archive: &OciDigest, name: &str) -> Result<Option<String>, OpError> {
        let trees = self.store.trees();
        let tree = git::unpacked(self.store, self.lease, archive)?.layer.tree;
        let Some(found) = trees.lookup(&tree, name.as_bytes(), Follow::All)? else {
            return Ok(None);
        };
        if !matches!(found.entry.node, Node::File(_)) {
            return Ok(None);
        }
        let mut text = Ok(String::new());
        rbuild_cache::extract_files(
            trees,
            &tree,
            self.store.blobs().open(archive)?,
            &BTreeSet::from([found.path]),
            &mut |_, reader| {
                text = plan::read_text(reader);
                Ok(())
            },
        )?;
        let text = text.map_err(|error| OpError::io("read", name.as_ref(), error))?;
        Ok(Some(text))
    }
}

/// What a plan may know of the commit that it is from: a check-out of it would say the same.
fn state(commit: String, reference: &str) -> GitState {
    let after = |prefix| reference.strip_prefix(prefix).map(str::to_owned);
    GitState {
        commit,
        branch: after("refs/heads/"),
        tag: after("refs/tags/"),
    }
}

/// The one file that a context comes in.
fn file_of(url: &str, checksum: Option<OciDigest>) -> SourceOp {
    SourceOp::Http(HttpSource {
        url: url.to_owned(),
        checksum,
        filename: FILE_NAME.to_owned(),
        mode: None,
    })
}

fn no_archive(path: &Path, place: &str) -> BuildError {
    let error = anyhow::anyhow!(
        "there is no `{}` in {place}: it is no archive",
        path.display()
    );
    BuildError::new(ErrorKind::Request, error)
}

/// Whether a file is the context that came on standard input.
pub(super) fn is_stdin(http: &HttpSource) -> bool {
    http.url == STDIN
}
