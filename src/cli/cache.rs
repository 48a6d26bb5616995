//! `--cache-from` and `--cache-to`: caches that machines share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rbuild_llb::Diagnostic;
use rbuild_llb::OciDigest;

use super::env::Env;
use super::values;
use super::values::invalid;
use crate::registry::Reference;
use crate::request::ActionsService;
use crate::request::BuilderCache;
use crate::request::CacheMounts;
use crate::request::CachePlace;
use crate::request::CacheTo;
use crate::request::MountIds;
use crate::request::ObjectCache;
use crate::request::ObjectKeys;
use crate::request::Secret;
use crate::request::Space;

/// What a cache is called that is not given a name, as with BuildKit.
const DEFAULT_NAME: &str = "latest";
/// The types that a daemon knows; it reaches no directories of this machine.
const OF_BUILDERS: [&str; 5] = ["registry", "inline", "gha", "s3", "azblob"];
/// Options that are not shown.
const SECRETS: [&str; 5] = [
    "account_key",
    "ghtoken",
    "secret_access_key",
    "session_token",
    "token",
];
/// A cache mount with more bytes is in no cache, unless it is said what may be.
const DEFAULT_MOST: u64 = 5 << 30;
/// The same where a repository has 10 GB for all its branches.
const GITHUB_MOST: u64 = 2 << 30;
/// What GitHub's cache is called that is not given a scope, as with BuildKit.
const DEFAULT_SCOPE: &str = "buildkit";

/// The options of a cache, taken out one by one; what is left over is not known.
struct Options {
    flag: &'static str,
    /// As it was typed, without what is secret.
    text: String,
    kind: String,
    left: BTreeMap<String, String>,
}

/// `type=local,src=DIR`, `type=registry,ref=NAME` or `NAME` alone
pub(crate) fn from(text: &str, env: &Env) -> Result<CachePlace, Diagnostic> {
    let mut options = Options::parse("cache-from", text)?;
    let place = match options.kind.as_str() {
        "local" => {
            let dir = options.directory("src", "to read from")?;
            let tag = options.left.remove("tag");
            let digest = options
                .left
                .remove("digest")
                .filter(|text| !text.is_empty());
            if let Some(digest) = &digest
                && digest.parse::<OciDigest>().is_err()
            {
                let why = format!("`{digest}` is not a digest such as `sha256:…`");
                return Err(options.invalid(why));
            }
            CachePlace::Local {
                dir,
                name: digest.unwrap_or_else(|| name(tag)),
            }
        }
        "inline" => {
            let hint = "`type=registry,ref=IMAGE` reads the cache that an image has in it";
            return Err(options
                .invalid("an inline cache is written only")
                .hint(hint));
        }
        "gha" => options.actions(env),
        "s3" => options.amazon(env)?,
        "azblob" => options.azure(env)?,
        _ => options.registry()?,
    };
    options.nothing_left()?;
    Ok(place)
}

/// What is written where; nothing if it is written into the images.
pub(crate) fn to(text: &str, env: &Env) -> Result<Option<CacheTo>, Diagnostic> {
    let mut options = Options::parse("cache-to", text)?;
    let all = match options.left.remove("mode").unwrap_or_default().as_str() {
        "" | "min" => false,
        "max" => true,
        mode => return Err(options.invalid(format!("mode `{mode}` is neither `min` nor `max`"))),
    };
    let ignore_error = options.boolean("ignore-error")?;
    if options.kind == "inline" {
        // As with BuildKit it is always that of `mode=min`: an image has its own layers.
        options.nothing_left()?;
        return Ok(None);
    }
    let place = match options.kind.as_str() {
        "local" => CachePlace::Local {
            dir: options.directory("dest", "to write to")?,
            name: name(options.left.remove("tag")),
        },
        "gha" => options.actions(env),
        "s3" => options.amazon(env)?,
        "azblob" => options.azure(env)?,
        _ => {
            let place = options.registry()?;
            if let CachePlace::Registry { reference, .. } = &place
                && reference.contains('@')
            {
                return Err(options
                    .invalid("what is written has a tag, and its digest is not known before"));
            }
            place
        }
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
    let mounts = options.mounts(&place, all, env)?;
    options.nothing_left()?;
    // What is elsewhere may fail at any time, and no build is to fail of it; a directory that cannot be written is a mistake.
    let ignore_error = ignore_error.unwrap_or(place.is_remote());
    Ok(Some(CacheTo {
        place,
        all,
        compression,
        ignore_error,
        mounts,
    }))
}

/// Events of GitHub whose jobs may build what strangers propose, and write where the default branch reads.
const WITH_ITS_RIGHTS: [&str; 3] = ["pull_request_target", "workflow_run", "issue_comment"];

/// Whether the job may build what a stranger proposes, and what it writes to a place is read by others. GitHub's service keeps
/// apart what the jobs of pull requests write, but not that of jobs with the rights of the default branch.
fn is_proposed(env: &Env, apart: bool) -> bool {
    let github = env.text("GITHUB_EVENT_NAME").unwrap_or_default();
    let gitlab = env.text("CI_PIPELINE_SOURCE").unwrap_or_default();
    WITH_ITS_RIGHTS.contains(&&*github)
        || !apart && github.starts_with("pull_request")
        || ["merge_request_event", "external_pull_request_event"].contains(&&*gitlab)
}

/// A cache that a daemon reads or writes: its options are handed on.
pub(crate) fn of_builder(flag: &'static str, text: &str) -> Result<BuilderCache, Diagnostic> {
    let mut options: BTreeMap<String, String> = match text.contains('=') {
        true => options(flag, text)?.into_iter().collect(),
        false => BTreeMap::from([
            ("type".to_owned(), "registry".to_owned()),
            ("ref".to_owned(), text.to_owned()),
        ]),
    };
    let text = &*shown(text);
    let Some(kind) = options.remove("type") else {
        return Err(invalid(flag, text, "`type=` is missing"));
    };
    if let Some(option) = options.keys().find(|name| name.starts_with("mounts")) {
        let why = format!("`{option}`: cache mounts of a builder stay there");
        return Err(invalid(flag, text, why));
    }
    match kind.as_str() {
        kind if OF_BUILDERS.contains(&kind) => {}
        "local" => {
            let why = "a builder does not reach directories of this machine";
            let hint = "use `type=registry,ref=NAME`, or build here";
            return Err(invalid(flag, text, why).hint(hint));
        }
        kind => {
            let why = format!("there is no cache type `{kind}`");
            let hint = format!("with a builder there are `{}`", OF_BUILDERS.join("`, `"));
            return Err(invalid(flag, text, why).hint(hint));
        }
    }
    Ok(BuilderCache { kind, options })
}

/// What was typed, in which nothing is secret, whether it can be read or not.
fn shown(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut shown = String::new();
    let mut at = 0;
    while at < text.len() {
        let begins = |name: &&str| {
            let rest = lower[at..].strip_prefix(*name);
            rest.is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        let Some(name) = SECRETS.iter().find(|name| begins(name)) else {
            let c = text[at..].chars().next().unwrap_or_default();
            shown.push(c);
            at += c.len_utf8().max(1);
            continue;
        };
        let value = at + name.len();
        let value = value + text[value..].find('=').map_or(0, |equals| equals + 1);
        shown.push_str(&text[at..value]);
        shown.push('…');
        // In quotes a value may have commas, and two quotes stand for one.
        let quoted = text[..at].ends_with('"');
        let mut rest = &text[value..];
        at = loop {
            let end = rest.find(if quoted { '"' } else { ',' });
            let end = end.unwrap_or(rest.len());
            let after = &rest[end..];
            match after.strip_prefix("\"\"") {
                Some(more) if quoted => rest = more,
                _ => break text.len() - after.len(),
            }
        };
    }
    shown
}

/// The options of a cache; what is wrong is said without what is secret.
fn options(flag: &str, text: &str) -> Result<Vec<(String, String)>, Diagnostic> {
    values::options(flag, text).map_err(|_| {
        let shown = shown(text);
        let wrong = values::options(flag, &shown).err();
        let unread = || invalid(flag, &shown, "is not a list of `key=value`");
        wrong.unwrap_or_else(unread)
    })
}

fn name(tag: Option<String>) -> String {
    let tag = tag.filter(|tag| !tag.is_empty());
    tag.unwrap_or_else(|| DEFAULT_NAME.to_owned())
}

impl Options {
    fn parse(flag: &'static str, text: &str) -> Result<Self, Diagnostic> {
        let mut options = Self {
            flag,
            text: shown(text),
            kind: "registry".to_owned(),
            left: BTreeMap::new(),
        };
        // A reference alone is one of a registry, as buildx reads it.
        if !text.contains('=') {
            options.left.insert("ref".to_owned(), text.to_owned());
            return Ok(options);
        }
        options.left = self::options(flag, text)?.into_iter().collect();
        let kind = options.left.remove("type");
        options.kind = kind.ok_or_else(|| options.invalid("`type=` is missing"))?;
        match options.kind.as_str() {
            "local" | "registry" | "inline" | "gha" | "s3" | "azblob" => Ok(options),
            kind => Err(options
                .invalid(format!("there is no cache type `{kind}`"))
                .hint("there are `registry`, `gha`, `s3`, `azblob`, `inline` and `local`")),
        }
    }

    /// `ref=` and `registry.insecure=`
    fn registry(&mut self) -> Result<CachePlace, Diagnostic> {
        let reference = self.left.remove("ref").unwrap_or_default();
        if reference.is_empty() {
            return Err(
                self.invalid("`ref=` is missing: a name such as `registry.example/app:cache`")
            );
        }
        let reference: Reference = reference.parse().map_err(|error| self.invalid(error))?;
        Ok(CachePlace::Registry {
            reference: reference.to_string(),
            insecure: self.boolean("registry.insecure")?.unwrap_or(false),
        })
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.left.remove(name).filter(|text| !text.is_empty())
    }

    /// `name=a;b`
    fn names(&mut self) -> Vec<String> {
        let names = self.text("name").unwrap_or_default();
        let names = names.split(';').filter(|name| !name.is_empty());
        let names: Vec<String> = names.map(str::to_owned).collect();
        match names.is_empty() {
            true => vec![DEFAULT_SCOPE.to_owned()],
            false => names,
        }
    }

    /// A bucket of Amazon's S3, or of what speaks like it.
    fn amazon(&mut self, env: &Env) -> Result<CachePlace, Diagnostic> {
        let mut required = |name: &str, variable: &str| {
            let value = self.text(name).or_else(|| env.text(variable));
            let missing = || self.invalid(format!("`{name}=` is missing, and so is {variable}"));
            value.ok_or_else(missing)
        };
        let bucket = required("bucket", "AWS_BUCKET")?;
        let region = required("region", "AWS_REGION")?;
        let endpoint = self.text("endpoint_url");
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let endpoint = endpoint.trim_end_matches('/');
        let path_style = self.boolean("use_path_style")?.unwrap_or(false);
        let base = match endpoint.split_once("://") {
            Some(_) if path_style => format!("{endpoint}/{bucket}"),
            Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
            None => {
                let why = format!("`{endpoint}` is not a URL such as `https://s3.example`");
                return Err(self.invalid(why));
            }
        };
        let prefix = self.text("prefix").unwrap_or_default();
        let below = |given: Option<String>, usual: &str| {
            format!("{prefix}{}", given.unwrap_or_else(|| usual.to_owned()))
        };
        let blobs = below(self.left.remove("blobs_prefix"), "blobs/");
        let manifests = below(self.left.remove("manifests_prefix"), "manifests/");
        let (id, secret) = (self.text("access_key_id"), self.text("secret_access_key"));
        let session = self.text("session_token");
        // Those of the environment are one set: what is given is not mixed with them.
        let of_env = id.is_none() && secret.is_none();
        let or = |given: Option<String>, variable| match of_env {
            true => given.or_else(|| env.text(variable)),
            false => given,
        };
        let id = or(id, "AWS_ACCESS_KEY_ID").unwrap_or_default();
        let secret = or(secret, "AWS_SECRET_ACCESS_KEY").unwrap_or_default();
        let session = or(session, "AWS_SESSION_TOKEN");
        if id.is_empty() != secret.is_empty() {
            return Err(self.invalid("of `access_key_id=` and `secret_access_key=` one is missing"));
        }
        // How BuildKit's client sends and tries again, and what it touches so that it does not expire.
        for name in [
            "touch_refresh",
            "upload_parallelism",
            "disable_accept_encoding",
            "retry_mode",
            "retry_max_attempts",
        ] {
            self.text(name);
        }
        Ok(CachePlace::Objects(ObjectCache {
            base,
            blobs,
            manifests,
            names: self.names(),
            keys: ObjectKeys::Amazon {
                region,
                id,
                secret: Secret(secret.into_bytes()),
                session: session.map(|session| Secret(session.into_bytes())),
            },
        }))
    }

    /// A container of Azure's blob storage.
    fn azure(&mut self, env: &Env) -> Result<CachePlace, Diagnostic> {
        let mut option = |name: &str, variable: &str| {
            let given = self.text(name);
            given.or_else(|| env.text(&format!("BUILDKIT_AZURE_STORAGE_{variable}")))
        };
        let url = option("account_url", "ACCOUNT_URL");
        let account = option("account_name", "ACCOUNT_NAME");
        let container = option("container", "CONTAINER");
        let prefix = option("prefix", "PREFIX").unwrap_or_default();
        let url = url.ok_or_else(|| {
            let variable = "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL";
            self.invalid(format!("`account_url=` is missing, and so is {variable}"))
        })?;
        let url = url.trim_end_matches('/').to_owned();
        let Some((_, host)) = url.split_once("://") else {
            let why =
                format!("`{url}` is not a URL such as `https://account.blob.core.windows.net`");
            return Err(self.invalid(why));
        };
        let of_host = host.split(['.', ':', '/']).next().unwrap_or_default();
        let account = account.unwrap_or_else(|| of_host.to_owned());
        let container = container.unwrap_or_else(|| "buildkit-cache".to_owned());
        let below = |given: Option<String>, usual: &str| {
            let given = given.unwrap_or_else(|| usual.to_owned());
            let parts = [prefix.trim_matches('/'), given.trim_matches('/')];
            let parts = parts.into_iter().filter(|part| !part.is_empty());
            parts.map(|part| format!("{part}/")).collect::<String>()
        };
        let blobs = below(self.left.remove("blobs_prefix"), "blobs");
        let manifests = below(self.left.remove("manifests_prefix"), "manifests");
        let key = self.text("secret_access_key");
        let key = key.or_else(|| self.text("account_key"));
        let key = key.ok_or_else(|| {
            self.invalid("`secret_access_key=` is missing: the key of the storage account")
        })?;
        let key = STANDARD
            .decode(&key)
            .map_err(|_| self.invalid("`secret_access_key=` is not in base64"))?;
        Ok(CachePlace::Objects(ObjectCache {
            base: format!("{url}/{container}"),
            blobs,
            manifests,
            names: self.names(),
            keys: ObjectKeys::Azure {
                account,
                key: Secret(key),
            },
        }))
    }

    /// `mounts=`, `mounts-max-size=` and `mounts-readonly=`. GitHub's service keeps apart what branches write, and its machines
    /// are always new: what keeps all steps there keeps cache mounts, too.
    fn mounts(
        &mut self,
        place: &CachePlace,
        all: bool,
        env: &Env,
    ) -> Result<CacheMounts, Diagnostic> {
        let of_github = matches!(place, CachePlace::Actions { .. });
        let words = self.text("mounts");
        let words = words.unwrap_or_else(|| match of_github && all {
            true => "all".to_owned(),
            false => "none".to_owned(),
        });
        let ids = words.split([';', ',']).map(str::trim);
        let ids: Vec<&str> = ids.filter(|id| !id.is_empty()).collect();
        let ids = match ids[..] {
            ["all"] => MountIds::All,
            ["none"] => MountIds::Some(Vec::new()),
            _ => MountIds::Some(ids.into_iter().map(str::to_owned).collect()),
        };
        let most = match self.text("mounts-max-size").map(|text| text.parse()) {
            None if of_github => GITHUB_MOST,
            None => DEFAULT_MOST,
            Some(Ok(Space::Bytes(bytes))) => bytes,
            Some(Ok(Space::Percent(_))) => {
                return Err(self.invalid("`mounts-max-size` is a size such as `5GB`"));
            }
            Some(Err(why)) => return Err(self.invalid(format!("`mounts-max-size`: {why}"))),
        };
        let read_only = self.boolean("mounts-readonly")?;
        Ok(CacheMounts {
            ids,
            most,
            read_only: read_only.unwrap_or(is_proposed(env, of_github)),
        })
    }

    /// GitHub's service: of the job's environment, unless options name another.
    fn actions(&mut self, env: &Env) -> CachePlace {
        let mut option = |name: &str| self.left.remove(name).filter(|text| !text.is_empty());
        let scope = option("scope").unwrap_or_else(|| DEFAULT_SCOPE.to_owned());
        let (url, token) = (option("url_v2"), option("token"));
        let url = url.or_else(|| env.text("ACTIONS_RESULTS_URL"));
        let token = token.or_else(|| env.text("ACTIONS_RUNTIME_TOKEN"));
        // What the first version of the service needs, and what BuildKit's retries and its listing of all entries do.
        for name in ["url", "version", "timeout", "repository", "ghtoken"] {
            option(name);
        }
        let service = url.zip(token).map(|(url, token)| ActionsService {
            url,
            token: Secret(token.into_bytes()),
        });
        CachePlace::Actions { scope, service }
    }

    fn invalid(&self, why: impl std::fmt::Display) -> Diagnostic {
        invalid(self.flag, &self.text, why)
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
            Some((key, _)) => {
                let kind = &self.kind;
                Err(self.invalid(format!("type `{kind}` has no option `{key}`")))
            }
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;

    fn from(text: &str) -> Result<CachePlace, Diagnostic> {
        super::from(text, &Env::default())
    }

    fn to(text: &str) -> Result<Option<CacheTo>, Diagnostic> {
        super::to(text, &Env::default())
    }
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
        for text in [
            "type=ftp,session_token=value-of-key",
            "type=s3,session_token=value-of-key,oops",
        ] {
            let error = of_builder("cache-to", text).unwrap_err();
            assert!(!crate::ui::render(&error, false).contains("value-of"));
        }
    }

    #[test]
    fn cache_mounts_by_their_ids() {
        let mounts = |text: &str| {
            let to = to(&format!("type=registry,ref=r.example/app,{text}"));
            to.map(|to| to.unwrap().mounts)
        };
        let some = |ids: &[&str]| MountIds::Some(ids.iter().map(|id| (*id).to_owned()).collect());
        for (text, ids) in [
            ("mode=max", some(&[])),
            ("mounts=none", some(&[])),
            ("mounts=all", MountIds::All),
            (
                "mounts=/root/.cache/pip;npm",
                some(&["/root/.cache/pip", "npm"]),
            ),
            ("\"mounts=npm,go\"", some(&["npm", "go"])),
        ] {
            assert_eq!(mounts(text).unwrap().ids, ids, "{text}");
        }
        let all = mounts("mounts=all,mounts-max-size=2GB,mounts-readonly=true").unwrap();
        assert_eq!((all.most, all.read_only), (2 << 30, true));
        assert!(all.has("any") && !mounts("mounts=npm").unwrap().has("any"));
        let gha = |text: &str| to(text).unwrap().unwrap().mounts;
        assert_eq!(gha("type=gha,mode=max").ids, MountIds::All);
        assert!(gha("type=gha").is_none() && gha("type=gha,mode=max,mounts=none").is_none());
        for text in [
            "mounts-max-size=10%",
            "mounts-max-size=much",
            "mounts-readonly=x",
        ] {
            assert!(mounts(text).is_err(), "{text}");
        }
        assert!(of_builder("cache-to", "type=registry,ref=r.example/app,mounts=all").is_err());
        assert!(to("type=inline,mounts=all").is_err());
    }

    /// What a stranger's build leaves in a cache mount is not what others begin with.
    #[test]
    fn pull_requests_write_no_cache_mounts_but_their_own() {
        for (variable, event, proposed) in [
            ("GITHUB_EVENT_NAME", "push", false),
            ("GITHUB_EVENT_NAME", "pull_request", true),
            ("GITHUB_EVENT_NAME", "pull_request_target", true),
            ("CI_PIPELINE_SOURCE", "merge_request_event", true),
            ("CI_PIPELINE_SOURCE", "schedule", false),
        ] {
            let env = Env::of([(variable, event)]);
            let read_only = |text: &str| {
                let to = super::to(text, &env);
                to.unwrap().unwrap().mounts.read_only
            };
            let registry = "type=registry,ref=r.example/app,mounts=all";
            assert_eq!(read_only(registry), proposed, "{event}");
            let rights = event == "pull_request_target" || event.starts_with("merge");
            assert_eq!(read_only("type=gha,mounts=all"), rights, "{event}");
            assert!(!read_only(&format!("{registry},mounts-readonly=false")));
        }
    }

    #[test]
    fn options_of_buildkit() {
        let local = |name: &str| CachePlace::Local {
            dir: "d".into(),
            name: name.to_owned(),
        };
        let registry = |reference: &str, insecure| CachePlace::Registry {
            reference: reference.to_owned(),
            insecure,
        };
        let plain = CacheTo {
            place: local("latest"),
            all: false,
            compression: Compression::Default,
            ignore_error: false,
            mounts: CacheMounts {
                most: DEFAULT_MOST,
                ..CacheMounts::none()
            },
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
                    place: local("main"),
                    all: true,
                    compression: Compression::Zstd(Some(9)),
                    ignore_error: true,
                    ..plain.clone()
                },
            ),
            (
                "type=registry,ref=r.example/app:cache,mode=max,image-manifest=true,oci-mediatypes=true",
                CacheTo {
                    place: registry("r.example/app:cache", false),
                    all: true,
                    ignore_error: true,
                    ..plain.clone()
                },
            ),
            (
                "user/app",
                CacheTo {
                    place: registry("docker.io/user/app:latest", false),
                    ignore_error: true,
                    ..plain.clone()
                },
            ),
            (
                "type=registry,ref=r.example/app,registry.insecure=true,ignore-error=false",
                CacheTo {
                    place: registry("r.example/app:latest", true),
                    ..plain
                },
            ),
        ] {
            assert_eq!(to(text).unwrap(), Some(want), "{text}");
        }
        for text in ["type=inline", "type=inline,mode=max"] {
            assert_eq!(to(text).unwrap(), None, "{text}");
        }
        assert_eq!(
            from("user/app:cache").unwrap(),
            registry("docker.io/user/app:cache", false)
        );
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, name) in [
            ("type=local,src=a b".to_owned(), "latest"),
            ("type=local,src=a b,tag=main".to_owned(), "main"),
            (
                format!("type=local,src=a b,tag=x,digest={digest}"),
                &*digest,
            ),
        ] {
            let want = CachePlace::Local {
                dir: "a b".into(),
                name: name.to_owned(),
            };
            assert_eq!(from(&text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong_from = [
            "user/App:cache",
            "type=s3,region=r",
            "type=s3,bucket=b,region=r,endpoint_url=s3.example",
            "type=s3,bucket=b,region=r,access_key_id=i",
            "type=s3,bucket=b,region=r,secret_access_key=value-of-key",
            "type=s3,bucket=b,secret_access_key=value-of-key,oops",
            "type=s3,Secret_Access_Key=value-of\"key,bucket=b",
            "type=s3,\"token=value,of\"\"key\",oops",
            "type=azblob",
            "type=azblob,account_url=https://a.example,account_name=a",
            "type=disk,src=x",
            "src=x",
            "type=local",
            "type=local,src=x,digest=latest",
            "type=local,src=x,mode=max",
            "type=registry",
            "type=registry,ref=r.example/a,mode=max",
            "type=inline",
        ];
        let wrong_to = [
            "type=registry,dest=x",
            "type=registry,ref=r.example/a:b@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "type=inline,ref=x",
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
error: `--cache-from user/App:cache`: `user/App:cache` is not an image reference: a repository is written in lower case
error: `--cache-from type=s3,region=r`: `bucket=` is missing, and so is AWS_BUCKET
error: `--cache-from type=s3,bucket=b,region=r,endpoint_url=s3.example`: `s3.example` is not a URL such as `https://s3.example`
error: `--cache-from type=s3,bucket=b,region=r,access_key_id=i`: of `access_key_id=` and `secret_access_key=` one is missing
error: `--cache-from type=s3,bucket=b,region=r,secret_access_key=…`: of `access_key_id=` and `secret_access_key=` one is missing
error: `--cache-from type=s3,bucket=b,secret_access_key=…,oops`: `oops` is not of the form `key=value`
error: `--cache-from type=s3,Secret_Access_Key=…,bucket=b`: is not a list of `key=value`
error: `--cache-from type=s3,"token=…",oops`: `oops` is not of the form `key=value`
error: `--cache-from type=azblob`: `account_url=` is missing, and so is BUILDKIT_AZURE_STORAGE_ACCOUNT_URL
error: `--cache-from type=azblob,account_url=https://a.example,account_name=a`: `secret_access_key=` is missing: the key of the storage account
error: `--cache-from type=disk,src=x`: there is no cache type `disk`
hint: there are `registry`, `gha`, `s3`, `azblob`, `inline` and `local`
error: `--cache-from src=x`: `type=` is missing
error: `--cache-from type=local`: `src=` is missing: a directory to read from
error: `--cache-from type=local,src=x,digest=latest`: `latest` is not a digest such as `sha256:…`
error: `--cache-from type=local,src=x,mode=max`: type `local` has no option `mode`
error: `--cache-from type=registry`: `ref=` is missing: a name such as `registry.example/app:cache`
error: `--cache-from type=registry,ref=r.example/a,mode=max`: type `registry` has no option `mode`
error: `--cache-from type=inline`: an inline cache is written only
hint: `type=registry,ref=IMAGE` reads the cache that an image has in it
error: `--cache-to type=registry,dest=x`: `ref=` is missing: a name such as `registry.example/app:cache`
error: `--cache-to type=registry,ref=r.example/a:b@sha256:0000000000000000000000000000000000000000000000000000000000000000`: what is written has a tag, and its digest is not known before
error: `--cache-to type=inline,ref=x`: type `inline` has no option `ref`
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
