//! `rbuild images`, `tag` and `rmi`: the names in rbuild's own store.

use std::str::FromStr as _;

use clap::Args;
use clap::ValueEnum;
use rbuild_cache::Store;
use rbuild_cache::StoreError;
use rbuild_cache::StoredImage;
use rbuild_llb::event::Timestamp;
use serde_json::json;

use super::Session;
use super::sources::image_name;
use super::values::problem;
use crate::clock;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline;
use crate::registry::Reference;
use crate::ui;

/// Shorter words are taken for names, not for the beginnings of ids.
const MIN_ID: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// How to print them
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For reading
    Table,
    /// One JSON object a line
    Json,
}

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
}

pub(crate) fn list(flags: &ListFlags, session: &Session) -> Result<(), BuildError> {
    let images = named(&pipeline::open_store(&session.settings)?)?;
    let text = match (flags.quiet, flags.format) {
        (true, _) => {
            let mut ids: Vec<String> = images.iter().map(|(_, i)| format!("{}\n", i.id)).collect();
            ids.sort();
            ids.dedup();
            ids.concat()
        }
        (false, Format::Json) => images
            .iter()
            .map(|(name, image)| json_line(name, image))
            .collect(),
        (false, Format::Table) => table(&images, clock::now()),
    };
    super::print(text.as_bytes())
}

pub(crate) fn tag(flags: &TagFlags, session: &Session) -> Result<(), BuildError> {
    let name = image_name("name", &flags.name).map_err(|p| BuildError::request(vec![p]))?;
    let store = pipeline::open_store(&session.settings)?;
    let images = named(&store)?;
    let (_, image) = wanted(&images, &flags.source)?;
    store.images().set(&name, image).map_err(unusable)
}

pub(crate) fn remove(flags: &RemoveFlags, session: &Session) -> Result<(), BuildError> {
    let store = pipeline::open_store(&session.settings)?;
    let images = named(&store)?;
    // All are looked up first: a typing error must not leave half of them removed.
    let found = flags.images.iter().map(|text| wanted(&images, text));
    let found: Vec<&(String, StoredImage)> = found.collect::<Result<_, _>>()?;
    for (name, _) in found {
        store.images().remove(name).map_err(unusable)?;
        super::print(format!("removed {name}\n").as_bytes())?;
    }
    Ok(())
}

/// All images with their names.
pub(crate) fn named(store: &Store) -> Result<Vec<(String, StoredImage)>, BuildError> {
    store.images().list().map_err(unusable)
}

fn unusable(error: StoreError) -> BuildError {
    BuildError::new(ErrorKind::Environment, error)
}

/// The image that `text` names, or the only one whose id begins with it.
pub(crate) fn find<'a>(
    images: &'a [(String, StoredImage)],
    text: &str,
) -> Option<&'a (String, StoredImage)> {
    if let Ok(reference) = Reference::from_str(text) {
        let name = reference.to_string();
        if let Some(image) = images.iter().find(|(n, _)| *n == name) {
            return Some(image);
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
    find(images, text).ok_or_else(|| {
        let message =
            format!("`{text}` is neither a name nor the id of one image in rbuild's store");
        BuildError::request(vec![
            problem(message).hint("`rbuild images` lists those there are"),
        ])
    })
}

fn table(images: &[(String, StoredImage)], now: Timestamp) -> String {
    let mut rows = vec![
        ["NAME", "ID", "CREATED", "SIZE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(images.iter().map(|(name, image)| {
        vec![
            name.clone(),
            image.id.short(),
            ui::age(Timestamp(image.created), now),
            ui::size(image.size),
        ]
    }));
    ui::table(&rows, 2)
}

fn json_line(name: &str, image: &StoredImage) -> String {
    let value = json!({
        "name": name,
        "id": image.id,
        "digest": image.digest,
        "created": Timestamp(image.created),
        "size": image.size,
    });
    format!("{value}\n")
}

#[cfg(test)]
mod t {
    use super::*;
    use rbuild_llb::OciDigest;
    use snapbox::assert_data_eq;
    use snapbox::str;

    fn image(id: u8, size: u64) -> StoredImage {
        StoredImage {
            digest: OciDigest::from_bytes([0xdd; 32]),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            id: OciDigest::from_bytes([id; 32]),
            repo_digest: None,
            created: 0,
            size,
        }
    }

    fn images() -> Vec<(String, StoredImage)> {
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
    fn lists() {
        assert_data_eq!(
            table(&images(), Timestamp(7200 * 1_000_000_000)),
            str![[r#"
NAME                          ID            CREATED      SIZE
docker.io/library/app:latest  aaaaaaaaaaaa  2 hours ago  7.83MB
docker.io/library/app:old     abababababab  2 hours ago  10B
ghcr.io/me/app:1              aaaaaaaaaaaa  2 hours ago  7.83MB

"#]]
        );
        let line: serde_json::Value = serde_json::from_str(&json_line("a", &image(1, 5))).unwrap();
        assert_eq!((&line["name"], &line["size"]), (&json!("a"), &json!(5)));
        assert_eq!(line["created"], "1970-01-01T00:00:00Z");
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
}
