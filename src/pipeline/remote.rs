//! Line 2 of the pipeline for a context that is no directory of this machine: it is put into the store, and the plan
//! is read out of it.
//!
//! As with BuildKit the files of such a context keep the owners and times that the archive gives them, and its
//! `.dockerignore` leaves nothing out.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::io::Read;

use rbuild_cache::Follow;
use rbuild_cache::Node;
use rbuild_cache::Store;
use rbuild_llb::OciDigest;
use rbuild_llb::frontend::MainContext;
use rbuild_llb::op::HttpSource;
use rbuild_llb::op::SourceOp;

use super::failure;
use super::plan;
use super::plan::Plan;
use crate::ops::OpError;
use crate::ops::file::ARCHIVE_HEAD;
use crate::ops::file::is_archive;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::request::BuildRequest;
use crate::request::PlanFile;

/// What BuildKit calls the file a remote context comes in.
const FILE_NAME: &str = "context";

/// Reads the context and the plan in it.
pub(super) fn read(request: &BuildRequest, store: &Store) -> Result<Plan, BuildError> {
    let mut stdin = io::stdin().lock();
    let mut head = Vec::new();
    stdin
        .by_ref()
        .take(ARCHIVE_HEAD as u64)
        .read_to_end(&mut head)
        .map_err(plan::failed_stdin)?;
    let archive = is_archive(&head);
    let mut all = io::Cursor::new(head).chain(stdin);
    if archive {
        let digest = keep(&mut all, store)?;
        return archived(request, store, digest, "http://stdin/");
    }
    if let Some(PlanFile::Path(path)) = &request.file {
        let error = anyhow::anyhow!(
            "there is no `{}` in what comes on standard input: it is no archive",
            path.display()
        );
        return Err(BuildError::new(ErrorKind::Request, error)
            .hint("pipe in a tar, or leave `-f` out for a Dockerfile without a context"));
    }
    let text = plan::read_text(all).map_err(plan::failed_stdin)?;
    Ok(Plan {
        source: plan::source_file("-".to_owned(), text),
        context: MainContext::Local,
        ignore: None,
        locals: plan::named_directories(request)?,
        identity: "-".to_owned(),
        remark: None,
    })
}

/// Puts what a reader gives into the store.
fn keep(from: &mut dyn Read, store: &Store) -> Result<OciDigest, BuildError> {
    let mut writer = store
        .blobs()
        .writer()
        .map_err(|error| failure::op(error.into()))?;
    io::copy(from, &mut writer).map_err(plan::failed_stdin)?;
    let (digest, _) = writer
        .commit(None)
        .map_err(|error| failure::op(error.into()))?;
    Ok(digest)
}

/// The plan in an archive, with the archive as context.
fn archived(
    request: &BuildRequest,
    store: &Store,
    digest: OciDigest,
    url: &str,
) -> Result<Plan, BuildError> {
    let (name, text) = match find(request, store, &digest) {
        Ok(Some(found)) => found,
        Ok(None) => {
            let wanted = match &request.file {
                Some(PlanFile::Path(path)) => format!("no `{}`", path.display()),
                _ => format!(
                    "none of {}",
                    plan::NAMES.map(|name| format!("`{name}`")).join(", ")
                ),
            };
            let error = anyhow::anyhow!("there is {wanted} in the archive that is the context");
            return Err(
                BuildError::new(ErrorKind::Request, error).hint("`-f` names a file in the archive")
            );
        }
        Err(error) => {
            let error =
                anyhow::Error::new(error).context("cannot read the archive that is the context");
            return Err(BuildError::new(ErrorKind::Request, error));
        }
    };
    Ok(Plan {
        identity: format!("{url}{name}"),
        source: plan::source_file(name, text),
        context: MainContext::Archive(SourceOp::Http(HttpSource {
            url: format!("{url}{FILE_NAME}"),
            checksum: Some(digest),
            filename: FILE_NAME.to_owned(),
            mode: None,
        })),
        ignore: None,
        locals: plan::named_directories(request)?,
        remark: None,
    })
}

/// Name and text of the plan in an archive.
fn find(
    request: &BuildRequest,
    store: &Store,
    digest: &OciDigest,
) -> Result<Option<(String, String)>, OpError> {
    let names: Vec<String> = match &request.file {
        Some(PlanFile::Path(path)) => vec![path.to_string_lossy().into_owned()],
        Some(PlanFile::Stdin) | None => plan::NAMES.map(str::to_owned).to_vec(),
    };
    let open = || -> Result<File, OpError> { Ok(store.blobs().open(digest)?) };
    let trees = store.trees();
    let layer = rbuild_cache::read_layer(trees, open()?, None)?.layer;
    for name in names {
        let Some(found) = trees.lookup(&layer.tree, name.as_bytes(), Follow::All)? else {
            continue;
        };
        if !matches!(found.entry.node, Node::File(_)) {
            continue;
        }
        let mut text = Ok(String::new());
        rbuild_cache::extract_files(
            trees,
            &layer.tree,
            open()?,
            &BTreeSet::from([found.path]),
            &mut |_, reader| {
                text = plan::read_text(reader);
                Ok(())
            },
        )?;
        let text = text.map_err(|error| OpError::io("read", name.as_ref(), error))?;
        return Ok(Some((name, text)));
    }
    Ok(None)
}
