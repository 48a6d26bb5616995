//! Proxies: those that rbuild goes through, and those that steps are told of, from the environment and from the `proxies` of
//! docker's `config.json`. Of that file the credentials are `registry`'s.
//!
//! A file of docker's that cannot be read is left out, as docker's command does it: a remark, and no error.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;

use super::env::Env;
use crate::request::ProxySettings;

/// What `proxies` of docker's config say by default: `httpProxy` and the like.
pub(super) type DockerProxies = BTreeMap<String, String>;

/// Where docker's `config.json` is or would be.
pub(super) fn docker_config(env: &Env) -> Option<PathBuf> {
    let dir = env
        .path("DOCKER_CONFIG")
        .or_else(|| Some(env.path("HOME")?.join(".docker")))?;
    Some(dir.join("config.json"))
}

/// Those of the environment, for connections of rbuild's own.
pub(super) fn of_environment(env: &Env) -> ProxySettings {
    let all = env.proxy("ALL_PROXY");
    let no_proxy = env.proxy("NO_PROXY").unwrap_or_default();
    let hosts = no_proxy.split(',').map(str::trim).filter(|h| !h.is_empty());
    ProxySettings {
        http: env.proxy("HTTP_PROXY").or_else(|| all.clone()),
        https: env.proxy("HTTPS_PROXY").or(all),
        no_proxy: hosts.map(str::to_owned).collect(),
    }
}

/// The predefined proxy variables for steps: those of the environment, overridden by docker's, in both cases as docker's
/// command passes them.
pub(super) fn of_steps(docker: &DockerProxies, env: &Env) -> BTreeMap<String, String> {
    const NAMES: [(&str, &str); 5] = [
        ("HTTP_PROXY", "httpProxy"),
        ("HTTPS_PROXY", "httpsProxy"),
        ("FTP_PROXY", "ftpProxy"),
        ("ALL_PROXY", "allProxy"),
        ("NO_PROXY", "noProxy"),
    ];
    let mut args = BTreeMap::new();
    for (name, key) in NAMES {
        let lower = name.to_ascii_lowercase();
        match docker.get(key) {
            Some(value) if !value.is_empty() => {
                args.insert(name.to_owned(), value.clone());
                args.insert(lower, value.clone());
            }
            _ => {
                for name in [name, &lower] {
                    args.extend(env.text(name).map(|value| (name.to_owned(), value)));
                }
            }
        }
    }
    args
}

/// Those of docker's config, if there is one; else perhaps a remark on why they are none.
pub(super) fn of_docker(config: Option<&Path>) -> (DockerProxies, Option<String>) {
    let Some(file) = config else {
        return (DockerProxies::new(), None);
    };
    match read(file) {
        Ok(proxies) => (proxies, None),
        Err(why) => {
            let file = file.display();
            let remark = format!(
                "docker's `{file}` is left out, with the credentials and proxies in it: {why}"
            );
            (DockerProxies::new(), Some(remark))
        }
    }
}

fn read(file: &Path) -> Result<DockerProxies, io::Error> {
    #[derive(Default, Deserialize)]
    struct DockerConfig {
        #[serde(default)]
        proxies: BTreeMap<String, DockerProxies>,
    }
    let bytes = fs::read(file)?;
    // docker takes an empty file for `{}`.
    if bytes.trim_ascii().is_empty() {
        return Ok(DockerProxies::new());
    }
    let mut config: DockerConfig = serde_json::from_slice(&bytes)?;
    Ok(config.proxies.remove("default").unwrap_or_default())
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn both_sources() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        fs::write(
            &file,
            r#"{"auths": {}, "proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "a,b"}}}"#,
        )
        .unwrap();
        let env = Env::of([
            ("DOCKER_CONFIG", dir.path().to_str().unwrap()),
            ("HOME", "/nowhere"),
            ("HTTP_PROXY", "http://env"),
            ("https_proxy", "http://env:2"),
            ("no_proxy", "localhost, .example.org,"),
            ("ALL_PROXY", "socks5://x"),
        ]);
        let own = of_environment(&env);
        assert_eq!(own.http.as_deref(), Some("http://env"));
        assert_eq!(own.https.as_deref(), Some("http://env:2"));
        assert_eq!(own.no_proxy, ["localhost", ".example.org"]);
        assert_eq!(docker_config(&env).as_ref(), Some(&file));
        let (docker, remark) = of_docker(Some(&file));
        assert_eq!(remark, None);
        let args = of_steps(&docker, &env);
        let args: Vec<(&str, &str)> = args.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            args,
            [
                ("ALL_PROXY", "socks5://x"),
                ("HTTP_PROXY", "http://p:1"),
                ("NO_PROXY", "a,b"),
                ("http_proxy", "http://p:1"),
                ("https_proxy", "http://env:2"),
                ("no_proxy", "a,b"),
            ]
        );
    }

    /// `WARNING: Error loading config file: …` says docker's command then (cli/config, `LoadDefaultConfigFile`), and goes on;
    /// of an empty file it says nothing.
    #[test]
    fn a_config_that_cannot_be_read_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        for (text, told) in [
            ("", false),
            (" \n", false),
            ("{}", false),
            (r#"{"proxies": {"elsewhere": {"httpProxy": "x"}}}"#, false),
            ("{", true),
            (r#"{"proxies": 7}"#, true),
        ] {
            fs::write(&file, text).unwrap();
            let (proxies, remark) = of_docker(Some(&file));
            assert_eq!(proxies, DockerProxies::new(), "{text}");
            assert_eq!(remark.is_some(), told, "{text}: {remark:?}");
        }
    }
}
