//! The program in other surroundings than this machine's: podman's and docker's containers, seccomp filters, users without
//! subordinate ids. Each is compared with what `doctor` says of it, and its image with the one that is built here.

use std::fs;

use serde_json::Value;
use serde_json::json;

use crate::support::Base;
use crate::support::Dockerd;
use crate::support::TestEnv;
use crate::support::dockerd;

/// Without owners: those a single id cannot give.
const DOCKERFILE: &str = r#"
FROM scratch
COPY busybox /bin/busybox
COPY busybox /bin/sh
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p -m 755 /d/sub /tmp && echo a > /d/a && echo b > /d/sub/b && ln /d/a /d/c && ln -s a /d/l
RUN rm -r /d && mkdir /d && echo c > /d/c && echo nothing > /dev/null
RUN --mount=type=cache,target=/cache echo cached > /cache/f
RUN --mount=type=cache,target=/cache --mount=type=bind,target=/ctx,rw --mount=type=tmpfs,target=/d/tmp \
    cat /cache/f > /cached; ls /ctx > /listed; echo x > /ctx/x; echo x > /d/tmp/x; test -e /dev/null
RUN ls /d /etc > /names; cat /etc/hosts > /hosts
"#;

/// Builds it and prints the digest of the image, whatever was said.
const BUILD: &str = "rbuild build --progress=plain --build-arg=SOURCE_DATE_EPOCH=1600000000 \
                     -o type=oci,dest=-,rewrite-timestamp=true";

/// Builds it and prints a digest of all its files' contents.
const FILES: &str = "rbuild build --progress=plain -o type=tar,dest=-";

/// A context with a shell, and an image with that and rbuild, of which podman makes containers.
pub(crate) fn containers() -> TestEnv {
    let (env, image) = image();
    env.tool("podman", ["load", "-q", "-i", &image]).success();
    env
}

/// The same, and the path of an archive of the image.
fn image() -> (TestEnv, String) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(fs::read);
    let busybox = busybox
        .into_iter()
        .find_map(Result::ok)
        .expect("a static busybox: install the package busybox-static");
    let env = TestEnv::new()
        .file("Dockerfile", DOCKERFILE)
        .file("busybox", busybox)
        .file("../image/Dockerfile", IMAGE);
    for file in ["busybox", "Dockerfile"] {
        let path = env.path(file);
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
        let opened = fs::File::options().append(true).open(&path).unwrap();
        opened.set_modified(time).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_rbuild"), env.outside("image/rbuild")).unwrap();
    let program = "--build-context=program=../image";
    let output = "type=docker,dest=../image.tar,name=environment";
    env.rbuild([program, "-f", "../image/Dockerfile", "-o", output, "."])
        .success();
    let image = env.outside("image.tar").to_str().unwrap().to_owned();
    (env, image)
}

const IMAGE: &str = r#"
FROM scratch
COPY busybox /bin/busybox
COPY busybox /bin/sh
COPY --from=program rbuild /bin/rbuild
COPY Dockerfile busybox /case/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -m 1777 /tmp && mkdir -p /etc /root /home/u && echo root:x:0:0::/root:/bin/sh > /etc/passwd \
    && echo u:x:1000:1000::/home/u:/bin/sh >> /etc/passwd && chown 1000:1000 /home/u
"#;

/// Prints the name of a step's network namespace.
const NETWORK: &str = "printf 'FROM scratch\\nCOPY busybox /bin/sh\\nCOPY busybox /bin/readlink\\nRUN readlink \
                       /proc/self/ns/net > /net\\n' > /tmp/Dockerfile; rbuild build --progress=none -f /tmp/Dockerfile \
                       -o type=tar,dest=- /case 2>/tmp/said | tar -xO net || cat /tmp/said";

fn findings(doctor: &Value) -> impl Iterator<Item = &Value> {
    doctor["findings"].as_array().into_iter().flatten()
}

/// What is not as it should be, each in the word below that its finding has.
fn lacks(doctor: &Value) -> Vec<&'static str> {
    const WORDS: [&str; 10] = [
        "cannot be mapped",
        "refuses a user namespace",
        "mounts are refused",
        "pivot_root",
        "one user id only",
        "overlayfs",
        "a /proc of its own",
        "network",
        "chroot",
        "other architectures",
    ];
    let bad = findings(doctor).filter(|finding| finding["state"] != "ok");
    // Of cgroups, and of what takes /dev/net/tun, this machine decides.
    let told = bad.filter(|finding| !finding["what"].as_str().unwrap().contains("--resource"));
    told.map(|finding| {
        assert!(finding["fix"].is_string(), "{finding:#}");
        let what = finding["what"].as_str().unwrap();
        let mut words = WORDS.into_iter();
        words
            .find(|word| what.contains(word))
            .unwrap_or_else(|| panic!("{finding:#}"))
    })
    .collect()
}

const PODMAN: [&str; 1] = ["podman"];

impl TestEnv {
    /// What a shell says in a container of podman's: both streams of it.
    fn in_container(&self, options: &[&str], script: &str) -> String {
        self.in_container_of(&PODMAN, options, script)
    }

    /// The same with another engine's client.
    fn in_container_of(&self, client: &[&str], options: &[&str], script: &str) -> String {
        let script = format!("exec 2>&1; {script}");
        let args = ["run", "--rm", "--network=host"].into_iter();
        let args = client[1..].iter().copied().chain(args);
        let args = args.chain(options.iter().copied());
        self.tool(client[0], args.chain(["environment", "sh", "-c", &script]))
            .stdout
    }

    /// A seccomp profile that allows all but some calls.
    fn profile(&self, refused: &Value) -> String {
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": refused });
        let path = self.outside("seccomp.json");
        fs::write(&path, profile.to_string()).unwrap();
        format!("--security-opt=seccomp={}", path.display())
    }
}

/// Calls that fail.
fn refused(names: &[&str], errno: i32) -> Value {
    json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno })
}

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// What mounts are made with.
const MOUNTS: [&str; 6] = [
    "mount",
    "fsmount",
    "move_mount",
    "mount_setattr",
    "open_tree",
    "pivot_root",
];

/// What becomes of steps.
enum Steps {
    /// They run, on this rung, with this stacker.
    Run(u32, &'static str),
    /// They run so, and the files are the same; layers may say what a step removed in other words.
    Files(u32, &'static str),
    /// They do not, and this is why and what to do.
    Refused(&'static str),
}

/// What builds in containers are compared with.
struct Surroundings<'a> {
    env: &'a TestEnv,
    /// The command that runs containers.
    client: &'a [&'a str],
    /// What a build here says.
    here: String,
    /// What its files are.
    files: String,
}

impl<'a> Surroundings<'a> {
    fn new(env: &'a TestEnv, client: &'a [&'a str]) -> Self {
        let command = |script: &str| {
            let mut command = env.tool_command("sh");
            let program = std::path::Path::new(env!("CARGO_BIN_EXE_rbuild"));
            let dir = program.parent().unwrap().display();
            let path = format!("{dir}:{}", crate::support::tools::PATH);
            command.args(["-c", script]).env("PATH", path);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let here = command(&format!("{BUILD} . | sha256sum"));
        let files = command(&format!("{FILES} . | tar -xO | sha256sum"));
        assert_ne!(files, command("true | sha256sum"), "there are files");
        Self {
            env,
            client,
            here,
            files,
        }
    }

    fn say(&self, options: &[&str], script: &str) -> String {
        self.env.in_container_of(self.client, options, script)
    }

    /// A container with `options`: what doctor finds lacking there, and what becomes of a build with `flags`.
    fn run(&self, name: &str, options: &[&str], flags: &str, steps: Steps, lacking: &[&str]) {
        let doctor = self.say(
            options,
            &format!("rbuild doctor --format json {flags} 2>/dev/null; echo $?"),
        );
        let mut read = serde_json::Deserializer::from_str(&doctor).into_iter();
        let doctor: [Value; 2] = std::array::from_fn(|_| match read.next() {
            Some(Ok(value)) => value,
            read => panic!("{name}: {read:?}: {doctor}"),
        });
        let [doctor, code] = doctor;
        let found = (&doctor["rung"], &doctor["stacker"]);
        let build = format!("{BUILD} {flags} /case 2> /tmp/said");
        let (expected, script) = match &steps {
            Steps::Run(rung, stacker) => (
                (&json!(rung), &json!(stacker)),
                format!("{build} | sha256sum; grep -i -e ^error -e ^hint /tmp/said"),
            ),
            Steps::Files(rung, stacker) => (
                (&json!(rung), &json!(stacker)),
                format!(
                    "{FILES} {flags} /case 2> /tmp/said | tar -xO | sha256sum; grep -i -e ^error -e ^hint /tmp/said"
                ),
            ),
            Steps::Refused(_) => (
                (&json!(3), &Value::Null),
                format!("{build} >/dev/null; cat /tmp/said"),
            ),
        };
        assert_eq!(found, expected, "{name}: {doctor:#}");
        let runs = !matches!(steps, Steps::Refused(_));
        assert_eq!(code, if runs { 0 } else { 3 }, "{name}: {doctor:#}");
        assert_eq!(lacks(&doctor), lacking, "{name}: {doctor:#}");
        // What mends the first is the whole's.
        let first = findings(&doctor).find(|finding| finding["state"] != "ok");
        let missing = findings(&doctor).find(|finding| finding["state"] == "missing");
        let worst = missing.or(first).unwrap();
        assert_eq!(worst["fix"], doctor["fix"], "{name}: {doctor:#}");
        let network = match (runs, flags) {
            (false, _) => "none",
            (true, "") => {
                let namespace = "readlink /proc/self/ns/net";
                let here = self.say(options, &format!("{NETWORK}; {namespace}"));
                let mut lines = here.lines();
                let (step, here) = (lines.next_back(), lines.next_back());
                assert!(
                    here.is_some_and(|here| here.starts_with("net:[")),
                    "{here:?}"
                );
                if step == here { "host" } else { "own" }
            }
            // There is no `/proc`, and no namespace of any kind.
            (true, _) => "host",
        };
        assert_eq!(doctor["network"], network, "{name}: {doctor:#}");
        let said = self.say(options, &script);
        match steps {
            Steps::Run(..) => assert_eq!(said, self.here, "{name}"),
            Steps::Files(..) => assert_eq!(said, self.files, "{name}"),
            Steps::Refused(hint) => {
                assert!(
                    said.contains(hint) && said.contains("Dockerfile:5:1"),
                    "{name}: {said}"
                );
                assert!(!said.contains("RUN mkdir"), "{name} ran something: {said}");
                // What needs no process is built.
                let copies = "printf 'FROM scratch\\nCOPY busybox /\\n' > /tmp/Dockerfile; \
                                  rbuild build -q -t copies -f /tmp/Dockerfile /case";
                let said = self.say(options, copies);
                assert!(said.starts_with("sha256:"), "{name}: {said}");
            }
        }
    }
}

#[test]
fn containers_of_rootless_podman() {
    let env = containers();
    let user = ["--user=1000", "--env=HOME=/home/u"];
    let docker = json!([
        refused(&MOUNTS, EPERM),
        refused(&["unshare", "setns", "fsopen", "fsconfig"], EPERM),
        refused(&["clone3"], ENOSYS),
        // A new user namespace.
        json!({
            "names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM,
            "args": [{ "index": 0, "value": 0x1000_0000, "valueTwo": 0x1000_0000, "op": "SCMP_CMP_MASKED_EQ" }],
        }),
    ]);
    let no_mounts = json!([refused(&MOUNTS, EPERM)]);
    let old = json!([refused(
        &[
            "clone3",
            "openat2",
            "fsopen",
            "close_range",
            "mount_setattr"
        ],
        ENOSYS
    )]);
    let here = Surroundings::new(&env, &PODMAN);
    let run = |name, options: &[&str], flags, steps, lacking: &[&str]| {
        here.run(name, options, flags, steps, lacking);
    };
    use Steps::Refused;
    use Steps::Run;
    // The image has neither slirp4netns nor an emulator.
    let root = [
        "overlayfs",
        "a /proc of its own",
        "network",
        "other architectures",
    ];
    run("as they are", &[], "", Run(1, "link"), &root);
    run(
        "store on a volume",
        &["--volume=/root"],
        "",
        Run(1, "overlay"),
        &root[1..],
    );
    let unmasked = ["overlayfs", "network", "other architectures"];
    run(
        "unmasked",
        &["--security-opt=unmask=ALL"],
        "",
        Run(1, "link"),
        &unmasked,
    );
    run(
        "privileged",
        &["--privileged"],
        "",
        Run(1, "link"),
        &unmasked,
    );
    let tiny = "--tmpfs=/tmp:size=64k,noexec";
    run(
        "tiny /tmp without programs",
        &[tiny],
        "",
        Run(1, "link"),
        &root,
    );
    let nothing = [
        user[0],
        user[1],
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
    ];
    let single = [
        "one user id only",
        "overlayfs",
        "a /proc of its own",
        "network",
        "other architectures",
    ];
    run("an unprivileged pod", &nothing, "", Run(2, "link"), &single);
    run(
        "root without capabilities",
        &["--cap-drop=all"],
        "",
        Refused("run it as another user"),
        &["cannot be mapped"],
    );
    let profile = env.profile(&docker);
    run(
        "docker's filter",
        &[&profile],
        "",
        Refused("--isolation=chroot"),
        &["refuses a user namespace"],
    );
    run(
        "docker's filter, chroot",
        &[&profile],
        "--isolation=chroot",
        Run(3, "link"),
        &["chroot"],
    );
    let profile = env.profile(&no_mounts);
    run(
        "namespaces without power, as Ubuntu's AppArmor makes them",
        &[&profile, user[0], user[1]],
        "",
        Refused("denies mounts in user namespaces"),
        &[
            "one user id only",
            "mounts are refused",
            "overlayfs",
            "a /proc of its own",
            "other architectures",
        ],
    );
    let profile = env.profile(&old);
    run("an old kernel", &[&profile], "", Run(1, "link"), &root);
    let pod = [&[&*profile], &nothing[..]].concat();
    run("an old kernel, one id", &pod, "", Run(2, "link"), &single);
    // Nobody tells when a directory was made: one that has the number of one that is gone may be taken for it.
    let profile = env.profile(&json!([refused(&["statx"], ENOSYS)]));
    run(
        "without statx",
        &[&profile],
        "",
        Steps::Files(1, "link"),
        &root,
    );
    let pod = [&[&*profile], &nothing[..]].concat();
    run(
        "without statx, one id",
        &pod,
        "",
        Steps::Files(2, "link"),
        &single,
    );
}

/// Docker itself with its own seccomp profile: rootless, or root's.
#[test]
fn containers_of_docker() {
    let (env, image) = image();
    let docker = Dockerd::start(&env);
    docker.client(&env, ["load", "-i", &image]).success();
    let client = ["docker", "--context", dockerd::CONTEXT];
    let here = Surroundings::new(&env, &client);
    let user = ["--user=1000", "--env=HOME=/home/u"];
    let unconfined = "--security-opt=seccomp=unconfined";
    here.run(
        "as they are",
        &[],
        "",
        Steps::Refused("--isolation=chroot"),
        &["refuses a user namespace"],
    );
    here.run(
        "as they are, a user",
        &user,
        "",
        Steps::Refused("seccomp=unconfined"),
        &["refuses a user namespace"],
    );
    here.run(
        "as they are, chroot",
        &[],
        "--isolation=chroot",
        Steps::Run(3, "link"),
        &["chroot"],
    );
    // The profile then allows all but this.
    here.run(
        "with the right to mount",
        &["--cap-add=SYS_ADMIN"],
        "",
        Steps::Refused("allow pivot_root"),
        &["pivot_root", "a /proc of its own", "other architectures"],
    );
    // The image has neither slirp4netns nor an emulator; the daemon of the tests stores files plainly.
    let root = ["a /proc of its own", "network", "other architectures"];
    here.run(
        "without the profile",
        &[unconfined],
        "",
        Steps::Run(1, "overlay"),
        &root,
    );
    let paths = "--security-opt=systempaths=unconfined";
    here.run(
        "and with all of /proc",
        &[unconfined, paths],
        "",
        Steps::Run(1, "overlay"),
        &root[1..],
    );
    let pod = [
        &[
            unconfined,
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
        ],
        &user[..],
    ]
    .concat();
    here.run(
        "an unprivileged pod without the profile",
        &pod,
        "",
        Steps::Run(2, "overlay"),
        &[&["one user id only"], &root[..]].concat(),
    );
}

/// Nothing is mounted, so a cache is in the root of the step that has it, which is removed if that is killed.
#[test]
fn a_cache_outlives_a_killed_build_without_mounts() {
    let env = containers();
    let profile = env.profile(&json!([refused(&MOUNTS, EPERM)]));
    let build = "rbuild build --progress=plain --isolation=chroot -o type=tar,dest=- -f /tmp/Dockerfile /case 2> /tmp/said";
    let script = format!(
        "from='FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n'; \
         cache='RUN --mount=type=cache,target=/cache'; \
         printf \"$from$cache echo kept > /cache/f && /bin/busybox kill -9 -1\" > /tmp/Dockerfile; \
         {build} > /dev/null; test $? = 137 && echo killed; {{then}} \
         printf \"$from$cache read -r f < /cache/f && echo \\$f > /got\" > /tmp/Dockerfile; \
         {build} | tar -xO got"
    );
    for then in [
        "",
        "rbuild debug fsck --repair;",
        "rbuild prune -f >/dev/null 2>&1;",
    ] {
        let said = env.in_container(&[&profile], &script.replace("{then}", then));
        assert!(
            said.contains("killed\n") && said.ends_with("kept\n"),
            "{then}: {said}"
        );
    }
}

/// Without `/proc` too; and a cache that a killed process had there comes back when the step goes.
#[test]
fn a_failed_step_is_entered_without_mounts() {
    let env = containers();
    let profile = env.profile(&json!([refused(&MOUNTS, EPERM)]));
    let shell = "rbuild shell --isolation=chroot -- /bin/busybox";
    let build =
        "rbuild build --isolation=chroot -o type=cacheonly -f /tmp/Dockerfile /case 2> /tmp/said";
    let script = format!(
        "from='FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n'; \
         cache='RUN --mount=type=cache,target=/cache'; \
         printf \"$from$cache echo kept > /cache/f; echo left > /made; exit 7\" > /tmp/Dockerfile; \
         {build}; echo $?; {shell} cat /made /cache/f; \
         {shell} kill -9 -1; echo $?; rbuild prune -f > /dev/null 2>&1; rbuild shell --list | wc -l; \
         printf \"$from$cache read -r f < /cache/f && echo \\$f > /got; exit 7\" > /tmp/Dockerfile; \
         {build}; {shell} cat /got; rbuild debug fsck --deep > /tmp/said 2>&1 && echo sound"
    );
    let said = env.in_container(&[&profile], &script);
    assert_eq!(said, "1\nleft\nkept\nKilled\n137\n1\nkept\nsound\n");
}

/// no_new_privs keeps newuidmap from what it is for.
#[test]
fn a_user_without_subordinate_ids() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox\nRUN id -u > /id && stat -c %u:%g /id > /owner\n",
    );
    let without = |args: &[&str]| {
        let rbuild = [env!("CARGO_BIN_EXE_rbuild")].into_iter();
        let args = ["--no-new-privs"]
            .into_iter()
            .chain(rbuild)
            .chain(args.iter().copied());
        env.tool("setpriv", args).success()
    };
    for stacker in ["overlay", "link"] {
        let doctor = without(&["doctor", "--format=json", "--stacker", stacker]).stdout;
        let doctor: Value = serde_json::from_str(&doctor).unwrap();
        assert_eq!(
            (&doctor["rung"], &doctor["stacker"]),
            (&json!(2), &json!(stacker))
        );
        without(&["--no-cache", "--stacker", stacker, "-o", "../out", "."]);
        let read = |name: &str| fs::read_to_string(env.outside("out").join(name)).unwrap();
        assert_eq!((&*read("id"), &*read("owner")), ("0\n", "0:0\n"));
    }
}
