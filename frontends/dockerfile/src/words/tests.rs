//! Against BuildKit's shell package: `testdata/dockerfile/words.jsonl`, with the variables of [`env`], and `heredoc-words.jsonl`
//! hold its results as `[escape character, word, result or null for an error, words]`.

use super::*;

mod laws;

type Case = (char, String, Option<String>, Vec<String>);

fn env() -> Env {
    let mut env = Env::default();
    for (name, value) in [
        ("V", "val"),
        ("E", ""),
        ("F", "path/to/file.tar.gz"),
        ("S", "two words"),
        ("G", "abaaba"),
        ("V_1", "under"),
    ] {
        env.set(name, value);
    }
    env
}

/// Compares what `shell`, with the escape character of each case, makes of the cases.
fn check(cases: &str, shell: Shell, env: &Env) {
    let mut wrong = Vec::new();
    for line in cases.lines() {
        let (escape, word, want, words): Case = serde_json::from_str(line).unwrap();
        let got = Shell { escape, ..shell }.split(&word, env);
        let same = match (&got, &want) {
            (Ok(got), Some(want)) => got.text == *want && got.words == words,
            (got, want) => got.is_err() && want.is_none(),
        };
        if !same {
            wrong.push(format!(
                "{escape} {word}: want {want:?} {words:?}, got {got:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn words_are_those_of_buildkit() {
    let cases = include_str!("../../../../testdata/dockerfile/words.jsonl");
    check(cases, Shell::new('\\'), &env());
}

/// Read as the lexer reads a line to find here-documents: all as it is written, no variable set.
#[test]
fn words_of_lines_with_heredocs_are_those_of_buildkit() {
    let cases = include_str!("../../../../testdata/dockerfile/heredoc-words.jsonl");
    let shell = Shell {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Shell::new('\\')
    };
    check(cases, shell, &Env::default());
}

#[test]
fn variables_that_were_looked_up_are_known() {
    let expansion = Shell::new('\\').split("$V ${U:-$W} '$X'", &env()).unwrap();
    assert!(expansion.used.iter().eq(["V"]));
    assert!(expansion.missing.iter().eq(["U", "W"]));
}

#[test]
fn unset_variables_can_be_kept() {
    let shell = Shell {
        keep_unset: true,
        ..Shell::new('\\')
    };
    for word in ["$U", "${U}", "${U:-w}", "${U#p}", "${U/a/b}"] {
        assert_eq!(shell.expand(word, &env()).unwrap().text, word);
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = "${U:-".repeat(100_000);
    assert_eq!(
        Shell::new('\\').expand(&deep, &env()),
        Err(WordError::Depth)
    );
}
