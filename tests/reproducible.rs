//! One project, two users: other ids, umask at the check-out, time zone, locale, times of files, home, store, and kind of
//! user namespace. The same digests.
//!
//! Another clock there is not: a time namespace has no CLOCK_REALTIME of its own (time_namespaces(7)), and a static program
//! takes no library that tells it another time. That the second user builds in other seconds stands for it: what a clock
//! comes to in an image is the times of files that steps write, and when the image and its layers were made.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::support::Base;
use crate::support::TestEnv;

const PLAN: &str = r#"
schema = 1
[inputs]
busybox = { image = "busybox" }
src = { local = ".", include = ["src", "bin"] }
[step.app]
from = "busybox"
copy = [{ from = "src", to = "/app/" }]
run = ["mkdir /app/made; cat /app/src/* >/app/made/all; chmod 600 /app/made/all", "date >/dev/null; env >/dev/null"]
[output.app]
step = "app"
tags = ["app"]
image = { cmd = ["/app/bin/run"] }
"#;

/// Of a Dockerfile the modes of files are in the layers, so those must be equal; times are, if they are not before
/// SOURCE_DATE_EPOCH.
const DOCKERFILE: &str = "\
FROM busybox
COPY --chmod=u=rwX,go=rX src bin /app/
WORKDIR /app/made
RUN cat /app/* > all; ln all other; ln -s all link
LABEL a=1 b=2
";

/// Checks the project out as git would with that umask, and builds it as somebody with a name space of their own.
const SCRIPT: &str = r#"
set -e
umask "$UMASK"
mkdir -p "$OWN/home/.config/rbuild" "$OWN/project"
cp config.toml "$OWN/home/.config/rbuild/"
cp -r --no-preserve=mode project/. "$OWN/project/"
find "$OWN/project/bin" -type f -exec chmod +x {} +
find "$OWN/project" -exec touch -d "$DATE" {} +
cd "$OWN/project"
export HOME="$OWN/home" TMPDIR="$OWN" XDG_RUNTIME_DIR="$OWN" TZ LC_ALL USER LOGNAME
"$RBUILD" -q --root "$OWN/store" -f rbuild.toml -o "type=oci,dest=$OWN/plan.tar" .
SOURCE_DATE_EPOCH=1500000000 "$RBUILD" -q --root "$OWN/store" -f Dockerfile \
    -o "type=oci,dest=$OWN/zstd.tar,rewrite-timestamp=true,compression=zstd" .
SOURCE_DATE_EPOCH=1500000000 "$RBUILD" -q --root "$OWN/store" -f Dockerfile \
    -o "type=oci,dest=$OWN/gzip.tar,rewrite-timestamp=true" .
for image in plan zstd gzip; do
    skopeo inspect --format '{{.Digest}}' "oci-archive:$OWN/$image.tar"
done
"#;

struct User {
    id: u32,
    umask: &'static str,
    date: &'static str,
    zone: &'static str,
    locale: &'static str,
}

#[test]
fn two_users_get_the_same_digests() {
    let env = TestEnv::new().bases([Base::Busybox]);
    let shared = env.outside("shared");
    let project = shared.join("project");
    for (path, content) in [
        ("rbuild.toml", PLAN),
        ("Dockerfile", DOCKERFILE),
        ("src/b", "b\n"),
        ("src/a", "a\n"),
        ("src/é", "not ASCII\n"),
        ("src/A", "upper\n"),
        ("bin/run", "#!/bin/sh\ncat /app/made/all\n"),
    ] {
        let path = project.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let config = env.outside("home").join(".config/rbuild/config.toml");
    fs::copy(config, shared.join("config.toml")).unwrap();
    // Others must come by, to the program as well.
    let program = shared.join("rbuild");
    fs::copy(env!("CARGO_BIN_EXE_rbuild"), &program).unwrap();
    fs::set_permissions(shared.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();

    let users = [
        User {
            id: 0,
            umask: "022",
            date: "2020-02-03T04:05:06Z",
            zone: "UTC",
            locale: "C",
        },
        User {
            id: 1234,
            umask: "077",
            date: "2024-12-31T23:59:59Z",
            zone: "Pacific/Auckland",
            locale: "de_DE.UTF-8",
        },
    ];
    let digests = users.map(|user| {
        let begun = seconds();
        let own = shared.join(format!("user-{}", user.id));
        let as_them = format!(
            "exec setpriv --reuid={0} --regid={0} --clear-groups sh -c \"$SCRIPT\"",
            user.id
        );
        let mut command = env.tool_command("unshare");
        command
            .args(["--map-root-user", "--map-auto", "sh", "-c", &as_them])
            .current_dir(&shared)
            .env("SCRIPT", SCRIPT)
            .env("RBUILD", &program)
            .env("OWN", own)
            .env("UMASK", user.umask)
            .env("DATE", user.date)
            .env("TZ", user.zone)
            .env("LC_ALL", user.locale)
            .env("USER", format!("user-{}", user.id));
        let built = env.run(&mut command).success().stdout;
        while seconds() == begun {
            std::thread::yield_now();
        }
        built
    });
    assert_eq!(digests[0], digests[1]);
    // The ids that `-q` prints, and the digests.
    assert_eq!(digests[0].lines().count(), 6, "{digests:?}");
}

/// Of the clock.
fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}
