//! The config of images.

use std::borrow::Cow;

use rbuild_dockerfile::parse_duration;
use rbuild_dockerfile::program::CommandLine;
use rbuild_dockerfile::program::Kind;
use rbuild_dockerfile::program::StageId;
use rbuild_dockerfile::program::Word;
use rbuild_llb::Diagnostic;
use rbuild_llb::config::Healthcheck;

use super::Lowering;
use super::body::word;
use crate::read::List;
use crate::read::Text;
use crate::schema::Command;
use crate::schema::Health;
use crate::schema::Healthcheck as Check;
use crate::schema::Image;
use crate::values::Scope;

impl Lowering<'_> {
    /// The config's instructions, always in the same order.
    pub(crate) fn image_config(
        &mut self,
        stage: StageId,
        image: &Image,
        scope: Scope<'_>,
    ) -> Option<()> {
        let mut whole = true;
        if let Some(author) = &image.author {
            // Not a word: quotes would be part of the name.
            let name = self.plain(author, scope);
            whole &= name.is_some();
            let author = word(name.unwrap_or_default(), &author.span);
            let at = author.span.clone();
            self.instruction(stage, Kind::Maintainer(author), &at);
        }
        if let Some(shell) = &image.shell {
            let words = self.words(shell, scope);
            whole &= words.is_some();
            if let Some(words) = words {
                self.instruction(stage, Kind::Shell(words), &shell.span);
            }
        }
        if let Some(env) = &image.env {
            whole &= self.pairs(stage, env, scope, Kind::Env).is_some();
        }
        if let Some(labels) = &image.labels {
            whole &= self.pairs(stage, labels, scope, Kind::Label).is_some();
        }
        for (text, kind) in [
            (&image.workdir, Kind::Workdir as fn(Word) -> Kind),
            (&image.user, Kind::User),
            (&image.stop_signal, Kind::StopSignal),
        ] {
            if let Some(text) = text {
                whole &= self.one_word(stage, text, scope, kind).is_some();
            }
        }
        for (list, kind) in [
            (&image.expose, Kind::Expose as fn(Vec<Word>) -> Kind),
            (&image.volumes, Kind::Volume),
        ] {
            let mut words = Vec::with_capacity(list.len());
            for text in list {
                match self.word(text, scope) {
                    Some(value) => words.push(word(value, &text.span)),
                    None => whole = false,
                }
            }
            if let Some(first) = list.first() {
                self.instruction(stage, kind(words), &first.span);
            }
        }
        for (list, kind) in [
            (
                &image.entrypoint,
                Kind::Entrypoint as fn(CommandLine) -> Kind,
            ),
            (&image.cmd, Kind::Cmd),
        ] {
            if let Some(list) = list {
                let words = self.words(list, scope);
                whole &= words.is_some();
                let words = words.unwrap_or_default().into_iter();
                let line = CommandLine::Exec(words.map(Cow::Owned).collect());
                self.instruction(stage, kind(line), &list.span);
            }
        }
        if let Some(health) = &image.healthcheck {
            let check = self.health(health, scope);
            whole &= check.is_some();
            let at = match health {
                Health::None => &image.span,
                Health::Check(check) => &check.span,
            };
            if let Some(check) = check {
                self.instruction(stage, Kind::Healthcheck(check), at);
            }
        }
        for trigger in &image.onbuild {
            match self.plain(trigger, scope) {
                Some(text) => self.instruction(stage, Kind::Onbuild(text), &trigger.span),
                None => whole = false,
            }
        }
        whole.then_some(())
    }

    fn words(&mut self, list: &List<Text>, scope: Scope<'_>) -> Option<Vec<String>> {
        let mut words = Vec::with_capacity(list.value.len());
        for text in &list.value {
            words.extend(self.arguments(text, scope)?);
        }
        Some(words)
    }

    fn health(&mut self, health: &Health, scope: Scope<'_>) -> Option<Healthcheck> {
        let check = match health {
            Health::None => {
                return Some(Healthcheck {
                    test: vec!["NONE".to_owned()],
                    ..Healthcheck::default()
                });
            }
            Health::Check(check) => check,
        };
        let mut test = Vec::new();
        match &*check.cmd {
            Command::Line(text) => {
                test.push("CMD-SHELL".to_owned());
                test.push(self.plain(text, scope)?);
            }
            Command::Exec(list) => {
                test.push("CMD".to_owned());
                test.extend(self.words(list, scope)?);
            }
        }
        if test.get(1).is_none_or(String::is_empty) {
            let message = "the health check has no command";
            self.errors
                .push(Diagnostic::error(message, check.span.clone(), ""));
            return None;
        }
        Some(Healthcheck {
            test,
            interval: self.duration(check, &check.interval)?,
            timeout: self.duration(check, &check.timeout)?,
            start_period: self.duration(check, &check.start_period)?,
            start_interval: self.duration(check, &check.start_interval)?,
            retries: match &check.retries {
                None => 0,
                Some(retries) if retries.value > 0 => retries.value,
                Some(retries) => {
                    let message = "`retries` is at least 1";
                    self.errors
                        .push(Diagnostic::error(message, retries.span.clone(), ""));
                    return None;
                }
            },
        })
    }

    /// Nanoseconds.
    fn duration(&mut self, _: &Check, text: &Option<Text>) -> Option<i64> {
        let Some(text) = text else {
            return Some(0);
        };
        match parse_duration(&text.text).filter(|time| *time >= 1_000_000) {
            Some(time) => Some(time),
            None => {
                let message = format!("`{}` is no duration for a health check", text.text);
                let label = "at least 1 ms, such as `30s` or `1m30s`";
                self.errors
                    .push(Diagnostic::error(message, text.span.clone(), label));
                None
            }
        }
    }
}
