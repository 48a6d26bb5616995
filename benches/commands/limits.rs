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

/// A layer's blob.
pub(crate) struct Packed {
    pub(crate) gzip: Vec<u8>,
    /// Of the tar: in hexadecimal, and how many bytes.
    pub(crate) tar_sha256: String,
    tar_len: usize,
}

impl Packed {
    pub(crate) fn new(tar: &[u8]) -> Self {
        let level = libdeflater::CompressionLvl::new(6).unwrap();
        let mut compressor = libdeflater::Compressor::new(level);
        let mut gzip = vec![0; compressor.gzip_compress_bound(tar.len())];
        let len = compressor.gzip_compress(tar, &mut gzip).unwrap();
        gzip.truncate(len);
        let digest = Sha256::digest(tar);
        Self {
            gzip,
            tar_sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            tar_len: tar.len(),
        }
    }
}

/// Decompresses layers and sums their blobs and tars, as verifying them takes, on all cores.
pub(crate) fn gunzip_and_sum(layers: &[Packed], pool: &rayon::ThreadPool) -> Duration {
    let started = Instant::now();
    pool.install(|| {
        layers.par_iter().for_each_init(
            || (libdeflater::Decompressor::new(), Vec::new()),
            |(decompressor, tar), layer| {
                tar.resize(layer.tar_len, 0);
                decompressor.gzip_decompress(&layer.gzip, tar).unwrap();
                std::hint::black_box((Sha256::digest(&layer.gzip), Sha256::digest(&tar)));
            },
        );
    });
    started.elapsed()
}
