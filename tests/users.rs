//! Who has which ids: users with and without subordinate ids, with a name in a file, in a directory service or nowhere, with
//! `newuidmap` in several states. In a user namespace of the tests' own, whose root makes users and files of `/etc` as it
//! likes; the programs are the machine's, and the setuid bit counts.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::Base;
use crate::support::Output;
use crate::support::TestEnv;

/// By root of the namespace: copies of the programs that give ids, and files of `/etc`, on a file system of their own. The
/// variables say what is different for a test.
const PREPARE: &str = r#"
set -e
mount -t tmpfs none /mnt
mkdir -m 755 /mnt/home /mnt/bin /mnt/lib
cp -r "$HOME/.config" /mnt/home/
chown -R 4321:4321 /mnt/home
touch /mnt/rbuild && mount --bind "$RBUILD" /mnt/rbuild
[ -z "$NOSUID" ] || mount -t tmpfs -o nosuid none /mnt/bin
for helper in newuidmap newgidmap; do
    cp /usr/bin/$helper /mnt/bin/ && chown 0:0 /mnt/bin/$helper && chmod ${HELPERS:-4755} /mnt/bin/$helper
    mount --bind /mnt/bin/$helper /usr/bin/$helper
done
printf 'root:x:0:0::/:/bin/sh\n%s\n' "$PASSWD" > /mnt/passwd
printf '%s\n' "$SUBIDS" > /mnt/subids
printf 'passwd: files %s\n%s\n' "$SERVICE" "$SUBID" > /mnt/nsswitch
mount --bind /mnt/passwd /etc/passwd
mount --bind /mnt/subids /etc/subuid
mount --bind /mnt/subids /etc/subgid
mount --bind /mnt/nsswitch /etc/nsswitch.conf
if [ -n "$SERVICE" ]; then
    cc -shared -fPIC -o /mnt/lib/libnss_test.so.2 "$SOURCE"
    cp /mnt/lib/libnss_test.so.2 /mnt/lib/libsubid_test.so
    libraries=$(dirname $(readlink -f /lib/*/libc.so.6 | head -n 1))
    mount -t overlay -o "lowerdir=/mnt/lib:$libraries" none "$libraries"
fi
cd /mnt/home
[ -z "$STORE" ] || eval "$STORE"
exec setpriv --reuid=4321 --regid=4321 --clear-groups env HOME=/mnt/home TMPDIR=/mnt/home RBUILD_ROOT=/mnt/home/store \
    sh -c "$SCRIPT"
"#;

/// A user of whom all is said that is known.
const LOCAL: &str = "u:x:4321:4321::/mnt/home:/bin/sh";

/// What steps have and leave.
const DOCKERFILE: &str = "FROM busybox
RUN cat /proc/self/uid_map > /map && touch /f && chown 5:7 /f && stat -c %u:%g /f > /owner
";

/// User 4321 runs a script with those variables for [`PREPARE`].
fn run(env: &TestEnv, variables: &[(&str, &str)], script: &str) -> Output {
    let mut command = env.tool_command("unshare");
    command
        .args(["--user", "--mount", "--map-root-user", "--map-auto"])
        .args(["--", "/bin/sh", "-c", PREPARE])
        .env("RBUILD", env!("CARGO_BIN_EXE_rbuild"))
        .env("SCRIPT", script)
        .env(
            "SOURCE",
            Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/directory/service.c"),
        )
        .envs(variables.iter().copied());
    env.run(&mut command)
}

fn env() -> TestEnv {
    let env = TestEnv::new().bases([Base::Busybox]);
    // It is copied by who cannot come here.
    fs::write(env.outside("home/.config/Dockerfile"), DOCKERFILE).unwrap();
    env
}

/// What `doctor` says, and what becomes of a step: its map of ids and the owner that it sees.
#[track_caller]
fn found(env: &TestEnv, variables: &[(&str, &str)]) -> (Value, Vec<String>) {
    let script = "/mnt/rbuild doctor --format json && mkdir out && \
                  /mnt/rbuild build -q -f .config/Dockerfile -o out .config 2>&1 >/dev/null && cat out/map out/owner";
    let said = run(env, variables, script).success().stdout;
    let mut documents = serde_json::Deserializer::from_str(&said).into_iter();
    let doctor: Value = documents.next().unwrap().unwrap();
    let rest = said[documents.byte_offset()..].lines();
    let rest = rest.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    (doctor, rest.filter(|line| !line.is_empty()).collect())
}

/// The findings that are about ids.
fn about_ids(doctor: &Value) -> Vec<&str> {
    let findings = doctor["findings"].as_array().unwrap().iter();
    findings
        .filter_map(|finding| finding["what"].as_str())
        .filter(|what| {
            ["ids", "uidmap", "user id"]
                .iter()
                .any(|word| what.contains(word))
        })
        .collect()
}

#[test]
fn ranges_are_found_by_name_and_by_number() {
    for subids in ["u:20000:30000", "4321:20000:30000"] {
        let env = env();
        let (doctor, step) = found(&env, &[("PASSWD", LOCAL), ("SUBIDS", subids)]);
        assert_eq!(doctor["rung"], 1, "{doctor:#}");
        assert_eq!(
            about_ids(&doctor)[0],
            "30000 user ids and 30000 group ids in /etc/subuid and /etc/subgid"
        );
        assert_eq!(step, ["0 4321 1", "1 20000 30000", "5:7"]);
    }
}

/// As on a machine whose users are in LDAP: neither name nor ranges are in a file.
#[test]
fn a_user_of_a_directory_service_has_its_ranges() {
    let env = env();
    let service = [("SERVICE", "test"), ("SUBID", "subid: test")];
    let (doctor, step) = found(&env, &service);
    assert_eq!(doctor["rung"], 1, "{doctor:#}");
    assert_eq!(
        about_ids(&doctor)[0],
        "30000 user ids and 30000 group ids by getsubids, from what nsswitch.conf names for `subid`"
    );
    assert_eq!(step, ["0 4321 1", "1 20000 30000", "5:7"]);
    // The name is the service's, and the ranges are in files.
    let (doctor, step) = found(
        &self::env(),
        &[("SERVICE", "test"), ("SUBIDS", "ldap-user:40000:500")],
    );
    assert_eq!(doctor["rung"], 1, "{doctor:#}");
    assert_eq!(step, ["0 4321 1", "1 40000 500", "5:7"]);
}

/// newuidmap(1) asks the first service that nsswitch.conf(5) names, and it alone; where that is not there, the files.
#[test]
fn the_first_service_has_the_ranges() {
    let subids = ("SUBIDS", "ldap-user:40000:500");
    let step = |subid| {
        let (doctor, step) = found(&env(), &[("SERVICE", "test"), subids, ("SUBID", subid)]);
        assert_eq!(doctor["rung"], 1, "{doctor:#}");
        step
    };
    for service in ["subid: test", "subid: test files"] {
        assert_eq!(step(service), ["0 4321 1", "1 20000 30000", "5:7"]);
    }
    for files in ["subid: files", "subid: files test", "subid: absent"] {
        assert_eq!(step(files), ["0 4321 1", "1 40000 500", "5:7"], "{files}");
    }
}

/// A file system without attributes has no place to record owners in: files have them, or no step runs.
#[test]
fn a_store_without_attributes_wants_ranges() {
    let ramfs = "mkdir store && mount -t ramfs none store && chown 4321:4321 store";
    let of_store = [("PASSWD", LOCAL), ("STORE", ramfs)];
    let (doctor, step) = found(
        &env(),
        &[&of_store[..], &[("SUBIDS", "u:20000:30000")]].concat(),
    );
    assert_eq!(
        (&doctor["rung"], &doctor["stacker"]),
        (&1.into(), &"link".into())
    );
    assert_eq!(step, ["0 4321 1", "1 20000 30000", "5:7"]);
    let wanted = "owners of files, recorded as xattrs on the store's file system: Operation not supported (os error 95) (in \
                  `/mnt/home/store";
    assert_is_refused(&of_store, wanted);
}

/// That doctor finds this and says what mends it, and that a build says as much.
#[track_caller]
fn assert_is_refused(variables: &[(&str, &str)], wanted: &str) {
    let env = env();
    let said = run(&env, variables, "/mnt/rbuild doctor --format json").code(3);
    let doctor: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(doctor["rung"], 3, "{doctor:#}");
    let findings = doctor["findings"].as_array().unwrap().iter();
    let what = |finding: &Value| finding["what"].as_str().unwrap().to_owned();
    let mut found = findings.filter(|finding| what(finding).starts_with(wanted));
    let found = found.next().unwrap_or_else(|| panic!("{doctor:#}"));
    let fix = "put the store (`--root` or RBUILD_ROOT) on a local file system: ext4, xfs, btrfs";
    assert_eq!(found["fix"], fix);
    let build = "/mnt/rbuild build -q -f .config/Dockerfile -o out .config";
    let built = run(&env, variables, build).code(3);
    let built = built.says("owners of files, recorded as xattrs on the store's file system");
    built.says(fix);
}

/// One id, and owners as they should be; and what is to be done about it.
#[test]
fn without_ranges_there_is_one_id_and_the_fix_is_right() {
    let one = |variables: &[(&str, &str)]| {
        let (doctor, step) = found(&env(), variables);
        assert_eq!(doctor["rung"], 2, "{doctor:#}");
        assert_eq!(step, ["0 4321 1", "5:7"]);
        doctor["fix"].as_str().unwrap().to_owned()
    };
    let ranges = ("SUBIDS", "u:20000:30000");
    let local = ("PASSWD", LOCAL);
    assert_eq!(
        one(&[local, ("SUBIDS", "other:200000:65536")]),
        "sudo usermod --add-subuids 265536-331071 --add-subgids 265536-331071 u"
    );
    // usermod(8) does not know who is not in /etc/passwd.
    assert_eq!(
        one(&[("SERVICE", "test"), ("SUBIDS", "other:200000:65536")]),
        "echo ldap-user:265536:65536 | sudo tee -a /etc/subuid /etc/subgid"
    );
    // Whom the service does not know has no ranges in files either.
    assert_eq!(
        one(&[local, ranges, ("SERVICE", "test"), ("SUBID", "subid: test")]),
        "have the service that /etc/nsswitch.conf names for `subid` give u ranges, as `getsubids u` and `getsubids -g u` \
         show them"
    );
    assert_eq!(
        one(&[local, ranges, ("HELPERS", "755")]),
        "sudo chmod u+s /usr/bin/newuidmap"
    );
    assert_eq!(
        one(&[local, ranges, ("NOSUID", "1")]),
        "mount the file system of /usr/bin/newuidmap without `nosuid`"
    );
    // newuidmap: "Cannot determine your user name."
    assert_eq!(
        one(&[("SUBIDS", "4321:20000:30000")]),
        "give user 4321 a name, in /etc/passwd or in a directory service: newuidmap maps nothing for who has none"
    );
}
