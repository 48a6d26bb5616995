//! The workflows of `docs/ci.md`: one line of each is changed, and what is left builds what the others built.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::runner::Ran;
use super::runner::Runner;
use crate::support::ActionsCache;
use crate::support::Base;
use crate::support::GitServer;
use crate::support::Registry;
use crate::support::TestEnv;
use crate::support::USER;
use crate::support::yaml;

/// A workflow of the page by its name, with what stands before and after the change.
fn workflow(name: &str, registry: &str) -> (Value, Value) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ci.md");
    let page = fs::read_to_string(page).unwrap();
    let mut blocks = page.split("```diff\n").skip(1);
    let heading = format!(" name: {name}\n");
    let block = blocks
        .find(|block| block.starts_with(&heading))
        .unwrap_or_else(|| panic!("docs/ci.md has no workflow `{name}`"));
    let block = block.split("```").next().unwrap();
    let side = |other: char| -> String {
        let lines = block.lines().filter(|line| !line.starts_with(other));
        lines
            .map(|line| format!("{}\n", line.get(1..).unwrap_or_default()))
            .collect()
    };
    let (before, after) = (side('+'), side('-'));
    let differ = before.lines().zip(after.lines()).filter(|(a, b)| a != b);
    let differ: Vec<_> = differ
        .map(|(a, b)| {
            (
                a.trim_start_matches([' ', '-']),
                b.trim_start_matches([' ', '-']),
            )
        })
        .collect();
    assert_eq!(
        differ,
        [(
            "uses: docker/build-push-action@v7",
            "uses: rbuild/rbuild@v0"
        )],
        "one line changes"
    );
    assert_eq!(before.lines().count(), after.lines().count());
    let read = |text: &str| yaml::read(&text.replace("registry.example", registry));
    (read(&before), read(&after))
}

/// The one job of a workflow, on a runner that knows what the page's workflows ask for.
fn run(name: &str, registry: &Registry, runner: &mut Runner) -> Ran {
    let (_, after) = workflow(name, &registry.host());
    let ran = runner.job(&after["jobs"]["image"]);
    assert!(ran.output.status.success(), "{}", ran.output);
    ran
}

fn runner(env: &TestEnv) -> Runner<'_> {
    Runner::new(env)
        .knows("vars.REGISTRY_USER", USER.0)
        .knows("secrets.REGISTRY_PASSWORD", USER.1)
        .knows("github.sha", "8c1b3b1c5c4d4f0d8a3d1f1e2b7c6a5948372615")
}

impl TestEnv {
    fn skopeo(&self, command: &[&str], image: &str) -> String {
        let credentials = format!("{}:{}", USER.0, USER.1);
        let image = format!("docker://{image}");
        let args = [
            command,
            &["--tls-verify=false", "--creds", &credentials, &image],
        ];
        self.tool("skopeo", args.concat()).success().stdout
    }

    fn inspected(&self, command: &[&str], image: &str) -> Value {
        serde_json::from_str(&self.skopeo(command, image)).unwrap()
    }

    /// The digest of an image as the registry has it.
    fn digest_of(&self, image: &str) -> String {
        self.skopeo(&["inspect", "--format={{.Digest}}"], image)
            .trim()
            .to_owned()
    }
}

/// The Git context: nothing is checked out, and the commit of the event is built, not the branch.
#[test]
fn plain_push() {
    let registry = Registry::closed();
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "../git/me/app.git/Dockerfile",
            "FROM busybox\nCOPY version /\n",
        )
        .file("../git/me/app.git/version", "1");
    let repository = env.outside("git/me/app.git");
    let git = |args: &str| {
        let mut git = env.tool_command("git");
        git.current_dir(&repository)
            .args(["-c", "user.name=a", "-c", "user.email=a@b.example"]);
        env.run(git.args(args.split(' '))).success().stdout
    };
    git("init -q .");
    git("config uploadpack.allowAnySHA1InWant true");
    git("add .");
    git("commit -q -m one");
    let sha = git("rev-parse HEAD").trim().to_owned();
    fs::write(repository.join("version"), "2").unwrap();
    git("commit -q -a -m two");
    let server = GitServer::start(env.outside("git"));
    let url = server.url("");
    let mut runner = runner(&env)
        .sets("GITHUB_SERVER_URL", url.trim_end_matches('/'))
        .sets("GITHUB_REPOSITORY", "me/app")
        .sets("GITHUB_REF", "refs/heads/main")
        .sets("GITHUB_SHA", &sha);
    let ran = run("push", &registry, &mut runner);
    let image = format!("{}/team/app:latest", registry.host());
    assert_eq!(ran.outputs["digest"], env.digest_of(&image));
    let manifest = env.inspected(&["inspect", "--raw"], &image);
    assert_eq!(ran.outputs["imageid"], manifest["config"]["digest"]);
    let metadata: Value = serde_json::from_str(&ran.outputs["metadata"]).unwrap();
    assert_eq!(metadata["containerimage.digest"], ran.outputs["digest"]);
    assert!(
        ran.summary
            .contains(&ran.outputs["digest"].replace(':', "&#58;")),
        "{}",
        ran.summary
    );
    let copied = format!("dir:{}", env.outside("copied").display());
    let credentials = format!("--src-creds={}:{}", USER.0, USER.1);
    let image = format!("docker://{image}");
    env.tool(
        "skopeo",
        [
            "copy",
            "-q",
            "--src-tls-verify=false",
            &credentials,
            &image,
            &copied,
        ],
    )
    .success();
    let layer = manifest["layers"].as_array().unwrap().last().unwrap()["digest"]
        .as_str()
        .unwrap();
    let layer = env
        .outside("copied")
        .join(layer.strip_prefix("sha256:").unwrap());
    let version = env
        .tool("tar", ["-xzOf", layer.to_str().unwrap(), "version"])
        .success();
    assert_eq!(version.stdout, "1", "the event's commit");
}

#[test]
fn several_platforms() {
    let registry = Registry::closed();
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n\
         FROM scratch\nCOPY --from=build /arch /\n",
    );
    let ran = run("platforms", &registry, &mut runner(&env));
    let tag = |tag: &str| format!("{}/team/app:{tag}", registry.host());
    let sha = "8c1b3b1c5c4d4f0d8a3d1f1e2b7c6a5948372615";
    for name in [tag("latest"), tag(sha)] {
        assert_eq!(ran.outputs["digest"], env.digest_of(&name), "{name}");
    }
    let index = env.inspected(&["inspect", "--raw"], &tag("latest"));
    let of = |at: usize| index["manifests"][at]["platform"]["architecture"].clone();
    assert_eq!([of(0), of(1)], ["amd64", "arm64"], "{index:#}");
}

/// The next job, on another machine, makes the same image of the cache; also where no cache is named.
#[test]
fn the_cache_of_the_service() {
    let registry = Registry::closed();
    let service = ActionsCache::start();
    let token = ActionsCache::token(&["refs/heads/main"], true);
    let image = format!("{}/team/app:latest", registry.host());
    let machine = || {
        TestEnv::new().bases([Base::Busybox]).file(
            "Dockerfile",
            "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /made\n",
        )
    };
    let job = |env: &TestEnv, name: &str| {
        let mut runner = runner(env)
            .sets("ACTIONS_RESULTS_URL", &service.url())
            .sets("ACTIONS_RUNTIME_TOKEN", &token);
        let ran = run(name, &registry, &mut runner);
        assert_eq!(ran.outputs["digest"], env.digest_of(&image));
        ran
    };
    let first = job(&machine(), "cache");
    let next = job(&machine(), "cache");
    assert_eq!(next.output.ran(), [""; 0], "{}", next.output);
    assert_eq!(next.outputs["digest"], first.outputs["digest"]);
    // The second workflow names none.
    let env = machine();
    env.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    service.asked();
    job(&env, "platforms");
    let asked = service.asked();
    let read = asked.iter().any(|line| line.starts_with("GetCache"));
    let written = asked.iter().any(|line| line.starts_with("Create"));
    assert!(read && written, "{asked:?}");
}

#[test]
fn secrets() {
    let registry = Registry::closed();
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file(
            "Dockerfile",
            "FROM busybox AS build\n\
             RUN --mount=type=secret,id=github_token --mount=type=secret,id=key --mount=type=secret,id=npm \
             --mount=type=secret,id=config cd /run/secrets && sha256sum github_token key npm config > /sums && cat key npm\n\
             FROM scratch\nCOPY --from=build /sums /\n",
        )
        .file("settings.ini", "a = settings that are secret\n");
    let secrets = [
        (
            "github_token",
            "secrets.GITHUB_TOKEN",
            "ghs_secrettoken,with,commas==",
        ),
        (
            "key",
            "secrets.SIGNING_KEY",
            "-----BEGIN\nfirst line of key\n\nlast line of key\n-----END\n",
        ),
        ("npm", "secrets.NPM_TOKEN", "npm_0123456789"),
    ];
    let mut runner = runner(&env);
    for (_, name, value) in secrets {
        runner.learn(name, value);
    }
    let ran = run("secrets", &registry, &mut runner);
    let mut sums = String::new();
    for (id, _, value) in secrets {
        fs::write(env.outside(id), value).unwrap();
        let sum = env.tool("sha256sum", [env.outside(id)]).success().stdout;
        sums += &format!("{}  {id}\n", &sum[..64]);
    }
    let sum = env.tool("sha256sum", ["settings.ini"]).success().stdout;
    sums += &format!("{}  config\n", &sum[..64]);
    assert_eq!(fs::read_to_string(env.path("out/sums")).unwrap(), sums);
    // A file is no image.
    assert_eq!(ran.outputs.keys().collect::<Vec<_>>(), ["metadata"]);
    assert_eq!(
        ran.masks[..2],
        [
            "::add-mask::ghs_secrettoken,with,commas==",
            "::add-mask::-----BEGIN%0Afirst line of key%0A%0Alast line of key%0A-----END%0A"
        ]
    );
    let said: String = ran
        .output
        .stderr
        .lines()
        .filter(|line| !line.contains("::add-mask::"))
        .collect();
    for part in [
        "ghs_secrettoken",
        "line of key",
        "npm_0123456789",
        "that are secret",
    ] {
        assert!(
            !said.contains(part) && !ran.summary.contains(part),
            "{part}: {said}"
        );
    }
}

#[test]
fn a_matrix() {
    let registry = Registry::closed();
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "docker/Dockerfile",
        "FROM busybox AS base\nARG VERSION\nRUN echo $VERSION > /version\n\
         FROM base AS web\nCMD [\"web\"]\nFROM base AS worker\nCMD [\"worker\"]\n",
    );
    let (_, after) = workflow("matrix", &registry.host());
    let job = &after["jobs"]["image"];
    let list = |name: &str| -> Vec<String> {
        let values = job["strategy"]["matrix"][name].as_array().unwrap().iter();
        values
            .map(|value| value.as_str().unwrap().to_owned())
            .collect()
    };
    let mut digests = Vec::new();
    for target in list("target") {
        for version in list("version") {
            let mut runner = runner(&env)
                .knows("matrix.target", &target)
                .knows("matrix.version", &version);
            let ran = runner.job(job);
            assert!(ran.output.status.success(), "{}", ran.output);
            let image = format!("{}/team/{target}:{version}", registry.host());
            let config = env.inspected(&["inspect", "--config"], &image);
            let config = &config["config"];
            assert_eq!(config["Cmd"][0], target.as_str());
            let label = &config["Labels"]["org.opencontainers.image.revision"];
            assert_eq!(label, "8c1b3b1c5c4d4f0d8a3d1f1e2b7c6a5948372615");
            let kept = fs::read_to_string(env.path(&format!("digest-{target}-{version}"))).unwrap();
            assert_eq!(
                kept.trim(),
                env.digest_of(&image),
                "handed to the next step"
            );
            digests.push(kept);
        }
    }
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 4);
}
