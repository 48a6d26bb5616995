//! Directories of layers that are written as what differs from an earlier one: a step must not be able to tell.

use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::time::SystemTime;

use crate::support::Base;
use crate::support::TestEnv;

/// What a step sees of `/app`: everything but the links and sizes of directories, which are the file system's.
const SEE: &str = "cd /app; \
    find . -mindepth 1 -type d | sort | while read -r f; do stat -c '%n %A %u:%g %y' \"$f\"; done > /seen; \
    find . ! -type d | sort | while read -r f; do stat -c '%N %A %u:%g %h %s %y' \"$f\"; done >> /seen; \
    find . -type f | sort | xargs md5sum >> /seen";

/// A project of some hundred files.
fn project(dockerfile: &str) -> TestEnv {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("../Dockerfile", dockerfile);
    for file in 0..120 {
        env.write(&format!("src/{}/{file}.txt", file % 7), format!("{file}\n"));
    }
    env
}

fn args<'a>(root: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    // The directory that COPY makes has the time of the step.
    let time = "--build-arg=SOURCE_DATE_EPOCH=1700000000";
    [&[root, time, "-f", "../Dockerfile"], more, &["."]].concat()
}

/// Builds, and gives what the step saw.
fn seen(env: &TestEnv, root: &str) -> String {
    let to = ["-o", "type=local,dest=../out"];
    env.rbuild(args(root, &to)).success();
    fs::read_to_string(env.outside("out/seen")).unwrap()
}

/// The directory forms in a store that are differences.
fn deltas(store: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let shards = list(&store.join("v1/layers"));
    let layers = shards.iter().flat_map(|shard| list(shard));
    let forms = layers.flat_map(|layer| list(&layer));
    forms
        .filter(|form| form.extension().is_some_and(|suffix| suffix == "delta"))
        .collect()
}

/// Marsaglia's xorshift64: the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// One change of the sort that people and their tools make.
fn edit(env: &TestEnv, random: &mut Random) {
    const NAMES: [&str; 6] = ["a", "a/b", "a/b/c", "d", "src/3/d", "src/3/10.txt"];
    let mut pick = || env.path(NAMES[random.below(NAMES.len() as u64) as usize]);
    let (path, other) = (pick(), pick());
    let clear = |path: &Path| {
        for above in path.ancestors().take_while(|above| *above != env.path("")) {
            if above.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
                fs::remove_file(above).unwrap();
            }
        }
        match path.is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::create_dir_all(path.parent().unwrap()).unwrap(),
        }
    };
    match random.below(8) {
        0 | 1 => {
            clear(&path);
            fs::write(&path, format!("{}\n", random.below(1000))).unwrap();
        }
        2 => {
            clear(&path);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("in-it"), "new\n").unwrap();
        }
        3 => {
            clear(&path);
            std::os::unix::fs::symlink("d", &path).unwrap();
        }
        4 => {
            clear(&path);
            if other.is_file() {
                fs::hard_link(&other, &path).unwrap();
            }
        }
        5 => clear(&path),
        6 => {
            if path.exists() {
                let mode = [0o700, 0o755, 0o555][random.below(3) as usize];
                fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o200)).unwrap();
            }
        }
        _ => {
            if let Ok(found) = File::open(&path) {
                let time = Duration::from_nanos(1_500_000_000_123_456_789 + random.below(1 << 40));
                found.set_modified(SystemTime::UNIX_EPOCH + time).unwrap();
            }
        }
    }
}

/// After each of a series of changes, what a step sees, and the layer that is made of the directories, is what a store
/// has that knows nothing.
#[test]
fn a_step_sees_the_same_of_a_difference_as_of_the_whole() {
    let env = project(&format!(
        "FROM busybox AS app\nRUN mkdir /app && echo base > /app/base && touch -d @0 /app/base /app\nCOPY --chown=1000:7 . /app\n\
         FROM app AS see\nRUN {SEE}\nFROM scratch\nCOPY --from=see /seen /\n"
    ));
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    seen(&env, "--root=../state");
    for round in 0..11 {
        for _ in 0..=random.below(3) {
            edit(&env, &mut random);
        }
        env.write("src/0/0.txt", format!("round {round}\n"));
        let fresh = format!("--root={}", env.outside(&format!("fresh{round}")).display());
        let image = |root: &str| {
            let target = ["--target=app", "-o", "type=oci,dest=../out.tar"];
            env.rbuild(args(root, &target)).success();
            let layers = ["inspect", "--format={{.Layers}}", "oci-archive:../out.tar"];
            let layers = env.tool("skopeo", layers).success().stdout;
            layers.trim().rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!(
            seen(&env, "--root=../state"),
            seen(&env, &fresh),
            "round {round}"
        );
        assert_eq!(image("--root=../state"), image(&fresh), "round {round}");
        assert_eq!(
            deltas(&env.outside(&format!("fresh{round}"))),
            [""; 0].map(PathBuf::from)
        );
    }
    let deltas = deltas(&env.outside("state")).len();
    assert!(deltas > 8, "only {deltas} differences were written");
}

/// A whiteout in a small directory would hide what the base has at the same path.
#[test]
fn what_the_base_has_below_a_removed_file_shows_again() {
    let env = project(&format!(
        "FROM busybox AS see\nRUN mkdir /app && echo base > /app/base\nCOPY . /app\nRUN {SEE}\n\
         RUN cat /app/base >> /seen\nFROM scratch\nCOPY --from=see /seen /\n"
    ));
    env.write("base", "above\n");
    env.write("other", "above\n");
    assert!(seen(&env, "--root=../state").ends_with("\nabove\n"));
    fs::remove_file(env.path("other")).unwrap();
    let without = seen(&env, "--root=../state");
    assert!(without.ends_with("\nabove\n") && !without.contains("./other"));
    assert_eq!(deltas(&env.store()).len(), 1);
    fs::remove_file(env.path("base")).unwrap();
    assert!(seen(&env, "--root=../state").ends_with("\nbase\n"));
    assert_eq!(deltas(&env.store()).len(), 1, "it was written as a whole");
}

#[test]
fn a_context_that_is_mounted_is_written_once() {
    let env = project(&format!(
        "FROM busybox AS see\nRUN --mount=type=bind,target=/app {SEE}\n\
         FROM scratch\nCOPY --from=see /seen /\n"
    ));
    let before = seen(&env, "--root=../state");
    env.write("src/3/10.txt", "changed\n");
    fs::remove_file(env.path("src/2/2.txt")).unwrap();
    let after = seen(&env, "--root=../state");
    assert_eq!(after, seen(&env, "--root=../fresh"));
    assert_ne!(after, before);
    assert_eq!(deltas(&env.store()).len(), 1);
}

/// overlayfs refuses a directory that stands twice among its layers: no layer may stand over another of its own image.
#[test]
fn a_layer_does_not_stand_over_one_of_its_own_image() {
    let env = project(
        "FROM busybox AS see\nCOPY src /app\nRUN chmod 700 / && find /app -type f | xargs sed -i s/0/x/g\n\
         COPY src /app\nRUN find /app -type f | sort | xargs cat > /seen\n\
         FROM scratch\nCOPY --from=see /seen /\n",
    );
    for text in ["0\n", "100\n"] {
        for file in 0..120 {
            env.write(
                &format!("src/{}/{file}.txt", file % 7),
                format!("{text}{file}0\n"),
            );
        }
        let seen = seen(&env, "--root=../state");
        assert!(
            seen.contains(&format!("{text}1190\n")) && !seen.contains('x'),
            "{seen}"
        );
    }
}

#[test]
fn builds_that_make_the_same_difference_do_not_disturb_each_other() {
    let env = project(&format!(
        "FROM busybox AS see\nCOPY . /app\nRUN {SEE}\nFROM scratch\nCOPY --from=see /seen /\n"
    ));
    seen(&env, "--root=../state");
    env.write("src/3/10.txt", "changed\n");
    let builds: Vec<_> = (0..4)
        .map(|build| {
            let to = format!("type=local,dest=../out{build}");
            let mut command = env.rbuild_command(args("--root=../state", &["-o", &to]));
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for build in builds {
        env.finished(build).success();
    }
    let wanted = seen(&env, "--root=../fresh");
    for build in 0..4 {
        let seen = fs::read_to_string(env.outside(&format!("out{build}/seen"))).unwrap();
        assert_eq!(seen, wanted);
    }
    assert_eq!(deltas(&env.store()).len(), 1);
}

/// Without the directory below, a difference shows nothing: what is missing is made again.
#[test]
fn a_difference_whose_whole_is_gone_is_made_again() {
    let env = project(&format!(
        "FROM busybox AS see\nCOPY . /app\nRUN {SEE}\nFROM scratch\nCOPY --from=see /seen /\n"
    ));
    seen(&env, "--root=../state");
    env.write("src/3/10.txt", "changed\n");
    seen(&env, "--root=../state");
    let delta = deltas(&env.store()).pop().unwrap();
    let over = fs::read_to_string(delta.join("over")).unwrap();
    let near = over.lines().next().unwrap();
    let whole = env.store().join("v1/layers").join(&near[..2]).join(near);
    fs::rename(whole, env.outside("gone")).unwrap();
    env.write("Dockerfile-again", "");
    fs::write(
        env.outside("Dockerfile"),
        format!("FROM busybox AS see\nCOPY . /app\nRUN true; {SEE}\nFROM scratch\nCOPY --from=see /seen /\n"),
    )
    .unwrap();
    fs::remove_file(env.path("Dockerfile-again")).unwrap();
    let again = env
        .rbuild(args(
            "--root=../state",
            &["--progress=plain", "-o", "type=local,dest=../out"],
        ))
        .success();
    assert!(again.ran().contains(&"COPY . /app".to_owned()), "{again}");
    let seen_again = fs::read_to_string(env.outside("out/seen")).unwrap();
    assert_eq!(seen_again, seen(&env, "--root=../fresh"));
}
