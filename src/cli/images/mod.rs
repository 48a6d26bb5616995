//! Images of rbuild's own store: `images`, `tag`, `rmi`, `inspect`, `history`; and what brings them there and takes them
//! from there: `pull`, `push`, `save`, `load`.

mod history;
mod inspect;
mod list;
mod transfer;

pub(crate) use history::HistoryFlags;
pub(crate) use history::history;
pub(crate) use inspect::InspectFlags;
pub(crate) use inspect::inspect;
pub(crate) use list::ListFlags;
pub(crate) use list::list;
pub(crate) use transfer::LoadFlags;
pub(crate) use transfer::PullFlags;
pub(crate) use transfer::PushFlags;
pub(crate) use transfer::SaveFlags;
pub(crate) use transfer::load;
pub(crate) use transfer::pull;
pub(crate) use transfer::push;
pub(crate) use transfer::save;

use std::collections::BTreeSet;
use std::str::FromStr as _;

use clap::Args;
use rbuild_cache::Store;
use rbuild_cache::StoreError;
use rbuild_cache::StoredImage;
use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::event::rfc3339_seconds;
use serde_json::Value;

use super::Session;
use super::sources::image_name;
use super::template::Template;
use super::values;
use super::values::problem;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline;
use crate::pipeline::stored::Chosen;
use crate::registry::Reference;
use crate::ui;

/// Shorter words are taken for names, not for the beginnings of ids.
const MIN_ID: usize = 4;
/// What docker prints where a name, tag or digest would be.
const NONE: &str = "<none>";

#[derive(Debug, Args)]
pub(crate) struct TagFlags {
    /// Name or id of an image in the store
    source: String,
    /// The name to give it
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveFlags {
    /// Names or ids of images in the store
    #[arg(required = true)]
    images: Vec<String>,
    /// Take all names away from an image that is given by its id; pass over what is not there
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn tag(flags: &TagFlags, session: &Session) -> Result<(), BuildError> {
    let name = image_name("name", &flags.name).map_err(|p| BuildError::request(vec![p]))?;
    if name.contains('@') {
        let refused = problem(format!(
            "`{}` has a digest, which no tag can give",
            flags.name
        ))
        .hint("name it by a tag: `name:tag`");
        return Err(BuildError::request(vec![refused]));
    }
    let store = pipeline::open_store(&session.settings)?;
    let images = named(&store)?;
    let (source, image) = wanted(&images, &flags.source)?;
    // What a registry knows the image by is known of one repository.
    let repository = |name: &str| repository_and_tag(name).0;
    let is_same = repository(source) == repository(&name);
    let tagged = StoredImage {
        repo_digest: image.repo_digest.filter(|_| is_same),
        ..image.clone()
    };
    store.images().set(&name, &tagged).map_err(unusable)
}

pub(crate) fn remove(flags: &RemoveFlags, session: &Session) -> Result<(), BuildError> {
    let store = pipeline::open_store(&session.settings)?;
    let images = named(&store)?;
    // All are looked up first: a typing error must not leave half of them removed.
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    for text in &flags.images {
        match doomed(&images, text, flags.force) {
            Ok(found) => names.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(BuildError::request(problems));
    }
    for name in names {
        store.images().remove(name).map_err(unusable)?;
        super::print(format!("removed {name}\n").as_bytes())?;
    }
    Ok(())
}

/// The names to take away for what was given: that name, or the only one that the image with that id has.
fn doomed<'a>(
    images: &'a [(String, StoredImage)],
    text: &str,
    force: bool,
) -> Result<Vec<&'a str>, Diagnostic> {
    let (name, image) = match find(images, text) {
        Some(found) => found,
        None if force => {
            ui::say(&format!("there is no `{text}`"));
            return Ok(Vec::new());
        }
        None => return Err(missing(text)),
    };
    if let Ok(reference) = Reference::from_str(text) {
        if reference.to_string() == *name {
            return Ok(vec![name]);
        }
        // The digest is the registry's word for it, and a tag is what would go.
        if reference.digest.is_some() {
            return Err(
                problem(format!("`{text}` is no name in rbuild's store")).hint(format!(
                    "the image is called `{}` there",
                    ui::familiar(name)
                )),
            );
        }
    }
    let all = images.iter().filter(|(_, other)| other.id == image.id);
    let all: Vec<&str> = all.map(|(name, _)| name.as_str()).collect();
    match all.as_slice() {
        [_, _, ..] if !force => {
            let names: Vec<String> = all
                .iter()
                .map(|name| format!("`{}`", ui::familiar(name)))
                .collect();
            Err(
                problem(format!("`{text}` has several names: {}", names.join(", ")))
                    .hint("name those to take away, or take all with `--force`"),
            )
        }
        _ => Ok(all),
    }
}

/// All images with their names.
pub(crate) fn named(store: &Store) -> Result<Vec<(String, StoredImage)>, BuildError> {
    store.images().list().map_err(unusable)
}

fn unusable(error: StoreError) -> BuildError {
    BuildError::new(ErrorKind::Environment, error)
}

/// The image that `text` names, or the only one whose id begins with it. A digest in a name is that of the image in
/// the store, or the one by which the repository's registry knows it.
pub(crate) fn find<'a>(
    images: &'a [(String, StoredImage)],
    text: &str,
) -> Option<&'a (String, StoredImage)> {
    if let Ok(reference) = Reference::from_str(text) {
        let name = reference.to_string();
        if let Some(image) = images.iter().find(|(n, _)| *n == name) {
            return Some(image);
        }
        if let Some(digest) = reference.digest {
            let of_repository = |name: &str| {
                name.parse::<Reference>().is_ok_and(|own| {
                    own.registry == reference.registry && own.repository == reference.repository
                })
            };
            return images.iter().find(|(name, image)| {
                (image.digest == digest || image.repo_digest == Some(digest)) && of_repository(name)
            });
        }
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.len() < MIN_ID || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut matches = images.iter().filter(|(_, i)| i.id.hex().starts_with(hex));
    let first = matches.next()?;
    matches
        .all(|(_, other)| other.id == first.1.id)
        .then_some(first)
}

fn wanted<'a>(
    images: &'a [(String, StoredImage)],
    text: &str,
) -> Result<&'a (String, StoredImage), BuildError> {
    find(images, text).ok_or_else(|| BuildError::request(vec![missing(text)]))
}

fn missing(text: &str) -> Diagnostic {
    let message = format!("`{text}` is neither a name nor the id of one image in rbuild's store");
    problem(message).hint("`rbuild images` lists those there are")
}

/// The images that were named, or all that are no images at once.
fn chosen(images: &[(String, StoredImage)], texts: &[String]) -> Result<Vec<Chosen>, BuildError> {
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for text in texts {
        match find(images, text) {
            None => problems.push(missing(text)),
            Some((name, image)) => found.push(Chosen {
                text: text.clone(),
                name: Reference::from_str(text)
                    .is_ok_and(|reference| reference.to_string() == *name)
                    .then(|| name.clone()),
                image: image.clone(),
            }),
        }
    }
    match problems.is_empty() {
        true => Ok(found),
        false => Err(BuildError::request(problems)),
    }
}

/// Repository and tag as docker shows them: `app` and `1` of `docker.io/library/app:1`. A name that is only an id, or that
/// has a digest, has not both.
fn repository_and_tag(name: &str) -> (Option<String>, Option<String>) {
    let Some(reference) = name
        .contains('/')
        .then(|| name.parse::<Reference>().ok())
        .flatten()
    else {
        return (None, None);
    };
    let full = format!("{}/{}", reference.registry, reference.repository);
    let tag = reference.tag.filter(|_| reference.digest.is_none());
    (Some(ui::familiar(&full).to_owned()), tag)
}

/// The name that a registry knows an image by whatever its tags: `app@sha256:…`.
fn repo_digest(name: &str, image: &StoredImage) -> Option<String> {
    let digest = image.repo_digest?;
    let (repository, _) = repository_and_tag(name);
    Some(format!("{}@{digest}", repository?))
}

/// A time as docker prints it.
pub(crate) fn docker_time(seconds: i64) -> String {
    let text = rfc3339_seconds(seconds);
    format!("{} +0000 UTC", text.trim_end_matches('Z').replace('T', " "))
}

/// The one platform that is meant.
pub(super) fn platform(text: Option<&String>) -> Result<Option<Platform>, BuildError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let found = match values::platforms(text) {
        Ok(platforms) => <[Platform; 1]>::try_from(platforms)
            .map_err(|_| values::invalid("platform", text, "wanted one platform")),
        Err(problem) => Err(problem),
    };
    let [platform] = found.map_err(|problem| BuildError::request(vec![problem]))?;
    Ok(Some(platform))
}

/// How a command prints what it has: one row an image or step.
#[derive(Debug)]
pub(crate) enum Format {
    Table,
    /// One JSON object a line.
    Json,
    /// `table ` in front: columns that are separated by tabs, with heads.
    Template(Template, bool),
}

impl Format {
    pub(crate) fn parse(text: &str) -> Result<Self, BuildError> {
        let read = |text: &str| Template::parse(text).map_err(|why| bad_format(&why));
        match text {
            "" | "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ => match text.strip_prefix("table ") {
                Some(text) => Ok(Self::Template(read(text)?, true)),
                None if text.contains("{{") => Ok(Self::Template(read(text)?, false)),
                None => Err(bad_format(&format!(
                    "`{text}` is not `table`, `json` or a template such as `{{{{.ID}}}}`"
                ))),
            },
        }
    }

    /// The rows as text; `table` makes the table that was not asked for in other words, and `id` heads ids in others.
    pub(crate) fn print(
        &self,
        rows: &[Value],
        id: &str,
        table: impl FnOnce() -> String,
    ) -> Result<String, BuildError> {
        let filled = |template: &Template| {
            let lines = rows.iter().map(|row| template.render(row));
            let lines: Result<Vec<String>, String> = lines.collect();
            lines.map_err(|why| bad_format(&why))
        };
        Ok(match self {
            Self::Table => table(),
            Self::Json => rows.iter().map(|row| format!("{row}\n")).collect(),
            Self::Template(template, false) => filled(template)?
                .iter()
                .map(|line| format!("{line}\n"))
                .collect(),
            Self::Template(template, true) => {
                let mut lines = vec![template.heads(id)];
                lines.extend(filled(template)?);
                let cells = |line: &String| line.split('\t').map(str::to_owned).collect();
                ui::table(&lines.iter().map(cells).collect::<Vec<_>>(), 3)
            }
        })
    }
}

fn bad_format(why: &str) -> BuildError {
    BuildError::request(vec![problem(format!("`--format`: {why}"))])
}

#[cfg(test)]
mod t {
    use super::*;
    use rbuild_llb::OciDigest;

    pub(super) fn image(id: u8, size: u64) -> StoredImage {
        StoredImage {
            digest: OciDigest::from_bytes([0xdd; 32]),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            id: OciDigest::from_bytes([id; 32]),
            repo_digest: None,
            created: 0,
            size,
            rung: None,
            referrers: Vec::new(),
        }
    }

    pub(super) fn images() -> Vec<(String, StoredImage)> {
        vec![
            (
                "docker.io/library/app:latest".into(),
                image(0xaa, 7_830_000),
            ),
            ("docker.io/library/app:old".into(), image(0xab, 10)),
            ("ghcr.io/me/app:1".into(), image(0xaa, 7_830_000)),
        ]
    }

    #[test]
    fn finds_by_name_and_by_id() {
        let images = images();
        let name = |text: &str| find(&images, text).map(|(name, _)| name.as_str());
        assert_eq!(name("app"), Some("docker.io/library/app:latest"));
        assert_eq!(name("ghcr.io/me/app:1"), Some("ghcr.io/me/app:1"));
        assert_eq!(name("aaaa"), Some("docker.io/library/app:latest"));
        assert_eq!(name("sha256:abab"), Some("docker.io/library/app:old"));
        for missing in ["aaa", "a", "nothing", "ffff", "A B"] {
            assert_eq!(name(missing), None);
        }
        let mut last_differs = [0xaa; 32];
        last_differs[31] = 0;
        let mut two = images.clone();
        two[1].1.id = OciDigest::from_bytes(last_differs);
        assert_eq!(find(&two, "aaaa"), None, "the beginning of two ids");
        assert_eq!(
            wanted(&two, "aaaa").unwrap_err().to_string(),
            "`aaaa` is neither a name nor the id of one image in rbuild's store"
        );
    }

    #[test]
    fn an_image_by_its_id_is_removed_if_it_has_one_name_or_by_force() {
        let images = images();
        let names = |text: &str, force| doomed(&images, text, force).ok();
        let both = ["docker.io/library/app:latest", "ghcr.io/me/app:1"];
        assert_eq!(names("app", false), Some(vec![both[0]]));
        assert_eq!(
            names("abab", false),
            Some(vec!["docker.io/library/app:old"])
        );
        assert_eq!(names("aaaa", false), None);
        assert_eq!(names("aaaa", true), Some(both.to_vec()));
        assert_eq!(names("none", false), None);
        assert_eq!(names("none", true), Some(Vec::new()));
        // By the digest of the manifest, which no name in the store has.
        let by_digest = format!("app@sha256:{}", "dd".repeat(32));
        assert!(find(&images, &by_digest).is_some());
        assert_eq!(names(&by_digest, true), None);
        let elsewhere = format!("ghcr.io/app@sha256:{}", "dd".repeat(32));
        assert!(find(&images, &elsewhere).is_none());
    }

    #[test]
    fn every_command_and_flag_is_documented() {
        use clap::CommandFactory as _;
        let page = include_str!("../../../docs/images.md");
        let mut cli = crate::cli::Cli::command();
        cli.build();
        for name in [
            "images", "tag", "rmi", "inspect", "history", "pull", "push", "save", "load", "login",
            "logout", "reset",
        ] {
            let heading =
                |line: &str| line.starts_with("## ") && line.contains(&format!("`rbuild {name}"));
            let section: Vec<&str> = page
                .lines()
                .skip_while(|line| !heading(line))
                .take_while(|line| heading(line) || !line.starts_with("## "))
                .collect();
            assert!(
                !section.is_empty(),
                "docs/images.md has no section on {name}"
            );
            let command = cli.find_subcommand(name).unwrap();
            let own = command.get_arguments().filter(|flag| !flag.is_global_set());
            let flags: Vec<&str> = own.filter_map(clap::Arg::get_long).collect();
            assert!(flags.contains(&"help"), "{name}: {flags:?}");
            for flag in flags.iter().filter(|flag| **flag != "help") {
                let documented = section
                    .iter()
                    .any(|line| line.contains(&format!("`--{flag}")));
                assert!(
                    documented,
                    "docs/images.md says nothing about `{name} --{flag}`"
                );
            }
        }
    }

    #[test]
    fn names_as_docker_shows_them() {
        let digest = "sha256:".to_owned() + &"0".repeat(64);
        for (name, repository, tag) in [
            ("docker.io/library/app:1", Some("app"), Some("1")),
            ("docker.io/me/app:1", Some("me/app"), Some("1")),
            (
                "localhost:5000/a/b:c",
                Some("localhost:5000/a/b"),
                Some("c"),
            ),
            (
                &format!("docker.io/library/app@{digest}"),
                Some("app"),
                None,
            ),
            (&digest, None, None),
        ] {
            let (found, found_tag) = repository_and_tag(name);
            assert_eq!((found.as_deref(), found_tag.as_deref()), (repository, tag));
        }
    }

    #[test]
    fn images_are_chosen_by_name_or_id() {
        let texts = ["app", "abab"].map(str::to_owned);
        let found = chosen(&images(), &texts).unwrap();
        assert_eq!(
            found[0].name.as_deref(),
            Some("docker.io/library/app:latest")
        );
        assert_eq!(found[1].name, None);
        let texts = ["app", "no", "nor"].map(str::to_owned);
        let error = chosen(&images(), &texts).unwrap_err();
        assert_eq!(error.diagnostics.len(), 2);
    }
}
