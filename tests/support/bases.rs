//! Base images, made from Debian packages by Debian's tools and kept across runs.
//!
//! They lie as OCI layouts in `$RBUILD_TEST_BASES`, or else `rbuild-test-bases` in the user's cache directory, under a
//! digest of their recipe. A test asks for them with [`super::TestEnv::bases`].

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::fs::FlockOperation;
use sha2::Digest as _;
use sha2::Sha256;

use super::Registry;
use super::tools;

/// An image tests build on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    /// `busybox`: one static binary and its links, and the users `root`, `nobody` and `app` (1000).
    Busybox,
    /// `foreign-busybox`: the same for [`FOREIGN`], whose programs this machine does not execute.
    ForeignBusybox,
    /// `debian`: apt and what it needs, with the package sources of this machine.
    Debian,
    /// `debian-with-users`: the same with [`PACKAGES_WITH_USERS`], which dpkg installed outside any container builder.
    DebianWithUsers,
    /// `node`: Debian's nodejs and npm.
    Node,
    /// `python`: Debian's python3 with its venv module.
    Python,
    /// `rust`: Debian's cargo and gcc.
    Rust,
}

/// Packages whose scripts make users and give them files.
pub(crate) const PACKAGES_WITH_USERS: &str = "cron,dbus,openssh-client";

/// An architecture that is not this machine's, as images and Debian name it.
pub(crate) const FOREIGN: &str = match cfg!(target_arch = "aarch64") {
    true => "amd64",
    false => "arm64",
};

/// What a foreign tool is asked for, in full: its digest names the result.
enum Recipe {
    Busybox {
        applets: String,
    },
    /// The package's program for another architecture, unpacked and never executed.
    ForeignBusybox {
        applets: String,
        package: Box<Recipe>,
    },
    Mmdebstrap {
        suite: String,
        sources: PathBuf,
        args: Vec<String>,
    },
}

impl Base {
    fn name(self) -> &'static str {
        match self {
            Self::Busybox => "busybox",
            Self::ForeignBusybox => "foreign-busybox",
            Self::Debian => "debian",
            Self::DebianWithUsers => "debian-with-users",
            Self::Node => "node",
            Self::Python => "python",
            Self::Rust => "rust",
        }
    }

    /// Puts `NAME:latest` into the registry, unless it was put there before.
    pub(crate) fn publish(self, registry: &Registry) {
        // One lock a base: the quick ones are not to wait for the slow ones.
        static PUBLISHED: [Mutex<Vec<String>>; 7] = [const { Mutex::new(Vec::new()) }; 7];
        let mut published = PUBLISHED[self as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let host = registry.host();
        if !published.contains(&host) {
            self.copy_to(&format!(
                "docker://{}/library/{}:latest",
                registry.host(),
                self.name()
            ));
            published.push(host);
        }
    }

    /// Copies the image to any place skopeo knows.
    pub(crate) fn copy_to(self, destination: &str) {
        copy_image(&self.layout(), destination);
    }

    /// The directory of the OCI layout, whose only tag is `latest`; made now if no earlier run did.
    pub(crate) fn layout(self) -> PathBuf {
        let recipe = self.recipe();
        let dir = cache_dir().join(format!("{}-{}", self.name(), recipe.digest()));
        fs::create_dir_all(dir.parent().unwrap()).unwrap();
        let lock = File::create(dir.with_extension("lock")).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        if !dir.exists() {
            let scratch = tempfile::Builder::new()
                .prefix("making-")
                .tempdir_in(dir.parent().unwrap())
                .unwrap();
            let tar = scratch.path().join("rootfs.tar");
            recipe.make(&tar);
            let layout = scratch.path().join("layout");
            let architecture = (self == Self::ForeignBusybox).then_some(FOREIGN);
            image_of(&tar, &layout, architecture);
            fs::rename(layout, &dir).unwrap();
        }
        dir
    }

    fn recipe(self) -> Recipe {
        let without_documentation = [
            "include",
            "share/doc",
            "share/info",
            "share/locale",
            "share/man",
        ]
        .map(|dir| format!("--dpkgopt=path-exclude=/usr/{dir}/*"));
        match self {
            Self::Busybox => Recipe::Busybox { applets: applets() },
            Self::ForeignBusybox => Recipe::ForeignBusybox {
                // Both are of one release.
                applets: applets(),
                package: Box::new(extracted(FOREIGN, "busybox-static")),
            },
            Self::Debian => mmdebstrap(&[], ""),
            Self::DebianWithUsers => mmdebstrap(&[], PACKAGES_WITH_USERS),
            Self::Node => mmdebstrap(&without_documentation, "ca-certificates,nodejs,npm"),
            Self::Python => mmdebstrap(&without_documentation, "ca-certificates,python3-venv"),
            Self::Rust => mmdebstrap(
                &without_documentation,
                &format!("ca-certificates,{}", cargo()),
            ),
        }
    }
}

/// Copies `latest` of an OCI layout, with all its platforms, to any place skopeo knows.
pub(crate) fn copy_image(layout: &Path, destination: &str) {
    // Credentials would be looked for in a directory that another user's podman may have made unreadable.
    run(Command::new(tools::find("skopeo"))
        .env("XDG_RUNTIME_DIR", std::env::temp_dir())
        .args([
            "--insecure-policy",
            "copy",
            "--all",
            "--quiet",
            "--dest-tls-verify=false",
        ])
        .arg(format!("oci:{}:latest", layout.display()))
        .arg(destination));
}

/// The package of a cargo that knows the registry's current protocol: that of Debian 12 itself does not.
fn cargo() -> &'static str {
    match suite().as_str() {
        "bookworm" => "cargo-web",
        _ => "cargo",
    }
}

/// The release of Debian that the tests run on.
fn suite() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap();
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .expect("/etc/os-release has no VERSION_CODENAME: the base images are made of Debian's packages")
        .to_owned()
}

/// What busybox can do.
fn applets() -> String {
    let mut busybox = Command::new(tools::find("busybox"));
    let output = busybox.arg("--list").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The files of a package for another architecture, and nothing else.
fn extracted(architecture: &str, package: &str) -> Recipe {
    let Recipe::Mmdebstrap {
        suite,
        sources,
        mut args,
    } = mmdebstrap(&[], package)
    else {
        unreachable!("that is what it makes");
    };
    args.retain(|arg| !arg.starts_with("--variant="));
    args.push("--variant=extract".to_owned());
    args.push(format!("--architectures={architecture}"));
    Recipe::Mmdebstrap {
        suite,
        sources,
        args,
    }
}

fn mmdebstrap(options: &[String], packages: &str) -> Recipe {
    let sources = [
        "/etc/apt/sources.list.d/debian.sources",
        "/etc/apt/sources.list",
    ]
    .map(PathBuf::from)
    .into_iter()
    .find(|path| path.exists())
    .expect("neither debian.sources nor sources.list is in /etc/apt");
    let mode = if rustix::process::geteuid().is_root() {
        "root"
    } else {
        "unshare"
    };
    let mut args = vec![
        format!("--mode={mode}"),
        "--variant=apt".to_owned(),
        "--quiet".to_owned(),
    ];
    args.extend_from_slice(options);
    if !packages.is_empty() {
        args.push(format!("--include={packages}"));
    }
    Recipe::Mmdebstrap {
        suite: suite(),
        sources,
        args,
    }
}

impl Recipe {
    fn digest(&self) -> String {
        let text = match self {
            Self::Busybox { applets } => {
                let version = fs::read(tools::find("busybox")).unwrap();
                format!("{applets}{:x?}", Sha256::digest(version))
            }
            Self::ForeignBusybox { applets, package } => format!("{applets}{}", package.digest()),
            Self::Mmdebstrap {
                suite,
                sources,
                args,
            } => {
                format!("{suite} {args:?} {}", fs::read_to_string(sources).unwrap())
            }
        };
        Sha256::digest(text)
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Writes the root file system as a tar.
    fn make(&self, tar: &Path) {
        match self {
            Self::Busybox { applets } => {
                let program = fs::read(tools::find("busybox")).unwrap();
                busybox(&program, applets, tar).unwrap();
            }
            Self::ForeignBusybox { applets, package } => {
                let unpacked = tar.with_extension("package.tar");
                package.make(&unpacked);
                let mut program = Command::new(tools::find("tar"));
                let program = program
                    .args(["--wildcards", "-xOf"])
                    .arg(&unpacked)
                    .arg("*bin/busybox")
                    .output()
                    .unwrap();
                busybox(&program.stdout, applets, tar).unwrap();
            }
            // Its namespace must be able to pass through the temporary directory, which a private one refuses.
            Self::Mmdebstrap {
                suite,
                sources,
                args,
            } => run(Command::new(tools::find("mmdebstrap"))
                .env("PATH", tools::PATH)
                .env("TMPDIR", "/var/tmp")
                .args(args)
                .arg(suite)
                .arg(tar)
                .arg(sources)),
        }
    }
}

fn busybox(program: &[u8], applets: &str, tar: &Path) -> io::Result<()> {
    let mut out = tar::Builder::new(File::create(tar)?);
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        if kind == tar::EntryType::Symlink {
            header.set_size(0);
            out.append_link(&mut header, path, "busybox")
        } else {
            header.set_size(data.len() as u64);
            out.append_data(&mut header, path, data)
        }
    };
    for (dir, mode) in [
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("proc/", 0o555),
        ("root/", 0o700),
        ("sys/", 0o555),
        ("tmp/", 0o1777),
        ("var/", 0o755),
    ] {
        add(dir, tar::EntryType::Directory, mode, b"")?;
    }
    add("bin/busybox", tar::EntryType::Regular, 0o755, program)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        add(
            &format!("bin/{applet}"),
            tar::EntryType::Symlink,
            0o777,
            b"",
        )?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\napp:x:1000:1000::/home:/bin/sh\n";
    let group = "root:x:0:\nnogroup:x:65534:\napp:x:1000:\n";
    add(
        "etc/passwd",
        tar::EntryType::Regular,
        0o644,
        passwd.as_bytes(),
    )?;
    add(
        "etc/group",
        tar::EntryType::Regular,
        0o644,
        group.as_bytes(),
    )?;
    out.finish()
}

/// An OCI layout of one layer, made by umoci.
fn image_of(tar: &Path, layout: &Path, architecture: Option<&str>) {
    let image = format!("{}:latest", layout.display());
    let umoci = |args: &[&str]| run(Command::new(tools::find("umoci")).args(args));
    umoci(&["init", "--layout", &layout.display().to_string()]);
    umoci(&["new", "--image", &image]);
    umoci(&[
        "raw",
        "add-layer",
        "--image",
        &image,
        &tar.display().to_string(),
    ]);
    umoci(&[
        "config",
        "--image",
        &image,
        "--config.env",
        &format!("PATH={}", tools::PATH),
        "--config.cmd",
        "/bin/sh",
    ]);
    if let Some(architecture) = architecture {
        umoci(&["config", "--image", &image, "--architecture", architecture]);
    }
    umoci(&["gc", "--layout", &layout.display().to_string()]);
}

fn cache_dir() -> PathBuf {
    tools::variable("RBUILD_TEST_BASES").unwrap_or_else(|| {
        tools::variable("XDG_CACHE_HOME")
            .or_else(|| Some(tools::variable("HOME")?.join(".cache")))
            .expect("HOME is not set")
            .join("rbuild-test-bases")
    })
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
