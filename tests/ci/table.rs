//! The documented examples of docker/build-push-action (its README, the pages "GitHub Actions" of docs.docker.com, and the jobs
//! of its own `ci.yml`), as a table: the inputs of each, and what comes of them with rbuild.
//!
//! What needs a workflow around it is in [`workflows`](super::workflows), wrong inputs and what stands around a build in
//! [`action`](super::action). Not here are examples whose step is another action (copying an image between registries, a
//! repository's description on Docker Hub), and those with attestations, which are refused.

use std::fs;

use serde_json::Value;
use serde_json::json;

use super::runner::Ran;
use super::runner::Runner;
use crate::support::ActionsCache;
use crate::support::Base;
use crate::support::Registry;
use crate::support::TestEnv;

/// An example on machines of its own, with a registry that stands for all that it names.
struct Example {
    env: TestEnv,
    registry: Registry,
    service: ActionsCache,
}

/// What is built where an example says nothing of it.
const FILE: &str = "FROM busybox AS build\nRUN cat /proc/sys/kernel/random/uuid > /made\n";

impl Example {
    fn new(dockerfile: &str) -> Self {
        let env = TestEnv::new().bases([Base::Busybox]);
        Self {
            env: env.file("Dockerfile", dockerfile),
            registry: Registry::start(),
            service: ActionsCache::start(),
        }
    }

    /// `REGISTRY/NAME:TAG` with the registry's host.
    fn filled(&self, text: &str) -> String {
        let temp = self.env.outside("tmp").display().to_string();
        text.replace("REGISTRY", &self.registry.host())
            .replace("TEMP", &temp)
    }

    /// A step of the action on a new machine. The context is the directory unless the inputs say something else.
    fn step(&self, inputs: &Value) -> Ran {
        self.env.forget();
        self.next(inputs)
    }

    /// A further step on the same machine.
    fn next(&self, inputs: &Value) -> Ran {
        self.with(inputs, &[])
    }

    fn with(&self, inputs: &Value, variables: &[(&str, &str)]) -> Ran {
        let mut with = json!({ "context": "." });
        for (name, value) in inputs.as_object().unwrap() {
            with[name] = self.filled(value.as_str().unwrap()).into();
        }
        let token = ActionsCache::token(&["refs/heads/main"], true);
        let mut runner = Runner::new(&self.env)
            .sets("ACTIONS_RESULTS_URL", &self.service.url())
            .sets("ACTIONS_RUNTIME_TOKEN", &token);
        for (name, value) in variables {
            runner = runner.sets(name, value);
        }
        runner.rbuild(&json!({ "uses": "rbuild/rbuild@v0", "with": with }))
    }

    fn skopeo(&self, args: &[&str], image: &str) -> String {
        let image = self.filled(&format!("docker://{image}"));
        let args = [args, &["--tls-verify=false", &image]].concat();
        self.env.tool("skopeo", args).success().stdout
    }

    fn manifest(&self, image: &str) -> Value {
        serde_json::from_str(&self.skopeo(&["inspect", "--raw"], image)).unwrap()
    }

    fn config(&self, image: &str) -> Value {
        serde_json::from_str(&self.skopeo(&["inspect", "--config"], image)).unwrap()
    }

    fn digest(&self, image: &str) -> String {
        let digest = self.skopeo(&["inspect", "--no-tags", "--format={{.Digest}}"], image);
        digest.trim().to_owned()
    }

    /// A file that a build left in `out`.
    fn out(&self, name: &str) -> String {
        fs::read_to_string(self.env.path("out").join(name)).unwrap()
    }
}

fn built(ran: Ran) -> Ran {
    assert!(ran.output.status.success(), "{}", ran.output);
    ran
}

/// What is annotated as an error.
fn refused(ran: &Ran) -> String {
    assert!(!ran.output.status.success(), "{}", ran.output);
    ran.commands.join("\n")
}

/// README, "Path context"; "Push to multi-registries"; "Local registry".
#[test]
fn pushes() {
    let example = Example::new(FILE);
    let other = Registry::start();
    let tags = format!("REGISTRY/user/app:latest\n{}/user/app:1.0.0", other.host());
    let ran = built(example.step(&json!({ "push": "true", "tags": tags })));
    assert_eq!(
        ran.outputs["digest"],
        example.digest("REGISTRY/user/app:latest")
    );
    let there = example.digest(&format!("{}/user/app:1.0.0", other.host()));
    assert_eq!(ran.outputs["digest"], there);
    // By its other name, and tags by commas.
    let local = example.registry.host().replace("127.0.0.1", "localhost");
    let tags = format!("{local}/name/app:latest,{local}/name/app:2");
    let ran = built(example.next(&json!({ "push": "true", "tags": tags })));
    assert_eq!(ran.outputs["digest"], example.digest("REGISTRY/name/app:2"));
    // "Distribute build across multiple runners": pushed by digest, and no tag is there.
    let by_digest =
        "type=image,name=REGISTRY/user/pieces,push-by-digest=true,name-canonical=true,push=true";
    let ran = built(example.next(&json!({ "platforms": "linux/amd64", "outputs": by_digest })));
    let piece = format!("REGISTRY/user/pieces@{}", ran.outputs["digest"]);
    assert_eq!(example.digest(&piece), ran.outputs["digest"]);
    let tags = example.filled("docker://REGISTRY/user/pieces");
    let tags = example
        .env
        .tool("skopeo", ["list-tags", "--tls-verify=false", &tags]);
    assert!(
        !tags.status.success() || !tags.stdout.contains("latest"),
        "{tags}"
    );
}

/// "Cache management": inline, registry, GitHub, local with a directory that is moved.
#[test]
fn caches() {
    let of_service = "type=gha,scope=nocachefilter";
    for (from, to) in [
        ("type=registry,ref=REGISTRY/user/app:latest", "type=inline"),
        (
            "type=registry,ref=REGISTRY/user/app:buildcache",
            "type=registry,ref=REGISTRY/user/app:buildcache,mode=max",
        ),
        ("type=gha", "type=gha,mode=max"),
        (of_service, "type=gha,scope=nocachefilter,mode=max"),
        (
            "type=local,src=TEMP/.buildx-cache",
            "type=local,dest=TEMP/.buildx-cache-new,mode=max",
        ),
    ] {
        let example = Example::new(FILE);
        let inputs = json!({
            "push": "true", "tags": "REGISTRY/user/app:latest", "cache-from": from, "cache-to": to,
        });
        let first = built(example.step(&inputs));
        let [old, new] =
            ["tmp/.buildx-cache", "tmp/.buildx-cache-new"].map(|dir| example.env.outside(dir));
        if new.exists() {
            fs::rename(new, old).unwrap();
        }
        let next = built(example.step(&inputs));
        assert_eq!(next.output.ran(), [""; 0], "{to}: {}", next.output);
        assert_eq!(next.outputs["digest"], first.outputs["digest"], "{to}");
        if from == of_service {
            let mut inputs = inputs;
            inputs["no-cache-filters"] = "build".into();
            let anew = built(example.step(&inputs));
            assert_eq!(anew.output.ran().len(), 1, "{}", anew.output);
        }
    }
}

/// "Cache mounts": the step of buildkit-cache-dance is not needed.
#[test]
fn cache_mounts() {
    let example = Example::new(
        "FROM busybox\nARG STEP\nRUN --mount=type=cache,target=/c : $STEP; cat /c/f > /had || true; echo kept > /c/f\n\
         FROM scratch\nCOPY --from=0 /had /\n",
    );
    let step = |number: &str| {
        let inputs = json!({
            "build-args": format!("STEP={number}"), "outputs": "type=local,dest=out",
            "cache-from": "type=gha", "cache-to": "type=gha,mode=max",
        });
        built(example.step(&inputs));
        example.out("had")
    };
    assert_eq!([step("1"), step("2")], ["", "kept\n"]);
}

/// "Export to Docker", "Test before push", "Share built image between jobs", `multi-output`.
#[test]
fn outputs() {
    let example = Example::new(FILE);
    let dest = "type=docker,dest=TEMP/myimage.tar";
    let ran = built(example.step(&json!({ "tags": "myimage:latest", "outputs": dest })));
    let archive = example.filled("docker-archive:TEMP/myimage.tar:myimage:latest");
    let id = example
        .env
        .tool("skopeo", ["inspect", "--raw", &archive])
        .success();
    let id: Value = serde_json::from_str(&id.stdout).unwrap();
    assert_eq!(id["config"]["digest"], ran.outputs["imageid"]);
    let many = "type=image,name=REGISTRY/name/app:latest,push=true\ntype=oci,dest=TEMP/oci.tar\ntype=local,dest=out";
    let ran = built(example.next(&json!({ "outputs": many })));
    assert_eq!(
        example.digest("REGISTRY/name/app:latest"),
        ran.outputs["digest"]
    );
    let oci = example.filled("oci-archive:TEMP/oci.tar");
    let digest = example
        .env
        .tool("skopeo", ["inspect", "--format={{.Digest}}", &oci]);
    assert_eq!(digest.success().stdout.trim(), ran.outputs["digest"]);
    assert_eq!(example.out("made").len(), 37);
    // What was tested is what is pushed.
    let test = built(example.next(&json!({ "load": "true", "tags": "user/app:test" })));
    let run = example.env.tool(
        "podman",
        [
            "run",
            "--rm",
            "--network=host",
            "docker.io/user/app:test",
            "cat",
            "/made",
        ],
    );
    assert_eq!(run.success().stdout, example.out("made"));
    let push = json!({ "push": "true", "load": "true", "tags": "REGISTRY/user/app:latest" });
    let push = built(example.next(&push));
    assert_eq!(push.output.ran(), [""; 0], "{}", push.output);
    assert_eq!(push.outputs["imageid"], test.outputs["imageid"]);
}

/// "Build secrets" with its table of values, and "SSH mounts".
#[test]
fn secrets() {
    let secrets = "\"MYSECRET=aaaaaaaa\nbbbbbbb\nccccccccc\"\nGIT_AUTH_TOKEN=abcdefghi,jklmno=0123456789\nFOO=bar\n\
                   \"EMPTYLINE=aaaa\n\nbbbb\nccc\"\n\"JSON_SECRET={\"\"key1\"\":\"\"value1\"\",\"\"key2\"\":\"\"value2\"\"}\"\n\
                   INVALID_SECRET=";
    let values = [
        ("MYSECRET", "aaaaaaaa\nbbbbbbb\nccccccccc"),
        ("GIT_AUTH_TOKEN", "abcdefghi,jklmno=0123456789"),
        ("FOO", "bar"),
        ("EMPTYLINE", "aaaa\n\nbbbb\nccc"),
        ("JSON_SECRET", "{\"key1\":\"value1\",\"key2\":\"value2\"}"),
        ("FROM_FILE", "of a file"),
        ("FROM_VARIABLE", "of a variable"),
    ];
    let mounts = values
        .map(|(name, _)| format!("--mount=type=secret,id={name} "))
        .concat();
    let names = values.map(|(name, _)| name).join(" ");
    let example = Example::new(&format!(
        "FROM busybox\nRUN {mounts} mkdir /sums && cd /run/secrets && for name in {names}; do sha256sum < $name > /sums/$name; done\n\
         RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo yes > /sums/ssh\n\
         FROM scratch\nCOPY --from=0 /sums /\n"
    ));
    example.env.write("secret.txt", "of a file");
    let agent = example.env.outside("agent");
    let _listening = std::os::unix::net::UnixListener::bind(&agent).unwrap();
    let inputs = json!({
        "secrets": secrets, "secret-files": "FROM_FILE=./secret.txt\nINVALID_SECRET=",
        "secret-envs": "FROM_VARIABLE=VARIABLE", "ssh": "default", "outputs": "type=local,dest=out",
    });
    let variables = [
        ("VARIABLE", "of a variable"),
        ("SSH_AUTH_SOCK", agent.to_str().unwrap()),
    ];
    built(example.with(&inputs, &variables));
    for (name, value) in values {
        fs::write(example.env.outside("value"), value).unwrap();
        let sum = example
            .env
            .tool("sha256sum", [example.env.outside("value")])
            .success();
        assert_eq!(example.out(name)[..64], sum.stdout[..64], "{name}");
    }
    assert_eq!(example.out("ssh"), "yes\n");
}

/// "Named contexts": a pinned image, the image of an earlier step, one in a local registry.
#[test]
fn named_contexts() {
    let example =
        Example::new("FROM alpine\nRUN cat /made > /same\nFROM scratch\nCOPY --from=0 /same /\n");
    example.env.write("base/Dockerfile", FILE);
    let step = |context: &str| {
        let inputs = json!({
            "build-contexts": format!("alpine=docker-image://{context}"), "outputs": "type=local,dest=out",
        });
        built(example.next(&inputs));
        example.out("same")
    };
    let base = |with: Value| {
        let mut inputs = json!({ "context": "base" });
        inputs
            .as_object_mut()
            .unwrap()
            .extend(with.as_object().unwrap().clone());
        built(example.next(&inputs))
    };
    base(json!({ "tags": "my-base-image:latest", "load": "true" }));
    let run = [
        "run",
        "--rm",
        "--network=host",
        "docker.io/library/my-base-image:latest",
        "cat",
        "/made",
    ];
    let made = example.env.tool("podman", run).success().stdout;
    assert_eq!(step("my-base-image:latest"), made);
    base(json!({ "tags": "REGISTRY/my-base-image:latest", "push": "true" }));
    assert_eq!(step("REGISTRY/my-base-image:latest"), made);
    let pinned = format!(
        "REGISTRY/my-base-image@{}",
        example.digest("REGISTRY/my-base-image:latest")
    );
    assert_eq!(step(&pinned), made);
}

/// "Annotations", "Manage tags and labels", "Reproducible builds", build arguments of several lines.
#[test]
fn what_is_said_of_images() {
    let example = Example::new(
        "FROM busybox\nARG MULTILINE\nARG LIST\nRUN echo \"$MULTILINE $LIST\" > /args\n",
    );
    let inputs = json!({
        "push": "true", "tags": "REGISTRY/name/app:latest", "platforms": "linux/amd64,linux/arm64",
        "annotations": "index:com.example.key=value\nindex:com.example.key2=value2\nmanifest:com.example.key3=value3",
        // As docker/metadata-action has them in its outputs.
        "labels": "org.opencontainers.image.title=app\norg.opencontainers.image.description=Commas, and = signs\n\
                   org.opencontainers.image.revision=8c1b3b1c5c4d4f0d8a3d1f1e2b7c6a5948372615",
        "build-args": "LIST=val1,val2,val3\n\"MULTILINE=aaaa\nbbbb\"",
    });
    // A RUN for arm64 is emulated: its image is made of what this machine's has where there is nothing to run.
    example.env.write(
        "Dockerfile",
        "FROM scratch\nARG MULTILINE\nARG LIST\nCOPY <<E /args\n$MULTILINE $LIST\nE\n",
    );
    built(example.step(&inputs));
    let index = example.manifest("REGISTRY/name/app:latest");
    assert_eq!(
        index["annotations"],
        json!({"com.example.key": "value", "com.example.key2": "value2"})
    );
    let piece = index["manifests"][1]["digest"].as_str().unwrap();
    let piece = example.manifest(&format!("REGISTRY/name/app@{piece}"));
    assert_eq!(piece["annotations"], json!({"com.example.key3": "value3"}));
    let labels = &example.config("REGISTRY/name/app:latest")["config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.title"], "app");
    assert_eq!(
        labels["org.opencontainers.image.description"],
        "Commas, and = signs"
    );
    let local = json!({ "outputs": "type=local,dest=out", "build-args": inputs["build-args"] });
    built(example.next(&local));
    assert_eq!(example.out("args"), "aaaa\nbbbb val1,val2,val3\n");
    // One platform is no index: nothing is there to be annotated.
    let mut one = inputs.clone();
    one["platforms"] = "linux/amd64".into();
    let said = refused(&example.next(&one));
    assert!(said.contains("index"), "{said}");
    // The same times are the same image, whenever it is built.
    let epoch = || {
        example.env.forget();
        let inputs = json!({
            "push": "true", "tags": "REGISTRY/name/epoch:latest", "no-cache": "true",
        });
        built(example.with(&inputs, &[("SOURCE_DATE_EPOCH", "0")])).outputs["digest"].clone()
    };
    assert_eq!(epoch(), epoch());
    assert_eq!(
        example.config("REGISTRY/name/epoch:latest")["created"],
        "1970-01-01T00:00:00Z"
    );
}

/// Inputs that steps see: `ci.yml`'s `add-hosts`, `shm-size`, `ulimit`, `network`, `cgroup-parent`; and `target`, `no-cache`, `call`.
#[test]
fn how_steps_run() {
    let example = Example::new(
        "FROM busybox AS base\nRUN cat /etc/hosts > /hosts; ulimit -n > /nofile; df -P /dev/shm | tail -n 1 > /shm\n\
         FROM base AS build\nRUN cat /proc/sys/kernel/random/uuid > /id\n\
         FROM scratch AS files\nCOPY --from=build /hosts /nofile /shm /id /\n\
         FROM files\nCOPY missing /\n",
    );
    let inputs = json!({
        "target": "files", "outputs": "type=local,dest=out",
        "add-hosts": "docker:10.180.0.1\nfoo:10.0.0.1", "shm-size": "16m", "ulimit": "nofile=512:512\nnproc=3000",
    });
    built(example.step(&inputs));
    let hosts = example.out("hosts");
    assert!(
        hosts.contains("10.180.0.1\tdocker") && hosts.contains("10.0.0.1\tfoo"),
        "{hosts}"
    );
    assert_eq!(example.out("nofile"), "512\n");
    assert!(
        example.out("shm").split_whitespace().nth(1) == Some("16384"),
        "{}",
        example.out("shm")
    );
    let id = example.out("id");
    let again = |more: &[(&str, &str)]| {
        let mut inputs = inputs.clone();
        for (name, value) in more {
            inputs[*name] = (*value).into();
        }
        built(example.next(&inputs));
        example.out("id")
    };
    assert_eq!(again(&[]), id);
    assert_ne!(again(&[("no-cache-filters", "build")]), id);
    let id = example.out("id");
    assert_ne!(again(&[("no-cache", "true")]), id);
    // `network: host` is buildx' to refuse unless the builder lets it; here the step says so.
    again(&[("network", "host"), ("allow", "network.host")]);
    again(&[("network", "none"), ("pull", "true")]);
    let listed = built(example.next(&json!({ "call": "targets" })));
    for target in ["base", "build", "files"] {
        assert!(listed.output.stdout.contains(target), "{}", listed.output);
    }
    let outline = built(example.next(&json!({ "call": "outline", "target": "base" })));
    assert!(outline.output.stdout.contains("base"), "{}", outline.output);
}
