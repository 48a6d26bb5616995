//! What a step's file system shows, and what is left in the upper directory.

use super::*;

#[test]
fn a_step_that_writes_nothing_leaves_nothing() {
    let fixture = Fixture::new();
    fixture.lower("etc/passwd", "root:x:0:0::/:/bin/sh\n");
    let before = fs::metadata(fixture.path("upper")).unwrap();
    let mounts = [
        "--mount=type=tmpfs,dst=/cache/deep/down",
        "--mount=type=file,data=x,dst=/run/secrets/x",
    ];
    fixture
        .write(&mounts, "ls /cache/deep/down /etc >/dev/null")
        .stdout();
    assert_eq!(fixture.upper(), [""; 0]);
    let after = fs::metadata(fixture.path("upper")).unwrap();
    assert_eq!(
        (before.mtime_nsec(), before.mtime(), before.mode()),
        (after.mtime_nsec(), after.mtime(), after.mode())
    );
}

#[test]
fn the_upper_holds_what_the_step_did() {
    let fixture = Fixture::new();
    fixture.lower("old/a", "");
    fixture.lower("etc/passwd", "");
    fixture
        .write(
            &[],
            "echo x > /f; rm /old/a; echo y > /etc/new; mkdir -m 2770 /d; ln -s f /l",
        )
        .stdout();
    assert_eq!(
        fixture.upper(),
        [
            "dir 2770 d",
            "dir 755 etc",
            "file 644 etc/new",
            "file 644 f",
            "link 777 l",
            "dir 755 old",
            "whiteout 0 old/a",
        ]
    );
}

#[test]
fn a_lower_directory_can_be_replaced() {
    let fixture = Fixture::new();
    fixture.lower("d/old", "");
    let listed = fixture.write(&[], "rm -rf /d && mkdir /d && touch /d/new && ls /d");
    assert_eq!(listed.stdout(), "new\n");
}

#[test]
fn a_root_without_upper_is_read_only() {
    let outcome = Fixture::new().sh(&[], "echo x > /f");
    assert_data_eq!(
        outcome.text(),
        str![[r#"
---- stderr ----
sh: can't create /f: Read-only file system
[exit status: 1]

"#]]
    );
}

#[test]
fn mount_points_are_found_through_links() {
    let fixture = Fixture::new();
    let lower = fixture.path("lower");
    // systemd's layout: a link to what only a running system has.
    fs::create_dir(lower.join("etc")).unwrap();
    fs::set_permissions(lower.join("etc"), fs::Permissions::from_mode(0o751)).unwrap();
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        lower.join("etc/resolv.conf"),
    )
    .unwrap();
    symlink("/data/cache", lower.join("cache")).unwrap();
    let script = "
        readlink /etc/resolv.conf
        stat -c '%A' /etc
        wc -l < /data/cache/in
        grep -c localhost /etc/hosts
        cat /etc/resolv.conf > /dev/null && echo ok";
    let mount = ["--mount=type=file,data=x,dst=/cache/in"];
    let outcome = fixture.write(&mount, script);
    assert_data_eq!(
        outcome.text(),
        str![[r#"
../run/systemd/resolve/stub-resolv.conf
drwxr-x--x
0
2
ok

"#]]
    );
    assert_eq!(fixture.upper(), [""; 0]);
}

#[test]
fn mount_points_are_found_where_a_layer_deletes_them() {
    let fixture = Fixture::new();
    fixture.lower("gone/x", "old");
    fixture.lower("renewed/x", "old");
    fixture
        .write(
            &[],
            "rm -rf /gone /renewed && mkdir -m 700 /renewed && touch /renewed/y",
        )
        .stdout();
    assert_eq!(
        fixture.upper(),
        ["whiteout 0 gone", "dir 700 renewed", "file 644 renewed/y"]
    );
    let mut command = fixture.command();
    command.arg("--lower").arg(fixture.path("upper"));
    for dest in ["/gone/x", "/renewed/x"] {
        command.arg(format!("--mount=type=file,data=new,dst={dest}"));
    }
    let script = "cat /gone/x /renewed/x; echo; ls /gone /renewed; stat -c %a /renewed";
    let outcome = Outcome(command.args(["sh", "-c", script]).output().unwrap());
    assert_data_eq!(
        outcome.text(),
        str![[r#"
newnew
/gone:
x

/renewed:
x
y
700

"#]]
    );
}

#[test]
fn etc_itself_may_be_a_link() {
    let fixture = Fixture::new();
    symlink("/private/etc", fixture.path("lower/etc")).unwrap();
    let outcome = fixture.write(&["--hostname=here"], "cat /private/etc/hosts");
    assert_eq!(
        outcome.stdout(),
        "127.0.0.1\tlocalhost here\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    );
    assert_eq!(fixture.upper(), [""; 0]);
}

#[test]
fn links_never_lead_out_of_the_root() {
    let fixture = Fixture::new();
    symlink("../../../../../..", fixture.path("lower/up")).unwrap();
    fs::write(fixture.path("secret"), "host").unwrap();
    let dest = format!(
        "--mount=type=file,data=step,dst=/up{}",
        fixture.path("secret").display()
    );
    fixture.write(&[&dest], "true").stdout();
    assert_eq!(fs::read_to_string(fixture.path("secret")).unwrap(), "host");

    // A path inside a bind or a layer is resolved inside it.
    fs::create_dir(fixture.path("tree")).unwrap();
    fs::write(fixture.path("tree/own"), "own").unwrap();
    symlink("/own", fixture.path("tree/link")).unwrap();
    for kind in ["bind", "overlay"] {
        let tree = fixture.path("tree");
        let mount = format!("--mount=type={kind},src={},sub=link,dst=/m", tree.display());
        assert_eq!(fixture.sh(&[&mount], "cat /m").stdout(), "own", "{kind}");
    }
    let mount = format!(
        "--mount=type=bind,src={}/tree/link,dst=/m",
        fixture.dir.path().display()
    );
    let text = fixture.sh(&[&mount], "true").text();
    assert!(text.contains("Too many levels of symbolic links"), "{text}");
}

#[test]
fn mounts_lie_in_mounts() {
    let fixture = Fixture::new();
    let mounts = [
        "--mount=type=file,data=inner,dst=/t/a/b",
        "--mount=type=tmpfs,dst=/t",
        "--mount=type=tmpfs,dst=/dev/shm",
    ];
    let outcome = fixture.sh(
        &mounts,
        "cat /t/a/b; echo; df /dev/shm | grep -c 1024; echo w > /t/w",
    );
    assert_eq!(outcome.stdout(), "inner\n1\n");
}

#[test]
fn binds_keep_writes_and_layers_refuse_them() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("tree")).unwrap();
    fs::write(fixture.path("tree/f"), "f").unwrap();
    let mount = |kind: &str, more: &str| {
        let tree = fixture.path("tree");
        format!("--mount=type={kind},src={},dst=/m{more}", tree.display())
    };
    for read_only in [mount("overlay", ""), mount("bind", ",ro=true")] {
        let outcome = fixture.sh(&[&read_only], "cat /m/f; rm /m/f || echo x > /m/g");
        let text = outcome.text();
        assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    }
    assert_eq!(fs::read_dir(fixture.path("tree")).unwrap().count(), 1);
    fixture.sh(&[&mount("bind", "")], "echo x > /m/g").stdout();
    assert!(fixture.path("tree/g").exists());
}

#[test]
fn layers_are_stacked_up_to_the_kernels_limit() {
    let fixture = Fixture::new();
    let mut command = fixture.command();
    let add = |command: &mut Command, number: usize| {
        let layer = fixture.path(&format!("a-rather-long-name-for-a-layer-{number}"));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join("top"), number.to_string()).unwrap();
        command.arg("--lower").arg(layer);
    };
    // With the one of the fixture.
    (1..498).for_each(|number| add(&mut command, number));
    let outcome = Outcome(command.args(["cat", "/top"]).output().unwrap());
    assert_eq!(outcome.stdout(), "497");

    let mut command = fixture.command();
    (498..1000).for_each(|number| add(&mut command, number));
    let text = Outcome(command.arg("true").output().unwrap()).text();
    assert!(text.contains("hint: overlayfs takes 498 layers"), "{text}");
}

#[test]
fn a_missing_layer_is_named() {
    let fixture = Fixture::new();
    let mut command = fixture.command();
    command.arg("--lower").arg(fixture.path("none"));
    let outcome = Outcome(command.arg("true").output().unwrap()).text();
    let none = fixture.path("none").display().to_string();
    assert_data_eq!(
        outcome.replace(&none, "NONE"),
        str![[r#"
---- stderr ----
error: cannot stack 2 layers with overlayfs, `NONE` among them
caused by: No such file or directory (os error 2)
[exit status: 3]

"#]]
    );
}

#[test]
fn the_ca_bundle_is_offered_unless_the_step_has_its_own() {
    let fixture = Fixture::new();
    fs::write(fixture.path("ca.pem"), "bundle").unwrap();
    let ca = format!("--ca={}", fixture.path("ca.pem").display());
    let outcome = fixture.write(
        &[&ca, "--env=PATH=/bin", "--env=PIP_CERT=/mine"],
        "cat $SSL_CERT_FILE; echo; env | grep pem | sort; echo $PIP_CERT",
    );
    assert_data_eq!(
        outcome.text(),
        str![[r#"
bundle
CARGO_HTTP_CAINFO=/run/rbuild/ca.pem
CURL_CA_BUNDLE=/run/rbuild/ca.pem
GIT_SSL_CAINFO=/run/rbuild/ca.pem
NODE_EXTRA_CA_CERTS=/run/rbuild/ca.pem
REQUESTS_CA_BUNDLE=/run/rbuild/ca.pem
SSL_CERT_FILE=/run/rbuild/ca.pem
/mine

"#]]
    );
    assert_eq!(fixture.upper(), [""; 0]);
}
