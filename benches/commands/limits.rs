//! What the machine can do, without rbuild.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rayon::prelude::*;
use sha2::Digest as _;
use sha2::Sha256;

use super::measure::Measured;

/// Looks at every file below `dir` on all cores.
pub(crate) fn stat_walk(dir: &Path, pool: &rayon::ThreadPool) -> Measured<Duration> {
    let started = Instant::now();
    let seen = AtomicU64::new(0);
    pool.scope(|scope| visit(scope, dir.to_owned(), &seen));
    match seen.into_inner() {
        0 => Err(format!("{} is empty", dir.display())),
        _ => Ok(started.elapsed()),
    }
}

fn visit<'s>(scope: &rayon::Scope<'s>, dir: std::path::PathBuf, seen: &'s AtomicU64) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            scope.spawn(move |scope| visit(scope, entry.path(), seen));
        } else {
            seen.fetch_add(
                std::hint::black_box(metadata.ino()).min(1),
                Ordering::Relaxed,
            );
        }
    }
}

/// Compresses `data` as members of 1 MiB on all cores.
pub(crate) fn gzip(data: &[u8], pool: &rayon::ThreadPool) -> Duration {
    let started = Instant::now();
    let len: usize = pool.install(|| {
        data.par_chunks(1 << 20)
            .map_init(
                || {
                    let level = libdeflater::CompressionLvl::new(6).unwrap();
                    (libdeflater::Compressor::new(level), Vec::new())
                },
                |(compressor, out), frame| {
                    out.resize(compressor.gzip_compress_bound(frame.len()), 0);
                    compressor.gzip_compress(frame, out).unwrap()
                },
            )
            .sum()
    });
    std::hint::black_box(len);
    started.elapsed()
}

/// Hashes a layer's tar and its blob, each on a core of its own.
pub(crate) fn sha256(tar: &[u8], blob: &[u8]) -> Duration {
    let started = Instant::now();
    let hash = |bytes: &[u8]| std::hint::black_box(Sha256::digest(bytes));
    std::thread::scope(|scope| {
        scope.spawn(|| hash(blob));
        hash(tar);
    });
    started.elapsed()
}
