//! Registries that are broken or mean harm: for each what the user reads, and nothing is kept of what they sent.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use rbuild_cache::Store;
use rbuild_llb::CancelToken;
use snapbox::assert_data_eq;
use snapbox::str;

use super::fixture;
use super::fixture::platform;
use super::fixture::settings;
use super::http::chain;
use super::http::one_image;
use super::http::reference;
use super::http::registry;
use super::server::Asked;
use super::server::Reply;
use super::server::Server;
use crate::image::Descriptor;
use crate::image::Format;
use crate::image::Index;
use crate::image::Manifest;
use crate::image::media_type;
use crate::registry::Client;
use crate::registry::RegistryError;
use crate::registry::client::Patience;

/// What kind of request it is: `token`, `manifest`, `config` or `layer`.
fn kind(asked: &Asked, config: &Descriptor) -> &'static str {
    let config = config.digest.to_string();
    match &asked.target {
        target if target.starts_with("/token") => "token",
        target if target.contains("/manifests/") => "manifest",
        target if target.contains(&config) => "config",
        target if target.contains("/blobs/") => "layer",
        _ => "other",
    }
}

/// Pulls an image whole, the layer into the store's blobs as the source op does, by a client of its own.
fn pull(host: &str, store: &Path, for_layer: &Client) -> Result<(), Box<dyn Error>> {
    let image = reference(host, "team/app:1");
    let client = fixture::client(&settings());
    let resolved = client.resolve(&image, &platform("linux/amd64"))?;
    let store = Store::open(store)?;
    let blobs = store.blobs();
    for layer in &resolved.manifest.layers {
        let mut reader = for_layer.blob(&image, &layer.digest, layer.size)?;
        let mut writer = blobs.writer()?;
        io::copy(&mut reader, &mut writer)?;
        writer.commit(Some((&layer.digest, layer.size)))?;
    }
    Ok(())
}

/// Files below a directory that have the name of a digest.
fn complete(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let counts = entries.map(|entry| {
        let name = entry.file_name();
        let is_blob = name.len() == 64 && entry.path().is_file();
        usize::from(is_blob) + complete(&entry.path())
    });
    counts.sum()
}

/// The error, its causes and its hint, without what differs from run to run.
fn told(error: &(dyn Error + 'static), host: &str) -> String {
    let mut hint = None;
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<RegistryError>());
        let known = error.downcast_ref::<RegistryError>().or(inner);
        hint = hint.or_else(|| known.and_then(RegistryError::hint));
        next = error.source();
    }
    let mut text = chain(error);
    if let Some(hint) = hint {
        text = format!("{text}\n  hint: {hint}");
    }
    text.replace(host, "HOST")
}

/// Serves one image, but for what a case does to it.
fn case(
    name: &str,
    evil: impl Fn(&str, &Asked) -> Option<Reply> + Send + Sync + 'static,
) -> String {
    case_for(name, &fixture::client(&settings()), evil)
}

/// The same for a client that asks for the layer.
fn case_for(
    name: &str,
    client: &Client,
    evil: impl Fn(&str, &Asked) -> Option<Reply> + Send + Sync + 'static,
) -> String {
    let (blobs, tag) = one_image();
    let manifest: Manifest = serde_json::from_slice(&blobs.0[&tag.digest]).unwrap();
    let server = Server::start(move |asked| {
        evil(kind(asked, &manifest.config), asked).unwrap_or_else(|| registry(&blobs, &tag, asked))
    });
    let store = tempfile::tempdir().unwrap();
    let error = pull(&server.host, store.path(), client).expect_err(name);
    assert_eq!(complete(store.path()), 0, "{name}");
    let tries = server.asked().len();
    format!(
        "{name} ({tries})\n  {}\n",
        told(error.as_ref(), &server.host)
    )
}

/// A reply to all requests of a kind.
fn to(wanted: &'static str, reply: Reply) -> impl Fn(&str, &Asked) -> Option<Reply> {
    move |kind, _| (kind == wanted).then(|| reply.clone())
}

/// A server that wants a token which `/token` answers with `reply`.
fn token(reply: Reply) -> impl Fn(&str, &Asked) -> Option<Reply> {
    move |kind, asked| {
        if kind == "token" {
            return Some(reply.clone());
        }
        let realm = format!(
            r#"Bearer realm="http://{}/token""#,
            asked.header("host").unwrap()
        );
        Some(Reply::new(401).header("WWW-Authenticate", realm))
    }
}

#[test]
fn what_users_read() {
    // The control: without a case, the image comes.
    let (good, tag) = one_image();
    let server = Server::start(move |asked| registry(&good, &tag, asked));
    let store = tempfile::tempdir().unwrap();
    let patient = fixture::client(&settings());
    pull(&server.host, store.path(), &patient).unwrap();
    assert_eq!(complete(store.path()), 1);

    let (image, tag) = one_image();
    let manifest: Manifest = serde_json::from_slice(&image.0[&tag.digest]).unwrap();
    let layer = image.0[&manifest.layers[0].digest].clone();
    let mut other = layer.clone();
    other[0] ^= 1;
    let long = [&layer[..], b"more"].concat();
    let document = |change: &dyn Fn(&mut Manifest)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        Reply::new(200).body(changed.to_json())
    };
    let to_itself = |asked: &Asked| {
        let here = asked.target.clone();
        Reply::new(307).header("Location", here)
    };
    let status = |code: u16| to("manifest", Reply::new(code));

    let mut all = String::new();
    all += &case(
        "layer with another digest",
        to("layer", Reply::new(200).body(other)),
    );
    all += &case(
        "layer that ends early",
        to("layer", Reply::new(200).body(&layer[..100])),
    );
    all += &case(
        "layer that breaks each time",
        to(
            "layer",
            Reply::new(200)
                .body(&layer[..100])
                .length(layer.len() as u64),
        ),
    );
    all += &case(
        "layer that is longer",
        to("layer", Reply::new(200).body(long.clone()).chunked()),
    );
    // It does not take the time that a busy machine takes for silence.
    let patience = Patience {
        first_pause: Duration::ZERO,
        silence: Duration::from_secs(1),
    };
    let impatient = Client::with_patience(&settings(), &CancelToken::new(), patience);
    all += &case_for(
        "layer that stalls",
        &impatient,
        to(
            "layer",
            Reply::new(200)
                .body(&layer[..100])
                .length(layer.len() as u64)
                .stalled(),
        ),
    );
    all += &case(
        "config that is another",
        to("config", Reply::new(200).body("{}")),
    );
    all += &case(
        "manifest says another size of the layer",
        to("manifest", document(&|it| it.layers[0].size += 1)),
    );
    all += &case(
        "manifest whose config is a layer",
        to("manifest", document(&|it| it.config = it.layers[0].clone())),
    );
    all += &case(
        "manifest without its layer's place in the config",
        to("manifest", document(&|it| it.layers.clear())),
    );
    all += &case(
        "manifest that is no JSON",
        to(
            "manifest",
            Reply::new(200)
                .body("<html>")
                .header("Content-Type", "text/html"),
        ),
    );
    all += &case(
        "manifest with the type of an index",
        to(
            "manifest",
            document(&|_| ()).header("Content-Type", media_type::OCI_INDEX),
        ),
    );
    all += &case(
        "manifest that is huge",
        to("manifest", Reply::new(200).length(u64::MAX / 2)),
    );
    all += &case(
        "manifest of schema 1",
        to(
            "manifest",
            Reply::new(200).body(r#"{"schemaVersion":1,"fsLayers":[]}"#),
        ),
    );
    all += &case("401 without a challenge", status(401));
    all += &case("403", status(403));
    all += &case("404", status(404));
    all += &case("429", status(429));
    all += &case("500", status(500));
    all += &case("503", status(503));
    all += &case("redirects in circles", move |kind, asked| {
        (kind == "layer").then(|| to_itself(asked))
    });
    all += &case(
        "redirect to a file",
        to(
            "layer",
            Reply::new(302).header("Location", "file:///etc/passwd"),
        ),
    );
    all += &case(
        "token server without a token",
        token(Reply::new(200).body("{}")),
    );
    all += &case(
        "token of another type",
        token(Reply::new(200).body(r#"{"token":7}"#)),
    );
    all += &case(
        "token that breaks a header",
        token(Reply::new(200).body(r#"{"token":"a\r\nb: c"}"#)),
    );
    all += &case(
        "token without an end",
        token(Reply::new(200).body(vec![b' '; (1 << 20) + 1]).chunked()),
    );
    all += &case(
        "token server that redirects in circles",
        move |kind, asked| match kind {
            "token" => Some(to_itself(asked)),
            _ => token(Reply::new(200))(kind, asked),
        },
    );
    all += &case(
        "token that is refused",
        token(Reply::new(200).body(r#"{"token":"t"}"#)),
    );
    all += &case("index that names itself", |kind, _| {
        // No document holds its own digest: it names a digest under which it is sent again.
        let mut entry = Descriptor::of(media_type::OCI_INDEX, b"x");
        entry.size = 0;
        let index = Index::new(Format::Oci, vec![entry]).to_json();
        (kind == "manifest").then(|| Reply::new(200).body(index))
    });
    all += &case("index of indexes without end", |kind, asked| {
        // Index n names index n + 1, which is made when it is asked for.
        let mut documents = vec![Index::new(Format::Oci, Vec::new()).to_json()];
        for _ in 0..20 {
            let inner = Descriptor::of(media_type::OCI_INDEX, documents.last().unwrap());
            documents.push(Index::new(Format::Oci, vec![inner]).to_json());
        }
        let wanted = asked.target.rsplit('/').next().unwrap().to_owned();
        let found = documents
            .iter()
            .find(|it| Descriptor::of("", it).digest.to_string() == wanted);
        let document = found.or(documents.last()).unwrap().clone();
        (kind == "manifest").then(|| Reply::new(200).body(document))
    });
    assert_data_eq!(
        all,
        str![[r#"
layer with another digest (3)
  `sha256:b2d8c6aaec356c7a975b7bd1da177173db97b4078c900b2eae53bf317b23cf23` should have digest sha256:b2d8c6aaec356c7a975b7bd1da177173db97b4078c900b2eae53bf317b23cf23, but has sha256:97146d362adc192bc69a566fd4c25bf1d295749951ac8b351cf52edf56b117fe
  hint: the server, or a mirror or proxy before it, is broken or changes what passes; nothing of it was kept
layer that ends early (3)
  `sha256:b2d8c6aaec356c7a975b7bd1da177173db97b4078c900b2eae53bf317b23cf23` should have 2048 bytes, but has 100
  hint: the server, or a mirror or proxy before it, is broken or changes what passes; nothing of it was kept
layer that breaks each time (7)
  `HOST` cannot be reached: io: Peer disconnected
  hint: proxies are taken from HTTPS_PROXY and HTTP_PROXY; `--offline` builds with what is there already; `[registry."HOST"] mirrors` in config.toml names other hosts
layer that is longer (3)
  `sha256:b2d8c6aaec356c7a975b7bd1da177173db97b4078c900b2eae53bf317b23cf23` should have 2048 bytes, but has at least 2049
  hint: the server, or a mirror or proxy before it, is broken or changes what passes; nothing of it was kept
layer that stalls (7)
  `HOST` cannot be reached: timeout: per read
  hint: proxies are taken from HTTPS_PROXY and HTTP_PROXY; `--offline` builds with what is there already; `[registry."HOST"] mirrors` in config.toml names other hosts
config that is another (2)
  `sha256:c89d745ab263ac4290d5c2ebe366173827b84add795b363ac289fb4f79a457f4` should have 176 bytes, but has 2
  hint: the server, or a mirror or proxy before it, is broken or changes what passes; nothing of it was kept
manifest says another size of the layer (3)
  `sha256:b2d8c6aaec356c7a975b7bd1da177173db97b4078c900b2eae53bf317b23cf23` should have 2049 bytes, but has 2048
  hint: the server, or a mirror or proxy before it, is broken or changes what passes; nothing of it was kept
manifest whose config is a layer (1)
  `HOST/team/app:1` is not a container image: its config is `application/vnd.oci.image.layer.v1.tar`
manifest without its layer's place in the config (2)
  `HOST/team/app:1` has 0 layers, but its config describes 1
manifest that is no JSON (1)
  `HOST/team/app:1` cannot be used as an image: it cannot be read as a manifest or index: expected value at line 1 column 1
manifest with the type of an index (1)
  `HOST/team/app:1` cannot be used as an image: it is said to be `application/vnd.oci.image.index.v1+json`, which its fields contradict
manifest that is huge (1)
  `HOST/team/app:1` is larger than the 4194304 bytes documents may have
manifest of schema 1 (1)
  `HOST/team/app:1` cannot be used as an image: it is a docker schema 1 manifest, a format that was retired in 2019
  hint: a newer image may be there under another tag; pulling it with an old docker and pushing it again with a new one converts it
401 without a challenge (1)
  `HOST` denies access to `HOST/team/app:1`
  hint: `HOST` asked for no credentials
403 (1)
  `HOST` denies access to `HOST/team/app:1`
  hint: `HOST` asked for no credentials
404 (1)
  `HOST` has no `HOST/team/app:1`
429 (5)
  `HOST` takes no more requests for now
  hint: `rbuild login HOST` may raise the limit; `mirrors` in config.toml avoids it
500 (5)
  `HOST` answered 500 to GET http://HOST/v2/team/app/manifests/1
  hint: the trouble is `HOST`'s own: try again later, or name another host with `mirrors` in config.toml
503 (5)
  `HOST` answered 503 to GET http://HOST/v2/team/app/manifests/1
  hint: the trouble is `HOST`'s own: try again later, or name another host with `mirrors` in config.toml
redirects in circles (13)
  `HOST` gave an answer that cannot be used: it redirects in circles
  hint: answers like that often come from a proxy or a login page in the place of `HOST`
redirect to a file (3)
  `HOST` gave an answer that cannot be used: it redirects to no URL
  hint: answers like that often come from a proxy or a login page in the place of `HOST`
token server without a token (2)
  `HOST` gave an answer that cannot be used: `http://HOST/token` gave no token
  hint: answers like that often come from a proxy or a login page in the place of `HOST`
token of another type (2)
  `HOST` gave an answer that cannot be used: `http://HOST/token` gave no token
  hint: answers like that often come from a proxy or a login page in the place of `HOST`
token that breaks a header (2)
  `HOST` gave an answer that cannot be used: `http://HOST/token` gave no token
  hint: answers like that often come from a proxy or a login page in the place of `HOST`
token without an end (2)
  `http://HOST/token` is larger than the 1048576 bytes documents may have
token server that redirects in circles (12)
  `HOST` gave an answer that cannot be used: it redirects in circles
  hint: answers like that often come from a proxy or a login page in the place of `HOST`
token that is refused (3)
  `HOST` denies access to `HOST/team/app:1`
  hint: no credentials for `HOST`: there is no docker config to look in; `rbuild login HOST` makes one
index that names itself (2)
  `HOST/team/app:1` should have digest sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881, but has sha256:ca30ddd9ddf4c8b7ef2b964ab91d366570326a7d7f496ac2486950bbbf060f38
  hint: the server, or a mirror or proxy before it, is broken or changes what passes; nothing of it was kept
index of indexes without end (6)
  `HOST/team/app:1` has no image for linux/amd64: there is nothing

"#]]
    );
}

#[test]
fn other_hosts_see_no_credentials() {
    let elsewhere = Server::start(|_| {
        Reply::new(401).header("WWW-Authenticate", r#"Basic realm="your password, please""#)
    });
    let place = format!("http://{}/x", elsewhere.host);
    let server = Server::start(move |asked| match asked.header("authorization") {
        None => Reply::new(401).header("WWW-Authenticate", "Basic"),
        Some(_) => Reply::new(307).header("Location", place.clone()),
    });
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    // From `printf u:p | base64`.
    let auths = [&server.host, &elsewhere.host].map(|it| format!(r#""{it}":{{"auth":"dTpw"}}"#));
    std::fs::write(&config, format!(r#"{{"auths":{{{}}}}}"#, auths.join(","))).unwrap();
    let mut settings = settings();
    settings.docker_config = Some(config);
    let error = fixture::client(&settings)
        .head(&reference(&server.host, "a/b"))
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
    assert!(!elsewhere.asked().is_empty());
    for asked in elsewhere.asked() {
        assert_eq!(asked.header("authorization"), None);
    }
}
