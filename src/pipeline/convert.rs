//! A file in the other language. Nothing runs, and nobody is asked anything.

use std::path::Path;
use std::sync::Arc;

use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::pattern::read_ignore_file;
use rbuild_plan::Rewritten;

use super::files;
use super::plan;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;

/// A language that files are converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `rbuild.toml`
    Plan,
    /// `Dockerfile`
    Dockerfile,
}

impl Language {
    /// The other language than that of a file, by its name.
    pub fn other(path: &Path) -> Self {
        match path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            true => Self::Dockerfile,
            false => Self::Plan,
        }
    }
}

/// Writes a Dockerfile as a plan, or a plan as a Dockerfile. What the ignore file beside it says counts.
///
/// # Errors
/// If it cannot be read, or is wrong.
pub fn convert(path: &Path, to: Language) -> Result<Rewritten, BuildError> {
    let Some(text) = plan::read_file(path)? else {
        let error = anyhow::anyhow!("`{}` does not exist", path.display());
        return Err(BuildError::new(ErrorKind::Request, error));
    };
    let dir = path.parent().unwrap_or(Path::new(""));
    let ignore = plan::read_ignore(Some(path), dir)?;
    let source = Arc::new(SourceFile {
        name: path.display().to_string(),
        text,
        language: match to {
            Language::Plan => "Dockerfile",
            Language::Dockerfile => "TOML",
        },
    });
    if to == Language::Plan {
        let ignore = ignore.as_ref().map(|file| file.text.as_str());
        return rbuild_plan::to_plan(&source, ignore, &Platform::host())
            .map_err(BuildError::request);
    }
    let language = rbuild_plan::Plan::default();
    let files = files::read(&language, &source, &plan::Home::local(dir.to_owned()), &[])?;
    let request = FrontendRequest {
        git: files::git_state(&source, &files, dir),
        files,
        ..FrontendRequest::new(source)
    };
    let exclude = ignore.map_or_else(Vec::new, |file| read_ignore_file(&file.text));
    language
        .to_dockerfile(&request, &exclude)
        .map_err(BuildError::request)
}
