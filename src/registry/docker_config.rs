//! Credentials where docker keeps them: `auths` of its `config.json`, or the credential helper that the file names
//! (`credHelpers` for one registry, `credsStore` for all; docker-credential-helpers, README, Usage).
//!
//! What is written leaves all else in the file as it is. It is written aside and renamed, for its owner alone; where it is
//! a link, what the link points at is.

use std::fs;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use docker_credential::DockerCredential;
use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::auth::NOT_IN_KEYCHAIN;
use super::auth::base64;
use super::endpoint::credentials_key;
use super::reference::DOCKER_HUB;
use crate::links;

/// Larger files are no configs.
const MAX_CONFIG: u64 = 16 << 20;

/// Why docker's config cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum DockerConfigError {
    /// It cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// A verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not as docker writes it, and what is in it would be lost.
    #[error("`{}` is not a config of docker's: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The credential helper it names failed.
    #[error("`{helper}`, which `{}` names, failed: {said}", path.display())]
    Helper {
        /// The file.
        path: PathBuf,
        /// The program.
        helper: String,
        /// What it said, or why it did not run.
        said: String,
    },
}

/// What a config of docker's has for a registry whose credentials are filed under `key`. Errors call the config `shown`.
pub(super) fn credential(
    config: impl io::Read,
    key: &str,
    shown: &Path,
) -> Result<Option<DockerCredential>, DockerConfigError> {
    let not_json = |_| malformed(shown, "it is not JSON as docker writes it");
    let mut text = Vec::new();
    let read = config.take(MAX_CONFIG).read_to_end(&mut text);
    read.map_err(failed("read", shown))?;
    let config: Map<String, Value> = serde_json::from_slice(&text).map_err(not_json)?;
    if let Some(helper) = own_helper(shown, &config, key)? {
        return kept(shown, &helper, key);
    }
    if let Some(entry) = entry(&config, key) {
        let reduced = json!({"auths": {key: entry}}).to_string();
        let decoded = docker_credential::get_credential_from_reader(reduced.as_bytes(), key);
        let broken = |_| malformed(shown, format!("its `auth` for `{key}` cannot be decoded"));
        return decoded.map(Some).map_err(broken);
    }
    match helper(shown, &config, key)? {
        Some(helper) => kept(shown, &helper, key),
        None => Ok(None),
    }
}

/// What `auths` has for a registry, under whichever of its spellings, as docker takes it: `auth` goes before `username` and
/// `password`, and what is empty is not there.
fn entry(config: &Map<String, Value>, key: &str) -> Option<Map<String, Value>> {
    let auths = config.get("auths")?.as_object()?;
    let spelt = || auths.iter().find(|(filed, _)| host(filed) == host(key));
    let found = auths.get(key).or_else(|| spelt().map(|(_, entry)| entry))?;
    let mut entry = found.as_object()?.clone();
    entry.retain(|_, value| value.as_str().is_some_and(|text| !text.is_empty()));
    let has = |name: &str| entry.contains_key(name);
    if has("auth") || has("identitytoken") {
        entry.remove("password");
    } else if !has("username") || !has("password") {
        return None;
    }
    Some(entry)
}

/// What a helper has.
fn kept(
    shown: &Path,
    helper: &str,
    key: &str,
) -> Result<Option<DockerCredential>, DockerConfigError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Kept {
        username: String,
        secret: String,
    }
    let Some(answer) = ask(shown, helper, "get", key.as_bytes())? else {
        return Ok(None);
    };
    let kept: Kept = serde_json::from_slice(&answer).map_err(|_| DockerConfigError::Helper {
        path: shown.to_owned(),
        helper: helper.to_owned(),
        said: "what it prints is not JSON with `Username` and `Secret`".to_owned(),
    })?;
    Ok(match (kept.username.as_str(), kept.secret.as_str()) {
        // So some say that they know of none.
        ("", "") => None,
        ("<token>", _) => Some(DockerCredential::IdentityToken(kept.secret)),
        _ => Some(DockerCredential::UsernamePassword(
            kept.username,
            kept.secret,
        )),
    })
}

/// Where credentials were put, or taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeper {
    /// In the file itself, readable for whoever can read it.
    File,
    /// In the care of a program.
    Helper(String),
}

/// Keeps a user's password for a registry, called as in image names.
///
/// # Errors
/// If the file or the helper it names does not take it; then nothing has changed.
pub fn store(
    path: &Path,
    registry: &str,
    user: &str,
    password: &str,
) -> Result<Keeper, DockerConfigError> {
    let mut config = read(path)?;
    let key = credentials_key(registry);
    let (keeper, entry) = match helper(path, &config, key)? {
        Some(helper) => {
            let secret = json!({"ServerURL": key, "Username": user, "Secret": password});
            ask(path, &helper, "store", secret.to_string().as_bytes())?;
            // Docker leaves an empty entry, by which it knows who is logged in where.
            (Keeper::Helper(helper), json!({}))
        }
        None => {
            let auth = base64(format!("{user}:{password}").as_bytes());
            (Keeper::File, json!({ "auth": auth }))
        }
    };
    auths(path, &mut config)?.insert(key.to_owned(), entry);
    write(path, &config)?;
    Ok(keeper)
}

/// Forgets the credentials for a registry; nothing if there were none.
///
/// # Errors
/// If the file cannot be changed, or the helper it names fails, which comes last: what the file had is gone then.
pub fn erase(path: &Path, registry: &str) -> Result<Option<Keeper>, DockerConfigError> {
    let mut config = read(path)?;
    let key = credentials_key(registry);
    let auths = auths(path, &mut config)?;
    let before = auths.len();
    auths.retain(|filed, _| host(filed) != host(key));
    let mut found = None;
    if auths.len() < before {
        found = Some(Keeper::File);
        write(path, &config)?;
    }
    if let Some(helper) = helper(path, &config, key)?
        && ask(path, &helper, "erase", key.as_bytes())?.is_some()
    {
        found = Some(Keeper::Helper(helper));
    }
    Ok(found)
}

/// The host that a key of `auths` is for, under whose spellings docker looks for credentials: with a scheme, with `/v1/`
/// or `/v2/`. Podman's keys for a part of a registry, `host/repository`, are for nothing but that.
fn host(key: &str) -> String {
    let key = key.to_ascii_lowercase();
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let host = match bare.unwrap_or(&key).split_once('/') {
        Some((host, path))
            if bare.is_some() || matches!(path.trim_matches('/'), "" | "v1" | "v2") =>
        {
            host
        }
        _ => bare.unwrap_or(&key),
    };
    match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        host => host.to_owned(),
    }
}

fn malformed(path: &Path, why: impl Into<String>) -> DockerConfigError {
    DockerConfigError::Malformed {
        path: path.to_owned(),
        why: why.into(),
    }
}

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> DockerConfigError + 'a {
    move |source| DockerConfigError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<Map<String, Value>, DockerConfigError> {
    let failed = failed("read", path);
    let mut text = Vec::new();
    match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(failed(error)),
        Ok(file) => file
            .take(MAX_CONFIG)
            .read_to_end(&mut text)
            .map_err(failed)?,
    };
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&text) {
        Ok(Value::Object(config)) => Ok(config),
        Ok(_) => Err(malformed(path, "it is not an object")),
        Err(error) => Err(malformed(path, error.to_string())),
    }
}

fn auths<'a>(
    path: &Path,
    config: &'a mut Map<String, Value>,
) -> Result<&'a mut Map<String, Value>, DockerConfigError> {
    let auths = config.entry("auths").or_insert_with(|| json!({}));
    if auths.is_null() {
        *auths = json!({});
    }
    let found = auths.as_object_mut();
    found.ok_or_else(|| malformed(path, "its `auths` is not an object"))
}

/// The program that keeps the credentials filed under `key`.
fn helper(
    path: &Path,
    config: &Map<String, Value>,
    key: &str,
) -> Result<Option<String>, DockerConfigError> {
    let helpers = config.get("credHelpers");
    match helpers.and_then(|helpers| helpers.get(key)) {
        Some(_) => own_helper(path, config, key),
        None => program(path, config.get("credsStore")),
    }
}

/// The program for this registry alone.
fn own_helper(
    path: &Path,
    config: &Map<String, Value>,
    key: &str,
) -> Result<Option<String>, DockerConfigError> {
    let helpers = config.get("credHelpers");
    program(path, helpers.and_then(|helpers| helpers.get(key)))
}

fn program(path: &Path, name: Option<&Value>) -> Result<Option<String>, DockerConfigError> {
    match name {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) if name.is_empty() => Ok(None),
        Some(Value::String(name)) if !name.contains('/') => {
            Ok(Some(format!("docker-credential-{name}")))
        }
        Some(other) => Err(malformed(
            path,
            format!("{other} is not the name of a credential helper"),
        )),
    }
}

/// Has a helper do something, and returns what it prints; nothing if it knows of no such credentials.
fn ask(
    path: &Path,
    helper: &str,
    what: &str,
    input: &[u8],
) -> Result<Option<Vec<u8>>, DockerConfigError> {
    let wrong = |said: String| DockerConfigError::Helper {
        path: path.to_owned(),
        helper: helper.to_owned(),
        said,
    };
    let run = || -> io::Result<std::process::Output> {
        let mut child = Command::new(helper)
            .arg(what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("it was started with a pipe");
        let written = stdin.write_all(input);
        drop(stdin);
        let output = child.wait_with_output()?;
        // One that fails before it reads says why itself, and one for a single registry need not read which.
        if output.status.success() && what != "get" {
            written?;
        }
        Ok(output)
    };
    let output = run().map_err(|error| wrong(error.to_string()))?;
    if output.status.success() {
        return Ok(Some(output.stdout));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (printed, complaint) = (text(&output.stdout), text(&output.stderr));
    let unknown = printed.contains(NOT_IN_KEYCHAIN) || complaint.contains(NOT_IN_KEYCHAIN);
    match what {
        "get" | "erase" if unknown => Ok(None),
        // What it printed may hold a secret.
        "get" => Err(wrong(complaint)),
        _ => Err(wrong(printed + &complaint)),
    }
}

fn write(path: &Path, config: &Map<String, Value>) -> Result<(), DockerConfigError> {
    let path = &links::behind(path).map_err(failed("write", path))?;
    let failed = failed("write", path);
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut make = fs::DirBuilder::new();
    make.recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(&failed)?;
    let mut text = Vec::new();
    // As docker writes it.
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, format);
    serde::Serialize::serialize(config, &mut serializer)
        .expect("a JSON value can always be written");
    text.push(b'\n');
    let mut aside = tempfile::Builder::new()
        .prefix(".config.json-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(&failed)?;
    aside.write_all(&text).map_err(&failed)?;
    aside.as_file().sync_all().map_err(&failed)?;
    aside.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod t {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn value(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn credentials_come_and_go_and_all_else_stays() {
        let other = json!({"proxies": {"default": {"httpProxy": "http://p"}}, "auths": {"ghcr.io": {"auth": "x"}}});
        let (_dir, path) = config(&other.to_string());
        assert_eq!(
            store(&path, "r.example:5000", "me", "geheim").unwrap(),
            Keeper::File
        );
        store(&path, "docker.io", "me", "p").unwrap();
        let mut want = other.clone();
        // `printf me:geheim | base64`
        want["auths"]["r.example:5000"] = json!({"auth": "bWU6Z2VoZWlt"});
        want["auths"]["https://index.docker.io/v1/"] = json!({"auth": "bWU6cA=="});
        assert_eq!(value(&path), want);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        assert_eq!(erase(&path, "r.example:5000").unwrap(), Some(Keeper::File));
        assert_eq!(erase(&path, "docker.io").unwrap(), Some(Keeper::File));
        assert_eq!(erase(&path, "docker.io").unwrap(), None);
        assert_eq!(value(&path), other);
    }

    /// docker/cli, `config/credentials/file_store.go` and `config/configfile/file.go`.
    #[test]
    fn credentials_are_found_as_docker_finds_them() {
        let found = |text: &Value, registry: &str| {
            let key = credentials_key(registry);
            credential(text.to_string().as_bytes(), key, Path::new("config.json"))
        };
        let password = |user: &str, password: &str| {
            let password = password.to_owned();
            Some(DockerCredential::UsernamePassword(
                user.to_owned(),
                password,
            ))
        };
        // `printf u:p | base64`
        let entry = json!({"auth": "dTpw"});
        for (registry, key) in [
            ("r.example:5000", "r.example:5000"),
            ("r.example:5000", "https://r.example:5000/v1/"),
            ("r.example:5000", "http://r.example:5000"),
            ("r.example:5000", "r.example:5000/v2/"),
            ("docker.io", "https://index.docker.io/v1/"),
            ("docker.io", "index.docker.io"),
            ("docker.io", "docker.io"),
        ] {
            let text = json!({"auths": {"other.example": {"auth": "x"}, key: entry}});
            assert_eq!(found(&text, registry).unwrap(), password("u", "p"), "{key}");
        }
        for other in ["r.example", "r.example:5001", "r.example:5000/team"] {
            let text = json!({"auths": {other: entry}});
            assert_eq!(found(&text, "r.example:5000").unwrap(), None, "{other}");
        }
        let token = DockerCredential::IdentityToken("t".to_owned());
        for (entry, want) in [
            (
                json!({"auth": "", "username": "a", "password": "b"}),
                password("a", "b"),
            ),
            (
                json!({"auth": "dTpw", "username": "a", "password": "b"}),
                password("u", "p"),
            ),
            (
                json!({"auth": "dTpw", "identitytoken": ""}),
                password("u", "p"),
            ),
            (json!({"auth": "dTo=", "identitytoken": "t"}), Some(token)),
            (json!({"auth": "", "email": "me@r.example"}), None),
            (json!({"username": "a"}), None),
            (json!({}), None),
            (json!(null), None),
        ] {
            let text = json!({"auths": {"r": entry}});
            assert_eq!(found(&text, "r").unwrap(), want, "{entry}");
        }
        // What is empty is not there, and the store is asked then; no store is asked where there is to be none.
        let mut text = json!({"auths": {"r": {"auth": ""}}, "credsStore": "rbuild-has-none"});
        let error = found(&text, "r").unwrap_err().to_string();
        assert!(
            error.contains("docker-credential-rbuild-has-none"),
            "{error}"
        );
        text["credHelpers"] = json!({"r": ""});
        assert_eq!(found(&text, "r").unwrap(), None);
        let broken = json!({"auths": {"r": {"auth": "no colon"}}});
        let error = found(&broken, "r").unwrap_err().to_string();
        assert!(
            error.contains("its `auth` for `r` cannot be decoded"),
            "{error}"
        );
    }

    #[test]
    fn helpers_answer_or_say_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let shown = Path::new("config.json");
        // Written by another process: a file that is open to be written anywhere, in a child of another test's, say, cannot
        // be executed.
        let helper = |script: &str| {
            let path = dir.path().join("helper");
            let text = format!("#!/bin/sh\n{script}\n");
            let write = r#"rm -f "$1" && printf %s "$2" > "$1" && chmod 755 "$1""#;
            let mut shell = Command::new("sh");
            shell.args(["-c", write, "sh"]).arg(&path).arg(text);
            assert!(shell.status().unwrap().success());
            path.to_str().unwrap().to_owned()
        };
        // More than a pipe holds: who does not read it is gone before it is written.
        let key = "r".repeat(1 << 20);
        for (script, want) in [
            (
                r#"echo '{"ServerURL":"r","Username":"u","Secret":"p"}'"#,
                Some(DockerCredential::UsernamePassword(
                    "u".to_owned(),
                    "p".to_owned(),
                )),
            ),
            (
                r#"cat > /dev/null; echo '{"Username":"<token>","Secret":"t"}'"#,
                Some(DockerCredential::IdentityToken("t".to_owned())),
            ),
            (
                "echo credentials not found in native keychain; exit 1",
                None,
            ),
            (r#"echo '{"ServerURL":"","Username":"","Secret":""}'"#, None),
        ] {
            assert_eq!(
                kept(shown, &helper(script), &key).unwrap(),
                want,
                "{script}"
            );
        }
        for (script, why) in [
            ("echo secret; echo no bus >&2; exit 3", "failed: no bus"),
            ("echo secret", "what it prints is not JSON"),
        ] {
            let error = kept(shown, &helper(script), &key).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_config_that_is_not_there_is_made_and_a_link_stays_one() {
        let (dir, path) = config("");
        let missing = dir.path().join("a/b/config.json");
        store(&missing, "r", "u", "p").unwrap();
        let made = fs::metadata(missing.parent().unwrap()).unwrap();
        assert_eq!(made.permissions().mode() & 0o777, 0o700);
        let link = dir.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        store(&link, "r", "u", "p").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(value(&path), value(&missing));
    }

    #[test]
    fn all_spellings_of_a_registry_are_forgotten() {
        for (registry, keys) in [
            (
                "r.example:5000",
                &[
                    "r.example:5000",
                    "https://r.example:5000",
                    "https://r.example:5000/v2/",
                    "http://R.example:5000/v1",
                    "r.example:5000/v2/",
                ][..],
            ),
            (
                "docker.io",
                &[
                    "https://index.docker.io/v1/",
                    "docker.io",
                    "index.docker.io",
                ],
            ),
        ] {
            for key in keys {
                let others = json!({"r.example": {}, "r.example:5000/me": {}, "ghcr.io": {}});
                let mut auths = others.clone();
                auths[*key] = json!({"auth": "x"});
                let (_dir, path) = config(&json!({ "auths": auths }).to_string());
                assert_eq!(erase(&path, registry).unwrap(), Some(Keeper::File), "{key}");
                assert_eq!(value(&path), json!({ "auths": others }), "{key}");
            }
        }
    }

    #[test]
    fn a_helper_that_fails_keeps_nothing_in_the_file() {
        let text = json!({"credsStore": "rbuild-has-none", "auths": {"r": {"auth": "x"}}});
        let (_dir, path) = config(&text.to_string());
        let error = erase(&path, "r").unwrap_err().to_string();
        assert!(error.contains("rbuild-has-none"), "{error}");
        assert_eq!(value(&path)["auths"], json!({}));
    }

    #[test]
    fn a_link_to_a_file_that_is_not_there_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("config.json");
        std::os::unix::fs::symlink("elsewhere/config.json", &link).unwrap();
        store(&link, "r", "u", "p").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(value(&dir.path().join("elsewhere/config.json"))["auths"]["r"].is_object());
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        for (text, why) in [
            ("[]", "it is not an object"),
            ("{\"auths\":[]}", "its `auths` is not an object"),
            ("{\"auths\":", "EOF while parsing"),
            (
                "{\"credsStore\":\"../x\"}",
                "is not the name of a credential helper",
            ),
            (
                "{\"credsStore\":7}",
                "7 is not the name of a credential helper",
            ),
        ] {
            let (_dir, path) = config(text);
            let error = store(&path, "r", "u", "p").unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let (_dir, path) = config("{\"credHelpers\":{\"r\":\"rbuild-has-none\"}}");
        let error = store(&path, "r", "u", "p").unwrap_err().to_string();
        assert!(
            error.contains("`docker-credential-rbuild-has-none`"),
            "{error}"
        );
        assert_eq!(store(&path, "other", "u", "p").unwrap(), Keeper::File);
    }
}
