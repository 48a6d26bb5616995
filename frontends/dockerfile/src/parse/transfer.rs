//! COPY and ADD.

use std::ops::Range;

use super::Flags;
use super::Input;
use super::Result1;
use crate::ast::Transfer;
use crate::lexer::Heredoc;
use crate::lexer::heredoc_operator;

impl Input<'_> {
    pub(super) fn transfer(
        &self,
        flags: &mut Flags<'_>,
        keyword: &str,
        rest: &Range<usize>,
    ) -> Result1<Transfer> {
        let copy = keyword == "COPY";
        let (chown, chmod) = (flags.string("chown")?, flags.string("chmod")?);
        let link = flags.bool("link")?.unwrap_or(false);
        let exclude = flags.strings("exclude")?;
        let from = if copy { flags.string("from")? } else { None };
        let from = from.filter(|word| !word.text.is_empty());
        let parents = copy && flags.bool("parents")?.unwrap_or(false);
        let (keep_git_dir, checksum, unpack) = match copy {
            true => (None, None, None),
            false => (
                flags.bool("keep-git-dir")?,
                flags.string("checksum")?,
                flags.bool("unpack")?,
            ),
        };
        let mut words = self.list(rest)?;
        let dest = words.pop();
        let (Some(dest), false) = (dest, words.is_empty()) else {
            let message = format!("`{keyword}` requires at least two arguments");
            let range = match rest.is_empty() {
                true => &self.line.parts.keyword,
                false => rest,
            };
            return self.error(message, range, "the destination could not be determined");
        };
        if heredoc_operator(&dest.text).is_some() {
            let message = format!("`{keyword}` cannot accept a heredoc as a destination");
            return self.error(message, rest, "");
        }
        let (mut paths, mut documents) = (Vec::new(), Vec::new());
        for word in words {
            match heredoc_operator(&word.text) {
                Some(operator) => documents.push(self.document(operator)),
                None => paths.push(word),
            }
        }
        Ok(Transfer {
            from,
            chown,
            chmod,
            link,
            parents,
            exclude,
            keep_git_dir,
            checksum,
            unpack,
            paths,
            documents,
            dest,
        })
    }

    /// The operator with the body that belongs to it: of equal names, the last.
    fn document(&self, operator: Heredoc) -> Heredoc {
        let body = self
            .line
            .heredocs
            .iter()
            .rfind(|heredoc| heredoc.name == operator.name);
        Heredoc {
            content: body.map_or_else(String::new, |body| body.content.clone()),
            ..operator
        }
    }
}
