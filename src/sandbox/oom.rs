//! Whether the kernel killed a process of this cgroup for want of memory.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// The cgroup's own count of such kills.
pub(super) struct Counter {
    file: Option<PathBuf>,
    seen: AtomicU64,
}

impl Counter {
    /// Starts to count; never comes to know of anything where there is no memory cgroup.
    pub(super) fn new() -> Self {
        let file = fs::read_to_string("/proc/self/cgroup")
            .ok()
            .and_then(|groups| candidates(&groups).into_iter().find(|file| file.exists()));
        let counter = Self {
            file,
            seen: AtomicU64::new(0),
        };
        counter.grew();
        counter
    }

    /// Whether the count has grown since it was last asked for.
    pub(super) fn grew(&self) -> bool {
        let count = self
            .file
            .as_ref()
            .and_then(|file| fs::read_to_string(file).ok())
            .and_then(|text| kills(&text))
            .unwrap_or(0);
        self.seen.fetch_max(count, Ordering::SeqCst) < count
    }
}

/// Where the count may be (cgroups(7), /proc/pid/cgroup); inside a container the cgroup is mounted as the root.
fn candidates(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        let (mount, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.oom_control"),
            _ => continue,
        };
        files.push(PathBuf::from(mount).join(path).join(file));
        files.push(PathBuf::from(mount).join(file));
    }
    files
}

/// The count of such kills in the file of a cgroup, of either version.
pub(super) fn kills(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?
        .parse()
        .ok()
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn both_hierarchies_are_understood() {
        assert_eq!(
            candidates("12:pids:/x\n4:memory:/docker/abc\n0::/user.slice/a.scope\n"),
            [
                "/sys/fs/cgroup/memory/docker/abc/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control",
                "/sys/fs/cgroup/user.slice/a.scope/memory.events",
                "/sys/fs/cgroup/memory.events",
            ]
            .map(PathBuf::from)
        );
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let v2 = "low 0\nhigh 0\nmax 12\noom 4\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(kills(v1), Some(3));
        assert_eq!(kills(v2), Some(2));
        assert_eq!(kills(""), None);
    }
}
