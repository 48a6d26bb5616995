//! File operations.

use rbuild_llb::op::FileAction;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::FileOp;
use rbuild_llb::op::ModeChange;
use rbuild_llb::op::Owner;
use rbuild_llb::op::UserRef;

use super::*;

fn file(kind: FileActionKind) -> Case {
    Case::of(Op::File(FileOp {
        actions: vec![FileAction {
            input: FileInput::Input(0),
            secondary: FileInput::Input(1),
            output: Some(0),
            kind,
        }],
    }))
}

/// `COPY src /app/`
fn copy() -> Case {
    file(FileActionKind::Copy(CopyAction {
        src: "/src".to_owned(),
        dest: "/app/".to_owned(),
        follow_symlinks: true,
        dir_copy_contents: true,
        create_dest_path: true,
        ..CopyAction::default()
    }))
}

fn owner(uid: u32) -> Option<Owner> {
    Some(Owner {
        user: UserRef::Id(uid),
        group: None,
    })
}

#[test]
fn file_copies() {
    let mut rows = Rows::new();
    let case = copy();
    let mut both = |said: &str, change: &dyn Fn(&mut CopyAction)| {
        rows.row(&case, Both, said, |case| change(case.copy()));
    };
    both("destination /app/ → /opt/", &|copy| {
        copy.dest = "/opt/".to_owned()
    });
    let way = "the way it copies changed";
    both(way, &|copy| copy.follow_symlinks = false);
    both(way, &|copy| copy.dir_copy_contents = false);
    both(way, &|copy| copy.attempt_unpack = true);
    both(way, &|copy| copy.create_dest_path = false);
    both(way, &|copy| copy.always_replace_existing_dest_paths = true);
    both(way, &|copy| copy.parents = true);
    both("the time files get changed", &|copy| {
        copy.timestamp = Some(1)
    });
    both(
        "1 of 2 files changed: src/b.py (removed); --exclude b.py added",
        &|copy| copy.exclude = vec!["b.py".to_owned()],
    );
    both(
        "1 of 2 files changed: src/b.py (removed); --parents a.py added",
        &|copy| copy.include = vec!["a.py".to_owned()],
    );
    both("--chown 7 added", &|copy| copy.owner = owner(7));
    both("--chmod 0700 added", &|copy| {
        copy.mode = Some(ModeChange::Octal(0o700))
    });
    both("--chmod u=rwX added", &|copy| {
        copy.mode = Some(ModeChange::Symbolic("u=rwX".to_owned()));
    });
    let others = "3 of 3 files changed: same/a.py (added), src/a.py (removed), src/b.py (removed)";
    both(others, &|copy| copy.src = "/same".to_owned());
    let one = "1 of 2 files changed: src/a.py (content)";
    rows.row(&case, Both, one, |case| case.context = "edited");
    let one = "1 of 2 files changed: src/a.py (mode 0644 → 0755)";
    rows.row(&case, Both, one, |case| case.context = "executable");
    let date = "SOURCE_DATE_EPOCH 7 added";
    rows.row(&case, Both, date, |case| case.epoch = Some(7));
    for context in ["elsewhere", "unselected"] {
        rows.row(&case, Neither, "", |case| case.context = context);
    }
    rows.row(&case, ByDefinition, "other inputs", |case| case.base = 2);
    let base = "in what it is put on: 1 of 3 files changed: usr/lib (content)";
    rows.row(&case, Content, base, |case| case.base_files = "rebuilt");
    let layers = "the layers it is put on changed";
    rows.row(&case, Content, layers, |case| case.base_layers = 2);
    // With `--chmod`, the mode that a file had is no matter.
    let mut set = copy();
    set.copy().mode = Some(ModeChange::Octal(0o640));
    rows.row(&set, Neither, "", |case| case.context = "executable");
    let mut from_git = copy();
    from_git.modes = FileModes::Git;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(rows.dir("elsewhere/src/b.py"), mode).unwrap();
    rows.row(&from_git, Neither, "", |case| case.context = "elsewhere");
}

/// Where the files come from is in the definition key of a copy from a step only.
#[test]
fn file_copies_from_steps() {
    let mut rows = Rows::new();
    let mut case = copy();
    if let Op::File(file) = &mut case.op {
        file.actions[0].input = FileInput::Scratch;
        file.actions[0].secondary = FileInput::Input(0);
    }
    case.copy().src = "/usr/lib".to_owned();
    rows.row(
        &case,
        ByDefinition,
        "source /usr/lib → /copy/lib",
        |case| {
            case.copy().src = "/copy/lib".to_owned();
        },
    );
    rows.row(&case, ByDefinition, "the way it copies changed", |case| {
        case.copy().allow_wildcard = true;
    });
    rows.row(&case, ByDefinition, "other inputs", |case| case.base = 2);
    let one = "1 of 1 file changed: usr/lib (content)";
    rows.row(&case, Content, one, |case| case.base_files = "rebuilt");
    let mut local = copy();
    local.copy().src = "/src/a.py".to_owned();
    rows.row(&local, Neither, "", |case| {
        case.copy().src = "/same/a.py".to_owned()
    });
}

#[test]
fn other_file_actions() {
    let mut rows = Rows::new();
    let mkdir = |path: &str, mode, make_parents, owner, timestamp| FileActionKind::Mkdir {
        path: path.to_owned(),
        mode,
        make_parents,
        owner,
        timestamp,
    };
    let dir = file(mkdir("/a", 0o755, true, None, None));
    let mkfile = |path: &str, mode, data: &str, owner, timestamp| FileActionKind::Mkfile {
        path: path.to_owned(),
        mode,
        data: data.into(),
        owner,
        timestamp,
    };
    let text = file(mkfile("/a", 0o644, "x", None, None));
    let symlink = |path: &str, target: &str, owner, timestamp| FileActionKind::Symlink {
        path: path.to_owned(),
        target: target.to_owned(),
        owner,
        timestamp,
    };
    let link = file(symlink("/a", "b", None, None));
    let rm = |path: &str, allow_not_found, allow_wildcard| FileActionKind::Rm {
        path: path.to_owned(),
        allow_not_found,
        allow_wildcard,
    };
    let gone = file(rm("/a", false, false));
    let time = "the time files get changed";
    for (case, said, kind) in [
        (&dir, "path /a → /b", mkdir("/b", 0o755, true, None, None)),
        (
            &dir,
            "--chmod 0755 → 0700",
            mkdir("/a", 0o700, true, None, None),
        ),
        (&dir, "other inputs", mkdir("/a", 0o755, false, None, None)),
        (
            &dir,
            "--chown 7 added",
            mkdir("/a", 0o755, true, owner(7), None),
        ),
        (&dir, time, mkdir("/a", 0o755, true, None, Some(1))),
        (&text, "path /a → /b", mkfile("/b", 0o644, "x", None, None)),
        (
            &text,
            "--chmod 0644 → 0600",
            mkfile("/a", 0o600, "x", None, None),
        ),
        (
            &text,
            "the text changed",
            mkfile("/a", 0o644, "y", None, None),
        ),
        (
            &text,
            "--chown 7 added",
            mkfile("/a", 0o644, "x", owner(7), None),
        ),
        (&text, time, mkfile("/a", 0o644, "x", None, Some(1))),
        (&link, "path /a → /c", symlink("/c", "b", None, None)),
        (
            &link,
            "where the link leads: b → c",
            symlink("/a", "c", None, None),
        ),
        (&link, "--chown 7 added", symlink("/a", "b", owner(7), None)),
        (&link, time, symlink("/a", "b", None, Some(1))),
        (&gone, "path /a → /b", rm("/b", false, false)),
        (&gone, "the way it copies changed", rm("/a", true, false)),
        (&gone, "the way it copies changed", rm("/a", false, true)),
        (
            &gone,
            "what is done: rm → symlink; where the link leads: b added; the time files get changed; the way it copies changed",
            symlink("/a", "b", None, None),
        ),
    ] {
        rows.row(case, Both, said, |case| *case.action() = kind);
    }
}

/// Of the files of a context: names, types, modes, link targets and bytes, and not whose they are.
#[test]
fn what_of_a_context_counts() {
    let mut rows = Rows::new();
    let make = |dir: &str, file: &str, target: &str| {
        let dir = rows.dir(dir);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(file), "x").unwrap();
        std::os::unix::fs::symlink(target, dir.join("link")).unwrap();
        dir
    };
    make("as-it-was", "file", "file");
    make("renamed", "other", "file");
    make("relinked", "file", "other");
    let retyped = make("retyped", "other", "file");
    fs::rename(retyped.join("other"), retyped.join("x")).unwrap();
    fs::create_dir(retyped.join("file")).unwrap();
    fs::rename(retyped.join("x"), retyped.join("file/x")).unwrap();
    let theirs = make("theirs", "file", "file").join("file");
    let mut case = copy();
    case.context = "as-it-was";
    case.copy().src = "/".to_owned();
    for (context, said) in [
        (
            "renamed",
            "2 of 3 files changed: file (removed), other (added)",
        ),
        ("relinked", "1 of 2 files changed: link (link target)"),
        (
            "retyped",
            "2 of 3 files changed: file (removed), file/x (added)",
        ),
    ] {
        rows.row(&case, Both, said, |case| case.context = context);
    }
    // Root can give it away; anybody else's is not root's as it is.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&theirs, Some(7), Some(7)).unwrap();
    }
    let found = fs::metadata(&theirs).unwrap();
    assert_ne!(std::os::unix::fs::MetadataExt::uid(&found), 0);
    rows.row(&case, Neither, "", |case| case.context = "theirs");
}
