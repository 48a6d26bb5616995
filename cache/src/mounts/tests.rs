use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;

use super::*;
use crate::dir::Ownership;
use crate::dir::ScanKind;
use crate::dir::scan_dir;
use crate::dir::write_dir;
use crate::wait::silently;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn name(id: &str) -> CacheMountName {
    CacheMountName {
        id: id.to_owned(),
        domain: "map".to_owned(),
        begins: String::new(),
    }
}

fn empty(dir: &Path) -> Result<(), StoreError> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    empty_mount(
        dir,
        0o1777,
        (user.as_raw(), group.as_raw()),
        Ownership::Keep,
    )
}

/// Has the mount, unless it must be waited for.
fn try_take(store: &Store, id: &str, sharing: CacheSharing) -> Option<CacheMount> {
    let cancel = CancelToken::new();
    let mut give_up = |wait: &mut dyn FnMut()| {
        cancel.cancel();
        wait();
    };
    store
        .cache_mount(&name(id), sharing, &empty, &cancel, &mut give_up)
        .unwrap()
}

fn take(store: &Store, id: &str, sharing: CacheSharing) -> CacheMount {
    try_take(store, id, sharing).unwrap()
}

#[test]
fn sharing_is_as_buildkit_documents_it() {
    let (_dir, store) = store();
    let free = |sharing| try_take(&store, "a", sharing).is_some();
    let (a, b) = (
        take(&store, "a", CacheSharing::Shared),
        take(&store, "a", CacheSharing::Shared),
    );
    assert_eq!(a.path(), b.path());
    assert!(!free(CacheSharing::Locked));
    let private = take(&store, "a", CacheSharing::Private);
    let another = take(&store, "a", CacheSharing::Private);
    assert!(private.path() != a.path() && private.path() != another.path());
    drop((a, b, another));

    let locked = take(&store, "a", CacheSharing::Locked);
    assert!(!free(CacheSharing::Shared) && !free(CacheSharing::Locked));
    assert!(try_take(&store, "b", CacheSharing::Locked).is_some());
    drop(locked);
    assert!(free(CacheSharing::Shared));
    let first = take(&store, "a", CacheSharing::Private);
    assert!(first.path().parent().unwrap().extension().unwrap() == "0");
}

/// Otherwise those who share it could have it among themselves for ever.
#[test]
fn who_shares_a_mount_queues_up_behind_who_wants_it_alone() {
    let (_dir, store) = store();
    let cancel = CancelToken::new();
    let shared = take(&store, "a", CacheSharing::Shared);
    thread::scope(|scope| {
        let (waits, waiting) = std::sync::mpsc::channel();
        let mut on_wait = move |wait: &mut dyn FnMut()| {
            waits.send(()).unwrap();
            wait();
        };
        let (name, store, cancel) = (name("a"), &store, &cancel);
        let alone = scope.spawn(move || {
            let locked = CacheSharing::Locked;
            store.cache_mount(&name, locked, &empty, cancel, &mut on_wait)
        });
        waiting.recv().unwrap();
        assert!(try_take(store, "a", CacheSharing::Shared).is_none());
        drop(shared);
        assert!(alone.join().unwrap().unwrap().is_some());
    });
    assert!(try_take(&store, "a", CacheSharing::Shared).is_some());
}

#[test]
fn nobody_has_it_together_with_who_has_it_alone_even_while_it_is_removed() {
    let (dir, store) = store();
    let trash = dir.path().join("t");
    fs::create_dir(&trash).unwrap();
    let (users, removed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let never = CancelToken::new();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let locked = CacheSharing::Locked;
                    let mount =
                        store.cache_mount(&name("a"), locked, &empty, &never, &mut silently);
                    let mount = mount.unwrap().unwrap();
                    assert_eq!(users.fetch_add(1, Ordering::SeqCst), 0);
                    fs::write(mount.path().join("file"), "x").unwrap();
                    users.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            while removed.load(Ordering::SeqCst) < 5 {
                for mount in store.cache_mounts().unwrap() {
                    let aside = trash.join(removed.load(Ordering::SeqCst).to_string());
                    fs::create_dir_all(&aside).unwrap();
                    if store.discard_cache_mount(&mount, &aside).unwrap()
                        && fs::read_dir(&aside).unwrap().next().is_some()
                    {
                        removed.fetch_add(1, Ordering::SeqCst);
                    }
                }
                if users.load(Ordering::SeqCst) == 0 {
                    drop(try_take(&store, "a", CacheSharing::Shared));
                }
            }
        });
    });
}

#[test]
fn what_is_begun_and_not_finished_is_not_a_mount() {
    let (_dir, store) = store();
    let never = CancelToken::new();
    let half = |dir: &Path| {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("half"), "").unwrap();
        Err(StoreError::io("write", dir)(
            io::ErrorKind::StorageFull.into(),
        ))
    };
    let shared = CacheSharing::Shared;
    let failed = store.cache_mount(&name("a"), shared, &half, &never, &mut silently);
    assert!(failed.unwrap_err().is_disk_full());
    assert_eq!(store.cache_mounts().unwrap(), []);
    let mount = take(&store, "a", shared);
    assert!(!mount.path().join("half").exists());
    let mode = fs::metadata(mount.path()).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o1777);
}

#[test]
fn mounts_are_listed_and_removed_but_not_those_in_use() {
    let (dir, store) = store();
    let list = || store.cache_mounts().unwrap();
    let mount = take(&store, "a", CacheSharing::Shared);
    fs::write(mount.path().join("file"), "x").unwrap();
    let seen = list().remove(0);
    assert_eq!(seen.name, Some(name("a")));
    assert!(seen.in_use && seen.created <= seen.used);
    assert!(!store.discard_cache_mount(&seen, dir.path()).unwrap());

    // Used since it was seen.
    drop(mount);
    let now = list().remove(0);
    assert!(!now.in_use && now.used > seen.used);
    assert!(!store.discard_cache_mount(&seen, dir.path()).unwrap());
    assert!(store.discard_cache_mount(&now, dir.path()).unwrap());
    assert_eq!(list(), []);
    let gone = dir.path().join(now.path.file_name().unwrap());
    assert_eq!(fs::read(gone.join("data/file")).unwrap(), b"x");

    drop(take(&store, "a", CacheSharing::Shared));
    let other_map = CacheMountName {
        domain: "another map".to_owned(),
        ..name("a")
    };
    let shared = CacheSharing::Shared;
    let other = store.cache_mount(
        &other_map,
        shared,
        &empty,
        &CancelToken::new(),
        &mut silently,
    );
    assert!(!other.unwrap().unwrap().path().join("file").exists());
    assert_eq!(list().len(), 2);
}

/// Who lists mounts must not be in the way of a build that wants one for itself.
#[test]
fn listing_takes_no_mount_away() {
    let (_dir, store) = store();
    let first = take(&store, "a", CacheSharing::Private).path().to_owned();
    // The list is in the middle of reading once somebody can write into this.
    let about = first.with_file_name("about.json");
    fs::remove_file(&about).unwrap();
    rustix::fs::mknodat(CWD, &about, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    thread::scope(|scope| {
        let list = scope.spawn(|| store.cache_mounts().unwrap());
        let writer = fs::OpenOptions::new().write(true).open(&about).unwrap();
        let mine = take(&store, "a", CacheSharing::Private);
        assert_eq!(mine.path(), first);
        drop(writer);
        assert!(list.join().unwrap()[0].in_use);
    });
}

#[test]
fn a_mount_becomes_a_tree_and_a_tree_becomes_a_mount() {
    let (_dir, store) = store();
    let never = CancelToken::new();
    let mount = take(&store, "a", CacheSharing::Locked);
    let from = mount.path();
    fs::create_dir(from.join("bin")).unwrap();
    fs::write(from.join("bin/tool"), "tool").unwrap();
    fs::set_permissions(from.join("bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(from.join("bin/tool"), from.join("bin/twin")).unwrap();
    std::os::unix::fs::symlink("bin/tool", from.join("link")).unwrap();
    let scan = |dir: &Path| scan_dir(store.trees(), dir, ScanKind::Plain, &never).unwrap();
    let tree = scan(from);

    let open = |path: &[u8], _: &crate::tree::FileNode| {
        File::open(from.join(std::str::from_utf8(path).unwrap()))
    };
    let begin = |dir: &Path| -> Result<(), StoreError> {
        fs::create_dir(dir).unwrap();
        let owners = Ownership::Logical;
        write_dir(store.trees(), &tree.tree, dir, &open, owners, &never).unwrap();
        Ok(())
    };
    let seeded = CacheMountName {
        begins: tree.content.to_string(),
        ..name("a")
    };
    let locked = CacheSharing::Locked;
    let copy = store.cache_mount(&seeded, locked, &begin, &never, &mut silently);
    let copy = copy.unwrap().unwrap();
    assert_ne!(copy.path(), from);
    assert_eq!(scan(copy.path()), tree);
    assert_eq!(
        fs::metadata(copy.path().join("bin/tool")).unwrap().nlink(),
        2
    );
}

/// A mount with a file, lent to a step whose build was killed; and where it is.
fn lent_by_the_dead(store: &Store) -> (PathBuf, PathBuf) {
    let data = take(store, "a", CacheSharing::Locked).path().to_owned();
    fs::write(data.join("file"), "x").unwrap();
    let root = store.path().join("tmp/killed.d/root/var");
    fs::create_dir_all(&root).unwrap();
    let at = root.join("cache");
    lend(store.path(), &data, &at).unwrap();
    assert!(at.join("file").exists() && !data.exists());
    (data, at)
}

#[test]
fn who_comes_next_gets_what_a_killed_build_has_lent() {
    for sharing in [
        CacheSharing::Shared,
        CacheSharing::Private,
        CacheSharing::Locked,
    ] {
        let (_dir, store) = store();
        let (data, _) = lent_by_the_dead(&store);
        let mount = take(&store, "a", sharing);
        assert_eq!(mount.path(), data);
        assert_eq!(fs::read(data.join("file")).unwrap(), b"x");
        let left = file::list(data.parent().unwrap()).unwrap();
        assert_eq!(left.len(), 4, "{left:?}");
    }
}

#[test]
fn what_is_lent_is_waited_for_as_long_as_it_may_come_back() {
    let (_dir, store) = store();
    let shares = take(&store, "a", CacheSharing::Shared);
    let (home, at) = (shares.path().to_owned(), store.path().join("tmp/at"));
    lend(store.path(), &home, &at).unwrap();
    assert!(try_take(&store, "a", CacheSharing::Shared).is_none());
    assert!(at.is_dir());
    take_back(&home, &at).unwrap();
    assert!(try_take(&store, "a", CacheSharing::Shared).is_some());

    // The step has removed it.
    lend(store.path(), &home, &at).unwrap();
    fs::remove_dir(&at).unwrap();
    take_back(&home, &at).unwrap();
    assert!(home.is_dir());
}

#[test]
fn what_a_step_puts_in_the_place_of_a_mount_does_not_become_it() {
    let (dir, store) = store();
    let mount = take(&store, "a", CacheSharing::Shared);
    let (home, at) = (mount.path().to_owned(), store.path().join("tmp/at"));
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("file"), "").unwrap();
    let puts: [&dyn Fn(); 2] = [
        &|| std::os::unix::fs::symlink(&elsewhere, &at).unwrap(),
        &|| fs::write(&at, "a file").unwrap(),
    ];
    for put in puts {
        lend(store.path(), &home, &at).unwrap();
        fs::remove_dir(&at).unwrap();
        put();
        take_back(&home, &at).unwrap();
        let found = fs::symlink_metadata(&home).unwrap();
        assert!(found.is_dir() && file::list(&home).unwrap().is_empty());
        fs::remove_file(&at).unwrap();
    }
}

#[test]
fn a_collector_brings_back_what_was_lent() {
    let (_dir, store) = store();
    let (data, at) = lent_by_the_dead(&store);
    let in_use = flock::hold(&data.with_file_name("lock"), How::Shared).unwrap();
    store.collect(&crate::gc::Policy::default()).unwrap();
    assert!(at.exists(), "its user may be about to end");
    drop(in_use);
    store.collect(&crate::gc::Policy::default()).unwrap();
    assert!(data.join("file").exists() && !store.path().join("tmp/killed.d").exists());
}

#[test]
fn nothing_is_brought_back_through_links() {
    let (dir, store) = store();
    let (data, at) = lent_by_the_dead(&store);
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(at.parent().unwrap(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, at.parent().unwrap()).unwrap();
    let mount = take(&store, "a", CacheSharing::Locked);
    assert!(elsewhere.join("cache/file").exists());
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "it begins anew");
    drop(mount);

    fs::remove_dir(&data).unwrap();
    fs::write(store.path().join("tmp/file"), "").unwrap();
    std::os::unix::fs::symlink("../../tmp/file", data.with_extension("away")).unwrap();
    assert!(take(&store, "a", CacheSharing::Locked).path().is_dir());
}

#[test]
fn a_mount_that_lacks_something_is_made_whole() {
    for part in ["lock", "turn", "data"] {
        let (_dir, store) = store();
        let data = take(&store, "a", CacheSharing::Locked).path().to_owned();
        file::remove(&data.with_file_name(part)).unwrap();
        let mount = take(&store, "a", CacheSharing::Locked);
        assert!(mount.path() == data && data.is_dir(), "{part}");
    }
}
