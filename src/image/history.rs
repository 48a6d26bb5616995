//! From layers to an image: fills in what only finished layers tell (`rootfs`, times) and writes config and
//! manifest.
//!
//! Which history entry belongs to which layer is a matter of counting: entries without `empty_layer` stand for
//! the layers in order (OCI image-spec, config.md, `history`). Where a base image has miscounted, the history is
//! mended the way BuildKit mends it, for consumers refuse images whose counts differ.

use std::collections::BTreeMap;

use rbuild_llb::ImageConfig;
use rbuild_llb::OciDigest;
use rbuild_llb::config::History;
use rbuild_llb::event::Timestamp;
use rbuild_llb::event::rfc3339_seconds;

use super::manifest::Descriptor;
use super::manifest::Manifest;
use super::media_type::Format;

/// `comment` of history entries that were made up for layers without one.
const PADDING: &str = "buildkit.exporter.image.v0";

/// One layer of the image to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// The blob; its media type may be of either format.
    pub blob: Descriptor,
    /// SHA-256 of the uncompressed tar.
    pub diff_id: OciDigest,
    /// When the step that made it ran; `None` for a base image's layer.
    pub created: Option<Timestamp>,
    /// What made it, for a history entry if the template has none for it.
    pub created_by: String,
}

/// How the documents are written.
#[derive(Debug, Clone)]
pub struct FinishOptions {
    /// Whose media types.
    pub format: Format,
    /// SOURCE_DATE_EPOCH, Unix seconds: no time in the config is later but those of the base image's history.
    pub epoch: Option<i64>,
    /// A field of the config that is nobody else's, with its value as JSON.
    pub field: Option<(&'static str, Vec<u8>)>,
    /// Annotations of the manifest. Docker's format knows none; BuildKit writes them there all the same.
    pub annotations: BTreeMap<String, String>,
}

/// An image's documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedImage {
    /// The config; its digest is the image's id.
    pub config: Vec<u8>,
    /// Points at [`config`](Self::config).
    pub config_descriptor: Descriptor,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Points at [`manifest`](Self::manifest), with the platform, as an index takes it.
    pub descriptor: Descriptor,
    /// `created` of the config, as RFC 3339 has it.
    pub created: Option<String>,
}

/// Writes config and manifest of the image that `layers` (bottom first) make under `template`, a config whose
/// `rootfs` does not count and whose history entries made by this build have no `created`.
pub fn finish(
    template: &ImageConfig,
    layers: &[ImageLayer],
    options: &FinishOptions,
) -> FinishedImage {
    let mut config = template.clone();
    config.rootfs = rbuild_llb::config::RootFs {
        diff_ids: layers.iter().map(|layer| layer.diff_id).collect(),
        ..Default::default()
    };
    let of_base = config
        .history
        .iter()
        .take_while(|entry| entry.created.is_some());
    let of_base = of_base.count();
    count_layers(&mut config.history, layers);
    date_entries(&mut config.history, layers);
    if let Some(epoch) = options.epoch {
        for entry in &mut config.history[of_base..] {
            clamp(&mut entry.created, epoch);
        }
        if config.created.is_some() {
            clamp(&mut config.created, epoch);
        }
    }
    if config.created.is_none() {
        config.created = config
            .history
            .iter()
            .rev()
            .find_map(|entry| entry.created.clone())
            .or_else(|| options.epoch.map(rfc3339_seconds));
    }

    let format = options.format;
    let mut config_bytes = config.to_json();
    if let Some((name, value)) = &options.field {
        let end = config_bytes.pop();
        debug_assert_eq!(end, Some(b'}'), "a config is an object with fields");
        config_bytes.extend(format!(",\"{name}\":").bytes().chain(value.iter().copied()));
        config_bytes.push(b'}');
    }
    let config_descriptor = Descriptor::of(format.config(), &config_bytes);
    let blobs = layers
        .iter()
        .map(|layer| Descriptor {
            urls: layer.blob.urls.clone(),
            ..Descriptor::new(
                format.layer(&layer.blob.media_type),
                layer.blob.digest,
                layer.blob.size,
            )
        })
        .collect();
    let mut manifest = Manifest::new(format, config_descriptor.clone(), blobs);
    manifest.annotations.clone_from(&options.annotations);
    let manifest_bytes = manifest.to_json();
    FinishedImage {
        descriptor: Descriptor::of(format.manifest(), &manifest_bytes)
            .with_platform(&config.platform()),
        config: config_bytes,
        config_descriptor,
        manifest: manifest_bytes,
        created: config.created,
    }
}

/// Makes as many entries claim a layer as there are layers: what claims too much becomes an empty layer, from the
/// top; what is missing is added at the top.
fn count_layers(history: &mut Vec<History>, layers: &[ImageLayer]) {
    let mut claimed = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        if claimed == layers.len() {
            entry.empty_layer = true;
        } else {
            claimed += 1;
        }
    }
    history.extend(layers[claimed..].iter().map(|layer| History {
        created: layer.created.map(Timestamp::rfc3339),
        created_by: layer.created_by.clone(),
        comment: PADDING.into(),
        ..History::default()
    }));
}

/// Dates the entries that have no date: a layer's by its step, the others by the layer below them; those before
/// the first layer this build made by that layer, for they are not as old as the base image.
fn date_entries(history: &mut [History], layers: &[ImageLayer]) {
    let with_layers = history.iter_mut().filter(|entry| !entry.empty_layer);
    for (entry, layer) in with_layers.zip(layers) {
        if entry.created.is_none() {
            entry.created = layer.created.map(Timestamp::rfc3339);
        }
    }
    let first_gap = history.iter().position(|entry| entry.created.is_none());
    let Some(first_gap) = first_gap else { return };
    let dated = |entry: &History| entry.created.clone();
    let mut latest = history[first_gap..]
        .iter()
        .find_map(dated)
        .or_else(|| history[..first_gap].iter().rev().find_map(dated));
    for entry in &mut history[first_gap..] {
        match &entry.created {
            Some(created) => latest = Some(created.clone()),
            None => entry.created.clone_from(&latest),
        }
    }
}

fn clamp(created: &mut Option<String>, epoch: i64) {
    let later = created
        .as_deref()
        .and_then(parse_rfc3339)
        .is_none_or(|(secs, fraction)| secs > epoch || (secs == epoch && fraction));
    if later {
        *created = Some(rfc3339_seconds(epoch));
    }
}

/// Unix seconds, and whether a fraction follows them.
pub(crate) fn parse_rfc3339(text: &str) -> Option<(i64, bool)> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = bytes.get(range)?;
        digits.iter().try_fold(0, |n, b| {
            b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0'))
        })
    };
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if !separators.iter().all(|(at, c)| bytes.get(*at) == Some(c))
        || !matches!(bytes.get(10), Some(b'T' | b't' | b' '))
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let mut at = 19;
    let mut fraction = false;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            fraction |= *digit != b'0';
            at += 1;
        }
    }
    let offset = match (bytes.get(at)?, bytes.len() - at) {
        (b'Z' | b'z', 1) => 0,
        (sign @ (b'+' | b'-'), 6) if bytes[at + 3] == b':' => {
            let minutes = number(at + 1..at + 3)? * 60 + number(at + 4..at + 6)?;
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    // Civil date to days, counted in 400-year eras that begin on 1 March (Howard Hinnant's date algorithms).
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let year_of_era = year.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some((
        days * 86_400 + hour * 3600 + minute * 60 + second - offset * 60,
        fraction,
    ))
}

#[cfg(test)]
mod t {
    use super::*;
    use rbuild_llb::Platform;

    const BASE: &str = "2024-01-01T00:00:00Z";

    fn layer(n: u8, created: Option<u64>) -> ImageLayer {
        ImageLayer {
            blob: Descriptor::new(
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                OciDigest::from_bytes([n; 32]),
                100 + u64::from(n),
            ),
            diff_id: OciDigest::from_bytes([n | 0x80; 32]),
            created: created.map(|secs| Timestamp(u128::from(secs) * 1_000_000_000)),
            created_by: format!("step {n}"),
        }
    }

    fn entry(by: &str, created: Option<&str>, empty_layer: bool) -> History {
        History {
            created: created.map(str::to_owned),
            created_by: by.to_owned(),
            empty_layer,
            ..History::default()
        }
    }

    fn options(epoch: Option<i64>) -> FinishOptions {
        FinishOptions {
            format: Format::Oci,
            epoch,
            field: None,
            annotations: BTreeMap::new(),
        }
    }

    fn finished(history: Vec<History>, layers: &[ImageLayer], epoch: Option<i64>) -> ImageConfig {
        let template = ImageConfig {
            history,
            ..ImageConfig::scratch(&Platform::new("linux", "amd64", ""))
        };
        let image = finish(&template, layers, &options(epoch));
        serde_json::from_slice(&image.config).unwrap()
    }

    fn shape(config: &ImageConfig) -> Vec<(&str, &str, bool)> {
        config
            .history
            .iter()
            .map(|h| {
                (
                    h.created_by.as_str(),
                    h.created.as_deref().unwrap_or("-"),
                    h.empty_layer,
                )
            })
            .collect()
    }

    // Expected values follow BuildKit's exporter/containerimage/writer.go, normalizeLayersAndHistory.
    #[test]
    fn entries_are_dated_by_their_layers() {
        let history = vec![
            entry("base", Some(BASE), false),
            entry("ENV a", None, true),
            entry("COPY", None, false),
            entry("CMD", None, true),
        ];
        let layers = [layer(1, None), layer(2, Some(1_750_000_000))];
        let config = finished(history.clone(), &layers, None);
        let copy = "2025-06-15T15:06:40Z";
        assert_eq!(
            shape(&config),
            [
                ("base", BASE, false),
                ("ENV a", copy, true),
                ("COPY", copy, false),
                ("CMD", copy, true),
            ]
        );
        assert_eq!(config.created.as_deref(), Some(copy));
        assert_eq!(
            config.rootfs.diff_ids,
            [layers[0].diff_id, layers[1].diff_id]
        );

        // 2024-07-03T09:20:00Z by date(1): later than the base, earlier than the step.
        let config = finished(history, &layers, Some(1_720_000_000 - 1600));
        let epoch = "2024-07-03T09:20:00Z";
        assert_eq!(
            shape(&config),
            [
                ("base", BASE, false),
                ("ENV a", epoch, true),
                ("COPY", epoch, false),
                ("CMD", epoch, true),
            ]
        );
    }

    #[test]
    fn only_metadata_takes_the_date_of_the_base() {
        let history = vec![entry("base", Some(BASE), false), entry("ENV", None, true)];
        let config = finished(history, &[layer(1, None)], None);
        assert_eq!(shape(&config), [("base", BASE, false), ("ENV", BASE, true)]);
        let config = finished(vec![entry("ENV", None, true)], &[], None);
        assert_eq!(shape(&config), [("ENV", "-", true)]);
        assert_eq!(config.created, None);
        let config = finished(vec![entry("ENV", None, true)], &[], Some(0));
        assert_eq!(shape(&config), [("ENV", "1970-01-01T00:00:00Z", true)]);
    }

    #[test]
    fn miscounted_histories_are_mended() {
        let config = finished(
            vec![entry("COPY", None, false)],
            &[layer(1, None), layer(2, Some(0))],
            None,
        );
        assert_eq!(
            shape(&config),
            [
                ("COPY", "1970-01-01T00:00:00Z", false),
                ("step 2", "1970-01-01T00:00:00Z", false),
            ]
        );
        assert_eq!(config.history[1].comment, PADDING);
        let config = finished(
            vec![
                entry("a", Some(BASE), false),
                entry("b", Some(BASE), false),
                entry("c", None, false),
            ],
            &[layer(1, None)],
            None,
        );
        assert_eq!(
            shape(&config),
            [("a", BASE, false), ("b", BASE, true), ("c", BASE, true)]
        );
    }

    #[test]
    fn documents_are_of_one_format_and_the_same_every_time() {
        let template = ImageConfig::scratch(&Platform::new("linux", "arm64", "v8"));
        let mut options = options(None);
        options.annotations.insert("a".into(), "b".into());
        let image = finish(&template, &[layer(1, Some(0))], &options);
        assert_eq!(image, finish(&template, &[layer(1, Some(0))], &options));
        let text = String::from_utf8(image.manifest.clone()).unwrap();
        assert_eq!(
            text,
            format!(
                concat!(
                    r#"{{"annotations":{{"a":"b"}},"config":{{"digest":"{}","#,
                    r#""mediaType":"application/vnd.oci.image.config.v1+json","size":{}}},"#,
                    r#""layers":[{{"digest":"sha256:{}","mediaType":"#,
                    r#""application/vnd.oci.image.layer.v1.tar+gzip","size":101}}],"#,
                    r#""mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}}"#
                ),
                image.config_descriptor.digest,
                image.config.len(),
                "01".repeat(32)
            )
        );
        let platform = image.descriptor.platform.clone().unwrap();
        assert_eq!(
            (platform.os.as_str(), platform.variant.as_str()),
            ("linux", "")
        );

        options.format = Format::Docker;
        let image = finish(&template, &[layer(1, Some(0))], &options);
        let text = String::from_utf8(image.manifest).unwrap();
        assert!(!text.contains("oci"), "{text}");
    }

    #[test]
    fn rfc3339_as_date_reads_it() {
        // From `date -u -d TEXT +%s`.
        for (text, want) in [
            ("1970-01-01T00:00:00Z", Some((0, false))),
            ("2000-02-29T00:00:00.000Z", Some((951_782_400, false))),
            ("2024-02-29T12:34:56.5+02:00", Some((1_709_202_896, true))),
            ("2024-02-29T12:34:56-05:30", Some((1_709_229_896, false))),
            ("0001-01-01T00:00:00Z", Some((-62_135_596_800, false))),
            ("2024-02-29", None),
            ("2024-02-29T12:34:56", None),
            ("2024-13-29T12:34:56Z", None),
            ("２024-02-29T12:34:56Z", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc3339(text), want, "{text}");
        }
    }
}
