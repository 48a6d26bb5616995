//! A cache mount in a cache: what moves when a little of it has changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use super::measure::Bound;
use super::measure::Measured;
use super::measure::in_turns;
use super::measure::line;
use super::measure::run;
use super::place::Place;
use super::place::busybox;

const FILES: u64 = 10_000;
/// One in so many changes from one build to the next.
const CHANGES: u64 = 100;
const ROUNDS: usize = 4;

/// Some 500 MB of noise in files of sizes as package managers and compilers leave them: most are small, most bytes in large ones.
fn size(file: u64) -> usize {
    match file % 20 {
        0 => 600_000,
        1..=4 => 60_000 + (file % 37) as usize * 1_000,
        _ => 2_000 + (file % 41) as usize * 400,
    }
}

/// The files that change in a round: as many of each size as there are among all, each in another directory.
fn changed(round: u64) -> std::ops::Range<u64> {
    let count = FILES / CHANGES;
    round * count..(round + 1) * count
}

fn write(dir: &Path, file: u64, state: u64) {
    let mut bytes = vec![0; size(file)];
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&file.to_le_bytes())
        .update(&state.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    let dir = dir.join((file % 100).to_string());
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(file.to_string()), bytes).unwrap();
}

/// The blobs of the cache, with their bytes.
fn blobs(place: &Place) -> BTreeMap<PathBuf, u64> {
    let blobs = fs::read_dir(place.beside("cache/blobs/sha256")).unwrap();
    let blobs = blobs.map(|entry| {
        let entry = entry.unwrap();
        (entry.path(), entry.metadata().unwrap().len())
    });
    blobs.collect()
}

/// 500 MB, of which one file in a hundred has changed, in a cache in a directory; beside it the same build without the cache.
pub(crate) fn mounts() -> Measured<String> {
    let place = Place::new();
    fs::copy(busybox()?, place.context("busybox")).map_err(|error| error.to_string())?;
    place.dockerfile(
        "FROM scratch\nCOPY busybox /bin/busybox\nARG STATE\n\
         RUN --mount=type=bind,target=/from --mount=type=cache,id=things,target=/c \
         [\"/bin/busybox\", \"cp\", \"-a\", \"/from/files/.\", \"/c\"]\n",
    );
    let files = place.context("files");
    (0..FILES).for_each(|file| write(&files, file, 0));
    let all: u64 = (0..FILES).map(|file| size(file) as u64).sum();
    let build = |state: &str, to: &[&str]| {
        let state = format!("--build-arg=STATE={state}");
        run(place.build("store").arg(state).args(to).arg("context"))
    };
    let to = ["--cache-to=type=local,dest=cache,mounts=all"];
    let first = build("first", &to)?;
    let mut most = 0;
    let (ours, without) = in_turns(
        ROUNDS,
        |round| {
            let before = blobs(&place);
            let round = round as u64 + 1;
            changed(round).for_each(|file| write(&files, file, round));
            let time = build(&format!("{round}"), &to)?;
            let after = blobs(&place);
            let new = after.iter().filter(|(path, _)| !before.contains_key(*path));
            most = most.max(new.map(|(_, bytes)| bytes).sum());
            Ok(time)
        },
        |round| build(&format!("{round} again"), &[]),
    )?;
    let bound = Bound::times(f64::INFINITY);
    let text = line(&ours, &without, "the same build without it", &bound);
    let (text, _) = text.split_once("; bound").unwrap_or((&text, ""));
    let changed: u64 = changed(1).map(|file| size(file) as u64).sum();
    let percent = |bytes: u64| bytes as f64 * 100.0 / all as f64;
    Ok(format!(
        "{text}; of {} MB {:.2} % changed, {:.2} % sent at most; bound 2 %: {}; the first time {} ms",
        all / 1_000_000,
        percent(changed),
        percent(most),
        if percent(most) <= 2.0 {
            "holds"
        } else {
            "DOES NOT HOLD"
        },
        first.as_millis(),
    ))
}
