//! Power cuts.
//!
//! As root they are real: the store lies on an ext4 of its own, which is shut down without writing its journal
//! (`EXT4_IOC_SHUTDOWN`), and comes back as after a crash. As another user the test does to the files what ext4 does to
//! those that were renamed and not synced: they are there, and have no bytes or some of them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use super::Victim;
use super::rounds;
use crate::support::tools;

#[test]
fn power_cuts() {
    let (count, seed) = rounds(4);
    let mut victim = Victim::new(seed);
    let real = rustix::process::geteuid().is_root();
    let disk = real.then(|| Disk::new(&victim));
    for _ in 0..count {
        victim.change();
        let mut build = victim.command();
        let mut build = build
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (begun, wait) = (
            Instant::now(),
            Duration::from_millis(victim.maker.random.below(700) as u64),
        );
        while begun.elapsed() < wait
            && (build.try_wait().unwrap().is_none() || wait.as_millis() % 2 == 0)
        {
            std::thread::sleep(Duration::from_micros(200));
        }
        match &disk {
            Some(disk) => {
                disk.cut();
                build.kill().unwrap();
                build.wait().unwrap();
                victim.wait_for_the_end("a power cut", true);
                disk.unmount();
                disk.mount();
            }
            None => {
                build.kill().unwrap();
                build.wait().unwrap();
                victim.wait_for_the_end("a power cut", true);
                damage(&mut victim);
            }
        }
        boot(&victim.root);
        victim.may_be_repaired("a power cut");
        victim.must_build("a power cut");
    }
    println!("{count} power cuts, seed {seed}, real: {real}");
}

/// The marks of what is not synced are those of another boot now.
fn boot(root: &Path) {
    for mark in fs::read_dir(root.join("v1/unsynced"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = mark.file_name().into_string().unwrap();
        fs::rename(
            mark.path(),
            mark.path().with_file_name(format!("0{}", &name[1..])),
        )
        .unwrap();
    }
}

/// Takes bytes from some of the files that were published since the mark was made: of each once, whatever names it has.
fn damage(victim: &mut Victim) {
    use std::os::unix::fs::MetadataExt as _;
    let store = victim.root.join("v1");
    let marks = fs::read_dir(store.join("unsynced"))
        .into_iter()
        .flatten()
        .flatten();
    let Some(since) = marks
        .filter_map(|mark| mark.metadata().ok())
        .map(|mark| mark.mtime())
        .min()
    else {
        return;
    };
    let mut dirs: Vec<PathBuf> = [
        "blobs",
        "trees",
        "layers",
        "layer-blobs",
        "known",
        "records",
        "slots",
        "near",
        "builds",
        "urls",
        "pins",
        "stats",
        "images",
        "frames",
    ]
    .map(|kind| store.join(kind))
    .into();
    let mut drawn = HashSet::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(found) = fs::symlink_metadata(entry.path()) else {
                continue;
            };
            // Tree objects share files, and such a file changes when one of its names goes: it is as safe as it was.
            let published = match entry.path().starts_with(store.join("trees")) {
                true => found.mtime(),
                false => found.ctime(),
            };
            if found.is_dir() {
                dirs.push(entry.path());
            } else if found.is_file()
                && published >= since
                && drawn.insert(found.ino())
                && victim.maker.random.percent(40)
            {
                let left = match victim.maker.random.percent(70) {
                    true => 0,
                    false => victim.maker.random.below(found.len() as usize + 1) as u64,
                };
                // What belongs to others stays.
                if let Ok(file) = fs::File::options().write(true).open(entry.path()) {
                    file.set_len(left).unwrap();
                }
            }
        }
    }
}

/// An ext4 on a file, mounted where the store is.
struct Disk {
    image: PathBuf,
    root: PathBuf,
}

impl Disk {
    fn new(victim: &Victim) -> Self {
        let this = Self {
            image: victim.env.outside("disk"),
            root: victim.root.clone(),
        };
        fs::File::create(&this.image)
            .unwrap()
            .set_len(512 << 20)
            .unwrap();
        victim
            .env
            .tool("mkfs.ext4", ["-q", "-F", this.image.to_str().unwrap()])
            .success();
        fs::create_dir(&this.root).unwrap();
        this.mount();
        this
    }

    fn mount(&self) {
        let mounted = Command::new(tools::find("mount"))
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.root)
            .status();
        assert!(mounted.unwrap().success());
    }

    /// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
    fn cut(&self) {
        let script = r#"open(F, "<", $ARGV[0]) or die $!; my $how = pack("L", 2); ioctl(F, 0x8004587d, $how) or die $!"#;
        let cut = Command::new(tools::find("perl"))
            .args(["-e", script])
            .arg(&self.root)
            .status();
        assert!(cut.unwrap().success());
    }

    fn unmount(&self) {
        // Whoever still has a file open there ends soon.
        while !Command::new(tools::find("umount"))
            .arg(&self.root)
            .status()
            .unwrap()
            .success()
        {
            std::thread::yield_now();
        }
        // A step's namespace may keep the file system alive a moment longer, and then it would be mounted as it is: cut off.
        while self.is_attached() {
            std::thread::yield_now();
        }
    }

    fn is_attached(&self) -> bool {
        let devices = fs::read_dir("/sys/block").unwrap().flatten();
        let mut files =
            devices.filter_map(|device| fs::read(device.path().join("loop/backing_file")).ok());
        files.any(|file| file.trim_ascii_end() == self.image.as_os_str().as_bytes())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(
            Command::new(tools::find("umount"))
                .arg("--lazy")
                .arg(&self.root)
                .status(),
        );
    }
}
