//! Images in engines: podman and dockerd load them, and podman runs them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::all_sorts;
use crate::support::Dockerd;
use crate::support::TestEnv;
use crate::support::list_tar;
use crate::support::tools;

const NAME: &str = "example.org/app:1";

#[test]
fn podman_loads_every_archive_and_runs_what_it_loaded() {
    let env = all_sorts();
    let outputs = [
        "type=oci,dest=oci.tar",
        "type=oci,dest=zstd.tar,compression=zstd",
        "type=docker,dest=docker.tar",
        "type=docker,dest=types.tar,oci-mediatypes=false,annotation.a=b",
    ];
    let args = outputs.iter().flat_map(|output| ["-o", output]);
    env.rbuild(args.chain(["-t", NAME, "."])).success();
    for archive in ["oci.tar", "zstd.tar", "docker.tar", "types.tar"] {
        env.tool("podman", ["load", "--quiet", "--input", archive])
            .success();
        let run = ["run", "--rm", "--network=host", "--user=0", NAME];
        assert_eq!(
            env.tool("podman", run).success().stdout,
            "hello\n",
            "{archive}"
        );
        env.tool("podman", ["rmi", "--force", NAME]).success();
    }
}

#[test]
fn docker_loads_what_it_is_handed() {
    let env = all_sorts();
    let docker = Dockerd::start(&env);
    let outputs = [
        "-o",
        "type=docker,dest=out.tar",
        "-o",
        "type=docker,dest=old.tar,oci-mediatypes=false",
    ];
    let flags = ["-t", NAME, "--iidfile", "iid"];
    env.rbuild(outputs.into_iter().chain(flags).chain(["."]))
        .success();
    let id = std::fs::read_to_string(env.path("iid")).unwrap();
    let loaded = || {
        let format = "{{.Id}} {{json .Config.Cmd}} {{len .RootFS.Layers}}";
        let found = docker.client(&env, ["image", "inspect", "--format", format, NAME]);
        docker.client(&env, ["image", "rm", NAME]).success();
        found.success().stdout
    };
    let wanted = format!("{id} [\"/srv/out.txt\"] 6\n");
    for archive in ["out.tar", "old.tar"] {
        docker
            .client(&env, ["load", "--quiet", "--input", archive])
            .success();
        assert_eq!(loaded(), wanted, "{archive}");
    }
    env.rbuild(["-o", "type=docker,context=of-the-test", "-t", NAME, "."])
        .success();
    assert_eq!(loaded(), wanted);
    env.rbuild(["-o", "type=docker,context=of-nobody", "-t", NAME, "."])
        .code(3)
        .says("docker does not answer in its context `of-nobody`");
}

/// `--load` goes to the first of podman and docker that answers, and a podman that says nothing but errors does not.
#[test]
fn a_broken_podman_hides_no_docker() {
    let env = super::files_only();
    let dir = env.outside("bin");
    fs::create_dir(&dir).unwrap();
    let docker =
        "#!/bin/sh\ncase $1 in version) echo 1;; load) cat > \"$0.handed\";; *) exit 1;; esac\n";
    for (name, script) in [("podman", "#!/bin/sh\nexit 125\n"), ("docker", docker)] {
        fs::write(dir.join(name), script).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = env.rbuild_command(["--load", "-t", NAME, "."]);
    command.env("PATH", format!("{}:{}", dir.display(), tools::PATH));
    env.run(&mut command).success();
    let handed = list_tar(&dir.join("docker.handed"));
    assert!(handed.iter().any(|entry| entry.path == "manifest.json"));
}

/// Docker's client, but for `load`, which keeps what it is handed; `rm-first` is an image that somebody else removes
/// meanwhile.
const WATCHED: &str = r#"#!/bin/sh
case "$*" in
*load*)
    cat > "$DIR/handed"
    [ ! -e "$DIR/rm-first" ] || "$DOCKER" "$1" image rm --force "$(cat "$DIR/rm-first")" > /dev/null
    rm -f "$DIR/rm-first"
    echo load >> "$DIR/loads"
    "$DOCKER" "$@" < "$DIR/handed"
    ;;
*) exec "$DOCKER" "$@" ;;
esac
"#;

#[test]
fn docker_is_handed_what_it_lacks() {
    let env = all_sorts();
    let docker = Dockerd::start(&env);
    let dir = env.outside("bin");
    fs::create_dir(&dir).unwrap();
    let watched = dir.join("docker");
    fs::write(&watched, WATCHED).unwrap();
    fs::set_permissions(&watched, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.display(), tools::PATH);
    // The layers in the archive, and how often something was loaded.
    let load = |name: &str| {
        let mut command =
            env.rbuild_command(["-o", "type=docker,context=of-the-test", "-t", name, "."]);
        command
            .env("PATH", &path)
            .env("DIR", &dir)
            .env("DOCKER", tools::find("docker"));
        env.run(&mut command).success();
        let found = docker.client(
            &env,
            [
                "image",
                "inspect",
                "--format",
                "{{len .RootFS.Layers}}",
                name,
            ],
        );
        assert_eq!(found.success().stdout, "6\n");
        let blobs = list_tar(&dir.join("handed")).into_iter();
        let blobs = blobs.filter(|entry| entry.path.starts_with("blobs/sha256/"));
        let loads = fs::read_to_string(dir.join("loads"))
            .unwrap()
            .lines()
            .count();
        // A config and a manifest are always there.
        (blobs.count() - 2, loads)
    };
    assert_eq!(load("app:1"), (6, 1));
    assert_eq!(load("app:2"), (0, 2));
    env.write(
        "Dockerfile",
        super::ALL_SORTS.replace("mkdir /empty", "mkdir /other"),
    );
    assert_eq!(load("app:3"), (2, 3), "that step and the one after it");
    // With the image goes its top layer, and the archive without it is refused: the whole is handed then.
    docker
        .client(&env, ["image", "rm", "app:1", "app:2"])
        .success();
    fs::write(dir.join("rm-first"), "app:3").unwrap();
    assert_eq!(load("app:3"), (6, 5));
}

/// As docker says it with the containerd image store, which Debian's is too old for: what it is handed is looked at by
/// skopeo.
const CONTAINERD: &str = r#"#!/bin/sh
case "$*" in
*version*) echo 29.0.0 ;;
*info*) echo "$STATUS" ;;
*load*) cat > "$DIR/handed" ;;
*) exit 1 ;;
esac
"#;

#[test]
fn several_platforms_are_loaded_where_there_is_a_place_for_an_index() {
    let env = TestEnv::new().file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let dir = env.outside("bin");
    fs::create_dir(&dir).unwrap();
    let docker = dir.join("docker");
    fs::write(&docker, CONTAINERD).unwrap();
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
    let build = |status: &str, output: &str| {
        let platforms = "--platform=linux/arm64,linux/amd64";
        let mut command =
            env.rbuild_command(["--progress=plain", platforms, "-o", output, "-t", NAME, "."]);
        command
            .env("PATH", format!("{}:{}", dir.display(), tools::PATH))
            .env("DIR", &dir)
            .env("STATUS", status);
        env.run(&mut command)
    };
    let context = "type=docker,context=of-the-test";
    build(
        r#"[["driver-type","io.containerd.snapshotter.v1"]]"#,
        context,
    )
    .success();
    let handed = format!("oci-archive:{}", dir.join("handed").display());
    let raw = env.tool("skopeo", ["inspect", "--raw", &handed]).success();
    let index: Value = serde_json::from_str(&raw.stdout).unwrap();
    let manifests = index["manifests"].as_array().unwrap().iter();
    let platforms: Vec<&Value> = manifests.map(|m| &m["platform"]["architecture"]).collect();
    assert_eq!(platforms, ["arm64", "amd64"]);

    let classic = r#"[["Backing Filesystem","extfs"]]"#;
    for (status, output) in [(classic, context), (classic, "type=docker,dest=x.tar")] {
        let refused = build(status, output).code(2);
        assert_eq!(refused.ran(), [""; 0], "{refused}");
        refused.says("docker's archive holds one platform only, and no index");
    }
}
