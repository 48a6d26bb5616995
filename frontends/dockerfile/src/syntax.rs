//! Which language a file is in, as BuildKit finds out (frontend/dockerfile/parser/directives.go) before it parses
//! anything: `# syntax=`, `// syntax=` or a JSON object with a `syntax`, at the top or below a `#!` line.
//!
//! BuildKit then runs the image of that name. rbuild has one language built in, and says so if another is asked for.

use std::ops::Range;
use std::sync::Arc;

use rbuild_llb::Diagnostic;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use rbuild_llb::frontend::FrontendRequest;

use crate::reference::normalise_reference;

const BUILD_ARG: &str = "BUILDKIT_SYNTAX";

/// Refuses a file of another language than Dockerfiles'.
pub(crate) fn check(request: &FrontendRequest) -> Result<(), Box<Diagnostic>> {
    let hint = "rbuild reads what `docker/dockerfile` reads by itself, and runs no other frontend";
    if let Some(value) = request.build_args.get(BUILD_ARG) {
        let image = value.trim().split(' ').next().unwrap_or_default();
        // The name of the frontend that BuildKit has built in.
        if image == "dockerfile.v0" || is_built_in(image) {
            return Ok(());
        }
        let at = Span::new(&request.source, 0..0);
        let message = format!("the build argument `{BUILD_ARG}` asks for the frontend `{image}`");
        let error = Diagnostic::error(message, at, "what this file would be read by");
        let todo = format!("leave `{BUILD_ARG}` out if this is a Dockerfile");
        return Err(Box::new(error.hint(hint).hint(todo)));
    }
    match detect(&request.source) {
        Some((image, span)) if !is_built_in(&image) => {
            let message = format!("this file is for the frontend `{image}`");
            let error = Diagnostic::error(message, span, "an image that would read the file");
            let todo = "take the `syntax` out if this is a Dockerfile";
            Err(Box::new(error.hint(hint).hint(todo)))
        }
        _ => Ok(()),
    }
}

/// Whether an image is one of the Dockerfile frontend, also in a mirror: `mirror.example.org/docker/dockerfile:1`.
fn is_built_in(image: &str) -> bool {
    let Ok(full) = normalise_reference(image) else {
        return false;
    };
    let name = full.split('@').next().unwrap_or_default();
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let mut parts = name.rsplit('/');
    matches!(parts.next(), Some("dockerfile" | "dockerfile-upstream"))
        && parts.next() == Some("docker")
}

fn detect(source: &Arc<SourceFile>) -> Option<(String, Span)> {
    let (value, range) = directive(&source.text, "#", "syntax")
        .or_else(|| directive(&source.text, "//", "syntax"))
        .or_else(|| in_json(&source.text))?;
    let image = value.split(' ').next().unwrap_or_default().to_owned();
    let range = range.start..range.start + image.len();
    Some((image, Span::new(source, range)))
}

/// Where the text begins after a byte-order mark and a `#!` line.
fn top(text: &str) -> usize {
    let bom = match text.starts_with('\u{feff}') {
        true => '\u{feff}'.len_utf8(),
        false => 0,
    };
    match text[bom..].starts_with("#!") {
        true => text[bom..]
            .find('\n')
            .map_or(text.len(), |end| bom + end + 1),
        false => bom,
    }
}

/// The value of a directive that stands, among others, at the top, and its place.
pub(crate) fn directive<'a>(
    text: &'a str,
    comment: &str,
    wanted: &str,
) -> Option<(&'a str, Range<usize>)> {
    let mut at = top(text);
    for whole in text[at..].split_inclusive('\n') {
        let line = whole.trim_end_matches('\n').trim_end_matches('\r');
        let (key, value) = line.strip_prefix(comment)?.split_once('=')?;
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        if !matches!(key.as_str(), "syntax" | "escape" | "check") || value.is_empty() {
            return None;
        }
        if key == wanted {
            let start = at + line.trim_end().len() - value.len();
            return Some((value, start..start + value.len()));
        }
        at += whole.len();
    }
    None
}

fn in_json(text: &str) -> Option<(&str, Range<usize>)> {
    let object = &text[top(text)..];
    if !object.trim_start().starts_with('{') {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(object).ok()?;
    let value = object.get("syntax")?.as_str()?;
    // One with escapes does not stand there as it is, and is no image either.
    let start = text.find(&format!("\"{value}\""))? + 1;
    Some((
        &text[start..start + value.len()],
        start..start + value.len(),
    ))
}

#[cfg(test)]
mod t {
    use super::*;

    /// From BuildKit's `DetectSyntax`: what it finds, in which column of which line.
    #[test]
    fn the_syntax_is_found_where_buildkit_finds_it() {
        for (text, want) in [
            (
                "# syntax = dockerfile:experimental // opt\nFROM x",
                Some(("dockerfile:experimental", 1, 12)),
            ),
            ("# syntax=a/b:1\n", Some(("a/b:1", 1, 10))),
            ("#syntax=a\r\n", Some(("a", 1, 9))),
            ("\u{feff}# SynTax=a\n", Some(("a", 1, 11))),
            (
                "# check=skip=all\n# escape=`\n# syntax=a",
                Some(("a", 3, 10)),
            ),
            ("#!/bin/cat\n# syntax=a\n", Some(("a", 2, 10))),
            ("//syntax=x/y\n", Some(("x/y", 1, 10))),
            ("#!/bin/cat\n// syntax=x\n", Some(("x", 2, 11))),
            ("{\"a\": 1,\n \"syntax\": \"x\"}", Some(("x", 2, 13))),
            ("#!/bin/cat\n{\"syntax\": \"f/g\"}", Some(("f/g", 2, 13))),
            ("\n# syntax=a\n", None),
            (" # syntax=a\n", None),
            ("# a comment\n# syntax=a\n", None),
            ("# other=x\n# syntax=a\n", None),
            ("FROM x\n# syntax=a\n", None),
            ("# syntax=\n", None),
            ("{\"syntax\": 1}", None),
            ("[\"syntax\"]", None),
            ("", None),
            ("#!", None),
        ] {
            let source = Arc::new(SourceFile {
                name: "Dockerfile".to_owned(),
                text: text.to_owned(),
                language: "Dockerfile",
            });
            let got = detect(&source).map(|(image, span)| {
                let (line, column) = source.position(span.range.start);
                (image, line, column)
            });
            let want = want.map(|(image, line, column)| (image.to_owned(), line, column));
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn the_dockerfile_frontend_has_many_names() {
        let digest = format!("docker/dockerfile@sha256:{}", "a".repeat(64));
        for image in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker/dockerfile:1.20-labs",
            "docker.io/docker/dockerfile:1",
            "index.docker.io/docker/dockerfile:labs",
            "docker/dockerfile-upstream:master",
            "localhost:5000/docker/dockerfile:1",
            "mirror.example.org/hub/docker/dockerfile:1",
            &digest,
        ] {
            assert!(is_built_in(image), "{image}");
        }
        for image in [
            "",
            "dockerfile",
            "docker/dockerfiles",
            "docker/dockerfile/x",
            "me/dockerfile:1",
            "docker/buildkit-syft-scanner",
            "Docker/Dockerfile",
        ] {
            assert!(!is_built_in(image), "{image}");
        }
    }
}
