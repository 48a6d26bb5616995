//! Where files are in an uncompressed blob, so that they can be read without being taken out.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;

use rbuild_llb::TreeId;

use super::LayerError;
use super::read::Wanted;
use super::read::normal;
use crate::tar::read::Kind;
use crate::tar::read::Reader;
use crate::tree::Trees;

/// Finds where in the uncompressed `blob` of `layer` the bytes of the files in `wanted` start. Left out are those that
/// are not there in one piece. Nothing is compared: whoever reads them does that.
///
/// A wanted name that is no file of the layer is an error.
pub fn locate_files(
    trees: &Trees,
    layer: &TreeId,
    blob: &File,
    wanted: &BTreeSet<Vec<u8>>,
) -> Result<BTreeMap<Vec<u8>, u64>, LayerError> {
    let mut files = Wanted::find(trees, layer, wanted)?;
    let mut found = BTreeMap::new();
    let mut reader = Reader::new(BufReader::with_capacity(64 << 10, blob));
    while let Some(entry) = reader.next()? {
        if entry.kind == Kind::File
            && let Some(at) = reader.body_at()
            && let Some(file) = files.take(&normal(&entry.path)?.join(&b'/'))
        {
            found.extend(file.names.into_iter().map(|name| (name, at)));
        }
        reader.pass_body()?;
    }
    Ok(found)
}

#[cfg(test)]
mod t {
    use std::fs;
    use std::os::unix::fs::FileExt as _;
    use std::process::Command;
    use std::sync::Arc;

    use rbuild_llb::CancelToken;

    use super::*;
    use crate::FileBytes;
    use crate::LayerBlob;
    use crate::TreeRef;
    use crate::fixture::Fixture;
    use crate::fixture::PLAIN;
    use crate::fixture::noise;
    use crate::fixture::run;
    use crate::layer::read_layer;
    use crate::layer::write_layer;

    fn names(paths: &[&str]) -> BTreeSet<Vec<u8>> {
        paths.iter().map(|path| path.as_bytes().to_vec()).collect()
    }

    /// An archive of files small and big, of a hard link, and of a file that GNU tar stores in pieces.
    fn foreign(fixture: &Fixture) -> (TreeRef, File) {
        let dir = fixture.path("tree");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("big"), noise(1, 3 << 20)).unwrap();
        fs::write(dir.join("empty"), b"").unwrap();
        fs::write(dir.join("n".repeat(150)), b"long").unwrap();
        fs::hard_link(dir.join("big"), dir.join("link")).unwrap();
        let holes = File::create(dir.join("holes")).unwrap();
        holes.set_len(1 << 20).unwrap();
        holes.write_all_at(b"end", (1 << 20) - 3).unwrap();
        let tar = fixture.path("x.tar");
        run(Command::new("tar")
            .args(["--sparse", "--sort=name", "-cf"])
            .arg(&tar)
            .arg("-C")
            .arg(&dir)
            .arg("."));
        let read = read_layer(&fixture.trees, File::open(&tar).unwrap(), None).unwrap();
        (read.layer, File::open(&tar).unwrap())
    }

    #[test]
    fn files_are_found_where_gnu_tar_put_them() {
        let fixture = Fixture::new();
        let (layer, tar) = foreign(&fixture);
        let long = "n".repeat(150);
        let wanted = names(&["big", "empty", "holes", "link", &long]);
        let found = locate_files(&fixture.trees, &layer.tree, &tar, &wanted).unwrap();
        // A file in pieces is nowhere as a whole.
        let there: Vec<&[u8]> = found.keys().map(Vec::as_slice).collect();
        assert_eq!(there, [&b"big"[..], b"empty", b"link", long.as_bytes()]);
        assert_eq!(found[&b"link"[..]], found[&b"big"[..]]);
        let read = |path: &[u8], len| {
            let mut bytes = vec![0; len];
            tar.read_exact_at(&mut bytes, found[path]).unwrap();
            bytes
        };
        assert_eq!(read(b"big", 3 << 20), noise(1, 3 << 20));
        assert_eq!(read(long.as_bytes(), 4), b"long");
        let missing = locate_files(&fixture.trees, &layer.tree, &tar, &names(&["nothing"]));
        assert!(matches!(missing, Err(LayerError::Entry { .. })));
    }

    /// Writes a layer with the bytes of its files taken from an uncompressed blob of it.
    fn again(fixture: &Fixture, layer: TreeRef, blob: File) -> Result<LayerBlob, LayerError> {
        let wanted = names(&["a", "b/big", "b/link"]);
        let found = locate_files(&fixture.trees, &layer.tree, &blob, &wanted)?;
        let blob = Arc::new(blob);
        write_layer(
            &fixture.trees,
            &layer.tree,
            &PLAIN,
            &|path, _| Ok(FileBytes::within(&blob, found[path])),
            &mut std::io::sink(),
            &CancelToken::new(),
        )
    }

    #[test]
    fn a_layer_is_written_from_its_own_blob_and_nothing_else() {
        let mut fixture = Fixture::new();
        fixture.file("a", b"some text");
        fixture.dir("b", 0o755);
        fixture.file("b/big", &noise(2, (2 << 20) + 100));
        assert!(fixture.builder.link(b"b/link", b"b/big"));
        let layer = fixture.finish();
        let (blob, written) = fixture.write(layer, &PLAIN).unwrap();
        let path = fixture.path("blob");
        fs::write(&path, &blob).unwrap();
        let result = again(&fixture, layer, File::open(&path).unwrap()).unwrap();
        assert_eq!(result, written);

        let of = |content: &[u8]| blob.windows(content.len()).position(|w| w == content);
        for (content, name) in [(&b"some text"[..], "a"), (&noise(2, 32), "b/big")] {
            let mut damaged = blob.clone();
            damaged[of(content).unwrap() + 1] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(matches!(
                again(&fixture, layer, File::open(&path).unwrap()),
                Err(LayerError::FileChanged { path }) if path == name
            ));
        }
        fs::write(&path, &blob[..blob.len() / 2]).unwrap();
        assert!(matches!(
            again(&fixture, layer, File::open(&path).unwrap()),
            Err(LayerError::FileChanged { path }) if path == "b/big"
        ));
    }
}
