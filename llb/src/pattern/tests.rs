//! What is expected here was asked of moby's `patternmatcher` and `ignorefile` and of Go's `filepath.Match`.

use super::*;

mod fuzz;

fn list(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(|&text| text.to_owned()).collect()
}

/// What a walk that carries its matches along says of `path`.
fn walked(set: &PatternSet, path: &str) -> bool {
    let mut above = None;
    for (at, _) in path.match_indices('/') {
        above = Some(set.enter(&path[..at], above.as_ref()).1);
    }
    set.matches_below(path, above.as_ref())
}

#[test]
fn pattern_lists() {
    #[rustfmt::skip]
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        // patterns, matched, not matched
        (&["*.md", "!README*"], &["a.md"], &["README.md", "sub/a.md", "md"]),
        (&["docs", "!docs/keep"], &["docs", "docs/x"], &["docs/keep", "docs/keep/y", "docs2"]),
        (&["!docs/keep", "docs"], &["docs/keep", "docs/keep/y"], &["keep"]),
        (&["**/tmp"], &["tmp", "s/tmp", "s/tmp/x"], &["tmpx", "xtmp", "s/xtmp"]),
        (&["**tmp"], &["tmp", "xtmp", "s/xtmp"], &["tmpx"]),
        (&["src/**/gen"], &["src/gen", "src/a/gen", "src/a/b/gen", "src/a/gen/x"], &["gen", "src/xgen"]),
        (&["build/**"], &["build/x", "build/x/y"], &["build", "buildx"]),
        (&["build**"], &["build", "buildx", "build/x"], &["abuild"]),
        (&["**"], &["a", "a/b", ".x"], &[]),
        (&["**", "!**/*.go"], &["a.c", "d/a.c"], &["a.go", "d/a.go"]),
        (&["a?c", "[d-f]x", "[^a-y]"], &["abc", "aéc", "ex", "z"], &["a/c", "ac", "gx", "y"]),
        (&["./a//b/../c/", " d "], &["a/c", "a/c/x", "d"], &["a/b", "a"]),
        (&["/a"], &[], &["a"]),
        (&["foo\\*", "\\!x"], &["foo*", "!x"], &["foox", "x"]),
        (&["a.c*", "(x)*", "$y*"], &["a.c", "(x)1", "$y"], &["abc", "x"]),
        // A pattern is tried only where it could change the outcome, and what was not tried is not inherited.
        (&["*/x", "!y"], &["y/x"], &["y"]),
        // Translation to `regexp` without regard to where it is.
        (&["\\d?"], &["7a"], &["da"]),
        (&["x[*]"], &["x[]", "x^]", "x[/]"], &["x*", "x["]),
        (&["^c*"], &["c", "ca"], &["^ca"]),
        (&["a|b*"], &["ab", "azzz", "zzb", "zb/x"], &["zz"]),
        (&["q{2}*"], &["qq", "qqq"], &["q", "q{2}"]),
        (&["{y,z}.?"], &["{y,z}.1"], &["y.1"]),
        (&["[[:digit:]]x", "[\\w]y"], &["1x", "_y"], &["dx", ".y"]),
        (&["\\x41*", "\\101b"], &["A", "Ab"], &["x41"]),
        (&["a\\b*"], &["a"], &["ab", "bb"]),
        (&["ab\\[{0,3}"], &["ab", "ab[["], &["ab[[[[", "a"]),
        (&["*.jpe{0,1}g"], &["a.jpg", "a.jpeg"], &["a.jpeeg"]),
        (&["*.jpg{0,1}"], &["a.jp", "a.jpg"], &["a.jpgg"]),
        // At the start a count is one of the anchor there, and a backslash at the end escapes the one there.
        (&["{2}b*"], &["b", "bb"], &["ab", "x/b"]),
        (&["{0,2}b*"], &["b", "bb", "ab", "x/b"], &["a"]),
        (&["b*\\"], &["b$", "ba$x", "ba$/x"], &["b", "ba"]),
        (&["b*|c\\"], &["b", "xc$", "b$x"], &["c"]),
        (&["\u{feff}a*"], &["a", "ab"], &["\u{feff}a"]),
        (&["\u{feff}a"], &["\u{feff}a"], &["a"]),
        (&["\u{feff}a/**"], &["\u{feff}a/b"], &["a/b"]),
        (&["\u{feff}**/a"], &[], &["a", "b/a", "\u{feff}a"]),
        (&["\u{feff}**/a*"], &["a", "b/a"], &[]),
    ];
    for (patterns, matched, not) in cases {
        let set = PatternSet::new(&list(patterns)).unwrap();
        for (paths, expected) in [(matched, true), (not, false)] {
            for path in *paths {
                assert_eq!(walked(&set, path), expected, "{patterns:?} on {path}");
            }
        }
    }
}

#[test]
fn without_a_walk_parents_are_tried_in_full() {
    let set = PatternSet::new(&list(&["*/x", "!y"])).unwrap();
    assert!(!set.matches("y/x"), "unlike in a walk");
    assert!(set.matches("z/x"));
    assert!(set.matches("z/x/deep"));
}

#[test]
fn malformed_patterns() {
    for bad in [
        "[", "[a", "[]", "[^]", "a[b-]", "a\\", "[z-a]", "\\1", "\\p", "*{2}", "a{1001}*",
        "[[:no:]]", "a*|{2}", "{2}{3}b*", "{1001}b*",
    ] {
        let error = PatternSet::new(&list(&["fine", bad])).unwrap_err();
        assert!(error.to_string().contains(bad), "{error}");
    }
    assert_eq!(
        PatternSet::new(&list(&["!"])).unwrap_err(),
        PatternError::EmptyException
    );
    // Go's check stops where `.` cannot match any more.
    assert!(PatternSet::new(&list(&["b*[a-]"])).unwrap().matches("b-"));
    assert!(PatternSet::new(&list(&["", "  "])).unwrap().is_empty());
}

#[test]
fn matching_is_linear() {
    let set = PatternSet::new(&list(&["*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b/c"])).unwrap();
    assert!(!set.matches(&"a".repeat(5000)));
    let long = PatternSet::new(&[format!("{}*", "x".repeat(1000))]).unwrap();
    assert!(long.matches(&"x".repeat(1001)));
}

#[test]
fn selections_prune_what_cannot_match() {
    type Patterns = &'static [&'static str];
    #[rustfmt::skip]
    let cases: &[(Patterns, Patterns, &str, bool, bool)] = &[
        // include, exclude, directory, selected, descend
        (&[], &[], "a", true, true),
        (&[], &["node_modules"], "node_modules", false, false),
        (&[], &["node_modules", "!src/**/*.js"], "node_modules", false, false),
        (&[], &["*", "!src/**/*.js"], "src", false, true),
        (&[], &["*", "!src/**/*.js"], "srcs", false, false),
        (&[], &["**", "!**/*.js"], "lib", false, true),
        (&[], &["**", "!**/x.js"], "lib", false, true),
        (&[], &["**", "!lib"], "lib", true, true),
        (&[], &["!lib/keep", "lib"], "lib", false, false),
        (&[], &["lib", "!lib/keep"], "lib", false, true),
        (&["app/src"], &[], "app", false, true),
        (&["app/src"], &[], "ap", false, false),
        (&["app/src"], &[], "apps", false, false),
        (&["/app"], &["/app/x"], "app", true, true),
        (&["app"], &[], "other", false, false),
        (&["*.py"], &[], "other", false, true),
        (&["app", "!app/x"], &[], "app", true, true),
        (&["."], &[], "anything", true, true),
    ];
    for (include, exclude, dir, selected, descend) in cases {
        let selection = Selection::new(&list(include), &list(exclude)).unwrap();
        let got = selection.dir(dir, &Above::default());
        assert_eq!(
            (got.selected, got.descend),
            (*selected, *descend),
            "{include:?} {exclude:?} {dir}"
        );
    }
    let selection = Selection::new(&list(&["app"]), &list(&["**/*.pyc"])).unwrap();
    let app = selection.dir("app", &Above::default());
    assert!(selection.file("app/x.py", &app.above));
    assert!(!selection.file("app/x.pyc", &app.above));
    assert!(!selection.file("x.py", &Above::default()));
    assert!(selection.selects("app/deep/x") && !selection.selects("app/deep/x.pyc"));
}

/// Leaving out directories must not change what is selected.
#[test]
fn pruning_changes_nothing() {
    let words = [
        "a", "b", "a/b", "*", "**", "?", "a*", "**/b", "a/**", "*/b", "b/a", "[ab]/b",
    ];
    let names = ["a", "b", "c", "ab"];
    let mut seed = 1_u32;
    let mut random = |n: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) as usize % n
    };
    for _ in 0..3000 {
        let mut patterns = |count| -> Vec<String> {
            let exception = |n| if n == 0 { "!" } else { "" };
            (0..count)
                .map(|_| format!("{}{}", exception(random(3)), words[random(words.len())]))
                .collect()
        };
        let (include, exclude) = (patterns(2), patterns(4));
        for include in [Vec::new(), include] {
            let selection = Selection::new(&include, &exclude).unwrap();
            for path in names
                .iter()
                .flat_map(|a| names.map(|b| names.map(|c| format!("{a}/{b}/{c}"))))
                .flatten()
            {
                let (mut above, mut pruned) = (Above::default(), false);
                for (at, _) in path.match_indices('/') {
                    let decision = selection.dir(&path[..at], &above);
                    above = decision.above;
                    pruned |= !decision.descend;
                }
                assert!(
                    !(pruned && selection.file(&path, &above)),
                    "{include:?} {exclude:?} {path}"
                );
            }
        }
    }
}

#[test]
fn wildcards() {
    #[rustfmt::skip]
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("*.py", &["a.py", ".py"], &["a.pyc", "d/a.py"]),
        ("a*b*c", &["abc", "axbxc", "abbc"], &["ab/c", "acb"]),
        ("src/*/x?", &["src/a/x1", "src//xé"], &["src/a/b/x1", "src/a/x", "src/a/x/"]),
        ("[a-c]\\*", &["b*"], &["bx", "d*"]),
        ("[^a]b", &["cb", "/b"], &["ab"]),
        ("**", &["", "ab"], &["a/b"]),
        ("", &[""], &["a"]),
        ("[\\]-a]", &["]", "a", "^"], &["b"]),
    ];
    for (pattern, matched, not) in cases {
        for (names, expected) in [(matched, true), (not, false)] {
            for name in *names {
                assert_eq!(wildcard(pattern, name), Ok(expected), "{pattern} on {name}");
            }
        }
    }
    for bad in ["[", "[a", "[]a]", "[-a]", "a\\", "[a-]"] {
        assert!(wildcard(bad, "a").is_err(), "{bad}");
    }
    assert_eq!(wildcard("b*[", "a"), Ok(false), "the rest is not looked at");
}

#[test]
fn ignore_files() {
    let text = "\u{feff}# comment\n #no comment\n/abs/\r\n./x//y/../z\n!  !odd\n! /re/in\n  trailing  \n\n\t\n**\n!\n/\n..";
    assert_eq!(
        read_ignore_file(text),
        [
            "#no comment",
            "abs",
            "x/z",
            "!!odd",
            "!re/in",
            "trailing",
            "**",
            "!",
            "/",
            ".."
        ]
    );
    assert_eq!(read_ignore_file("\u{feff}a\n\u{feff}b"), ["a", "\u{feff}b"]);
}
