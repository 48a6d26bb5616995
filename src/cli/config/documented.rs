//! Whether `docs/config.md` has all that `config.toml` may hold.

use super::Config;
use super::parse;

/// What a table may hold is what is wanted in place of a key that no table has.
#[test]
fn every_key_is_documented() {
    let page = include_str!("../../../docs/config.md");
    let unknown = |table: &str| {
        let text = format!("{table}no-such-key = 1\n");
        let refused = parse::<Config>("config.toml", text).unwrap_err();
        refused.hints.concat()
    };
    let pair = "[[registry.a.keypair]]\n";
    for (table, most) in [
        ("", "registry"),
        ("[gc]\n", "keep-duration"),
        ("[registry.a]\n", "mirrors"),
        (pair, "cert"),
    ] {
        let wanted = unknown(table);
        let keys: Vec<&str> = wanted.split('`').skip(1).step_by(2).collect();
        assert!(keys.contains(&most), "{wanted}");
        for key in keys {
            let told = [
                format!("`{key}`"),
                format!("`[{key}]`"),
                format!("`[{key}.\"HOST\"]`"),
                format!("{key}]]`"),
                format!("\".{key}]]"),
            ];
            assert!(
                told.iter().any(|told| page.contains(told)),
                "docs/config.md says nothing of `{key}`"
            );
        }
    }
}
