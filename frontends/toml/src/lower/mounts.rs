//! What commands see besides the files of their step.

use std::borrow::Cow;

use rbuild_dockerfile::program::Mount as Instruction;
use rbuild_dockerfile::program::MountField;
use rbuild_dockerfile::program::StageId;
use rbuild_dockerfile::program::literal;
use rbuild_llb::Diagnostic;
use rbuild_llb::Span;
use rbuild_llb::op::CacheSharing;

use super::Lowering;
use crate::modules::ModuleId;
use crate::modules::Thing;
use crate::read::At;
use crate::read::Text;
use crate::schema::Body;
use crate::schema::Item;
use crate::schema::Mount;
use crate::schema::SecretUse;
use crate::schema::SshUse;
use crate::values::Scope;

/// Mounts, each with the stage whose files it shows.
type Mounts = (Vec<Instruction>, Vec<Option<StageId>>);

/// More than this no step has: a list that extends another at each step of a long chain would fill the memory.
const MAX_MOUNTS: usize = 1000;

/// The fields of a mount so far.
struct Fields {
    at: Span,
    list: Vec<MountField>,
}

impl Fields {
    fn new(kind: &str, at: &Span) -> Self {
        let mut fields = Self {
            at: at.clone(),
            list: Vec::with_capacity(4),
        };
        fields.add("type", kind.to_owned(), at);
        fields
    }

    /// Adds a field whose value is a word.
    fn add(&mut self, key: &'static str, value: String, at: &Span) {
        self.list.push(MountField {
            key: Cow::Borrowed(key),
            value: Some(value),
            span: at.clone(),
        });
    }

    fn number(&mut self, key: &'static str, value: Option<&At<i64>>) {
        if let Some(number) = value {
            self.add(key, number.value.to_string(), &number.span);
        }
    }

    fn done(self) -> Instruction {
        Instruction {
            span: self.at,
            fields: self.list,
        }
    }
}

impl<'a> Lowering<'a> {
    /// All mounts of a step, in the order `mounts`, `caches`, `secrets`, `ssh`.
    pub(super) fn mounts(
        &mut self,
        body: Body<'_>,
        scope: Scope<'_>,
        from: Option<&Text>,
    ) -> Option<Mounts> {
        let mut mounts = Mounts::default();
        for (module, mount) in self.expanded(body, scope, from, |body| body.mounts)? {
            self.mount(mount, Scope { module, ..scope }, &mut mounts)?;
        }
        for (module, name) in self.expanded(body, scope, from, |body| body.caches)? {
            self.cache(name, Scope { module, ..scope }, &mut mounts)?;
        }
        for (module, secret) in self.expanded(body, scope, from, |body| body.secrets)? {
            self.secret(secret, Scope { module, ..scope }, &mut mounts)?;
        }
        for (module, agent) in self.expanded(body, scope, from, |body| body.ssh)? {
            self.agent(agent, Scope { module, ..scope }, &mut mounts)?;
        }
        Some(mounts)
    }

    /// A list with what `"..."` stands for in its place, each item with the file it stands in. Chains of steps are as
    /// long as a file can make them, so this is no recursion.
    fn expanded<'b, T>(
        &mut self,
        body: Body<'b>,
        scope: Scope<'_>,
        from: Option<&'b Text>,
        select: for<'x> fn(Body<'x>) -> &'x [Item<T>],
    ) -> Option<Vec<(ModuleId, &'b T)>>
    where
        'a: 'b,
    {
        let own = select(body);
        if own.is_empty() {
            return Some(Vec::new());
        }
        let mut list = Vec::with_capacity(own.len());
        let mut open = vec![(scope.module, own.iter(), from)];
        while let Some((module, items, from)) = open.last_mut() {
            match items.next() {
                None => {
                    open.pop();
                }
                Some(Item::Own(item)) => list.push((*module, item)),
                Some(Item::Inherited(at)) => {
                    let (module, from) = (*module, *from);
                    let (module, body, from) = self.inherited(module, from, at)?;
                    open.push((module, select(body).iter(), Some(from)));
                }
            }
            if list.len().max(open.len()) > MAX_MOUNTS {
                let message = format!("this step extends or has more than {MAX_MOUNTS} mounts");
                let at = body.span.clone();
                self.errors.push(Diagnostic::error(message, at, ""));
                return None;
            }
        }
        Some(list)
    }

    /// What `"..."` stands for: the step that this one starts from.
    fn inherited(
        &mut self,
        module: ModuleId,
        from: Option<&Text>,
        at: &Span,
    ) -> Option<(ModuleId, Body<'a>, &'a Text)> {
        let modules = self.modules;
        let problem = match from {
            None => "a function starts from nothing".to_owned(),
            Some(from) => match modules.thing(module, from) {
                // What is wrong with it has been said.
                Ok(step @ Thing::Step(..)) if self.failed.contains(&step) => return None,
                Ok(Thing::Step(module, at)) => {
                    let step = modules.step(module, at);
                    return Some((module, step.body(), &step.from.0));
                }
                Ok(_) => format!("`{}` is no step", from.text),
                // That is reported where the step starts.
                Err(_) => return None,
            },
        };
        let message = "`\"...\"` stands for what the step has that this one starts from";
        self.errors
            .push(Diagnostic::error(message, at.clone(), problem));
        None
    }

    fn mount(&mut self, mount: &Mount, scope: Scope<'_>, to: &mut Mounts) -> Option<()> {
        match mount {
            Mount::Bind(bind) => {
                let source = self.files(scope.module, &bind.from)?;
                let mut fields = Fields::new("bind", &bind.span);
                fields.add("from", bind.from.text.clone(), &bind.from.span);
                if let Some(path) = &bind.path {
                    fields.add("source", self.word(path, scope)?, &path.span);
                }
                fields.add("target", self.word(&bind.to, scope)?, &bind.to.span);
                if let Some(write) = bind.write.as_ref().filter(|write| write.value) {
                    fields.add("rw", "true".to_owned(), &write.span);
                }
                push(to, fields, source);
            }
            Mount::Cache(cache) => self.cache(&cache.cache, scope, to)?,
            Mount::Tmpfs(tmpfs) => {
                let mut fields = Fields::new("tmpfs", &tmpfs.span);
                fields.add("target", self.word(&tmpfs.tmpfs, scope)?, &tmpfs.tmpfs.span);
                if let Some(size) = &tmpfs.size {
                    fields.add("size", self.word(size, scope)?, &size.span);
                }
                push(to, fields, None);
            }
            Mount::Secret(secret) => self.secret(&secret.secret, scope, to)?,
            Mount::Ssh(ssh) => self.agent(&ssh.ssh, scope, to)?,
        }
        Some(())
    }

    fn cache(&mut self, name: &Text, scope: Scope<'_>, to: &mut Mounts) -> Option<()> {
        let modules = self.modules;
        let found = modules.find(scope.module, name, "cache", |file| &file.caches);
        let (module, key, cache) = match found {
            Ok(found) => found,
            Err(error) => {
                self.errors.push(error);
                return None;
            }
        };
        let own = Scope { module, ..scope };
        let mut fields = Fields::new("cache", &name.span);
        let id = match &cache.id {
            Some(id) => self.word(id, own)?,
            None => literal(&self.qualified(module, key)),
        };
        fields.add("id", id, &name.span);
        fields.add("target", self.word(&cache.path, own)?, &cache.path.span);
        if let Some(sharing) = &cache.sharing {
            let word = match sharing.value {
                CacheSharing::Shared => "shared",
                CacheSharing::Private => "private",
                CacheSharing::Locked => "locked",
            };
            fields.add("sharing", word.to_owned(), &sharing.span);
        }
        if let Some(mode) = &cache.mode {
            self.octal(mode)?;
            fields.add("mode", mode.text.clone(), &mode.span);
        }
        fields.number("uid", cache.uid.as_ref());
        fields.number("gid", cache.gid.as_ref());
        if let Some(read_only) = cache.read_only.as_ref().filter(|flag| flag.value) {
            fields.add("ro", "true".to_owned(), &read_only.span);
        }
        if let Some(path) = &cache.source {
            fields.add("source", self.word(path, own)?, &path.span);
        }
        let source = match &cache.from {
            Some(from) => {
                fields.add("from", from.text.clone(), &from.span);
                self.files(module, from)?
            }
            None => None,
        };
        push(to, fields, source);
        Some(())
    }

    fn secret(&mut self, secret: &SecretUse, scope: Scope<'_>, to: &mut Mounts) -> Option<()> {
        let secret = match secret {
            SecretUse::Table(secret) => secret,
            SecretUse::Id(id) => {
                let mut fields = Fields::new("secret", &id.span);
                fields.add("id", self.word(id, scope)?, &id.span);
                fields.add("required", "true".to_owned(), &id.span);
                push(to, fields, None);
                return Some(());
            }
        };
        let mut fields = Fields::new("secret", &secret.span);
        fields.add("id", self.word(&secret.id, scope)?, &secret.id.span);
        for (key, value) in [("target", &secret.target), ("env", &secret.env)] {
            if let Some(value) = value {
                fields.add(key, self.word(value, scope)?, &value.span);
            }
        }
        let required = secret.required.as_ref().is_none_or(|flag| flag.value);
        fields.add("required", required.to_string(), &secret.span);
        if let Some(mode) = &secret.mode {
            self.octal(mode)?;
            fields.add("mode", mode.text.clone(), &mode.span);
        }
        fields.number("uid", secret.uid.as_ref());
        fields.number("gid", secret.gid.as_ref());
        push(to, fields, None);
        Some(())
    }

    fn agent(&mut self, agent: &SshUse, scope: Scope<'_>, to: &mut Mounts) -> Option<()> {
        let agent = match agent {
            SshUse::Table(agent) => agent,
            SshUse::Id(id) => {
                let mut fields = Fields::new("ssh", &id.span);
                fields.add("id", self.word(id, scope)?, &id.span);
                fields.add("required", "true".to_owned(), &id.span);
                push(to, fields, None);
                return Some(());
            }
        };
        let mut fields = Fields::new("ssh", &agent.span);
        fields.add("id", self.word(&agent.id, scope)?, &agent.id.span);
        if let Some(target) = &agent.target {
            fields.add("target", self.word(target, scope)?, &target.span);
        }
        let required = agent.required.as_ref().is_none_or(|flag| flag.value);
        fields.add("required", required.to_string(), &agent.span);
        if let Some(mode) = &agent.mode {
            self.octal(mode)?;
            fields.add("mode", mode.text.clone(), &mode.span);
        }
        fields.number("uid", agent.uid.as_ref());
        fields.number("gid", agent.gid.as_ref());
        push(to, fields, None);
        Some(())
    }
}

fn push(to: &mut Mounts, fields: Fields, source: Option<StageId>) {
    to.0.push(fields.done());
    to.1.push(source);
}
