//! Compressing a layer whose bytes came from elsewhere: unlike one that was made here, it cannot be written anew from its
//! tree, for its tar must stay what its config says it is.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Write as _;

use rayon::prelude::*;
use rbuild_llb::CancelToken;
use rbuild_llb::OciDigest;
use sha2::Digest as _;
use sha2::Sha256;

use super::LayerError;
use crate::blobs::BlobError;
use crate::frame::Compression;
use crate::store::Store;

/// Bytes of the tar in a frame.
const FRAME: usize = 1 << 20;
/// Frames that are compressed at once.
const AT_ONCE: usize = 16;

impl Store {
    /// Compresses a blob that is a plain tar into another blob; gives that one's digest and size.
    ///
    /// # Errors
    /// If the blob is not there, or the other cannot be written.
    pub fn compress_blob(
        &self,
        blob: &OciDigest,
        compression: Compression,
        cancel: &CancelToken,
    ) -> Result<(OciDigest, u64), LayerError> {
        compression.check()?;
        let failed = |source| LayerError::WriteBlob { source };
        let of_store = |error| failed(io::Error::other(error));
        let mut from = self.blobs().open(blob).map_err(of_store)?;
        let mut to = self.blobs().writer().map_err(of_store)?;
        let mut hash = Sha256::new();
        loop {
            if cancel.is_cancelled() {
                return Err(LayerError::Cancelled);
            }
            let raw = next(&mut from).map_err(failed)?;
            if raw.is_empty() {
                break;
            }
            hash.update(&raw);
            let packed: Vec<_> = raw
                .par_chunks(FRAME)
                .map(|frame| compression.frame(frame))
                .collect::<Result<_, _>>()?;
            for (packed, raw) in packed.iter().zip(raw.chunks(FRAME)) {
                to.write_all(packed.as_deref().unwrap_or(raw))
                    .map_err(failed)?;
            }
        }
        let got = OciDigest::from_bytes(hash.finalize().into());
        if got != *blob {
            // What is damaged is fetched again when it is gone.
            drop(fs::remove_file(self.blobs().path(blob)));
            let wanted = *blob;
            return Err(of_store(BlobError::Digest { wanted, got }));
        }
        to.commit(None).map_err(of_store)
    }
}

fn next(from: &mut File) -> io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    from.take((FRAME * AT_ONCE) as u64).read_to_end(&mut raw)?;
    Ok(raw)
}

#[cfg(test)]
mod t {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_was_compressed_is_the_same_tar() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let raw: Vec<u8> = (0..3 * FRAME + 17).map(|n| (n / 7 % 251) as u8).collect();
        let plain = store.blobs().put(&raw).unwrap();
        let pack = |compression| {
            let packed = store.compress_blob(&plain, compression, &CancelToken::new());
            let (digest, size) = packed.unwrap();
            let bytes = store.blobs().read(&digest, size).unwrap();
            assert!(size < raw.len() as u64 / 10, "{size}");
            bytes
        };
        let mut back = Vec::new();
        flate2::read::MultiGzDecoder::new(&pack(Compression::Gzip { level: 6 })[..])
            .read_to_end(&mut back)
            .unwrap();
        assert!(back == raw);
        let zstd = pack(Compression::Zstd { level: 3 });
        assert!(zstd::stream::decode_all(&zstd[..]).unwrap() == raw);

        // What is damaged on the disk becomes no blob that looks right.
        let mut damaged = raw.clone();
        damaged[FRAME] ^= 1;
        fs::write(store.blobs().path(&plain), damaged).unwrap();
        let cancel = CancelToken::new();
        let failed = store.compress_blob(&plain, Compression::Gzip { level: 1 }, &cancel);
        assert!(failed.is_err(), "{failed:?}");
        assert!(!store.blobs().contains(&plain));
    }
}
