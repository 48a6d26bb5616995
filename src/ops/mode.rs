//! `--chmod`: octal and symbolic mode changes.

use rbuild_llb::op::ModeChange;

/// A mode that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode: wanted octal such as `755`, or symbolic such as `u=rwX,go=rX`")]
pub struct ModeError(pub String);

/// Applies `change` to the 12 mode bits of a file or directory.
///
/// Symbolic modes are BSD's, as BuildKit has them, with a umask of 0: `[ugoa]*([-+=][rwxXstugo]*)+`, separated by
/// commas. `X` is execute for directories and for files that anyone might execute before. Unlike GNU's chmod, `=`
/// leaves the sticky bit alone unless `t` is named, and takes set-id bits from directories too.
///
/// # Errors
/// If the text is no mode.
pub fn apply(change: &ModeChange, mode: u32, is_dir: bool) -> Result<u32, ModeError> {
    match change {
        ModeChange::Octal(bits) => Ok(bits & 0o7777),
        ModeChange::Symbolic(text) => text
            .split(',')
            .try_fold(mode & 0o7777, |now, clause| {
                symbolic(clause, now, mode, is_dir)
            })
            .ok_or_else(|| ModeError(text.clone())),
    }
}

/// The bits that a class owns: its three, and for user and group the set-id bit. The sticky bit is nobody's.
const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o0007;

/// One clause such as `go+rX-w`, applied to `mode`; `X` looks at what the mode was to begin with.
fn symbolic(clause: &str, mut mode: u32, before: u32, is_dir: bool) -> Option<u32> {
    let actions = clause.find(['+', '-', '='])?;
    let (who, mut rest) = clause.split_at(actions);
    let mut named = 0;
    for c in who.chars() {
        named |= match c {
            'u' => USER,
            'g' => GROUP,
            'o' => OTHER,
            'a' => USER | GROUP | OTHER,
            _ => return None,
        };
    }
    let everyone = if named == 0 {
        USER | GROUP | OTHER
    } else {
        named
    };
    while let Some(op) = rest.chars().next() {
        let tail = &rest[1..];
        let (perms, next) = tail.split_at(tail.find(['+', '-', '=']).unwrap_or(tail.len()));
        rest = next;
        let mut mask = everyone;
        // `o+t` and `o+s` are nothing; else the sticky bit is changed when it is named.
        let special = named == 0 || named & !OTHER != 0;
        if special && perms.contains('t') {
            mask |= 0o1000;
        }
        let mut bits = 0;
        for c in perms.chars() {
            bits |= match c {
                'r' => 0o444,
                'w' => 0o222,
                'x' => 0o111,
                'X' if op == '-' || is_dir || before & 0o111 != 0 => 0o111,
                'X' => 0,
                's' if special => 0o6000,
                't' if special => 0o1000,
                's' | 't' => 0,
                'u' => (mode >> 6 & 7) * 0o111,
                'g' => (mode >> 3 & 7) * 0o111,
                'o' => (mode & 7) * 0o111,
                _ => return None,
            };
        }
        mode = match op {
            '+' => mode | bits & mask,
            '-' => mode & !(bits & mask),
            '=' => mode & !mask | bits & mask,
            _ => return None,
        };
    }
    Some(mode)
}

#[cfg(test)]
mod t {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// Every case is put to chmod(1) as well. Where the two differ (special bits that are there already), the corpus
    /// of Dockerfiles has what BuildKit does.
    #[test]
    fn symbolic_modes_are_those_of_chmod() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let folder = dir.path().join("dir");
        std::fs::write(&file, "").unwrap();
        std::fs::create_dir(&folder).unwrap();
        let texts = [
            "u=rwX,go=rX",
            "a+x",
            "+x",
            "go-w",
            "u+s",
            "g+s",
            "a+t",
            "u=g",
            "o=u",
            "g=o",
            "u=rw,g=r,o=",
            "ug+rw-x",
            "a=",
            "u=rwxs",
            "+t",
            "=rw",
        ];
        for (path, is_dir) in [(&file, false), (&folder, true)] {
            for start in [0o644u32, 0o755, 0o600] {
                for text in texts {
                    std::fs::set_permissions(path, std::fs::Permissions::from_mode(start)).unwrap();
                    let status = std::process::Command::new("sh")
                        .args(["-c", "umask 0; exec chmod \"$1\" \"$2\"", "sh", text])
                        .arg(path)
                        .status()
                        .unwrap();
                    assert!(status.success(), "{text}");
                    let want = std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
                    let got = apply(&ModeChange::Symbolic(text.into()), start, is_dir).unwrap();
                    assert_eq!(
                        format!("{got:o}"),
                        format!("{want:o}"),
                        "{text} on {start:o}, directory: {is_dir}"
                    );
                }
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "u", "z+x", "u+q", "u=rw,", "755x"] {
            assert!(
                apply(&ModeChange::Symbolic(text.into()), 0o644, false).is_err(),
                "{text}"
            );
        }
    }
}
