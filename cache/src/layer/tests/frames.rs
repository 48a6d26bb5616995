//! Blobs made of the frames of earlier ones are the blobs that are made without them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::layer::EarlierFrames;
use crate::layer::FrameTable;
use crate::layer::Reuse;
use crate::layer::digest_layer;
use crate::layer::write_layer_again;

const GZIP: BlobOptions = BlobOptions {
    compression: Compression::Gzip { level: 1 },
    clamp: None,
};

type Files = BTreeMap<String, Vec<u8>>;

/// A blob, its table, and the files that were read for it.
struct Made {
    blob: Vec<u8>,
    written: LayerBlob,
    table: FrameTable,
    read: Vec<String>,
}

fn layer(fixture: &mut Fixture, files: &Files) -> TreeRef {
    for (path, bytes) in files {
        fixture.file(path, bytes);
    }
    fixture.finish()
}

fn earlier(fixture: &Fixture, made: &[&Made]) -> EarlierFrames {
    let mut earlier = EarlierFrames::default();
    for made in made {
        let path = fixture.path("earlier");
        fs::write(&path, &made.blob).unwrap();
        earlier.add(made.table.clone(), File::open(&path).unwrap());
        fs::remove_file(path).unwrap();
    }
    earlier
}

fn make(
    fixture: &Fixture,
    layer: TreeRef,
    options: &BlobOptions,
    known: &[&Made],
) -> Result<Made, LayerError> {
    let read = Mutex::new(Vec::new());
    let open = |path: &[u8], node: &FileNode| {
        let name = String::from_utf8(path.to_vec()).unwrap();
        read.lock().unwrap().push(name);
        File::open(fixture.content(node)).map(FileBytes::from)
    };
    let asked = Cell::new(0);
    let mut find = || {
        asked.set(asked.get() + 1);
        earlier(fixture, known)
    };
    let mut reuse = Reuse::new(&mut find);
    let mut blob = Vec::new();
    let (trees, cancel) = (&fixture.trees, CancelToken::new());
    let written = write_layer_again(
        trees,
        &layer.tree,
        options,
        &open,
        &mut blob,
        &cancel,
        &mut reuse,
    )?;
    let table = reuse.table;
    assert_eq!(asked.get(), usize::from(!table.is_empty()));
    let mut read = read.into_inner().unwrap();
    read.sort();
    Ok(Made {
        blob,
        written,
        table,
        read,
    })
}

/// Makes the blob of `files` with the frames of `known` and without, and compares both with each other and with what
/// they say of themselves.
fn compared(files: &Files, options: &BlobOptions, known: &[&Made]) -> Made {
    let mut fixture = Fixture::new();
    let layer = layer(&mut fixture, files);
    let made = make(&fixture, layer, options, known).unwrap();
    let alone = make(&fixture, layer, options, &[]).unwrap();
    assert!(made.blob == alone.blob, "other bytes");
    assert_eq!(made.written, alone.written);
    assert_eq!(made.written.digest, sha256(&made.blob));
    // What a next one would find is of the same use, wherever the frames came from.
    assert_eq!(made.table, alone.table);
    if !made.table.is_empty() {
        assert_eq!(made.table.size(), made.written.size);
    }
    let again = FrameTable::decode(&made.table.encode());
    assert_eq!(again.as_ref(), Some(&made.table));
    made
}

/// Some files in two directories, and two that are several frames.
fn project() -> Files {
    let small = |n: u64| (format!("b/{n:02}"), noise(n, 200_000 + 1000 * n as usize));
    let mut files: Files = (0..12).map(small).collect();
    files.insert("a/big".into(), noise(100, (2 << 20) + 123));
    files.insert("c/big".into(), noise(101, 2 << 20));
    files
}

#[test]
fn the_bytes_are_those_of_a_writer_that_knows_no_frames() {
    let mut fixture = Fixture::new();
    let layer = layer(&mut fixture, &project());
    let made = make(&fixture, layer, &GZIP, &[]).unwrap();
    let (blob, written) = fixture.write(layer, &GZIP).unwrap();
    assert!(made.blob == blob, "other bytes");
    assert_eq!(made.written, written);
}

#[test]
fn an_unchanged_layer_is_copied_without_reading_a_file() {
    for compression in [
        Compression::Gzip { level: 1 },
        Compression::Zstd { level: 1 },
    ] {
        let options = BlobOptions {
            compression,
            ..GZIP
        };
        let first = compared(&project(), &options, &[]);
        let again = compared(&project(), &options, &[&first]);
        // Files of several frames are opened when they are laid out.
        assert_eq!(again.read, ["a/big", "c/big"]);
        assert_eq!(again.table, first.table);
    }
}

#[test]
fn what_is_before_a_change_is_not_read_and_what_is_behind_is_not_compressed() {
    let first = compared(&project(), &GZIP, &[]);
    let mut files = project();
    files.get_mut("b/06").unwrap()[17] ^= 1;
    let second = compared(&files, &GZIP, &[&first]);
    assert!(
        !second.read.contains(&"b/01".to_owned()),
        "{:?}",
        second.read
    );
    assert!(
        second.read.contains(&"b/11".to_owned()),
        "{:?}",
        second.read
    );
    let same =
        |row: &&crate::layer::frames::Row| first.table.rows.iter().any(|have| have.key == row.key);
    let new = second.table.rows.iter().filter(|row| !same(row)).count();
    assert_eq!(new, 1, "of {} frames", second.table.rows.len());
}

#[test]
fn any_edit_gives_the_bytes_that_are_made_from_nothing() {
    let first = compared(&project(), &GZIP, &[]);
    let edits: [fn(&mut Files); 9] = [
        // The header of the first entry, so that only frames behind the first are the same.
        |files| drop(files.insert("a/a".into(), b"new".to_vec())),
        |files| drop(files.remove("b/00")),
        |files| drop(files.insert("zz".into(), b"last".to_vec())),
        // The end of a file of several frames, and its beginning.
        |files| *files.get_mut("a/big").unwrap().last_mut().unwrap() ^= 1,
        |files| files.get_mut("a/big").unwrap()[0] ^= 1,
        |files| files.get_mut("c/big").unwrap().truncate((2 << 20) - 1),
        // What comes behind a file of several frames is in its last one.
        |files| drop(files.insert("a/bigger".into(), b"next".to_vec())),
        |files| files.retain(|path, _| path == "c/big"),
        |files| {
            let big = files["a/big"].clone();
            files.insert("d/moved".into(), big);
        },
    ];
    for edit in edits {
        let mut files = project();
        edit(&mut files);
        compared(&files, &GZIP, &[&first]);
        // And where there is no thread for what takes long.
        crate::threads::t::without(|| compared(&files, &GZIP, &[&first]));
    }
}

#[test]
fn a_small_layer_asks_for_nothing() {
    let files: Files = [("a".to_owned(), b"1".to_vec())].into();
    let made = compared(&files, &GZIP, &[]);
    assert!(made.table.is_empty());
}

#[test]
fn frames_of_another_level_or_time_are_others() {
    let first = compared(&project(), &GZIP, &[]);
    let level = BlobOptions {
        compression: Compression::Gzip { level: 2 },
        ..GZIP
    };
    let clamped = BlobOptions {
        clamp: Some(1),
        ..GZIP
    };
    for options in [level, clamped] {
        let other = compared(&project(), &options, &[&first]);
        assert!(other.read.contains(&"b/00".to_owned()));
    }
}

/// A damaged earlier blob damages nothing: its frames are made anew, or, where they are the beginning, it is said that it
/// is of no use.
#[test]
fn damaged_frames_are_not_taken() {
    let first = compared(&project(), &GZIP, &[]);
    let mut files = project();
    files.insert("a/a".into(), b"new".to_vec());
    let half = first.blob.len() / 2;
    let mut damaged = Made {
        blob: first.blob.clone(),
        table: first.table.clone(),
        ..first
    };
    damaged.blob[half] ^= 1;
    compared(&files, &GZIP, &[&damaged]);
    damaged.blob.truncate(half);
    compared(&files, &GZIP, &[&damaged]);

    let mut files = project();
    files.insert("zz".into(), b"last".to_vec());
    let mut fixture = Fixture::new();
    let layer = layer(&mut fixture, &files);
    for damage in [100, damaged.blob.len() - 1] {
        damaged.blob[damage] ^= 1;
        let made = make(&fixture, layer, &GZIP, &[&damaged]);
        let why = made.err();
        assert!(
            matches!(why, Some(LayerError::EarlierBlob { .. })),
            "{why:?}"
        );
        damaged.blob[damage] ^= 1;
    }
}

#[test]
fn a_big_file_is_compared_as_a_whole_though_its_beginning_was_there() {
    let first = compared(&project(), &GZIP, &[]);
    let mut files = project();
    files.insert("a/bigger".into(), b"next".to_vec());
    let mut fixture = Fixture::new();
    let layer = layer(&mut fixture, &files);
    let big = node(&files["a/big"]);
    let mut bytes = files["a/big"].clone();
    bytes[5] ^= 1;
    fs::write(fixture.content(&big), bytes).unwrap();
    let made = make(&fixture, layer, &GZIP, &[&first]);
    assert!(
        matches!(&made, Err(LayerError::FileChanged { path }) if path == "a/big"),
        "{:?}",
        made.err()
    );
}

#[test]
fn tables_that_are_not_whole_are_not_read() {
    let first = compared(&project(), &GZIP, &[]);
    let bytes = first.table.encode();
    for at in [0, 9, 20, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert_eq!(FrameTable::decode(&damaged), None, "byte {at}");
    }
    for len in [0, 10, bytes.len() - 1] {
        assert_eq!(FrameTable::decode(&bytes[..len]), None, "{len} bytes");
    }
}

/// The digests of the tar of `files`, the table of it, and the files that were read.
fn digested(files: &Files, earlier: Option<&FrameTable>) -> (LayerBlob, FrameTable, Vec<String>) {
    let mut fixture = Fixture::new();
    let layer = layer(&mut fixture, files);
    let read = Mutex::new(Vec::new());
    let open = |path: &[u8], node: &FileNode| {
        let name = String::from_utf8(path.to_vec()).unwrap();
        read.lock().unwrap().push(name);
        File::open(fixture.content(node)).map(FileBytes::from)
    };
    let mut find = || {
        let mut known = EarlierFrames::default();
        if let Some(table) = earlier {
            known.add_tar(FrameTable::decode(&table.encode()).unwrap());
        }
        known
    };
    let (trees, cancel) = (&fixture.trees, CancelToken::new());
    let digested = digest_layer(trees, &layer.tree, None, &open, &cancel, &mut find);
    let (blob, table) = digested.unwrap();
    let plain = BlobOptions {
        compression: Compression::None,
        clamp: None,
    };
    let (bytes, written) = fixture.write(layer, &plain).unwrap();
    assert_eq!(blob, written);
    assert_eq!(blob.digest, sha256(&bytes));
    (blob, table, read.into_inner().unwrap())
}

#[test]
fn of_a_tar_that_begins_as_another_what_is_behind_is_read() {
    let (first, table, read) = digested(&project(), None);
    assert!(read.contains(&"b/01".to_owned()), "{read:?}");
    let (again, same, read) = digested(&project(), Some(&table));
    assert_eq!((again, &same), (first, &table));
    // Files of several frames are opened when they are laid out.
    assert_eq!(read, ["a/big", "c/big"]);

    let edits: [fn(&mut Files); 5] = [
        |files| files.get_mut("b/06").unwrap()[17] ^= 1,
        |files| drop(files.insert("zz".into(), b"last".to_vec())),
        |files| drop(files.remove("b/07")),
        |files| files.get_mut("c/big").unwrap().push(1),
        |files| drop(files.insert("b/05x".into(), Vec::new())),
    ];
    for edit in edits {
        let mut files = project();
        edit(&mut files);
        let (_, edited, read) = digested(&files, Some(&table));
        assert!(!read.contains(&"b/01".to_owned()), "{read:?}");
        assert_eq!(edited, digested(&files, None).1);
    }
    let mut files = project();
    files.insert("a/a".into(), b"first".to_vec());
    let (_, _, read) = digested(&files, Some(&table));
    assert!(read.contains(&"b/01".to_owned()), "{read:?}");
}

/// What the table is of was whole; of what is read now the same is asked as ever.
#[test]
fn a_file_that_grew_shrank_or_changed_is_not_digested() {
    let files = project();
    let changes: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.push(0),
        |bytes| bytes.truncate(bytes.len() - 1),
        |bytes| bytes[5] ^= 1,
        Vec::clear,
    ];
    for change in changes {
        let mut fixture = Fixture::new();
        let layer = layer(&mut fixture, &files);
        let mut bytes = files["b/11"].clone();
        change(&mut bytes);
        fs::write(fixture.content(&node(&files["b/11"])), bytes).unwrap();
        let open =
            |_: &[u8], node: &FileNode| File::open(fixture.content(node)).map(FileBytes::from);
        let (trees, cancel) = (&fixture.trees, CancelToken::new());
        let digested = digest_layer(
            trees,
            &layer.tree,
            None,
            &open,
            &cancel,
            &mut EarlierFrames::default,
        );
        assert!(
            matches!(&digested, Err(LayerError::FileChanged { path }) if path == "b/11"),
            "{:?}",
            digested.err()
        );
    }
}
