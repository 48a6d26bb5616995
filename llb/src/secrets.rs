//! Which variables hold secrets, as far as their names tell. There is no other place that decides it: what hides a value in a
//! record, takes it out of a text or warns of it asks here.

use std::borrow::Cow;

/// Whether a variable's name says that its value must not be stored or shown: [`holds_secret`], and what it passes over.
pub fn looks_secret(name: &str) -> bool {
    /// Wherever in the name. A path to a secret is taken for one, too.
    const WORDS: [&str; 9] = [
        "secret",
        "token",
        "password",
        "passwd",
        "passphrase",
        "credential",
        "private",
        "api_key",
        "apikey",
    ];
    let has = |word: &&str| {
        let mut parts = name.as_bytes().windows(word.len());
        parts.any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
    };
    WORDS.iter().any(has) || holds_secret(name)
}

/// Whether BuildKit's lint says that a variable is for sensitive data: one of the words between the underscores of its name is
/// in its list, and none says that the value is harmless.
pub fn holds_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    // A letter of another script may have one of ASCII for its lower case, as the Kelvin sign has.
    let name = match name.is_ascii() {
        true => Cow::Borrowed(name),
        false => Cow::Owned(name.to_lowercase()),
    };
    let is = |part: &[u8], word: &&str| part.eq_ignore_ascii_case(word.as_bytes());
    let has = |list: &[&str]| {
        let mut parts = name.as_bytes().split(|byte| *byte == b'_');
        parts.any(|part| list.iter().any(|word| is(part, word)))
    };
    has(&SECRET) && !has(&HARMLESS)
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn names_tell() {
        for name in [
            "API_TOKEN",
            "api_token",
            "NPMTOKEN",
            "DB_PASSPHRASE",
            "SSH_PRIVATE",
            "MY_APIKEY2",
            "API_KEY_OLD",
            "TOKEN_FILE",
            // What lint alone used to know.
            "DEPLOY_KEY",
            "SIGNING_KEY",
            "KEY",
            "NPM_AUTH",
            "auth",
            "DB_PWORD",
            "DEPLOY_\u{212a}EY",
        ] {
            assert!(looks_secret(name), "{name}");
        }
        for name in [
            "",
            "VERSION",
            "MONKEY",
            "KEYBOARD",
            "AUTHOR",
            "PUBLIC_KEY",
            "KEY_FILE",
            "AUTH_VERSION",
            "PATH",
        ] {
            assert!(!looks_secret(name), "{name}");
        }
    }

    /// Whatever is warned of is hidden, too.
    #[test]
    fn lint_knows_nothing_more() {
        for name in ["TOKEN", "AUTH", "GPG_KEY", "PWORD", "CREDENTIALS"] {
            assert!(holds_secret(name) && looks_secret(name), "{name}");
        }
        assert!(!holds_secret("NPMTOKEN") && !holds_secret("API_TOKEN_FILE"));
    }
}
