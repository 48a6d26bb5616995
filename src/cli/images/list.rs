//! `rbuild images`.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use clap::Args;
use rbuild_cache::StoredImage;
use rbuild_llb::Diagnostic;
use rbuild_llb::event::Timestamp;
use serde_json::Value;
use serde_json::json;

use super::Format;
use super::NONE;
use super::docker_time;
use super::named;
use super::repository_and_tag;
use crate::cli::Session;
use crate::cli::sources::has_tag;
use crate::cli::sources::image_name;
use crate::clock;
use crate::outcome::BuildError;
use crate::pipeline;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    /// Show only images with this name, or all of a repository: `app`, `app:1`
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print ids only, each once
    #[arg(short, long)]
    quiet: bool,
    /// How to print them: `table`, `json` (one object a line), or a template: `{{.Repository}}:{{.Tag}}`
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true
    )]
    format: String,
    /// Show by which digests registries know them
    #[arg(long)]
    digests: bool,
    /// Print ids in full
    #[arg(long)]
    no_trunc: bool,
}

pub(crate) fn list(flags: &ListFlags, session: &Session) -> Result<(), BuildError> {
    let format = Format::parse(&flags.format)?;
    let wanted: Vec<Wanted> = flags
        .names
        .iter()
        .map(|text| Wanted::parse(text))
        .collect::<Result<_, _>>()
        .map_err(|problem| BuildError::request(vec![problem]))?;
    let mut images = named(&pipeline::open_store(&session.settings)?)?;
    images.retain(|(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| wanted.is(name)));
    // As docker and podman list them, by their names where they are of one time.
    images.sort_by_key(|(_, image)| Reverse(image.created));
    let now = clock::now();
    let rows: Vec<Value> = images
        .iter()
        .map(|(name, image)| row(name, image, now, flags.no_trunc))
        .collect();
    if flags.quiet {
        let mut seen = BTreeSet::new();
        let ids = rows.iter().map(|row| text(row, "ID") + "\n");
        let ids: String = ids.filter(|id| seen.insert(id.clone())).collect();
        return crate::cli::print(ids.as_bytes());
    }
    let printed = format.print(&rows, "IMAGE ID", || table(&rows, flags.digests))?;
    crate::cli::print_text(&printed, session)
}

/// What images are to be called.
struct Wanted {
    /// As names in the store are.
    name: String,
    /// A tag or digest was given.
    exact: bool,
}

impl Wanted {
    fn parse(text: &str) -> Result<Self, Diagnostic> {
        let name = image_name("name", text)?;
        let exact = has_tag(text) || text.contains('@');
        Ok(Self { name, exact })
    }

    fn is(&self, name: &str) -> bool {
        match self.exact {
            true => self.name == name,
            false => repository_and_tag(&self.name).0 == repository_and_tag(name).0,
        }
    }
}

/// Docker's fields, and the whole name.
fn row(name: &str, image: &StoredImage, now: Timestamp, in_full: bool) -> Value {
    let (repository, tag) = repository_and_tag(name);
    let none = || NONE.to_owned();
    let seconds = i64::try_from(image.created / 1_000_000_000).unwrap_or_default();
    json!({
        "Name": name,
        "Repository": repository.unwrap_or_else(none),
        "Tag": tag.unwrap_or_else(none),
        "Digest": image.repo_digest.map_or_else(none, |digest| digest.to_string()),
        "ID": if in_full { image.id.to_string() } else { image.id.short() },
        "CreatedAt": docker_time(seconds),
        "CreatedSince": ui::age(Timestamp(image.created), now),
        "Size": ui::size(image.size),
    })
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_default().to_owned()
}

fn table(rows: &[Value], digests: bool) -> String {
    let mut columns = vec![("REPOSITORY", "Repository"), ("TAG", "Tag")];
    if digests {
        columns.push(("DIGEST", "Digest"));
    }
    columns.extend([
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ]);
    let mut lines: Vec<Vec<String>> = Vec::new();
    lines.push(columns.iter().map(|(head, _)| (*head).to_owned()).collect());
    for row in rows {
        lines.push(columns.iter().map(|(_, field)| text(row, field)).collect());
    }
    ui::table(&lines, 3)
}

#[cfg(test)]
mod t {
    use super::super::t::image;
    use super::super::t::images;
    use super::*;
    use snapbox::assert_data_eq;
    use snapbox::str;

    const NOW: Timestamp = Timestamp(7200 * 1_000_000_000);

    #[test]
    fn a_name_without_a_tag_is_a_repository() {
        let names = [
            "docker.io/library/app:1",
            "docker.io/library/app:2",
            "h:5000/app:1",
        ];
        let listed = |text: &str| -> Vec<&str> {
            let wanted = Wanted::parse(text).unwrap();
            names.into_iter().filter(|name| wanted.is(name)).collect()
        };
        assert_eq!(listed("app"), names[..2]);
        assert_eq!(listed("app:2"), names[1..2]);
        assert_eq!(listed("docker.io/library/app"), names[..2]);
        assert_eq!(listed("h:5000/app"), names[2..]);
        assert_eq!(listed("h:5000/app:2"), [""; 0]);
        assert!(Wanted::parse("A B").is_err());
    }

    #[test]
    fn as_docker_lists() {
        let mut images = images();
        images[1].1.repo_digest = Some(rbuild_llb::OciDigest::from_bytes([0xee; 32]));
        images.push((image(7, 0).id.to_string(), image(7, 0)));
        let rows: Vec<Value> = images.iter().map(|(n, i)| row(n, i, NOW, false)).collect();
        assert_data_eq!(
            table(&rows, false),
            str![[r#"
REPOSITORY       TAG      IMAGE ID       CREATED       SIZE
app              latest   aaaaaaaaaaaa   2 hours ago   7.83MB
app              old      abababababab   2 hours ago   10B
ghcr.io/me/app   1        aaaaaaaaaaaa   2 hours ago   7.83MB
<none>           <none>   070707070707   2 hours ago   0B

"#]]
        );
        let with_digests = table(&rows, true);
        assert!(with_digests.contains(&format!(
            "app              old      sha256:{}",
            "ee".repeat(32)
        )));
        let row = row(&images[0].0, &images[0].1, NOW, true);
        assert_eq!(row["CreatedAt"], "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(row["ID"], format!("sha256:{}", "aa".repeat(32)));
    }
}
