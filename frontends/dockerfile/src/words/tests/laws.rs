//! What holds for all words, whatever is in them and in the variables.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// What words are made of, also such as are malformed.
const PIECES: [&str; 48] = [
    "$", "${", "}", "{", "$V", "$E", "$U", "${V}", "${E:-", "${U:-", "${V+", "${U:?", "${V#",
    "${V##", "${V%", "${V%%", "${V/", "${V//", "${:", "${U:=", ":", "/", "*", "?", "#", "%", "-",
    "\\", "`", "'", "\"", "''", "\"\"", " ", "\t", "\n", "a", "b", "é", "\u{2003}", "\u{feff}",
    "<", "<<", "<< E", "1", "@", "[", "\0",
];

const ESCAPES: [char; 2] = ['\\', '`'];

/// `V` is set, `E` is empty, `U` is unset.
fn env(value: &str) -> Env {
    let mut env = Env::default();
    env.set("V", value);
    env.set("E", "");
    env
}

fn expand(word: &str, env: &Env) -> String {
    match Shell::new('\\').expand(word, env) {
        Ok(expansion) => expansion.text,
        Err(error) => panic!("{word}: {error}"),
    }
}

fn split(word: &str, env: &Env) -> Vec<String> {
    Shell::new('\\').split(word, env).unwrap().words
}

fn blanks_split(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Any words.
fn words() -> impl Strategy<Value = String> {
    let pieces = vec(select(PIECES.as_slice()), 0..12).prop_map(|pieces| pieces.concat());
    prop_oneof![4 => pieces, 1 => any::<String>()]
}

/// Well-formed words without patterns, that may stand in braces; the escape character is `\`.
fn well_formed() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[a-c .:/é-]{0,3}",
        "'[a-c $\"{}\\\\]{0,3}'",
        select(
            &[
                "$V", "$E", "$U", "${V}", "${U}", "\\}", "\\$", "\\'", "\\\\", "\\a", "$."
            ][..]
        )
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let many = vec(inner, 0..4).prop_map(|words| words.concat());
        let names = select(&["V", "E", "U"][..]);
        let ops = select(&[":-", "-", ":+", "+"][..]);
        prop_oneof![
            many.clone(),
            (names, ops, many.clone())
                .prop_map(|(name, op, word)| format!("${{{name}{op}{word}}}")),
            // An expansion in quotes; what is quoted otherwise would end them.
            many.prop_map(|word| format!("\"${{U:-{word}}}\"")),
        ]
    })
}

fn shells() -> impl Strategy<Value = Shell> {
    (select(ESCAPES.as_slice()), any::<[bool; 4]>()).prop_map(|(escape, modes)| {
        let [raw_quotes, raw_escapes, skip_quotes, keep_unset] = modes;
        Shell {
            escape,
            raw_quotes,
            raw_escapes,
            skip_quotes,
            keep_unset,
        }
    })
}

/// Whether the pattern matches the whole value, by trying everything.
fn fits(pattern: &[&str], value: &[char]) -> bool {
    match (pattern.split_first(), value.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((&"*", more)), rest) => {
            fits(more, value) || rest.is_some_and(|(c, left)| *c != '\n' && fits(pattern, left))
        }
        (Some(_), None) => false,
        (Some((&"?", more)), Some((c, left))) => *c != '\n' && fits(more, left),
        (Some((one, more)), Some((c, left))) => {
            one.trim_start_matches('\\').starts_with(*c) && fits(more, left)
                || *one == "\\\\" && *c == '\\' && fits(more, left)
        }
    }
}

/// The first and the last of the values that the pattern fits.
fn first_and_last<'a>(
    pattern: &[&str],
    values: impl Iterator<Item = &'a [char]>,
) -> Option<[&'a [char]; 2]> {
    let mut fitting = values.filter(|value| fits(pattern, value));
    let first = fitting.next()?;
    Some([first, fitting.last().unwrap_or(first)])
}

fn patterns() -> impl Strategy<Value = Vec<&'static str>> {
    let parts = ["a", "b", "é", ".", "[", "*", "?", "\\*", "\\?", "\\\\"];
    vec(select(parts.to_vec()), 0..5)
}

fn values() -> impl Strategy<Value = String> {
    "[ab]{0,6}|[abé.*?\\[\\\\\n]{0,6}"
}

proptest! {
    #[test]
    fn any_word_expands_or_is_refused(shell in shells(), word in words(), value in any::<String>()) {
        let _ = shell.split(&word, &env(&value)).is_ok();
    }

    #[test]
    fn splitting_does_not_change_the_text(shell in shells(), word in words(), value in words()) {
        let env = env(&value);
        let (one, many) = (shell.expand(&word, &env), shell.split(&word, &env));
        prop_assert_eq!(one.map(|e| (e.text, e.used, e.missing)), many.map(|e| (e.text, e.used, e.missing)));
    }

    #[test]
    fn text_without_specials_stays(word in "[^$'\"\\\\`<\u{feff}]*", escape in select(ESCAPES.as_slice())) {
        let expansion = Shell::new(escape).split(&word, &env("v")).unwrap();
        prop_assert_eq!(&expansion.text, &word);
        prop_assert_eq!(expansion.words, blanks_split(&word));
        prop_assert!(expansion.used.is_empty() && expansion.missing.is_empty());
    }

    #[test]
    fn single_quotes_protect(text in "[^']*", escape in select(ESCAPES.as_slice())) {
        let expansion = Shell::new(escape).split(&format!("'{text}'"), &env("v")).unwrap();
        prop_assert_eq!(&expansion.text, &text);
        let whole = Some(text).filter(|text| !text.is_empty());
        prop_assert!(expansion.words.into_iter().eq(whole));
    }

    #[test]
    fn double_quotes_protect_all_but_variables(text in "[^\"$\\\\]*") {
        let quoted = format!("\"{text}\"");
        prop_assert_eq!(expand(&quoted, &env("v")), text);
    }

    #[test]
    fn an_escaped_character_is_that_character(c in any::<char>(), escape in select(ESCAPES.as_slice())) {
        let expansion = Shell::new(escape).split(&format!("{escape}{c}"), &env("v")).unwrap();
        prop_assert_eq!(&expansion.text, &c.to_string());
        prop_assert_eq!(expansion.words, [c.to_string()]);
    }

    #[test]
    fn values_are_not_expanded_again(value in prop_oneof![words(), any::<String>()]) {
        let env = env(&value);
        for word in ["$V", "${V}", "\"$V\"", "${U:-$V}", "${V-x}${V:+}", "${V#}", "${V%%}", "${U-\"${V}\"}"] {
            prop_assert_eq!(&expand(word, &env), &value, "{}", word);
        }
        prop_assert_eq!(split("$V", &env), blanks_split(&value));
        let whole = Some(value).filter(|value| !value.is_empty());
        prop_assert!(split("\"$V\"", &env).into_iter().eq(whole));
    }

    #[test]
    fn words_side_by_side_are_their_values_side_by_side(a in words(), b in words(), value in words()) {
        let (env, shell) = (env(&value), Shell::new('\\'));
        let b = b.trim_start_matches('\u{feff}');
        if let (Ok(left), Ok(right), false) = (shell.expand(&a, &env), shell.expand(b, &env), a.ends_with('\\')) {
            let both = shell.expand(&format!("{a}''{b}"), &env).unwrap();
            prop_assert_eq!(both.text, left.text + &right.text);
            prop_assert_eq!(both.used, &left.used | &right.used);
            prop_assert_eq!(both.missing, &left.missing | &right.missing);
        }
    }

    #[test]
    fn conditionals_go_by_cases(word in well_formed(), value in "[ -~]{1,5}") {
        let env = env(&value);
        let word_value = expand(&word, &env);
        let (word_value, value) = (word_value.as_str(), value.as_str());
        // Operator, then what it gives for a variable that is set, that is empty and that is not set.
        for (op, cases) in [
            (":-", [value, word_value, word_value]),
            ("-", [value, "", word_value]),
            (":+", [word_value, "", ""]),
            ("+", [word_value, word_value, ""]),
        ] {
            for (name, want) in ["V", "E", "U"].iter().zip(cases) {
                let conditional = format!("${{{name}{op}{word}}}");
                prop_assert_eq!(expand(&conditional, &env), want, "{}", conditional);
            }
        }
        for (op, passes) in [(":?", [true, false, false]), ("?", [true, true, false])] {
            for ((name, passes), want) in ["V", "E", "U"].iter().zip(passes).zip([value, "", ""]) {
                let got = Shell::new('\\').expand(&format!("${{{name}{op}{word}}}"), &env);
                match got {
                    Ok(got) => prop_assert!(passes && got.text == want),
                    Err(WordError::Required { name: named, message }) => {
                        prop_assert!(!passes && named == *name);
                        prop_assert!(message == word_value || word_value.is_empty());
                    }
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
        }
    }

    #[test]
    fn trimming_takes_the_shortest_or_the_longest_match(pattern in patterns(), value in values()) {
        let (env, text) = (env(&value), pattern.concat());
        let chars: Vec<char> = value.chars().collect();
        let starts = first_and_last(&pattern, (0..=chars.len()).map(|end| &chars[..end]));
        let ends = first_and_last(&pattern, (0..=chars.len()).rev().map(|start| &chars[start..]));
        // A second `#` or `%` cannot be of the pattern: there is none in it.
        for (op, matched, longest) in [("#", starts, 0), ("##", starts, 1), ("%", ends, 0), ("%%", ends, 1)] {
            let length = matched.map_or(0, |matched| matched[longest].len());
            let left = match op.starts_with('#') {
                true => &chars[length..],
                false => &chars[..chars.len() - length],
            };
            let want: String = left.iter().collect();
            let word = format!("${{V{op}{text}}}");
            prop_assert_eq!(expand(&word, &env), want, "{} of {:?}", word, value);
        }
    }

    #[test]
    fn replacing_takes_the_leftmost_longest_matches(
        pattern in patterns(), value in values(), by in "[xy*?]{0,2}",
    ) {
        let env = env(&value);
        let chars: Vec<char> = value.chars().collect();
        let (mut first, mut all) = (None, String::new());
        let (mut at, mut end_of_last) = (0, None);
        while at <= chars.len() {
            let end = (at..=chars.len()).rev().find(|end| fits(&pattern, &chars[at..*end]));
            if let Some(end) = end.filter(|end| *end > at || end_of_last != Some(at)) {
                let (before, after) = (chars[..at].iter(), chars[end..].iter());
                first.get_or_insert_with(|| before.collect::<String>() + &by + &after.collect::<String>());
                all.push_str(&by);
                end_of_last = Some(end);
                if end > at {
                    at = end;
                    continue;
                }
            }
            all.extend(chars.get(at));
            at += 1;
        }
        let text = pattern.concat();
        let one = format!("${{V/{text}/{by}}}");
        // `${V//…}` is not an empty pattern.
        if !text.is_empty() {
            prop_assert_eq!(expand(&one, &env), first.unwrap_or(value), "{} of {:?}", one, chars);
        }
        let each = format!("${{V//{text}/{by}}}");
        prop_assert_eq!(expand(&each, &env), all, "{} of {:?}", each, chars);
    }

    #[test]
    fn the_variables_reported_are_those_that_count(shell in shells(), word in words(), value in words()) {
        let full = env(&value);
        let Ok(expansion) = shell.split(&word, &full) else {
            return Ok(());
        };
        prop_assert!(expansion.used.iter().all(|name| full.get(name).is_some()));
        prop_assert!(expansion.missing.iter().all(|name| full.get(name).is_none()));
        let mut bare = Env::default();
        for name in &expansion.used {
            bare.set(name, full.get(name).unwrap());
        }
        let again = shell.split(&word, &bare);
        prop_assert_eq!(again.as_ref(), Ok(&expansion));
        for name in &expansion.used {
            let mut without = Env::default();
            for other in expansion.used.iter().filter(|other| *other != name) {
                without.set(other, full.get(other).unwrap());
            }
            if let Ok(without) = shell.split(&word, &without) {
                prop_assert!(without.missing.contains(name), "{} was not looked at", name);
            }
        }
    }

    #[test]
    fn the_escape_characters_can_change_places(word in well_formed(), value in "[a-c\\\\`$]{0,4}") {
        let swap = |text: &str| -> String {
            let other = |c| match c {
                '\\' => '`',
                '`' => '\\',
                c => c,
            };
            text.chars().map(other).collect()
        };
        let plain = Shell::new('\\').split(&word, &env(&value)).unwrap();
        let swapped = Shell::new('`').split(&swap(&word), &env(&swap(&value))).unwrap();
        prop_assert_eq!(swap(&plain.text), swapped.text);
        prop_assert_eq!(plain.words.iter().map(|word| swap(word)).collect::<Vec<_>>(), swapped.words);
    }

    #[test]
    fn what_is_not_set_can_stay_as_it_is(word in "([ab ./-]|\\$[UW]|\\$\\{U(:?[-+?][ab]*)?\\}|\\$\\{W(##?|%%?)[ab*]*\\}){0,6}") {
        let shell = Shell { keep_unset: true, ..Shell::new('\\') };
        prop_assert_eq!(shell.expand(&word, &env("v")).unwrap().text, word);
    }
}
