//! Caches elsewhere, where nodes build for one platform each: what two of them write under one name, the last has written.
//! So each platform has a name of its own, made of the one that the user gave; and so has what this machine builds, whose
//! caches have another format than BuildKit's.

use rbuild_llb::Platform;

use crate::request::BuildRequest;
use crate::request::BuilderCache;
use crate::request::CachePlace;
use crate::request::CacheTo;

/// What the names of this machine's caches end with.
const OURS: &str = "rbuild";
/// What BuildKit calls a cache that has no name (cache/remotecache/gha, s3, azblob).
const UNNAMED: &str = "buildkit";

/// The caches to read for a platform: its own, and those under the names as they were given, which others may have written.
pub(super) fn to_read(given: &[BuilderCache], platform: &Platform) -> Vec<BuilderCache> {
    let mut caches = Vec::new();
    for cache in given {
        let own = of_platform(cache, platform);
        if own != *cache {
            caches.push(own);
        }
        caches.push(cache.clone());
    }
    caches
}

/// The caches to write for a platform.
pub(super) fn to_write(given: &[BuilderCache], platform: &Platform) -> Vec<BuilderCache> {
    given
        .iter()
        .map(|cache| of_platform(cache, platform))
        .collect()
}

/// A request as it is for what this machine builds among nodes.
pub(super) fn here(request: &BuildRequest) -> BuildRequest {
    let mut cache_from = Vec::new();
    for place in &request.cache_from {
        cache_from.push(of_this_machine(place));
        // An image, whoever built it, has its cache under its own name. What this build writes is no image.
        let is_written = request.cache_to.iter().any(|to| to.place == *place);
        let may_be_image = matches!(place, CachePlace::Registry { .. }) && !is_written;
        if may_be_image && !cache_from.contains(place) {
            cache_from.push(place.clone());
        }
    }
    let cache_to = request.cache_to.iter().map(|to| CacheTo {
        place: of_this_machine(&to.place),
        ..to.clone()
    });
    BuildRequest {
        builder: None,
        cache_from,
        cache_to: cache_to.collect(),
        ..request.clone()
    }
}

fn of_this_machine(place: &CachePlace) -> CachePlace {
    let mut place = place.clone();
    let ours = |name: &mut String| *name = format!("{name}-{OURS}");
    match &mut place {
        CachePlace::Registry { reference, .. } => {
            if let Some(name) = tagged(reference, OURS) {
                *reference = name;
            }
        }
        CachePlace::Actions { scope: name, .. } | CachePlace::Local { name, .. } => ours(name),
        CachePlace::Objects(objects) => objects.names.iter_mut().for_each(ours),
    }
    place
}

fn of_platform(cache: &BuilderCache, platform: &Platform) -> BuilderCache {
    let suffix = platform.to_string().replace('/', "-");
    let mut cache = cache.clone();
    let named = |name: Option<&String>| {
        let names = name.map_or(UNNAMED, String::as_str).split(';');
        let names: Vec<String> = names.map(|name| format!("{name}-{suffix}")).collect();
        names.join(";")
    };
    let (key, name) = match cache.kind.as_str() {
        "registry" => match cache.options.get("ref").map(|name| tagged(name, &suffix)) {
            Some(Some(name)) => ("ref", name),
            _ => return cache,
        },
        "gha" => ("scope", named(cache.options.get("scope"))),
        "s3" | "azblob" => ("name", named(cache.options.get("name"))),
        _ => return cache,
    };
    cache.options.insert(key.to_owned(), name);
    cache
}

/// `name:tag` with more in its tag; a digest is what it is.
fn tagged(name: &str, suffix: &str) -> Option<String> {
    if name.contains('@') {
        return None;
    }
    let colon = name.rfind(':');
    let has_tag = colon.is_some_and(|colon| !name[colon..].contains('/'));
    Some(match has_tag {
        true => format!("{name}-{suffix}"),
        false => format!("{name}:latest-{suffix}"),
    })
}

#[cfg(test)]
mod t {
    use super::*;

    fn cache(kind: &str, options: &[(&str, &str)]) -> BuilderCache {
        let options = options.iter();
        BuilderCache {
            kind: kind.to_owned(),
            options: options
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn every_platform_has_a_name_of_its_own() {
        let platform: Platform = "linux/arm/v7".parse().unwrap();
        for (kind, given, want) in [
            (
                "registry",
                ("ref", "r.example/c"),
                ("ref", "r.example/c:latest-linux-arm-v7"),
            ),
            (
                "registry",
                ("ref", "r.example:5000/c"),
                ("ref", "r.example:5000/c:latest-linux-arm-v7"),
            ),
            (
                "registry",
                ("ref", "r.example/c:main"),
                ("ref", "r.example/c:main-linux-arm-v7"),
            ),
            ("gha", ("token", "t"), ("scope", "buildkit-linux-arm-v7")),
            (
                "s3",
                ("name", "a;b"),
                ("name", "a-linux-arm-v7;b-linux-arm-v7"),
            ),
        ] {
            let given = [cache(kind, &[given])];
            let written = to_write(&given, &platform);
            assert_eq!(written[0].options[want.0], want.1);
            assert_eq!(
                to_read(&given, &platform),
                [written[0].clone(), given[0].clone()]
            );
        }
        let inline = [cache("inline", &[])];
        assert_eq!(to_write(&inline, &platform), inline);
        assert_eq!(to_read(&inline, &platform), inline);
    }

    #[test]
    fn this_machine_has_names_of_its_own() {
        let registry = |reference: &str| CachePlace::Registry {
            reference: reference.to_owned(),
            insecure: true,
        };
        let actions = |scope: &str| CachePlace::Actions {
            scope: scope.to_owned(),
            service: None,
        };
        for (given, want) in [
            (
                registry("r.example/c:main"),
                registry("r.example/c:main-rbuild"),
            ),
            (actions("buildkit"), actions("buildkit-rbuild")),
        ] {
            assert_eq!(of_this_machine(&given), want);
        }
        let digest = format!("r.example/c@sha256:{}", "0".repeat(64));
        assert_eq!(of_this_machine(&registry(&digest)), registry(&digest));
    }
}
