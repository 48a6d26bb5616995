//! RUN.

use std::ops::Range;

use super::Flags;
use super::Input;
use super::Result1;
use crate::ast::Mount;
use crate::ast::MountField;
use crate::ast::Run;
use crate::ast::Word;

impl Input<'_> {
    pub(super) fn run(&self, flags: &mut Flags<'_>, rest: &Range<usize>) -> Result1<Run> {
        let network = flags.string("network")?;
        let security = flags.string("security")?;
        let devices = flags.strings("device")?;
        let mounts = flags
            .strings("mount")?
            .into_iter()
            .map(mount)
            .collect::<Result1<Vec<_>>>()?;
        choice(
            network.as_ref(),
            "network mode",
            &["default", "none", "host"],
        )?;
        choice(security.as_ref(), "security mode", &["sandbox", "insecure"])?;
        Ok(Run {
            command: self.command(rest)?,
            heredocs: self.line.heredocs.clone(),
            mounts,
            network,
            security,
            devices,
        })
    }
}

fn choice(word: Option<&Word>, what: &str, allowed: &[&str]) -> Result1<()> {
    match word {
        Some(word) if !allowed.contains(&word.text.as_str()) => {
            let message = format!("invalid {what} `{}`", word.text);
            let label = format!("one of `{}`", allowed.join("`, `"));
            Err(Box::new(rbuild_llb::Diagnostic::error(
                message,
                word.span.clone(),
                label,
            )))
        }
        _ => Ok(()),
    }
}

/// Takes a mount apart. What its keys mean depends on variables, and so on the stage.
fn mount(word: Word) -> Result1<Mount> {
    let fields = csv(&word.text).map(|(text, at)| {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (text.as_str(), None),
        };
        let mut span = word.span.clone();
        // Places inside the value are known only while nothing in it was quoted, escaped or continued.
        if span.text() == word.text {
            let start = span.range.start + at;
            let skip = value.map_or(0, |_| key.len() + 1);
            span.range = (start + skip).min(start + text.len())..start + text.len();
        }
        MountField {
            key: key.to_lowercase().into(),
            value: value.map(str::to_owned),
            span,
        }
    });
    let fields: Vec<MountField> = fields.collect();
    for field in &fields {
        let value = field.value.as_deref().unwrap_or_default();
        // A `$` at the very end stands for itself.
        let expands = value.find('$').is_some_and(|at| at + 1 < value.len());
        if field.key == "from" && expands {
            return Err(Box::new(
                rbuild_llb::Diagnostic::error(
                    "`from` of a mount does not expand variables",
                    field.span.clone(),
                    "",
                )
                .hint("name the image in a stage, `FROM … AS <name>`, and use that"),
            ));
        }
    }
    Ok(Mount {
        span: word.span,
        fields,
    })
}

/// The fields of one CSV record (RFC 4180) with their byte offsets.
fn csv(text: &str) -> impl Iterator<Item = (String, usize)> {
    let mut fields = Vec::new();
    let (mut field, mut start, mut quoted) = (String::new(), 0, false);
    let mut chars = text.char_indices().peekable();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' if quoted && chars.next_if(|(_, next)| *next == '"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if i == start => quoted = true,
            ',' if !quoted => {
                fields.push((std::mem::take(&mut field), start));
                start = i + 1;
            }
            c => field.push(c),
        }
    }
    fields.push((field, start));
    fields.into_iter()
}
