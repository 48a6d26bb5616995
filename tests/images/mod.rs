//! The store's own commands, with skopeo and podman at the other end.

mod archives;
mod referrers;
mod registries;
mod terminal;

use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;
use snapbox::str;

use crate::support::Base;
use crate::support::Output;
use crate::support::TestEnv;

/// Steps that leave a layer that only its directory has, with a file that nobody outside the namespace can read.
const STEPS: &str = r#"FROM busybox
ENV A=1
LABEL org.example.title="an image" version=2
RUN echo secret > /secret && chmod 600 /secret && chown app:app /secret
COPY note /note
EXPOSE 80
CMD ["cat", "/note"]
"#;

fn built() -> TestEnv {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", STEPS)
        .file("note", "hello\n");
    env.rbuild(["-t", "app:1", "."]).success();
    env
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn inspect(env: &TestEnv, name: &str) -> Value {
    parsed(&env.rbuild(["inspect", name]).success().stdout)[0].take()
}

fn skopeo(env: &TestEnv, args: &[&str]) -> Output {
    let insecure = ["--insecure-policy"];
    env.tool("skopeo", insecure.iter().chain(args))
}

/// The digest of the config of what skopeo sees, which is the id.
fn id_by_skopeo(env: &TestEnv, place: &str) -> String {
    let config = skopeo(
        env,
        &["inspect", "--config", "--raw", "--tls-verify=false", place],
    );
    sha256(config.success().stdout.as_bytes())
}

fn digest_by_skopeo(env: &TestEnv, place: &str) -> String {
    let args = ["inspect", "--raw", "--tls-verify=false", place];
    sha256(skopeo(env, &args).success().stdout.as_bytes())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

fn listed(env: &TestEnv) -> Vec<String> {
    let names = ["images", "--format", "{{.Name}}"];
    let names = env.rbuild(names).success().stdout;
    names.lines().map(str::to_owned).collect()
}

#[test]
fn formats_say_what_podman_says() {
    let env = built();
    env.rbuild(["save", "-o", "app.tar", "app:1"]).success();
    env.tool("podman", ["load", "-q", "-i", "app.tar"])
        .success();
    for format in [
        "{{.Id}}",
        "{{.Config.Cmd}}",
        "{{json .Config.Cmd}}",
        "{{.Config.Env}}",
        "{{.Config.Labels}}",
        "{{index .Config.Labels \"org.example.title\"}}",
        "{{json .Config.ExposedPorts}}",
        "{{len .RootFS.Layers}} {{.Architecture}}/{{.Os}}",
        "{{range .Config.Env}}{{println .}}{{end}}",
        "{{join .Config.Env \", \"}}",
        "{{ .Author -}}  ; {{- .Config.User }}",
        "{{.Config.Labels.version}} {{.Config.Labels.none}}",
        "{{if .Config.User}}user{{else if .Config.Cmd}}cmd{{else}}none{{end}}",
        "{{range .Config.Volumes}}x{{else}}none{{end}}",
        "{{\"{{\"}}{{7}}",
        "{{lower .Os}} {{upper .Os}}",
    ] {
        let ours = env.rbuild(["inspect", "--format", format, "app:1"]);
        let theirs = env.tool("podman", ["image", "inspect", "--format", format, "app:1"]);
        let ours = ours.success().stdout.replace("sha256:", "");
        assert_eq!(
            ours,
            theirs.success().stdout.replace("sha256:", ""),
            "{format}"
        );
    }
    let format = "{{.CreatedBy}}|{{.Comment}}";
    let ours = env.rbuild(["history", "--no-trunc", "--format", format, "app:1"]);
    let theirs = env.tool(
        "podman",
        ["history", "--no-trunc", "--format", format, "app:1"],
    );
    assert_eq!(ours.success().stdout, theirs.success().stdout);
}

#[test]
fn inspect_history_and_images_are_as_docker_prints_them() {
    let env = built();
    env.rbuild(["history", "app:1"]).success().is(str![[r#"
IMAGE[..]CREATED[..]CREATED BY[..]SIZE[..]COMMENT
[ID][..]ago[..]CMD ["cat" "/note"][..][SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]EXPOSE [80/tcp][..][SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]COPY note /note # buildkit[..][SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]RUN /bin/sh -c echo secret > /secret && chmo…   [SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]LABEL org.example.title=an image version=2[..][SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]ENV A=1[..][SIZE][..]buildkit.dockerfile.v0
<missing>[..]ago[..]umoci config[..][SIZE]
<missing>[..]ago[..]umoci raw add-layer[..][SIZE]

"#]]);
    let lines = env.rbuild(["history", "--format=json", "app:1"]).success();
    let first = parsed(lines.stdout.lines().next().unwrap());
    assert_eq!(first["CreatedBy"], "CMD [\"cat\" \"/note\"]");
    let ids = env
        .rbuild(["history", "-q", "--no-trunc", "app:1"])
        .success();
    let mut ids = ids.stdout.lines();
    assert_eq!(ids.next().unwrap(), inspect(&env, "app:1")["Id"]);
    assert!(ids.all(|id| id == "<missing>"));
    env.rbuild(["images"]).success().is(str![[r#"
REPOSITORY   TAG   IMAGE ID       CREATED[..]SIZE
app          1     [ID]   [..]ago[..][SIZE]

"#]]);
    env.rbuild(["images", "--digests", "--no-trunc"])
        .success()
        .is(str![[r#"
REPOSITORY   TAG   DIGEST   IMAGE ID                                                                  CREATED[..]SIZE
app          1     <none>   [DIGEST]   [..]ago[..][SIZE]

"#]]);
    let format = "table {{.Repository}}\\t{{.ID}}\\t{{.Size}}";
    env.rbuild(["images", "--format", format])
        .success()
        .is(str![[r#"
REPOSITORY   IMAGE ID       SIZE
app          [ID]   [SIZE]

"#]]);
    let row = parsed(&env.rbuild(["images", "--format=json"]).success().stdout);
    assert_eq!(
        (&row["Repository"], &row["Tag"]),
        (&json!("app"), &json!("1"))
    );
    let id = env.rbuild(["images", "-q"]).success().stdout;
    assert_eq!(
        env.rbuild(["inspect", "-f", "{{.Id}}", id.trim()])
            .success()
            .stdout
            .trim(),
        inspect(&env, "app:1")["Id"]
    );

    // As docker and podman do, what was named last comes first.
    env.write("newer/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    env.rbuild(["-q", "-t", "later", "newer"]).success();
    let format = ["images", "--format", "{{.Repository}}"];
    let names = env.rbuild(format).success().stdout;
    assert_eq!(names, "later\napp\n");
    let ids = env.rbuild(["images", "-q"]).success().stdout;
    assert_eq!(ids.lines().nth(1), Some(id.trim()));
    env.rbuild(["rmi", "later"]).success();

    for (args, why) in [
        (
            ["inspect", "nothing", "app"].as_slice(),
            str![[r#"
error: `nothing` is neither a name nor the id of one image in rbuild's store
hint: `rbuild images` lists those there are

error: `app` is neither a name nor the id of one image in rbuild's store
hint: `rbuild images` lists those there are
[exit status: 2]

"#]],
        ),
        (
            &["inspect", "--format", "{{with .Id}}x{{end}}", "app:1"],
            str![[r#"
error: `--format`: `{{with .Id}}` is not supported: `{{.Field.Field}}`, `{{json .}}`, `{{index . "key"}}`, `{{join . ","}}`, `{{len .}}`, `{{println .}}`, `{{lower .}}`, `{{upper .}}`, `{{truncate . 12}}`, `{{"text"}}`, `{{range .}}…{{end}}` and `{{if .}}…{{else}}…{{end}}` are
[exit status: 2]

"#]],
        ),
        (
            &["images", "--format", "{{.Nope}}"],
            str![[r#"
error: `--format`: `.` has no field `Nope`: there are `.CreatedAt`, `.CreatedSince`, `.Digest`, `.ID`, `.Name`, `.Repository`, `.Size`, `.Tag`
[exit status: 2]

"#]],
        ),
        (
            &["history", "--format", "yaml", "app:1"],
            str![[r#"
error: `--format`: `yaml` is not `table`, `json` or a template such as `{{.ID}}`
[exit status: 2]

"#]],
        ),
        (
            &["inspect", "--platform=linux/s390x", "app:1"],
            str![[r#"
error: `app:1` has no image for `linux/s390x` in rbuild's store: there is `linux/amd64`
[exit status: 2]

"#]],
        ),
        (
            &["save", "-o", "x.tar", "nothing"],
            str![[r#"
error: `nothing` is neither a name nor the id of one image in rbuild's store
hint: `rbuild images` lists those there are
[exit status: 2]

"#]],
        ),
        (
            &["push", id.trim()],
            str![[r#"
error: `[ID]` is an id, and no name to push it under
hint: `rbuild push [ID] registry.example.org/name:tag`
[exit status: 2]

"#]],
        ),
        (
            &[
                "push",
                "app:1",
                "--as",
                "example.org/a@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ],
            str![[r#"
error: `app:1` would be pushed under a digest, and that is what a push gives
hint: name a tag: `rbuild push app:1 registry.example.org/name:tag`
[exit status: 2]

"#]],
        ),
    ] {
        env.rbuild(args).code(2).fails_with(why);
    }
}
