//! `pull`, `push`, `login` and `logout`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use serde_json::json;

use super::archives::elsewhere;
use super::archives::load;
use super::built;
use super::digest_by_skopeo;
use super::id_by_skopeo;
use super::inspect;
use super::parsed;
use super::skopeo;
use super::terminal::at_a_terminal;
use super::terminal::shell_at_a_terminal;
use crate::platforms::multi_platform_base;
use crate::support::Base;
use crate::support::Hesitant;
use crate::support::Output;
use crate::support::Registry;
use crate::support::TestEnv;
use crate::support::USER;

#[test]
fn several_images_and_lost_blobs_come_side_by_side() {
    let env = TestEnv::new();
    fs::create_dir(env.outside("layouts")).unwrap();
    for (name, text) in [
        (
            "pair",
            "FROM scratch\nCOPY Dockerfile /one\nCOPY Dockerfile /two\n",
        ),
        ("first", "FROM scratch\nCOPY Dockerfile /three\n"),
        ("second", "FROM scratch\nCOPY Dockerfile /four\n"),
    ] {
        env.write(&format!("{name}/Dockerfile"), text);
        let output = format!("type=oci,tar=false,dest=../layouts/{name}");
        env.rbuild(["-o", &output, name]).success();
    }
    let registry = Hesitant::start(&env.outside("layouts"));
    let [pair, first, second] =
        ["pair", "first", "second"].map(|name| format!("{}/{name}:1", registry.host()));
    let other = elsewhere();
    let pulled = other.rbuild(["pull", &first, &second]).success();
    assert_eq!(pulled.stdout, format!("{first}\n{second}\n"));
    other.rbuild(["pull", &pair]).success();
    // What they unpack to stays known.
    for digest in registry.layers("pair") {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = other.store().join("v1/blobs/sha256");
        fs::remove_file(blobs.join(&hex[..2]).join(hex)).unwrap();
    }
    other.rbuild(["pull", &pair]).success();
}

#[test]
fn what_is_pulled_stays_without_its_registry() {
    let registry = Registry::start();
    let host = registry.host();
    Base::Busybox.copy_to(&format!("docker://{host}/me/box:1"));
    let env = TestEnv::new();
    let name = format!("{host}/me/box:1");
    let digest = digest_by_skopeo(&env, &format!("docker://{name}"));
    let pulled = env.rbuild(["pull", &name]).success();
    assert_eq!(pulled.stdout, format!("{name}\n"));
    assert!(pulled.stderr.contains(&digest), "{pulled}");
    // A blob that the store has lost comes back, though what it unpacks to is known.
    let blob = |env: &TestEnv| {
        let manifest = skopeo(
            env,
            &[
                "inspect",
                "--raw",
                "--tls-verify=false",
                &format!("docker://{name}"),
            ],
        );
        let manifest = parsed(&manifest.success().stdout);
        let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
        let hex = &digest["sha256:".len()..];
        env.store()
            .join("v1/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
    };
    fs::remove_file(blob(&env)).unwrap();
    env.rbuild(["pull", "-q", &name]).success();
    assert!(blob(&env).exists());
    let by_digest = format!("{host}/me/box@{digest}");
    let quiet = env.rbuild(["pull", "-q", &by_digest]).success();
    assert_eq!(
        (quiet.stdout, quiet.stderr),
        (format!("{by_digest}\n"), String::new())
    );
    let id = id_by_skopeo(&env, &format!("docker://{name}"));
    // What came before one that is not there is there, and was told.
    let none = format!("{host}/me/none");
    let pulled = env.rbuild(["pull", &name, &none]).code(3);
    assert_eq!(pulled.stdout, format!("{name}\n"));
    pulled.says("has no `");
    drop(registry);

    let image = inspect(&env, &name);
    assert_eq!(image["Id"], id);
    assert_eq!(image["RepoTags"], json!([name]));
    assert_eq!(image["RepoDigests"], json!([by_digest]));
    let run = env.rbuild(["run", &name, "echo", "there"]).success();
    assert_eq!(run.stdout, "there\n");
    env.rbuild(["save", "-o", "box.tar", &name]).success();
    assert_eq!(id_by_skopeo(&env, "docker-archive:box.tar"), id);
    for from in [&name, &by_digest] {
        env.write(
            "Dockerfile",
            format!("FROM {from}\nRUN test -x /bin/busybox\n"),
        );
        env.rbuild(["--offline", "."]).success();
    }
}

#[test]
fn of_an_index_one_platform_is_pulled() {
    let registry = Registry::start();
    let env = TestEnv::new();
    multi_platform_base(&env, &registry, true);
    let name = format!("{}/base:1", registry.host());
    let digest = digest_by_skopeo(&env, &format!("docker://{name}"));
    env.rbuild(["pull", "--platform=linux/arm64", &name])
        .success();
    let image = inspect(&env, &name);
    assert_eq!(image["Architecture"], "arm64");
    let repository = name.strip_suffix(":1").unwrap();
    assert_eq!(
        image["RepoDigests"],
        json!([format!("{repository}@{digest}")])
    );
    env.rbuild(["pull", &name]).success();
    assert_eq!(inspect(&env, &name)["Architecture"], "amd64");
    env.rbuild(["pull", "--platform=linux/s390x", &name])
        .code(3)
        .says("has no image for linux/s390x");
}

#[test]
fn what_is_pushed_is_what_a_build_pushes_and_is_sent_once() {
    let registry = Registry::start();
    let host = registry.host();
    let env = built();
    let name = format!("{host}/me/app:1");
    env.rbuild(["tag", "app:1", &name]).success();
    let pushed = env.rbuild(["push", &name]).success();
    let digest = digest_by_skopeo(&env, &format!("docker://{name}"));
    assert_eq!(pushed.stdout, format!("{name}@{digest}\n"));
    let image = inspect(&env, &name);
    assert_eq!(id_by_skopeo(&env, &format!("docker://{name}")), image["Id"]);
    assert_eq!(
        image["RepoDigests"],
        json!([format!("{host}/me/app@{digest}")])
    );
    // That is the registry's word for its own repository.
    env.rbuild(["tag", &name, "example.org/app"]).success();
    let by_digest = format!("{host}/me/app@{digest}");
    for known in [&by_digest, "example.org/app"] {
        let found = inspect(&env, known);
        assert_eq!(found["Id"], image["Id"]);
        assert_eq!(found["RepoDigests"], json!([by_digest]));
    }
    for unknown in [
        format!("example.org/app@{digest}"),
        format!("{host}/me/app@sha256:{}", "0".repeat(64)),
    ] {
        env.rbuild(["inspect", &unknown]).code(2);
    }
    env.rbuild(["rmi", &by_digest]).code(2).says("is called");
    let manifest = skopeo(
        &env,
        &[
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{name}"),
        ],
    );
    let manifest = parsed(&manifest.success().stdout);
    for layer in manifest["layers"].as_array().unwrap() {
        assert!(layer["mediaType"].as_str().unwrap().ends_with("tar+gzip"));
    }
    // podman reads it, and a build that pushes makes the same.
    let plain = ["pull", "-q", "--tls-verify=false", &name];
    env.tool("podman", plain).success();
    let again = env.rbuild(["push", &name]).success();
    again.says("0 blobs sent");
    env.rbuild(["-t", &format!("{host}/me/built:1"), "--push", "."])
        .success();
    let built = format!("docker://{host}/me/built:1");
    assert_eq!(digest_by_skopeo(&env, &built), digest);

    // Loaded from elsewhere, with layers that are plain tars: podman's bytes, compressed.
    let saved = ["save", "-q", "-o", "podman.tar", &name];
    env.tool("podman", saved).success();
    let other = elsewhere();
    fs::copy(env.path("podman.tar"), other.path("in.tar")).unwrap();
    load(&other, "in.tar").success();
    let copy = format!("{host}/me/copy:2");
    other.rbuild(["push", &name, &copy]).success();
    assert_eq!(id_by_skopeo(&env, &format!("docker://{copy}")), image["Id"]);
    other.rbuild(["rmi", &name]).success();
    other.rbuild(["pull", &copy]).success();
    let run = other.rbuild(["run", &copy]).success();
    assert_eq!(run.stdout, "hello\n");
    // Two layers of its own, that of busybox, and the config.
    assert_eq!(registry.uploads("me/app"), 4);
}

#[test]
fn of_several_registries_each_failure_is_told_and_holds_up_no_other() {
    let (closed, open, shut) = (Registry::closed(), Registry::start(), Registry::closed());
    let [first, second, third] =
        [&closed, &open, &shut].map(|registry| format!("{}/me/app:1", registry.host()));
    // Of the same registry as what fails, and after it.
    let after = format!("{}/me/other:1", closed.host());
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let names = [&first, &second, &third, &after].map(String::as_str);
    let tags = names.iter().flat_map(|name| ["-t", name]);
    let built = env.rbuild(["build", "--push", "."].into_iter().chain(tags));
    let pushed = env.rbuild(["push"].into_iter().chain(names));
    let digest = digest_by_skopeo(&env, &format!("docker://{second}"));
    assert_eq!(pushed.stdout, format!("{second}@{digest}\n"));
    for said in [built, pushed] {
        let said = said.code(3);
        for name in [&first, &third] {
            let host = name.split('/').next().unwrap();
            let told = format!("`{host}` denies access to `{name}`");
            assert!(said.stderr.contains(&told), "no `{told}` in:\n{said}");
        }
        assert!(
            !said.stderr.contains(&format!("access to `{after}`")),
            "{said}"
        );
    }
}

fn log_in(env: &TestEnv, host: &str, password: &str) -> Output {
    let args = ["login", "-u", USER.0, "--password-stdin", host];
    let mut command = env.rbuild_command(args);
    command
        .env(
            "PATH",
            format!("{}:/usr/bin:/bin", env.outside("bin").display()),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{password}").unwrap();
    drop(stdin);
    env.finished(child)
}

#[test]
fn credentials_are_checked_and_kept_where_others_find_them() {
    let registry = Registry::closed();
    let host = registry.host();
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY note /\n")
        .file("note", "x");
    let name = format!("{host}/me/app:1");
    env.rbuild(["-t", &name, "."]).success();
    env.rbuild(["push", &name]).code(3).says("denies access");
    log_in(&env, &host, "wrong")
        .code(3)
        .says("does not accept these credentials for `rebecca`");
    let config = env.outside("home/.docker/config.json");
    assert!(!config.exists());

    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, r#"{"proxies": {"default": {}}}"#).unwrap();
    log_in(&env, &host, USER.1).success().says("logged in");
    assert_eq!(
        fs::metadata(&config).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // What skopeo writes for the same login is what rbuild wrote.
    let theirs = env.outside("skopeo.json");
    let login = [
        "login",
        "--tls-verify=false",
        "--authfile",
        theirs.to_str().unwrap(),
        "-u",
        USER.0,
        "-p",
        USER.1,
        &host,
    ];
    env.tool("skopeo", login).success();
    let mut ours = parsed(&fs::read_to_string(&config).unwrap());
    assert_eq!(ours["proxies"].take(), json!({"default": {}}));
    let theirs = parsed(&fs::read_to_string(&theirs).unwrap());
    assert_eq!(ours["auths"], theirs["auths"]);

    env.rbuild(["push", &name]).success();
    let authfile = config.to_str().unwrap();
    let raw = [
        "inspect",
        "--tls-verify=false",
        "--authfile",
        authfile,
        "--raw",
        &format!("docker://{name}"),
    ];
    skopeo(&env, &raw).success();
    env.rbuild(["logout", &host]).success().says("logged out");
    let left = parsed(&fs::read_to_string(&config).unwrap());
    assert_eq!(left, json!({"auths": {}, "proxies": {"default": {}}}));
    env.rbuild(["logout", &host])
        .success()
        .says("nothing to do");
    env.rbuild(["pull", &name]).code(3).says("denies access");
    env.rbuild(["login", "-u", "me", &host])
        .code(2)
        .says("no terminal to ask");

    let login = format!("login -u {} {host}", USER.0);
    at_a_terminal(&env, &login, "Password: ", "abc\x03").code(130);
    for signal in ["TERM", "HUP", "INT"] {
        let pid = env.outside("pid");
        let line = format!(
            "sh -c 'echo $$ > {}; exec {} {login}'; echo code $?; stty -a",
            pid.display(),
            env!("CARGO_BIN_EXE_rbuild"),
        );
        let said = shell_at_a_terminal(&env, &line, "Password: ", || {
            let pid = fs::read_to_string(&pid).unwrap();
            // What follows, the end of what is typed, must not come first.
            let ended = format!(
                "kill -{signal} {0} && tail --pid={0} -f /dev/null",
                pid.trim()
            );
            env.tool("sh", ["-c", &ended]).success();
            ""
        });
        let said = said.success().stdout;
        assert!(said.contains("code 130"), "{signal}: {said}");
        for mode in ["echo", "icanon", "isig"] {
            assert!(said.split_whitespace().any(|word| word == mode), "{said}");
        }
    }
    // At a terminal, which does not show the password.
    let said = at_a_terminal(&env, &login, "Password: ", &format!("{}\n", USER.1));
    let said = said.success().stdout;
    assert!(
        said.contains("logged in") && !said.contains(USER.1),
        "{said}"
    );
    env.rbuild(["pull", "-q", &name]).success();
}

#[test]
fn a_credential_helper_keeps_what_it_is_given() {
    let registry = Registry::closed();
    let host = registry.host();
    let env = TestEnv::new();
    let (bin, kept) = (env.outside("bin"), env.outside("kept"));
    fs::create_dir(&bin).unwrap();
    let helper = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0} ;;\nget) cat {0} ;;\nerase) cat >/dev/null; rm {0} 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }} ;;\nesac\n",
        kept.display()
    );
    let program = bin.join("docker-credential-box");
    fs::write(&program, helper).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let config = env.outside("home/.docker/config.json");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, r#"{"credsStore": "box"}"#).unwrap();

    log_in(&env, &host, USER.1)
        .success()
        .says("`docker-credential-box` has the password");
    assert_eq!(
        parsed(&fs::read_to_string(&kept).unwrap()),
        json!({"ServerURL": host, "Username": USER.0, "Secret": USER.1})
    );
    let text = fs::read_to_string(&config).unwrap();
    assert!(
        !text.contains(USER.1) && parsed(&text)["auths"][&host] == json!({}),
        "{text}"
    );
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let mut pull = env.rbuild_command(["pull", &format!("{host}/me/none")]);
    env.run(pull.env("PATH", &path)).code(3).says("has no `");
    for said in ["logged out", "nothing to do"] {
        let mut out = env.rbuild_command(["logout", &host]);
        env.run(out.env("PATH", &path)).success().says(said);
    }
    assert!(!kept.exists());
}

#[test]
fn several_platforms_are_pushed_as_one() {
    let registry = Registry::start();
    let name = format!("{}/two:1", registry.host());
    let env = TestEnv::new()
        .file(
            "Dockerfile",
            "FROM scratch\nARG TARGETARCH\nENV FOR=$TARGETARCH\nCOPY note /\n",
        )
        .file("note", "x".repeat(5000));
    env.rbuild(["--platform=linux/amd64,linux/arm64", "-t", &name, "."])
        .success();
    let pushed = env.rbuild(["push", "-q", &name]).success().stdout;
    let place = format!("docker://{name}");
    assert_eq!(
        pushed.trim(),
        format!("{name}@{}", digest_by_skopeo(&env, &place))
    );
    for arch in ["amd64", "arm64"] {
        let of = format!("--override-arch={arch}");
        let seen = skopeo(
            &env,
            &[&of, "inspect", "--config", "--tls-verify=false", &place],
        );
        let seen = parsed(&seen.success().stdout);
        assert_eq!(seen["config"]["Env"][1], format!("FOR={arch}"));
    }
    let to = "dir:copied";
    skopeo(
        &env,
        &["copy", "-q", "--all", "--src-tls-verify=false", &place, to],
    )
    .success();
}
