use std::os::unix::fs::MetadataExt as _;

use rustix::io::Errno;

use super::*;
use crate::builder::NewNode;
use crate::builder::TreeBuilder;
use crate::tree::Meta;

/// A tree of `dirs` directories with a symbolic link to `target` each, of which no two are equal.
fn tree(trees: &Trees, dirs: usize, target: &str) -> TreeId {
    let mut builder = TreeBuilder::new();
    for number in 0..dirs {
        let path = format!("{number}/link");
        let target = format!("{target}{number}").into_bytes();
        builder.insert(
            path.as_bytes(),
            Meta::default(),
            NewNode::Symlink { target },
        );
    }
    builder.finish(trees).tree
}

/// The files, with the objects that each has, by its names.
fn files(dir: &Path) -> Vec<Vec<TreeId>> {
    let mut files: std::collections::BTreeMap<u64, Vec<TreeId>> = Default::default();
    for path in file::below(dir, 2).unwrap() {
        let found = fs::metadata(&path).unwrap();
        let names = path.iter().rev().take(2).map(|name| name.to_str().unwrap());
        let hex: Vec<&str> = names.collect();
        let id = format!("{}{}", hex[1], hex[0]).parse().unwrap();
        files.entry(found.ino()).or_default().push(id);
    }
    files.into_values().collect()
}

/// All objects of a tree, read from the disk alone.
fn count(dir: &Path, root: &TreeId) -> Result<usize, TreeError> {
    let mut seen = std::collections::BTreeSet::new();
    Trees::open(dir).objects(root, &mut seen)?;
    Ok(seen.len())
}

#[test]
fn what_is_written_together_is_in_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let few = tree(&trees, 5, "few");
    let more = tree(&trees, 3, "more");
    trees.persist_all(&[few, more]).unwrap();
    let [file] = &files(dir.path())[..] else {
        panic!("5 and 3 directories, what they are in, and two roots");
    };
    assert_eq!(file.len(), 12);
    assert_eq!(count(dir.path(), &few).unwrap(), 7);
    assert_eq!(count(dir.path(), &more).unwrap(), 5);
    assert!(
        file::list_aside(trees.path(&more).parent().unwrap())
            .unwrap()
            .is_empty()
    );

    // What is there is not written again, and what is new points to it.
    let mut links: Vec<_> = trees.links_in(&fs::read(trees.path(&few)).unwrap());
    links.sort();
    assert_eq!(links.len(), 12);
    for (id, children) in links {
        assert_eq!(
            child_trees(&trees.on_disk(&id).unwrap()).collect::<Vec<_>>(),
            children
        );
    }
    let root = trees.on_disk(&few).unwrap();
    let subtree = trees.put(Directory {
        entries: vec![crate::tree::Entry {
            meta: Meta {
                mode: 0o700,
                ..Meta::default()
            },
            ..root.entries[0].clone()
        }],
    });
    trees.persist(&subtree.tree).unwrap();
    let sizes = files(dir.path()).iter().map(Vec::len).max();
    assert_eq!((files(dir.path()).len(), sizes), (2, Some(12)));
}

#[test]
fn files_stay_small() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let root = tree(&trees, 300, "many");
    let long = "long".repeat(300);
    // Incompressible enough to fill files by their bytes.
    let noise: String = (0..3000)
        .map(|n| {
            blake3::hash(&[n as u8, (n >> 8) as u8])
                .to_hex()
                .to_string()
        })
        .collect();
    let large = tree(&trees, 4, &(long + &noise));
    trees.persist_all(&[root, large]).unwrap();
    let files = files(dir.path());
    for objects in &files {
        let len = fs::metadata(trees.path(&objects[0])).unwrap().len();
        assert!(objects.len() <= MAX_OBJECTS);
        assert!(objects.len() == 1 || len <= MAX_FILE as u64, "{len}");
    }
    assert!(files.len() < 30, "{}", files.len());
    assert!(files.iter().filter(|objects| objects.len() == 1).count() >= 4);
    assert_eq!(count(dir.path(), &root).unwrap(), 302);
    assert_eq!(count(dir.path(), &large).unwrap(), 6);
}

/// Stores from before objects shared files have one in each.
#[test]
fn a_file_may_have_one_object() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let root = tree(&trees, 2, "x");
    let mut objects = Default::default();
    trees.objects(&root, &mut objects).unwrap();
    for id in &objects {
        let (bytes, _) = object::encode(&trees.get(id).unwrap());
        let path = trees.path(id);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, zstd::bulk::compress(&bytes, 1).unwrap()).unwrap();
    }
    assert_eq!(count(dir.path(), &root).unwrap(), objects.len());
    assert_eq!(
        trees.links_in(&fs::read(trees.path(&root)).unwrap()).len(),
        1
    );
}

#[test]
fn without_hard_links_each_object_is_a_file() {
    for errno in [Errno::PERM, Errno::OPNOTSUPP, Errno::MLINK] {
        let dir = tempfile::tempdir().unwrap();
        let trees = Trees::open(dir.path());
        let root = tree(&trees, 5, "x");
        let mut objects = Default::default();
        trees.objects(&root, &mut objects).unwrap();
        // As link(2) does: what is there is told first, here of an object that somebody else has written.
        let refuse = |_: &Path, to: &Path| match to.exists() {
            true => Err(Errno::EXIST.into()),
            false => Err(errno.into()),
        };
        let first = objects.iter().next().unwrap();
        let mut writer = Writer::with_link(&trees, &refuse);
        writer.add(*first, &trees.get(first).unwrap()).unwrap();
        writer.finish().unwrap();
        let mut writer = Writer::with_link(&trees, &refuse);
        for id in &objects {
            writer.add(*id, &trees.get(id).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(files(dir.path()).len(), objects.len());
        assert_eq!(count(dir.path(), &root).unwrap(), objects.len());
    }
    // What else goes wrong is an error.
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let full = |_: &Path, _: &Path| Err(Errno::NOSPC.into());
    let mut writer = Writer::with_link(&trees, &full);
    let mut objects = Default::default();
    trees.objects(&tree(&trees, 2, "x"), &mut objects).unwrap();
    for id in &objects {
        writer.add(*id, &trees.get(id).unwrap()).unwrap();
    }
    let error = writer.finish().unwrap_err();
    assert!(
        matches!(error, TreeError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    );
}

/// Whatever happens to a file, no object of it is ever another than its name says, and writing mends it.
#[test]
fn a_damaged_file_gives_no_wrong_object() {
    let dir = tempfile::tempdir().unwrap();
    let trees = Trees::open(dir.path());
    let root = tree(&trees, 3, "x");
    trees.persist(&root).unwrap();
    let [objects] = &files(dir.path())[..] else {
        panic!();
    };
    let path = trees.path(&root);
    let good = fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    damaged.extend((0..good.len()).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x41;
        bytes
    }));
    let mut endless = MAGIC.to_vec();
    endless.extend([0xff; 4]);
    damaged.push(endless);
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        let mut wrong = 0;
        for id in objects {
            match trees.on_disk(id) {
                Ok(dir) => assert_eq!(object::encode(&dir).1, *id),
                Err(TreeError::Corrupt { .. }) => wrong += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(wrong > 0, "{bytes:?}");
        // What is still a directory is another, or as it was.
        for (id, children) in trees.links_in(&bytes) {
            if objects.contains(&id) {
                let links: Vec<_> = child_trees(&trees.get(&id).unwrap()).collect();
                assert_eq!(links, children);
            }
        }
    }
    // One error for all that is wrong with it: the root is good, and what is below it not.
    let mut bytes = good.clone();
    bytes[PREFIX + ROW * objects.len()] ^= 1;
    let other = table(&good).unwrap().swap_remove(0).0;
    fs::write(&path, bytes).unwrap();
    let fresh = Trees::open(dir.path());
    assert!(matches!(fresh.get(&other), Err(TreeError::Corrupt { .. })));
    assert!(!fresh.path(&other).exists() && fresh.get(&root).is_ok());
    let mut bytes = good.clone();
    let end = bytes.len();
    bytes[PREFIX + ROW * objects.len()..end].fill(7);
    fs::write(&path, bytes).unwrap();
    let fresh = Trees::open(dir.path());
    assert!(matches!(fresh.get(&root), Err(TreeError::Corrupt { .. })));
    assert_eq!(file::below(dir.path(), 2).unwrap(), Vec::<PathBuf>::new());
    tree(&fresh, 3, "x");
    fresh.persist(&root).unwrap();
    assert_eq!(count(dir.path(), &root).unwrap(), objects.len());

    // A file of no bytes under all of the names is as good as none.
    fs::write(trees.path(&root), "").unwrap();
    let fresh = Trees::open(dir.path());
    tree(&fresh, 3, "x");
    fresh.persist(&root).unwrap();
    assert_eq!(count(dir.path(), &root).unwrap(), objects.len());
}

#[test]
fn many_write_the_same_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let target = round.to_string();
        let write = || {
            let trees = Trees::open(dir.path());
            let root = tree(&trees, 20, &target);
            trees.persist(&root).unwrap();
            assert_eq!(count(dir.path(), &root).unwrap(), 22);
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(write);
            }
        });
    }
}
