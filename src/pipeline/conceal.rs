//! What must not be shown, wherever it was put: values of variables and build arguments that look secret, user names and
//! passwords in URLs.

use std::collections::BTreeMap;

use rbuild_llb::Op;
use rbuild_llb::definition::PrunedDefinition;
use rbuild_llb::op::SourceOp;
use rbuild_llb::secrets::looks_secret;

/// Shorter values of variables that look secret are not looked for in other text: they would mutilate what means
/// something else.
const SHORTEST_CONCEALED: usize = 4;

/// Values that must not be shown, wherever they were put.
#[derive(Debug, Default)]
pub(super) struct Conceal {
    /// The longest first: of two that begin alike, the longer one is meant.
    values: Vec<String>,
}

impl Conceal {
    /// The values of variables and build arguments that look secret, and user names with passwords in URLs.
    pub(super) fn new<'a>(
        definition: &PrunedDefinition,
        build_args: impl IntoIterator<Item = &'a BTreeMap<String, String>>,
    ) -> Self {
        let mut values: Vec<String> = Vec::new();
        for (name, value) in build_args.into_iter().flatten() {
            if looks_secret(name) {
                values.push(value.clone());
            }
        }
        for (_, vertex) in definition.iter() {
            match &vertex.op {
                Op::Exec(exec) => {
                    for pair in exec.env.iter() {
                        if let Some((name, value)) = pair.split_once('=')
                            && looks_secret(name)
                        {
                            values.push(value.to_owned());
                        }
                    }
                }
                Op::Source(SourceOp::Http(http)) => values.extend(userinfo(&http.url)),
                _ => {}
            }
        }
        values.retain(|value| value.len() >= SHORTEST_CONCEALED);
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self { values }
    }

    /// The text without them.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in &self.values {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), "***");
            }
        }
        text
    }
}

/// `user:password` of `https://user:password@host/path`.
fn userinfo(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (userinfo, _) = authority.rsplit_once('@')?;
    Some(userinfo.to_owned())
}
