//! `rbuild history`: how an image came about, the newest step first.

use clap::Args;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::rfc3339_seconds;
use serde_json::Value;
use serde_json::json;

use super::Format;
use super::chosen;
use super::named;
use super::platform;
use crate::cli::Session;
use crate::clock;
use crate::outcome::BuildError;
use crate::pipeline;
use crate::pipeline::stored::Documents;
use crate::pipeline::stored::ImageDocuments;
use crate::pipeline::stored::unix_seconds;
use crate::ui;

/// What stands for the ids of the images that steps before the last made: there are none.
const MISSING: &str = "<missing>";
/// Characters of a step that a table shows.
const SHOWN: usize = 45;

#[derive(Debug, Args)]
pub(crate) struct HistoryFlags {
    /// Name or id of an image in the store
    #[arg(value_name = "NAME")]
    image: String,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// How to print it: `table`, `json` (one object a line), or a template: `{{.Size}} {{.CreatedBy}}`
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true
    )]
    format: String,
    /// Print ids and steps in full
    #[arg(long)]
    no_trunc: bool,
    /// Of an image for several platforms, the one to print [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

pub(crate) fn history(flags: &HistoryFlags, session: &Session) -> Result<(), BuildError> {
    let format = Format::parse(&flags.format)?;
    let platform = platform(flags.platform.as_ref())?;
    let store = pipeline::open_store(&session.settings)?;
    let chosen = chosen(&named(&store)?, std::slice::from_ref(&flags.image))?;
    let [chosen] = chosen.as_slice() else {
        unreachable!("one image was asked for");
    };
    let documents = Documents::read(&store, &chosen.image)?;
    let image = documents.image_for(&chosen.text, platform.as_ref())?;
    let rows = rows(
        image,
        &image.layer_sizes(&store)?,
        clock::now(),
        flags.no_trunc,
    );
    if flags.quiet {
        let ids: String = rows.iter().map(|row| text(row, "ID") + "\n").collect();
        return crate::cli::print(ids.as_bytes());
    }
    let printed = format.print(&rows, "IMAGE", || table(&rows))?;
    crate::cli::print_text(&printed, session)
}

/// Docker's fields, the newest step first. Sizes are those of `sizes`, bottom first, for the steps that made layers;
/// layers without a step come last here, as they came first.
fn rows(image: &ImageDocuments, sizes: &[u64], now: Timestamp, in_full: bool) -> Vec<Value> {
    let mut sizes = sizes.iter();
    let mut rows = Vec::new();
    for entry in &image.config.history {
        let size = match entry.empty_layer {
            true => 0,
            false => sizes.next().copied().unwrap_or_default(),
        };
        let seconds = entry.created.as_deref().and_then(unix_seconds);
        let since = seconds.map(|seconds| {
            let then = u128::try_from(seconds).unwrap_or_default() * 1_000_000_000;
            ui::age(Timestamp(then), now)
        });
        let by = entry.created_by.replace('\t', " ");
        rows.push(json!({
            "ID": MISSING,
            "CreatedAt": seconds.map_or_else(|| "N/A".to_owned(), rfc3339_seconds),
            "CreatedSince": since.unwrap_or_else(|| "N/A".to_owned()),
            "CreatedBy": if in_full { by } else { shortened(&by) },
            "Size": ui::size(size),
            "Comment": entry.comment,
        }));
    }
    for size in sizes {
        rows.push(json!({
            "ID": MISSING,
            "CreatedAt": "N/A",
            "CreatedSince": "N/A",
            "CreatedBy": "",
            "Size": ui::size(*size),
            "Comment": "",
        }));
    }
    if let Some(newest) = rows.last_mut() {
        let id = image.id();
        newest["ID"] = match in_full {
            true => id.to_string(),
            false => id.short(),
        }
        .into();
    }
    rows.reverse();
    rows
}

fn shortened(text: &str) -> String {
    match text.chars().count() > SHOWN {
        true => text.chars().take(SHOWN - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_default().to_owned()
}

fn table(rows: &[Value]) -> String {
    let columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    let mut lines = vec![columns.map(|(head, _)| head.to_owned()).to_vec()];
    // What a step did is text of somebody else's, and may have more than one line.
    let cell = |row: &Value, field| text(row, field).replace(char::is_control, " ");
    lines.extend(
        rows.iter()
            .map(|row| columns.map(|(_, field)| cell(row, field)).to_vec()),
    );
    ui::table(&lines, 3)
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::image::Descriptor;
    use crate::image::Format;
    use crate::image::Manifest;
    use snapbox::assert_data_eq;
    use snapbox::str;

    fn image(history: Value) -> ImageDocuments {
        let config = json!({"history": history, "rootfs": {"type": "layers"}});
        let descriptor = Descriptor::of("", b"config");
        ImageDocuments {
            manifest: Manifest::new(Format::Oci, descriptor.clone(), Vec::new()),
            descriptor,
            manifest_bytes: Vec::new(),
            config: serde_json::from_value(config).unwrap(),
            config_bytes: Vec::new(),
        }
    }

    #[test]
    fn as_docker_lists() {
        let image = image(json!([
            {"created": "1970-01-01T00:00:00Z", "created_by": "ADD rootfs.tar /"},
            {"created": "1970-01-01T01:00:00Z", "created_by": "CMD [\"sh\"]", "empty_layer": true, "comment": "c"},
            {"created_by": "RUN echo a line that is longer than the table has room for\nand another"},
        ]));
        let now = Timestamp(7200 * 1_000_000_000);
        let rows = rows(&image, &[1000, 20], now, false);
        assert_data_eq!(
            table(&rows),
            str![[r#"
IMAGE          CREATED       CREATED BY                                      SIZE     COMMENT
b79606fb3afe   N/A           RUN echo a line that is longer than the tabl…   20B
<missing>      1 hour ago    CMD ["sh"]                                      0B       c
<missing>      2 hours ago   ADD rootfs.tar /                                1.00kB

"#]]
        );
        let whole = super::rows(&image, &[1000, 20, 3], now, true);
        assert_eq!(whole.len(), 4, "a layer without a step");
        assert_eq!(whole[0]["ID"], image.id().to_string());
        assert!(text(&whole[1], "CreatedBy").ends_with("room for\nand another"));
    }
}
