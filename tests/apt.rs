//! Debian's package manager, unmodified, as an ordinary user.

use std::collections::BTreeMap;
use std::path::Path;

use crate::single_id;
use crate::support::Base;
use crate::support::Image;
use crate::support::Output;
use crate::support::PACKAGES_WITH_USERS;
use crate::support::TestEnv;
use crate::support::list_tar;

/// What dpkg wrote, with owners by name: numbers depend on the order in which packages made their users.
fn installed(env: &TestEnv, archive: &Path) -> BTreeMap<String, String> {
    let names = |file: &str| -> BTreeMap<String, String> {
        // Members are called `etc/passwd` by one writer and `./etc/passwd` by the other.
        let pattern = format!("*{file}");
        let output = env
            .tool(
                "tar",
                ["-xOf", archive.to_str().unwrap(), "--wildcards", &pattern],
            )
            .success();
        let fields = output
            .stdout
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>());
        fields
            .map(|fields| (fields[2].to_owned(), fields[0].to_owned()))
            .collect()
    };
    let (users, groups) = (names("etc/passwd"), names("etc/group"));
    let state = [
        "dev/",
        "proc/",
        "run/",
        "sys/",
        "tmp/",
        "var/cache/",
        "var/lib/apt/",
        "var/lib/dpkg/",
        "var/log/",
    ];
    list_tar(archive)
        .into_iter()
        // Whether `/` is an entry, and which name of a hard link comes first, is the archive's affair.
        .filter(|entry| !entry.path.is_empty() && !entry.mode.starts_with('h'))
        .filter(|entry| !state.iter().any(|dir| entry.path.starts_with(dir)))
        .map(|entry| {
            let (uid, gid) = entry.owner.split_once('/').unwrap();
            let what = format!("{} {}:{}", entry.mode, users[uid], groups[gid]);
            (entry.path, what + &entry.link.unwrap_or_default())
        })
        .collect()
}

#[test]
fn packages_that_make_users_get_their_owners_and_modes() {
    check(|env, args| env.rbuild(args));
}

#[test]
fn they_get_them_where_there_is_one_user_id() {
    check(single_id::build);
}

/// The reference is what dpkg leaves when mmdebstrap has it install the same packages in a chroot.
fn check(build: impl Fn(&TestEnv, &[&str]) -> Output) {
    let packages = PACKAGES_WITH_USERS.replace(',', " ");
    let env = TestEnv::new().bases([Base::Debian]).file(
        "Dockerfile",
        format!("FROM debian\nRUN apt-get update && apt-get install -y --no-install-recommends {packages}\n"),
    );
    build(&env, &["-o", "type=tar,dest=ours.tar", "."]).success();
    let reference = Image::from_layout(&Base::DebianWithUsers.layout()).layer_blob(0);

    let (ours, reference) = (
        installed(&env, &env.path("ours.tar")),
        installed(&env, &reference),
    );
    // `type=tar` holds what is below the root, not the root.
    let differences: Vec<String> = reference
        .iter()
        .filter(|(path, _)| !path.is_empty())
        .filter(|(path, entry)| ours.get(*path) != Some(*entry))
        .map(|(path, entry)| format!("{path}: {entry} is {:?}", ours.get(path)))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    // What the test is about is there: set-id programs and directories of other groups.
    for (path, entry) in [
        ("usr/bin/crontab", "-rwxr-sr-x root:crontab"),
        (
            "usr/lib/dbus-1.0/dbus-daemon-launch-helper",
            "-rwsr-xr-- root:messagebus",
        ),
        ("var/spool/cron/crontabs", "drwx-wx--T root:crontab"),
    ] {
        assert_eq!(ours[path], entry, "{path}");
    }
}
