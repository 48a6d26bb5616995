//! COPY, ADD and mounts.

use rbuild_dockerfile::file;
use rbuild_dockerfile::file::Instruction;
use rbuild_dockerfile::program::Mount;
use rbuild_dockerfile::program::Transfer;
use rbuild_dockerfile::program::Word;
use rbuild_llb::Span;

use super::Converter;
use super::stage::Building;
use super::values::escape;
use super::write::Value;

/// The fields of a table.
type Fields = Vec<(String, Value)>;

/// How a remote source is said.
#[derive(Debug, Clone, Copy)]
enum Remote {
    Git,
    Url,
}

fn remote(path: &str) -> Option<Remote> {
    if file::is_git(path) {
        return Some(Remote::Git);
    }
    let url = path.starts_with("http://") || path.starts_with("https://");
    url.then_some(Remote::Url)
}

fn field(name: &str, value: impl Into<Value>) -> (String, Value) {
    (name.to_owned(), value.into())
}

impl Converter<'_> {
    /// The copies that an instruction is.
    pub(super) fn transfer(
        &mut self,
        transfer: &Transfer,
        instruction: &Instruction,
        adds: bool,
        to: &Building,
    ) -> Vec<Fields> {
        let at = &instruction.head.span;
        let mut common = Fields::new();
        for (name, word) in [("owner", &transfer.chown), ("mode", &transfer.chmod)] {
            if let Some(word) = word {
                common.push(field(name, self.word(word, to)));
            }
        }
        if !transfer.exclude.is_empty() {
            // Dockerfiles have no variables there.
            let list = transfer.exclude.iter().map(|word| escape(&word.text));
            let list: Vec<String> = list.collect();
            common.push(field("exclude", list));
        }
        for (name, set) in [("link", transfer.link), ("parents", transfer.parents)] {
            if set {
                common.push((name.to_owned(), Value::Flag(true)));
            }
        }
        let dest = self.word(&transfer.dest, to);
        let mut copies = Vec::new();
        let mut local = Vec::new();
        for path in &transfer.paths {
            let said = to.variables.plain(&path.text, self.ast.escape);
            let kind = match &said {
                Ok(said) if adds => remote(&said.text),
                _ => None,
            };
            match kind {
                None => local.push(self.word(path, to)),
                Some(kind) => {
                    let text = self.take(said, &path.span);
                    let from = match kind {
                        Remote::Git => self.git(&text, transfer, to),
                        Remote::Url => self.url(&text, transfer, to),
                    };
                    let mut fields = vec![field("from", from), field("to", dest.as_str())];
                    fields.extend(common.iter().cloned());
                    if let (Remote::Url, Some(unpack)) = (kind, transfer.unpack) {
                        fields.push(("unpack".to_owned(), Value::Flag(unpack)));
                    }
                    copies.push(fields);
                }
            }
        }
        if !local.is_empty() {
            let from = match &transfer.from {
                Some(from) => self.copy_source(&from.text, to.index),
                None => self.context(at),
            };
            let mut fields = vec![field("from", from)];
            fields.push(match local.as_mut_slice() {
                [one] => field("path", std::mem::take(one)),
                _ => field("path", local),
            });
            fields.push(field("to", dest.as_str()));
            fields.extend(common.iter().cloned());
            if adds {
                let unpack = Value::Flag(transfer.unpack.unwrap_or(true));
                fields.push(("unpack".to_owned(), unpack));
            }
            copies.push(fields);
        }
        for document in &transfer.documents {
            let data = document.data();
            let text = match document.expand {
                true => self.take(to.variables.document(&data), at),
                false => escape(&data),
            };
            let mut fields = vec![field("to", dest.as_str())];
            // That is what it is called where nothing else is said.
            if document.name != "EOF" || dest.ends_with('/') {
                fields.push(field("name", document.name.as_str()));
            }
            fields.extend(common.iter().cloned());
            fields.push(field("text", text));
            copies.push(fields);
            if adds {
                let what = "a here-document of ADD";
                self.lose(
                    at,
                    what,
                    "it is a copy in the plan: the history of the image says COPY",
                );
            }
        }
        if copies.len() > 1 {
            let what = "several here-documents or kinds of sources at once";
            self.lose(
                at,
                what,
                "each is a copy of its own in the plan, and a layer of its own",
            );
        }
        copies
    }

    fn url(&mut self, url: &str, transfer: &Transfer, to: &Building) -> String {
        let mut fields = vec![field("url", url)];
        if let Some(checksum) = &transfer.checksum {
            let said = to.variables.current(&checksum.text, self.ast.escape);
            let digest = self.take(said, &checksum.span);
            let digits = digest.strip_prefix("sha256:").unwrap_or(&digest);
            fields.push(field("sha256", digits));
        }
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let name = path.rsplit('/').find(|part| !part.is_empty());
        self.input(name.unwrap_or("file"), fields)
    }

    fn git(&mut self, url: &str, transfer: &Transfer, to: &Building) -> String {
        let (remote, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut fields = vec![field("git", remote)];
        for (name, text) in [("ref", reference), ("subdir", subdir)] {
            if !text.is_empty() {
                fields.push(field(name, text));
            }
        }
        if let Some(keep) = transfer.keep_git_dir {
            fields.push(("keep-git-dir".to_owned(), Value::Flag(keep)));
        }
        if let Some(checksum) = &transfer.checksum {
            let said = to.variables.current(&checksum.text, self.ast.escape);
            fields.push(field("commit", self.take(said, &checksum.span)));
        }
        let path = remote.split('?').next().unwrap_or_default();
        let name = path.trim_end_matches('/').rsplit(['/', ':']).next();
        let name = name.unwrap_or_default().trim_end_matches(".git");
        self.input(if name.is_empty() { "repository" } else { name }, fields)
    }

    /// The mounts of a RUN as keys of a step: lists of their own for caches, secrets and agents where their order lets it.
    pub(super) fn mounts(&mut self, mounts: &[Mount], to: &Building) -> Vec<(&'static str, Value)> {
        const KEYS: [&str; 4] = ["mounts", "caches", "secrets", "ssh"];
        let said: Vec<(usize, Value)> = mounts.iter().map(|mount| self.mount(mount, to)).collect();
        if !said.is_sorted_by_key(|(rank, _)| *rank) {
            let wrapped = said.into_iter().map(|(rank, value)| {
                let key = ["", "cache", "secret", "ssh"][rank];
                match rank {
                    0 => value,
                    _ => Value::Table(vec![(key.to_owned(), value)]),
                }
            });
            let list = wrapped.map(super::write::Item::from).collect::<Vec<_>>();
            return vec![("mounts", Value::from(list))];
        }
        let mut lists = Vec::new();
        for (rank, key) in KEYS.into_iter().enumerate() {
            let list: Vec<super::write::Item> = said
                .iter()
                .filter(|(own, _)| *own == rank)
                .map(|(_, value)| value.clone().into())
                .collect();
            if !list.is_empty() {
                lists.push((key, Value::from(list)));
            }
        }
        lists
    }

    /// A mount with its place in the order of the lists.
    fn mount(&mut self, mount: &Mount, to: &Building) -> (usize, Value) {
        let mut fields = Named {
            converter: self,
            mount,
            to,
        };
        let kind = fields.now(&["type"]).unwrap_or_default().to_lowercase();
        match kind.as_str() {
            "cache" => (1, fields.cache()),
            "secret" => (2, fields.secret()),
            "ssh" => (3, fields.agent()),
            "tmpfs" => (0, fields.tmpfs()),
            _ => (0, fields.bind()),
        }
    }
}

/// The fields of a mount.
struct Named<'c, 'a, 'm> {
    converter: &'c mut Converter<'a>,
    mount: &'m Mount,
    to: &'m Building,
}

impl Named<'_, '_, '_> {
    /// The last field with one of these names, which is the one that counts.
    fn find(&self, names: &[&str]) -> Option<Word> {
        let mut fields = self.mount.fields.iter();
        let field = fields.rfind(|field| names.contains(&field.key.as_ref()))?;
        Some(Word {
            text: field.value.clone().unwrap_or_else(|| "true".to_owned()),
            span: field.span.clone(),
        })
    }

    /// A value where `{env.NAME}` can stand.
    fn word(&mut self, names: &[&str]) -> Option<String> {
        let word = self.find(names)?;
        Some(self.converter.word(&word, self.to))
    }

    /// The value that a field has now.
    fn now(&mut self, names: &[&str]) -> Option<String> {
        let word = self.find(names)?;
        let said = self
            .to
            .variables
            .current(&word.text, self.converter.ast.escape);
        Some(self.converter.take(said, &word.span))
    }

    fn flag(&mut self, names: &[&str]) -> Option<bool> {
        let text = self.now(names)?;
        Some(matches!(
            text.as_str(),
            "1" | "t" | "T" | "true" | "TRUE" | "True"
        ))
    }

    /// Whether it can only be read: of the fields that say so, or the contrary, the last one counts.
    fn read_only(&mut self) -> Option<bool> {
        let names = ["readonly", "ro", "readwrite", "rw"];
        let mut fields = self.mount.fields.iter();
        let last = fields.rfind(|field| names.contains(&field.key.as_ref()))?;
        let writes = matches!(last.key.as_ref(), "readwrite" | "rw");
        self.flag(&[last.key.clone().as_ref()])
            .map(|set| set != writes)
    }

    fn target(&mut self) -> Option<String> {
        self.word(&["target", "dst", "destination"])
            .filter(|target| !target.is_empty())
    }

    fn source(&mut self) -> Option<String> {
        self.word(&["source", "src"])
            .filter(|source| !source.is_empty())
    }

    fn ids(&mut self, fields: &mut Fields) {
        if let Some(mode) = self.now(&["mode"]) {
            fields.push(field("mode", mode));
        }
        for name in ["uid", "gid"] {
            if let Some(number) = self.now(&[name]).and_then(|text| text.parse().ok()) {
                fields.push((name.to_owned(), Value::Number(number)));
            }
        }
    }

    fn lose(&mut self, what: &str, instead: &str) {
        let span: Span = self.mount.span.clone();
        self.converter.lose(&span, what, instead);
    }

    fn from(&mut self) -> Option<String> {
        let from = self.mount.from()?;
        Some(self.converter.source(&from.text, self.to.index))
    }

    fn bind(&mut self) -> Value {
        let from = self.from();
        let from = match from {
            Some(from) => from,
            None => self.converter.context(&self.mount.span),
        };
        let mut fields = vec![field("from", from)];
        fields.extend(self.source().map(|path| field("path", path)));
        let target = self.target().unwrap_or_else(|| ".".to_owned());
        fields.push(field("to", target));
        if self.read_only() == Some(false) {
            fields.push(("write".to_owned(), Value::Flag(true)));
        }
        Value::Table(fields)
    }

    fn tmpfs(&mut self) -> Value {
        let target = self.target().unwrap_or_else(|| ".".to_owned());
        let mut fields = vec![field("tmpfs", target)];
        fields.extend(self.word(&["size"]).map(|size| field("size", size)));
        if self.read_only() == Some(true) {
            self.lose("a tmpfs that is read-only", "it can be written in the plan");
        }
        if self.source().is_some() {
            self.lose(
                "the `source` of a tmpfs",
                "it is left out: it shows nothing",
            );
        }
        Value::Table(fields)
    }

    fn cache(&mut self) -> Value {
        let target = self.target().unwrap_or_else(|| ".".to_owned());
        let id = self.word(&["id"]).filter(|id| !id.is_empty());
        let name = id.clone().unwrap_or_else(|| target.clone());
        let mut fields = vec![field("path", target.as_str())];
        fields.push(field(
            "id",
            id.unwrap_or_else(|| crate::paths::clean(&target)),
        ));
        if let Some(sharing) = self.now(&["sharing"]) {
            fields.push(field("sharing", sharing.to_lowercase()));
        }
        self.ids(&mut fields);
        fields.extend(self.from().map(|from| field("from", from)));
        fields.extend(self.source().map(|path| field("source", path)));
        if self.read_only() == Some(true) {
            fields.push(("read-only".to_owned(), Value::Flag(true)));
        }
        Value::Text(self.converter.cache(&name, fields))
    }

    fn secret(&mut self) -> Value {
        let target = self.target();
        let id = self.source().or_else(|| self.word(&["id"]));
        let id = match (id.filter(|id| !id.is_empty()), &target) {
            (Some(id), _) => id,
            (None, Some(target)) => target.rsplit('/').next().unwrap_or_default().to_owned(),
            (None, None) => String::new(),
        };
        let env = self.word(&["env"]);
        let required = self.flag(&["required"]) == Some(true);
        let mut fields = vec![field("id", id.as_str())];
        fields.extend(target.map(|target| field("target", target)));
        fields.extend(env.map(|env| field("env", env)));
        self.ids(&mut fields);
        if required && fields.len() == 1 {
            return Value::Text(id);
        }
        if !required {
            fields.push(("required".to_owned(), Value::Flag(false)));
        }
        Value::Table(fields)
    }

    fn agent(&mut self) -> Value {
        let id = self.word(&["id"]).filter(|id| !id.is_empty());
        let id = id.unwrap_or_else(|| "default".to_owned());
        let required = self.flag(&["required"]) == Some(true);
        let mut fields = vec![field("id", id.as_str())];
        let target = self.target();
        fields.extend(target.map(|target| field("target", target)));
        self.ids(&mut fields);
        if required && fields.len() == 1 {
            return Value::Text(id);
        }
        if !required {
            fields.push(("required".to_owned(), Value::Flag(false)));
        }
        Value::Table(fields)
    }
}
