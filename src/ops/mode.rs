//! `--chmod`: octal and symbolic mode changes.

use rbuild_llb::op::ModeChange;

/// A mode that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode: wanted octal such as `755`, or symbolic such as `u=rwX,go=rX`")]
pub struct ModeError(pub String);

/// Applies `change` to the 12 mode bits of a file or directory.
///
/// Symbolic modes follow chmod(1p), EXTENDED DESCRIPTION, with a umask of 0: `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`,
/// separated by commas. `X` is execute for directories and for files that anyone may execute already.
///
/// # Errors
/// If the text is no mode.
pub fn apply(change: &ModeChange, mode: u32, is_dir: bool) -> Result<u32, ModeError> {
    match change {
        ModeChange::Octal(bits) => Ok(bits & 0o7777),
        ModeChange::Symbolic(text) => text
            .split(',')
            .try_fold(mode & 0o7777, |mode, clause| symbolic(clause, mode, is_dir))
            .ok_or_else(|| ModeError(text.clone())),
    }
}

/// One clause such as `go+rX-w`.
fn symbolic(clause: &str, mut mode: u32, is_dir: bool) -> Option<u32> {
    let actions = clause.find(['+', '-', '='])?;
    let (who, mut rest) = clause.split_at(actions);
    let mut classes = 0u32; // one bit each: other 1, group 2, user 4
    for c in who.chars() {
        classes |= match c {
            'u' => 4,
            'g' => 2,
            'o' => 1,
            'a' => 7,
            _ => return None,
        };
    }
    if who.is_empty() {
        classes = 7;
    }
    while let Some(op) = rest.chars().next() {
        let (perms, next) = {
            let tail = &rest[1..];
            tail.split_at(tail.find(['+', '-', '=']).unwrap_or(tail.len()))
        };
        rest = next;
        let mask = (0..3)
            .filter(|class| classes & (1 << class) != 0)
            .fold(0, |mask, class| mask | 0o7 << (3 * class))
            | if classes & 4 != 0 { 0o4000 } else { 0 }
            | if classes & 2 != 0 { 0o2000 } else { 0 }
            | if classes & 1 != 0 { 0o1000 } else { 0 };
        let bits = bits(perms, mode, is_dir)? & mask;
        mode = match op {
            '+' => mode | bits,
            '-' => mode & !bits,
            // chmod(1) keeps the set-id bits of directories unless they are named.
            '=' if is_dir => (mode & !(mask & 0o1777)) | bits,
            '=' => (mode & !mask) | bits,
            _ => return None,
        };
    }
    Some(mode)
}

/// The bits a permission list stands for, for all classes at once.
fn bits(perms: &str, mode: u32, is_dir: bool) -> Option<u32> {
    let copied = match perms {
        "u" => Some(mode >> 6 & 7),
        "g" => Some(mode >> 3 & 7),
        "o" => Some(mode & 7),
        _ => None,
    };
    if let Some(copied) = copied {
        return Some(copied * 0o111);
    }
    perms.chars().try_fold(0, |bits, c| {
        Some(
            bits | match c {
                'r' => 0o444,
                'w' => 0o222,
                'x' => 0o111,
                'X' if is_dir || mode & 0o111 != 0 => 0o111,
                'X' => 0,
                's' => 0o6000,
                't' => 0o1000,
                _ => return None,
            },
        )
    })
}

#[cfg(test)]
mod t {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// Every case is put to chmod(1) as well.
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
            "o+t",
            "+t",
            "=rw",
            "a-x+X",
        ];
        for (path, is_dir) in [(&file, false), (&folder, true)] {
            for start in [0o644u32, 0o755, 0o600, 0o4755, 0o2750, 0o1777] {
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
