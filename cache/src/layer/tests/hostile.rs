//! Archives that nobody should have made.

use super::*;
use crate::Follow;
use crate::Trees;
use crate::tar::padding;
use crate::tar::read::TarError;

/// Appends an entry: type, name and data.
pub(super) fn entry(tar: &mut Vec<u8>, flag: u8, name: &[u8], data: &[u8]) {
    entry_with(tar, flag, name, data, |_| {});
}

fn entry_with(
    tar: &mut Vec<u8>,
    flag: u8,
    name: &[u8],
    data: &[u8],
    change: impl FnOnce(&mut ::tar::Header),
) {
    let mut header = ::tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkflag = [flag];
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    change(&mut header);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(data);
    tar.resize(tar.len() + padding(data.len() as u64), 0);
}

fn link(tar: &mut Vec<u8>, flag: u8, name: &str, target: &str) {
    entry_with(tar, flag, name.as_bytes(), b"", |header| {
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    });
}

fn pax(tar: &mut Vec<u8>, records: &[(&str, &[u8])]) {
    let mut data = Vec::new();
    for (key, value) in records {
        crate::tar::pax::push(&mut data, key.as_bytes(), value);
    }
    entry(tar, b'x', b"pax", &data);
}

fn trees() -> Trees {
    Trees::open(std::path::Path::new("/nonexistent"))
}

/// Reads an archive; what it holds as `type path`, without implied directories.
fn read(tar: &[u8]) -> Result<Vec<String>, LayerError> {
    let trees = trees();
    let read = read_layer(&trees, tar, None)?;
    let mut lines = Vec::new();
    trees
        .walk(&read.layer.tree, &mut |path, entry| {
            let kind = match &entry.node {
                Node::File(file) => format!("file({})", file.size),
                Node::Dir(dir) if dir.implied && !dir.opaque => return ControlFlow::Continue(()),
                Node::Dir(dir) if dir.opaque => "opaque".to_owned(),
                Node::Dir(_) => "dir".to_owned(),
                Node::Symlink { target } => format!("symlink({})", show(target)),
                Node::Char { major, minor } => format!("char({major},{minor})"),
                Node::Block { major, minor } => format!("block({major},{minor})"),
                Node::Fifo => "fifo".to_owned(),
                Node::Whiteout => "whiteout".to_owned(),
            };
            lines.push(format!("{kind} {}", show(path)));
            ControlFlow::Continue(())
        })
        .unwrap();
    Ok(lines)
}

#[test]
fn names_stay_below_the_root() {
    for (name, expected) in [
        ("/etc/passwd", Some("file(1) etc/passwd")),
        ("//../x", None),
        ("../x", None),
        ("a/../../x", None),
        ("a/../x", Some("file(1) x")),
        ("./././x", Some("file(1) x")),
        ("a//b/", Some("file(1) a/b")),
        (".", None),
        ("/", None),
        ("..", None),
        ("", None),
    ] {
        let mut tar = Vec::new();
        entry(&mut tar, b'0', name.as_bytes(), b"1");
        match (read(&tar), expected) {
            (Ok(found), Some(expected)) => assert_eq!(found, [expected], "{name}"),
            (Err(LayerError::Entry { .. }), None) => {}
            (found, _) => panic!("{name}: {found:?}"),
        }
    }
    for path in [
        vec![b'a'; 256],
        vec!["d"; 600].join("/").into_bytes(),
        [vec![b'a'; 200], vec![b'/'; 1]].concat().repeat(21),
        b"nul\0nul".to_vec(),
    ] {
        let mut tar = Vec::new();
        pax(&mut tar, &[("path", &path)]);
        entry(&mut tar, b'0', b"x", b"1");
        assert!(read(&tar).is_err(), "{}", show(&path));
    }
}

#[test]
fn names_are_literal_and_the_last_of_a_name_wins() {
    let mut tar = Vec::new();
    link(&mut tar, b'2', "evil", "/etc");
    entry(&mut tar, b'0', b"evil/passwd", b"1");
    assert_eq!(read(&tar).unwrap(), ["file(1) evil/passwd"]);

    let mut tar = Vec::new();
    entry(&mut tar, b'0', b"x", b"1");
    entry(&mut tar, b'0', b"x", b"22");
    entry(&mut tar, b'5', b"d/", b"");
    entry(&mut tar, b'0', b"d/y", b"1");
    entry(&mut tar, b'5', b"d", b"");
    entry(&mut tar, b'0', b"f/below", b"1");
    entry(&mut tar, b'0', b"f", b"333");
    assert_eq!(
        read(&tar).unwrap(),
        ["dir d", "file(1) d/y", "file(3) f", "file(2) x"]
    );
}

#[test]
fn hard_links_need_a_target_in_the_layer() {
    for target in [
        "missing",
        "../../etc/passwd",
        "dir",
        "me",
        "me/below",
        "",
        "/",
    ] {
        let mut tar = Vec::new();
        entry(&mut tar, b'5', b"dir", b"");
        entry(&mut tar, b'0', b"me/below", b"");
        link(&mut tar, b'1', "me", target);
        assert!(
            matches!(read(&tar), Err(LayerError::Entry { .. })),
            "{target}"
        );
    }
    let mut tar = Vec::new();
    link(&mut tar, b'2', "sym", "anywhere");
    entry(&mut tar, b'0', b"file", b"1");
    link(&mut tar, b'1', "a", "/./file");
    link(&mut tar, b'1', "b", "sym");
    link(&mut tar, b'1', "c", "a");
    let trees = trees();
    let layer = read_layer(&trees, &tar[..], None).unwrap().layer.tree;
    let group = |path: &str| {
        let found = trees.lookup(&layer, path.as_bytes(), Follow::NotLast);
        match found.unwrap().unwrap().entry.node {
            Node::File(file) => file.link,
            _ => None,
        }
    };
    assert!(group("file").is_some());
    assert_eq!(group("a"), group("file"));
    assert_eq!(group("c"), group("file"));
    assert!(
        read(&tar)
            .unwrap()
            .contains(&"symlink(anywhere) b".to_owned())
    );
}

#[test]
fn whiteouts_mean_what_the_spec_says() {
    let cases: &[(&[&str], Option<&[&str]>)] = &[
        (&[".wh.a", "d/.wh.b"], Some(&["whiteout a", "whiteout d/b"])),
        (&["d/.wh..wh..opq"], Some(&["opaque d"])),
        (&[".wh..wh..opq"], Some(&["opaque "])),
        // AUFS' own files.
        (
            &[".wh..wh.plnk/1.2", ".wh..wh.aufs", "d/.wh..wh.orph/x"],
            Some(&[]),
        ),
        (&[".wh..wh.plnk/.wh.x"], Some(&[])),
        (&[".wh.x", "x"], Some(&["file(0) x"])),
        (&["x", ".wh.x"], Some(&["file(0) x"])),
        (&[".wh.x", "x/y"], Some(&["opaque x", "file(0) x/y"])),
        (&["x/y", ".wh.x"], Some(&["opaque x", "file(0) x/y"])),
        (&[".wh."], None),
        (&[".wh.."], None),
        (&[".wh..."], None),
        (&["d/.wh..."], None),
        (&[".wh.a/b"], None),
    ];
    for (names, expected) in cases {
        let mut tar = Vec::new();
        for name in *names {
            entry(&mut tar, b'0', name.as_bytes(), b"");
        }
        match (read(&tar), expected) {
            (Ok(found), Some(expected)) => assert_eq!(found, *expected, "{names:?}"),
            (Err(LayerError::Entry { .. }), None) => {}
            (found, _) => panic!("{names:?}: {found:?}"),
        }
    }
}

#[test]
fn special_files_are_kept_in_the_tree() {
    let mut tar = Vec::new();
    for (flag, name) in [(b'3', b"c"), (b'4', b"b")] {
        entry_with(&mut tar, flag, name, b"", |header| {
            header.set_device_major(259).unwrap();
            header.set_device_minor(7).unwrap();
        });
    }
    entry(&mut tar, b'6', b"f", b"");
    entry(&mut tar, b'7', b"contiguous", b"1");
    entry(&mut tar, 0, b"v7", b"1");
    entry(&mut tar, 0, b"v7dir/", b"");
    assert_eq!(
        read(&tar).unwrap(),
        [
            "block(259,7) b",
            "char(259,7) c",
            "file(1) contiguous",
            "fifo f",
            "file(1) v7",
            "dir v7dir"
        ]
    );
    for flag in [b's', b'V', b'M', b'9', 0xff] {
        let mut tar = Vec::new();
        entry(&mut tar, flag, b"x", b"");
        assert!(
            matches!(
                read(&tar),
                Err(LayerError::Archive {
                    source: TarError::Header { .. }
                })
            ),
            "{flag}"
        );
    }
}

#[test]
fn absurd_sizes_are_refused_before_they_cost_anything() {
    let header = |change: &dyn Fn(&mut ::tar::Header)| {
        let mut tar = Vec::new();
        entry_with(&mut tar, b'0', b"x", b"", change);
        tar
    };
    let sparse = |map: &str, size: &str, stored: &[u8]| {
        let mut tar = Vec::new();
        pax(
            &mut tar,
            &[
                ("GNU.sparse.map", map.as_bytes()),
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.name", b"x"),
            ],
        );
        entry(&mut tar, b'0', b"x", stored);
        tar
    };
    let big_header = |flag| {
        let mut tar = Vec::new();
        entry(&mut tar, flag, b"x", &vec![b'1'; (1 << 20) + 1]);
        tar
    };
    let sparse_one = |map: &[u8]| {
        let mut tar = Vec::new();
        pax(
            &mut tar,
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"1000"),
            ],
        );
        entry(&mut tar, b'0', b"x", map);
        tar
    };
    let numbers = |key: &str, value: &str| {
        let mut tar = Vec::new();
        pax(&mut tar, &[(key, value.as_bytes())]);
        entry(&mut tar, b'0', b"x", b"");
        tar
    };
    for tar in [
        header(&|header| header.set_size(u64::MAX >> 1)),
        header(&|header| header.set_size(1 << 40)),
        header(&|header| header.as_old_mut().size = [0xff; 12]),
        header(&|header| header.as_old_mut().size = *b"7777777777x\0"),
        header(&|header| header.as_old_mut().size = *b"-0000000001\0"),
        header(&|header| header.as_old_mut().uid = [0xff; 8]),
        header(&|header| header.set_gid(u64::from(u32::MAX))),
        header(&|header| header.as_old_mut().mode = *b"+000644\0"),
        numbers("size", "99999999999999999999"),
        numbers("size", "9223372036854775808"),
        numbers("size", "-1"),
        numbers("uid", "4294967295"),
        numbers("uid", "4294967296"),
        numbers("mtime", "yesterday"),
        numbers("GNU.sparse.major", "2"),
        big_header(b'x'),
        big_header(b'g'),
        big_header(b'L'),
        big_header(b'K'),
        sparse("0,1", "9223372036854775807", b"1"),
        sparse("0,1", "0", b"1"),
        sparse("0,2", "10", b"1"),
        sparse("5,1,3,1", "10", b"12"),
        sparse("18446744073709551615,1", "10", b"1"),
        sparse("0", "10", b"1"),
        sparse("a,b", "10", b"1"),
        sparse_one(b""),
        sparse_one(b"1\n0\n"),
        sparse_one(&[b'1'; 512]),
        sparse_one(&[b"99999999\n".as_slice(), &[0; 503]].concat()),
        sparse_one(&[b"x\n".as_slice(), &[0; 510]].concat()),
    ] {
        let result = read(&tar);
        assert!(
            matches!(result, Err(LayerError::Archive { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn a_cut_or_damaged_archive_is_an_error_everywhere() {
    let mut tar = Vec::new();
    pax(&mut tar, &[("path", b"long")]);
    entry(&mut tar, b'0', b"x", &[b'1'; 700]);
    entry(&mut tar, b'5', b"d", b"");
    let whole = read(&tar).unwrap();
    // Between entries nothing tells an archive without its end from a shorter one.
    let between = [0, 1024, tar.len() - 512];
    for end in (0..tar.len()).filter(|end| !between.contains(end)) {
        assert!(read(&tar[..end]).is_err(), "{end}");
    }
    for at in (0..512).step_by(7) {
        let mut damaged = tar.clone();
        damaged[at] ^= 0x20;
        assert!(read(&damaged).is_err(), "{at}");
    }
    let zero = [0; 512];
    let more = |blocks: &[&[u8]]| read(&[&tar[..], &blocks.concat()].concat());
    assert_eq!(more(&[&zero]).unwrap(), whole);
    assert_eq!(more(&[&zero, &zero, b"anything"]).unwrap(), whole);
    assert!(more(&[&zero, &tar]).is_err());
}

#[test]
fn what_follows_the_archive_counts_for_the_diff_id() {
    let mut tar = Vec::new();
    entry(&mut tar, b'0', b"x", b"1");
    tar.resize(tar.len() + 10_240, 0);
    let trees = trees();
    for blob in [
        tar.clone(),
        Compression::Gzip { level: 1 }.frame(&tar).unwrap().unwrap(),
        Compression::Zstd { level: 1 }.frame(&tar).unwrap().unwrap(),
    ] {
        let read = read_layer(&trees, &blob[..], None).unwrap();
        assert_eq!(read.diff_id, sha256(&tar));
        assert_eq!(read.tar_size, tar.len() as u64);
        let cut = read_layer(&trees, &blob[..blob.len() * 9 / 10], None);
        assert_eq!(cut.is_ok(), blob == tar, "{cut:?}");
    }
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &{
        Compression::Zstd { level: 1 }.frame(&tar).unwrap().unwrap()
    }]
    .concat();
    let read = read_layer(&trees, &skippable[..], None).unwrap();
    assert_eq!(read.diff_id, sha256(&tar));
    assert_eq!(
        read_layer(&trees, io::empty(), None).unwrap().diff_id,
        sha256(b"")
    );
}

/// `printf x | xz` and `printf x | bzip2`, cut short.
#[test]
fn other_compressions_are_read_to_where_they_break() {
    for blob in [&b"\xfd7zXZ\0\0\x04\xe6\xd6"[..], b"BZh91AY&SY\x77"] {
        match read_layer(&trees(), blob, None) {
            Err(LayerError::Archive { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Little that becomes much: runs of zeros, and headers.
#[test]
fn what_would_fill_memory_or_disk_is_refused() {
    use crate::layer::read::read_within;
    use crate::layer::stream::Limits;

    let limits = Limits {
        entries: 1000,
        free: 4 << 20,
        times: 1100,
    };
    let read = |blob: &[u8]| read_within(&limits, &trees(), blob, None);
    let mut zeros = Vec::new();
    entry(&mut zeros, b'0', b"zeros", &vec![0; 64 << 20]);
    let zstd = zstd::bulk::compress(&zeros, 1).unwrap();
    match read(&zstd) {
        Err(LayerError::Archive { source }) => {
            let cause = std::error::Error::source(&source).unwrap().to_string();
            assert!(cause.contains("bytes expand to"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    // As much as gzip can make of zeros is not suspicious, and neither is what was not compressed.
    let gzip = crate::Compression::Gzip { level: 9 };
    read(&gzip.frame(&zeros).unwrap().unwrap()).unwrap();
    read(&zeros).unwrap();

    let entries = |count: u32| {
        let mut tar = Vec::new();
        for number in 0..count {
            entry(&mut tar, b'0', number.to_string().as_bytes(), b"");
        }
        tar
    };
    read(&entries(1000)).unwrap();
    let more = read(&entries(1001));
    assert!(
        matches!(more, Err(LayerError::Entries { limit: 1000 })),
        "{more:?}"
    );
}

/// Empty files, a thousand in a directory, made as they are read.
struct Entries {
    made: u64,
    wanted: u64,
    header: Vec<u8>,
}

impl io::Read for Entries {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.header.is_empty() && self.made < self.wanted {
            let name = format!("{}/{}", self.made / 1000, self.made % 1000);
            entry(&mut self.header, b'0', name.as_bytes(), b"");
            self.made += 1;
        }
        let len = buffer.len().min(self.header.len());
        buffer[..len].copy_from_slice(&self.header[..len]);
        self.header.drain(..len);
        Ok(len)
    }
}

/// With the real limit. `LAYER_ENTRIES=5000000` in the environment makes that many, of which the last is one that may be,
/// and one more; what it takes is said.
#[test]
fn many_entries_are_counted_as_they_come() {
    #[expect(clippy::disallowed_methods, reason = "a test is told how much to do")]
    let asked = std::env::var("LAYER_ENTRIES").ok();
    let asked = asked.and_then(|text| text.parse().ok());
    let read = |wanted: u64| {
        let entries = Entries {
            made: 0,
            wanted,
            header: Vec::new(),
        };
        read_layer(&trees(), entries, None)
    };
    let count = asked.unwrap_or(20_000);
    assert_eq!(read(count).unwrap().tar_size, count * 512);
    if asked.is_some() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM"));
        println!("{count} entries: {peak:?}");
        let more = read(count + 1);
        assert!(
            matches!(more, Err(LayerError::Entries { limit }) if limit == count),
            "{more:?}"
        );
    }
}

#[test]
fn a_layer_that_would_fill_the_disk_is_given_up() {
    use crate::layer::room::LOOK;
    use crate::layer::room::Roomy;
    use io::Read as _;

    let read = |free: u64| {
        let bytes = io::repeat(1).take(3 * LOOK);
        io::copy(&mut Roomy::new(bytes, Some(|| free)), &mut io::sink())
    };
    assert_eq!(read(1 << 30).unwrap(), 3 * LOOK);
    assert_eq!(
        read(1 << 20).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
}

#[test]
fn without_threads_a_layer_is_not_read_and_an_archive_is_known() {
    use crate::threads::t::without;

    let mut tar = Vec::new();
    entry(&mut tar, b'0', b"file", b"content");
    let read = without(|| read_layer(&trees(), &tar[..], None));
    assert!(matches!(read, Err(LayerError::Thread { .. })), "{read:?}");
    let archive = |bytes: &[u8]| without(|| crate::is_archive(bytes));
    assert!(archive(&tar).unwrap());
    assert!(!archive(b"something else").unwrap());
}

/// What is in a file that cannot be read is not known, and one that cannot be decompressed is none.
#[test]
fn a_file_that_cannot_be_read_is_not_taken_for_no_archive() {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(rustix::io::Errno::IO.into())
        }
    }
    use io::Read as _;
    let gzip = io::Cursor::new(b"\x1f\x8b\x08\0\0\0\0\0\0\0");
    assert!(crate::is_archive(Broken).is_err());
    assert!(crate::is_archive(gzip.clone().chain(Broken)).is_err());
    assert!(!crate::is_archive(gzip.chain(&b"\xff\xff\xff\xff"[..])).unwrap());
}

#[test]
fn a_reader_that_fails_says_so() {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("connection lost"))
        }
    }
    let gz = Compression::Gzip { level: 1 }
        .frame(&noise(1, 100_000))
        .unwrap()
        .unwrap();
    for start in [&b""[..], &[0; 100], &gz[..gz.len() / 2]] {
        let result = read_layer(&trees(), start.chain(Broken), None);
        assert!(
            matches!(
                &result,
                Err(LayerError::Archive {
                    source: TarError::Read { source, .. }
                }) if source.to_string() == "connection lost"
            ),
            "{result:?}"
        );
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Damage with a right checksum: any result but a panic or an endless loop.
    #[test]
    fn damaged_headers_never_panic(changes in proptest::collection::vec((0usize..2048, proptest::num::u8::ANY), 1..6)) {
        let mut tar = Vec::new();
        pax(&mut tar, &[("GNU.sparse.map", b"0,1,5,2"), ("GNU.sparse.size", b"9"), ("SCHILY.xattr.user.a", b"1")]);
        entry(&mut tar, b'0', b"x", b"123");
        entry_with(&mut tar, b'S', b"y", b"12", |header| {
            let gnu = header.as_gnu_mut().unwrap();
            gnu.set_real_size(100);
            gnu.sparse[0].set_offset(5);
            gnu.sparse[0].set_length(2);
        });
        for (at, byte) in changes {
            let at = at % tar.len();
            tar[at] = byte;
        }
        for block in tar.chunks_exact_mut(512) {
            let mut header = ::tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            if header.as_old().linkflag[0] != 0 || header.as_old().name[0] == b'y' {
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        drop(read(&tar));
    }
}
