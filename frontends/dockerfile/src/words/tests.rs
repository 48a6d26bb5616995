//! Against BuildKit's shell package: `testdata/dockerfile/words.jsonl` holds its results as
//! `[escape character, word, result or null for an error, words]`, with the variables of [`env`].

use super::*;

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

#[test]
fn words_are_those_of_buildkit() {
    let cases = include_str!("../../../../testdata/dockerfile/words.jsonl");
    let mut wrong = Vec::new();
    for line in cases.lines() {
        let (escape, word, want, words): Case = serde_json::from_str(line).unwrap();
        let got = Shell::new(escape).split(&word, &env());
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
