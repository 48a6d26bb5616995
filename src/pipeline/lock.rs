//! `rbuild.lock`: what sources are, written down. A source that is in it is taken from there, and nobody is asked what
//! it is today; not even with `--pull`.
//!
//! It lies beside the file that is built, and belongs to it alone: files of the default names have `rbuild.lock`, any
//! other has its own name and `.lock`, so that an entry which the file no longer needs can be dropped. What is in it are
//! names that can mean something else tomorrow: tags, branches, URLs without a checksum; also those that
//! `--build-context` names. Images that only rbuild's own store has are left out: others do not have them.

mod file;
mod write;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use rbuild_llb::Diagnostic;
use rbuild_llb::OciDigest;
use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use rbuild_llb::diagnostic::Label;
use rbuild_llb::frontend::SourceRequest;

pub(super) use file::Locked;
pub(super) use file::LockedImage;
pub(super) use file::Name;
pub use write::Change;
pub use write::Changes;
pub use write::LockOptions;
pub use write::lock;
pub use write::update;

use super::plan;
use super::plan::Plan;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::request::BuildRequest;

/// What becomes of a source that is not in the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// It is pinned as ever: there is no lock file.
    Free,
    /// It is pinned as ever, and that is remarked on.
    Remark,
    /// It is an error: `--locked`.
    Refuse,
    /// It is asked for and added: `rbuild lock`.
    Add,
}

/// What a source depends on may be a build argument or the platform.
const ADDS: &str = "`rbuild lock`, with the flags of this build, adds it";

/// The lock of a build.
#[derive(Debug)]
pub(super) struct Lock {
    rule: Rule,
    /// How the user knows the file.
    shown: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sources: BTreeMap<Name, Locked>,
    used: BTreeSet<Name>,
    missing: BTreeSet<Name>,
}

/// Where the lock file of a plan is or would be.
pub(super) fn path(dir: &Path, plan: Option<&Path>) -> PathBuf {
    let name = plan.and_then(Path::file_name);
    let own = name.filter(|name| !plan::NAMES.iter().any(|usual| name == usual));
    let name = match own {
        Some(name) => {
            let mut name = name.to_owned();
            name.push(".lock");
            name
        }
        None => "rbuild.lock".into(),
    };
    plan::tidy(&dir.join(name))
}

/// The lock file as diagnostics show it.
pub(super) fn source_file(name: String, text: String) -> Arc<SourceFile> {
    Arc::new(SourceFile {
        name,
        text,
        language: "TOML",
    })
}

impl Lock {
    /// The lock that a build goes by.
    ///
    /// # Errors
    /// If it cannot be read, or is demanded and not there.
    pub(super) fn of(request: &BuildRequest, plan: &Plan) -> Result<Self, BuildError> {
        let rule = match (plan.locks.is_empty(), request.locked) {
            (true, true) => return Err(none(plan, "`--locked` wants")),
            (false, true) => Rule::Refuse,
            (false, false) => Rule::Remark,
            (true, false) => Rule::Free,
        };
        let mut sources: BTreeMap<Name, Locked> = BTreeMap::new();
        for source in &plan.locks {
            let file = file::parse(source).map_err(|error| BuildError::request(vec![*error]))?;
            for (name, locked) in file.sources {
                if sources.get(&name).is_some_and(|other| *other != locked) {
                    let message = format!("lock files of this build differ about `{name}`");
                    let at = Span::new(source, 0..0);
                    let error = Diagnostic::error(message, at, "one of them");
                    let hint = format!("`rbuild update {name}` in the directory of each");
                    return Err(BuildError::request(vec![error.hint(hint)]));
                }
                sources.insert(name, locked);
            }
        }
        Ok(Self::new(rule, plan, sources))
    }

    fn new(rule: Rule, plan: &Plan, sources: BTreeMap<Name, Locked>) -> Self {
        let shown = match (plan.locks.as_slice(), &plan.lock_path) {
            ([file], _) => file.name.clone(),
            (_, Some(path)) => path.display().to_string(),
            (_, None) => "rbuild.lock".to_owned(),
        };
        let state = State {
            sources,
            ..State::default()
        };
        Self {
            rule,
            shown,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics with it in hand")
    }

    /// What a source is, if it is known here.
    pub(super) fn get(&self, name: &Name) -> Option<Locked> {
        let mut state = self.state();
        let found = state.sources.get(name).cloned();
        if found.is_some() && self.rule == Rule::Add {
            state.used.insert(name.clone());
        }
        found
    }

    /// Whether what is missing is to be remarked on.
    pub(super) fn remarks(&self) -> bool {
        self.rule == Rule::Remark
    }

    /// Notes what is missing, and will be: when the lock is written, an image that only rbuild's own store has.
    pub(super) fn miss(&self, name: Name) {
        self.state().missing.insert(name);
    }

    /// Those of the sources that are to be added, each once.
    pub(super) fn to_add<'r>(
        &self,
        requests: &[&'r SourceRequest],
    ) -> Vec<(Name, &'r SourceRequest)> {
        let mut open: Vec<(Name, &SourceRequest)> = Vec::new();
        if self.rule == Rule::Add {
            let state = self.state();
            for request in requests {
                if let Some(name) = Name::of(&request.source)
                    && !state.sources.contains_key(&name)
                    && !state.missing.contains(&name)
                    && !open.iter().any(|(have, _)| *have == name)
                {
                    open.push((name, request));
                }
            }
        }
        open
    }

    /// Adds what was found out.
    pub(super) fn add(&self, name: Name, locked: Locked) {
        self.state().sources.insert(name, locked);
    }

    /// Notes the manifest that an index has for a platform which its entries do not name.
    pub(super) fn note(&self, name: &Name, platform: &Platform, digest: OciDigest) {
        if self.rule == Rule::Add
            && let Some(Locked::Image(image)) = self.state().sources.get_mut(name)
        {
            image.platforms.insert(platform.clone(), digest);
        }
    }

    /// Refuses sources that are not here, if that is what is wanted: all at once.
    pub(super) fn check(&self, requests: &[&SourceRequest]) -> Result<(), BuildError> {
        if self.rule != Rule::Refuse {
            return Ok(());
        }
        let state = self.state();
        let missing = requests.iter().filter_map(|request| {
            let name = Name::of(&request.source)?;
            if state.sources.contains_key(&name) {
                return None;
            }
            let labels = request.span.iter().map(|span| Label {
                span: span.clone(),
                text: "not locked".to_owned(),
            });
            let message = format!("`{}` has no entry for `{name}`", self.shown);
            let error = Diagnostic {
                labels: labels.collect(),
                ..Diagnostic::unplaced(message)
            };
            Some(error.hint(format!(
                "{ADDS}; without `--locked` it is taken as it is now"
            )))
        });
        let missing: Vec<Diagnostic> = missing.collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(BuildError::request(missing)),
        }
    }

    /// What is to be said of sources that a lock file should have had.
    pub(super) fn remark(&self) -> Option<String> {
        let state = self.state();
        let names: Vec<String> = state
            .missing
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        (!names.is_empty()).then(|| {
            format!(
                "`{}` has no entry for {}: taken as it is now ({ADDS})",
                self.shown,
                names.join(", ")
            )
        })
    }

    /// What to do if what the lock demands cannot be had.
    pub(super) fn hint(&self, name: &Name) -> String {
        format!(
            "`{}` demands that digest; if the change is meant, `rbuild update {name}`",
            self.shown
        )
    }
}

/// There is no lock file, and `who` needs one.
fn none(plan: &Plan, who: &str) -> BuildError {
    match &plan.lock_path {
        Some(path) => {
            let error = anyhow::anyhow!("there is no `{}`, which {who}", path.display());
            BuildError::new(ErrorKind::Request, error).hint("`rbuild lock` writes it")
        }
        None => {
            let error = anyhow::anyhow!("there is no lock file, which {who}");
            BuildError::new(ErrorKind::Request, error)
                .hint("it lies beside the file that is built; `rbuild lock DIRECTORY` writes it")
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn each_file_has_its_own() {
        for (dir, plan, want) in [
            (".", None, "rbuild.lock"),
            ("", Some("Dockerfile"), "rbuild.lock"),
            ("app", Some("app/rbuild.toml"), "app/rbuild.lock"),
            ("app", Some("app/Containerfile"), "app/rbuild.lock"),
            ("app", Some("app/api.Dockerfile"), "app/api.Dockerfile.lock"),
        ] {
            assert_eq!(path(dir.as_ref(), plan.map(Path::new)), Path::new(want));
        }
    }
}
