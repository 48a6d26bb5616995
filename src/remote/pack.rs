//! Small blobs put together: each request to a place far away takes its time, and some places count them.
//!
//! Which blobs are together depends on their digests alone, and what is new changes the one pack that it falls into: equal
//! caches have equal packs, and of a cache that changes little, little is sent. (rsync's trick, with blobs for bytes.)
//!
//! Lists of files are packed, and layers are not, however small: ARCHITECTURE.md, Decisions.

use rbuild_llb::OciDigest;

/// Larger blobs stay by themselves.
pub(super) const SMALL: u64 = 256 << 10;
/// Packs are not larger, but by their last blob.
const LARGE: u64 = 4 << 20;
/// One blob in so many ends a pack.
const ENDS: u8 = 64;

/// Puts blobs together, each given by its digest and length. What stays by itself is in none of the groups.
pub(super) fn groups(blobs: impl IntoIterator<Item = (OciDigest, u64)>) -> Vec<Vec<OciDigest>> {
    let mut small: Vec<(OciDigest, u64)> = blobs
        .into_iter()
        .filter(|(_, size)| *size <= SMALL)
        .collect();
    small.sort();
    small.dedup();
    let mut groups = vec![Vec::new()];
    let mut length = 0;
    for (digest, size) in small {
        let group = groups.last_mut().expect("there is always one");
        group.push(digest);
        length += size;
        // They are sorted by their first byte: it is the same for many.
        if digest.as_bytes()[31] % ENDS == 0 || length >= LARGE {
            groups.push(Vec::new());
            length = 0;
        }
    }
    groups.retain(|group| group.len() > 1);
    groups
}

#[cfg(test)]
mod t {
    use super::*;
    use std::collections::BTreeSet;

    fn digest(number: u32) -> OciDigest {
        OciDigest::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn one_blob_more_changes_one_pack_or_two() {
        let blobs = |numbers: std::ops::Range<u32>| numbers.map(|number| (digest(number), 1000));
        let before = groups(blobs(0..2000));
        assert!((16..64).contains(&before.len()), "{}", before.len());
        let of_all: BTreeSet<OciDigest> = before.iter().flatten().copied().collect();
        assert!(of_all.len() > 1990, "{}", of_all.len());
        let mut turned: Vec<_> = blobs(0..2000).collect();
        turned.reverse();
        assert_eq!(groups(turned), before);
        for more in 2001..2051 {
            let after = groups(blobs(0..2000).chain(blobs(more..more + 1)));
            let new = after.iter().filter(|group| !before.contains(group));
            assert!(new.count() <= 2, "{more}");
        }
    }

    #[test]
    fn large_ones_and_single_ones_stay_by_themselves() {
        assert_eq!(groups([]), [[]; 0]);
        assert_eq!(groups([(digest(1), 10), (digest(1), 10)]), [[]; 0]);
        let large = (digest(2), SMALL + 1);
        assert_eq!(groups([(digest(1), 10), large]), [[]; 0]);
        let of_one_size = (0..64).map(|number| (digest(number), SMALL));
        let most = groups(of_one_size).iter().map(Vec::len).max();
        assert_eq!(most, Some((LARGE / SMALL) as usize));
    }
}
