//! `--annotation`, and the options of outputs that mean the same, in the syntax of buildx and BuildKit.

use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;

use super::values::invalid;
use crate::request::Annotation;
use crate::request::AnnotationLevel;

const LEVELS: [(&str, AnnotationLevel); 4] = [
    ("manifest", AnnotationLevel::Manifest),
    ("manifest-descriptor", AnnotationLevel::ManifestDescriptor),
    ("index", AnnotationLevel::Index),
    ("index-descriptor", AnnotationLevel::IndexDescriptor),
];

/// `key=value`, or `level[os/arch],level:key=value`.
pub(crate) fn parse(text: &str) -> Result<Vec<Annotation>, Diagnostic> {
    let invalid = |why: &str| invalid("annotation", text, why);
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| invalid("wanted `key=value` or `level:key=value`"))?;
    let (levels, key) = name.split_once(':').unwrap_or(("manifest", name));
    let levels = levels.split(',').map(|place| {
        let (level, platform) = place_of(place).map_err(|why| invalid(&why))?;
        annotation(level, platform, key, value).map_err(|why| invalid(&why))
    });
    levels.collect()
}

/// An output's `annotation-LEVEL[os/arch].KEY`; `None` if it is another option.
pub(crate) fn of_option(option: &str, value: &str) -> Result<Option<Annotation>, String> {
    let Some(rest) = option.strip_prefix("annotation") else {
        return Ok(None);
    };
    // A platform has no dot in it.
    let Some((place, key)) = rest.split_once('.') else {
        return Ok(None);
    };
    let place = match place.strip_prefix('-') {
        Some(place) => place.to_owned(),
        None if place.is_empty() || place.starts_with('[') => format!("manifest{place}"),
        None => return Ok(None),
    };
    let (level, platform) = place_of(&place)?;
    annotation(level, platform, key, value).map(Some)
}

/// `level` or `level[os/arch]`.
fn place_of(place: &str) -> Result<(AnnotationLevel, Option<Platform>), String> {
    let (name, platform) = match place.strip_suffix(']').and_then(|p| p.split_once('[')) {
        Some((name, platform)) => (name, Some(platform)),
        None => (place, None),
    };
    let level = LEVELS.iter().find(|(level, _)| *level == name);
    let (_, level) = level.ok_or_else(|| {
        let names = "`manifest`, `manifest-descriptor`, `index` and `index-descriptor`";
        format!("`{name}` carries no annotations: what does is {names}")
    })?;
    let platform = platform.map(str::parse::<Platform>).transpose();
    Ok((*level, platform.map_err(|error| error.to_string())?))
}

fn annotation(
    level: AnnotationLevel,
    platform: Option<Platform>,
    key: &str,
    value: &str,
) -> Result<Annotation, String> {
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(format!(
            "`{key}` cannot be the key of an annotation: it is empty or has a space in it"
        ));
    }
    Ok(Annotation {
        level,
        platform,
        key: key.to_owned(),
        value: value.to_owned(),
    })
}
