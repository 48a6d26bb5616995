//! `--cache-from` and `--cache-to`: caches that machines share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rbuild_llb::Diagnostic;
use rbuild_llb::OciDigest;

use super::values;
use super::values::invalid;
use crate::request::BuilderCache;
use crate::request::CacheFrom;
use crate::request::CacheTo;

/// What a cache is called that is not given a name, as with BuildKit.
const DEFAULT_NAME: &str = "latest";
/// The types that BuildKit has besides.
const OTHERS: [&str; 5] = ["registry", "inline", "gha", "s3", "azblob"];

/// The options of a cache, taken out one by one; what is left over is not known.
struct Options<'a> {
    flag: &'static str,
    text: &'a str,
    left: BTreeMap<String, String>,
}

/// `type=local,src=DIR`
pub(crate) fn from(text: &str) -> Result<CacheFrom, Diagnostic> {
    let mut options = Options::parse("cache-from", text)?;
    let src = options.directory("src", "to read from")?;
    let tag = options.left.remove("tag");
    let digest = options
        .left
        .remove("digest")
        .filter(|text| !text.is_empty());
    if let Some(digest) = &digest
        && digest.parse::<OciDigest>().is_err()
    {
        return Err(options.invalid(format!("`{digest}` is not a digest such as `sha256:…`")));
    }
    options.nothing_left()?;
    Ok(CacheFrom {
        src,
        name: digest.unwrap_or_else(|| name(tag)),
    })
}

/// `type=local,dest=DIR,mode=max`
pub(crate) fn to(text: &str) -> Result<CacheTo, Diagnostic> {
    let mut options = Options::parse("cache-to", text)?;
    let dest = options.directory("dest", "to write to")?;
    let name = name(options.left.remove("tag"));
    let all = match options.left.remove("mode").unwrap_or_default().as_str() {
        "" | "min" => false,
        "max" => true,
        mode => return Err(options.invalid(format!("mode `{mode}` is neither `min` nor `max`"))),
    };
    let word = options.left.remove("compression");
    let level = options.left.remove("compression-level");
    let compression = values::compression(word.as_deref(), level.as_deref());
    let compression = compression.map_err(|(why, hint)| {
        let problem = options.invalid(why);
        hint.map_or(problem.clone(), |hint| problem.hint(hint))
    })?;
    // All layers that the cache has are compressed as it is said; a base's are not in it.
    options.boolean("force-compression")?;
    let ignore_error = options.boolean("ignore-error")?.unwrap_or(false);
    for (key, what) in [
        (
            "oci-mediatypes",
            "docker's media types have none for caches",
        ),
        (
            "image-manifest",
            "an index of blobs is not what OCI indexes are for",
        ),
    ] {
        if options.boolean(key)? == Some(false) {
            return Err(options.invalid(format!("`{key}` can only be `true`: {what}")));
        }
    }
    options.nothing_left()?;
    Ok(CacheTo {
        dest,
        name,
        all,
        compression,
        ignore_error,
    })
}

/// The type of a cache, if it is one that only builders have.
pub(crate) fn missing_kind(text: &str) -> Option<&'static str> {
    let kind = match text.contains('=') {
        false => "registry".to_owned(),
        true => {
            let options = values::options("cache", text).ok()?;
            options.into_iter().find(|(key, _)| key == "type")?.1
        }
    };
    OTHERS.into_iter().find(|other| *other == kind)
}

/// A cache that a daemon reads or writes: its options are handed on.
pub(crate) fn of_builder(flag: &'static str, text: &str) -> Result<BuilderCache, Diagnostic> {
    let mut options: BTreeMap<String, String> = match text.contains('=') {
        true => values::options(flag, text)?.into_iter().collect(),
        false => BTreeMap::from([
            ("type".to_owned(), "registry".to_owned()),
            ("ref".to_owned(), text.to_owned()),
        ]),
    };
    let Some(kind) = options.remove("type") else {
        return Err(invalid(flag, text, "`type=` is missing"));
    };
    match kind.as_str() {
        kind if OTHERS.contains(&kind) => {}
        "local" => {
            let why = "a builder does not reach directories of this machine";
            let hint = "use `type=registry,ref=NAME`, or build here";
            return Err(invalid(flag, text, why).hint(hint));
        }
        kind => {
            let why = format!("there is no cache type `{kind}`");
            let hint = format!("with a builder there are `{}`", OTHERS.join("`, `"));
            return Err(invalid(flag, text, why).hint(hint));
        }
    }
    Ok(BuilderCache { kind, options })
}

fn name(tag: Option<String>) -> String {
    let tag = tag.filter(|tag| !tag.is_empty());
    tag.unwrap_or_else(|| DEFAULT_NAME.to_owned())
}

impl<'a> Options<'a> {
    fn parse(flag: &'static str, text: &'a str) -> Result<Self, Diagnostic> {
        // A reference alone is one of a registry, as buildx reads it.
        let kind = match text.contains('=') {
            false => "registry".to_owned(),
            true => String::new(),
        };
        let mut options = Self {
            flag,
            text,
            left: BTreeMap::new(),
        };
        let kind = match kind.is_empty() {
            false => kind,
            true => {
                options.left = values::options(flag, text)?.into_iter().collect();
                let kind = options.left.remove("type");
                kind.ok_or_else(|| options.invalid("`type=` is missing"))?
            }
        };
        match kind.as_str() {
            "local" => Ok(options),
            kind if OTHERS.contains(&kind) => Err(options
                .invalid(format!("caches of type `{kind}` are not supported"))
                .hint("what there is is `type=local`, a directory; a `--builder` has the others")),
            kind => Err(options
                .invalid(format!("there is no cache type `{kind}`"))
                .hint("what there is is `type=local`, a directory")),
        }
    }

    fn invalid(&self, why: impl std::fmt::Display) -> Diagnostic {
        invalid(self.flag, self.text, why)
    }

    fn directory(&mut self, key: &str, what: &str) -> Result<PathBuf, Diagnostic> {
        match self.left.remove(key).as_deref() {
            None | Some("") => {
                Err(self.invalid(format!("`{key}=` is missing: a directory {what}")))
            }
            Some(path) => Ok(path.into()),
        }
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>, Diagnostic> {
        let value = self.left.remove(key);
        let parsed = value.as_deref().map(values::boolean).transpose();
        parsed.map_err(|why| self.invalid(format!("`{key}`: {why}")))
    }

    fn nothing_left(&self) -> Result<(), Diagnostic> {
        match self.left.first_key_value() {
            None => Ok(()),
            Some((key, _)) => Err(self.invalid(format!("type `local` has no option `{key}`"))),
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::request::Compression;
    use snapbox::assert_data_eq;
    use snapbox::str;

    #[test]
    fn a_builder_gets_its_options_as_they_are() {
        let cache = |text| of_builder("cache-to", text).unwrap();
        assert_eq!(
            cache("r.example/c:1"),
            cache("type=registry,ref=r.example/c:1")
        );
        let s3 = cache("mode=max,type=s3,bucket=b");
        assert_eq!(s3.kind, "s3");
        let options = [("bucket", "b"), ("mode", "max")];
        assert_eq!(
            s3.options,
            options.map(|(k, v)| (k.into(), v.into())).into()
        );
        for text in ["type=local,dest=d", "type=ftp", "mode=max"] {
            assert!(of_builder("cache-to", text).is_err(), "{text}");
        }
    }

    #[test]
    fn options_of_buildkit() {
        let plain = CacheTo {
            dest: "d".into(),
            name: "latest".into(),
            all: false,
            compression: Compression::Default,
            ignore_error: false,
        };
        for (text, want) in [
            ("type=local,dest=d", plain.clone()),
            (
                "type=local,dest=d,mode=min,tag=,oci-mediatypes=true,image-manifest=1,force-compression=true",
                plain.clone(),
            ),
            (
                "type=local,mode=max,dest=d,tag=main,ignore-error=true,compression=zstd,compression-level=9",
                CacheTo {
                    name: "main".into(),
                    all: true,
                    compression: Compression::Zstd(Some(9)),
                    ignore_error: true,
                    ..plain
                },
            ),
        ] {
            assert_eq!(to(text).unwrap(), want, "{text}");
        }
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, name) in [
            ("type=local,src=a b".to_owned(), "latest"),
            ("type=local,src=a b,tag=main".to_owned(), "main"),
            (
                format!("type=local,src=a b,tag=x,digest={digest}"),
                &*digest,
            ),
        ] {
            let want = CacheFrom {
                src: "a b".into(),
                name: name.to_owned(),
            };
            assert_eq!(from(&text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong_from = [
            "user/app:cache",
            "type=gha",
            "type=disk,src=x",
            "src=x",
            "type=local",
            "type=local,src=x,digest=latest",
            "type=local,src=x,mode=max",
        ];
        let wrong_to = [
            "type=inline",
            "type=local,dest=",
            "type=local,dest=x,mode=most",
            "type=local,dest=x,compression=estargz",
            "type=local,dest=x,ignore-error=perhaps",
            "type=local,dest=x,image-manifest=false",
            "type=local,dest=x,ref=y",
        ];
        let errors = wrong_from.map(|text| from(text).unwrap_err());
        let errors = errors
            .into_iter()
            .chain(wrong_to.map(|text| to(text).unwrap_err()));
        let text: String = errors
            .map(|error| crate::ui::render(&error, false) + "\n")
            .collect();
        assert_data_eq!(
            text,
            str![[r#"
error: `--cache-from user/app:cache`: caches of type `registry` are not supported
hint: what there is is `type=local`, a directory; a `--builder` has the others
error: `--cache-from type=gha`: caches of type `gha` are not supported
hint: what there is is `type=local`, a directory; a `--builder` has the others
error: `--cache-from type=disk,src=x`: there is no cache type `disk`
hint: what there is is `type=local`, a directory
error: `--cache-from src=x`: `type=` is missing
error: `--cache-from type=local`: `src=` is missing: a directory to read from
error: `--cache-from type=local,src=x,digest=latest`: `latest` is not a digest such as `sha256:…`
error: `--cache-from type=local,src=x,mode=max`: type `local` has no option `mode`
error: `--cache-to type=inline`: caches of type `inline` are not supported
hint: what there is is `type=local`, a directory; a `--builder` has the others
error: `--cache-to type=local,dest=`: `dest=` is missing: a directory to write to
error: `--cache-to type=local,dest=x,mode=most`: mode `most` is neither `min` nor `max`
error: `--cache-to type=local,dest=x,compression=estargz`: rbuild does not write eStargz layers
hint: `gzip` is what readers without lazy pulling make of them
error: `--cache-to type=local,dest=x,ignore-error=perhaps`: `ignore-error`: `perhaps` is neither `true` nor `false`
error: `--cache-to type=local,dest=x,image-manifest=false`: `image-manifest` can only be `true`: an index of blobs is not what OCI indexes are for
error: `--cache-to type=local,dest=x,ref=y`: type `local` has no option `ref`

"#]]
        );
    }
}
