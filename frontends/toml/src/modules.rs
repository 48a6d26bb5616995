//! A plan with the plans it includes, and what names mean in them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use rbuild_llb::Diagnostic;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;
use rbuild_llb::frontend::Files;
use rbuild_llb::suggest::nearest_name;

use crate::paths;
use crate::read::Map;
use crate::read::Reader;
use crate::read::Text;
use crate::schema::File;
use crate::schema::Include;
use crate::schema::Input;
use crate::schema::Step;
use crate::schema::VERSION;

/// How deep plans may include each other.
const MAX_DEPTH: usize = 32;

/// Which file of a plan something stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ModuleId(usize);

/// The file that the user named.
pub(crate) const ROOT: ModuleId = ModuleId(0);

/// One file of a plan.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) source: Arc<SourceFile>,
    /// The directory of the file, from that of the plan.
    pub(crate) dir: String,
    /// In front of its names: empty for the plan itself, else `common.`. Of several ways to a plan the shortest counts.
    pub(crate) prefix: String,
    pub(crate) file: Arc<File>,
    includes: BTreeMap<String, ModuleId>,
}

/// All files of a plan.
#[derive(Debug)]
pub(crate) struct Modules {
    list: Vec<Module>,
}

/// What loading a plan remembers.
struct Loading<'f> {
    shelf: &'f Shelf,
    settings: &'f [String],
    files: &'f Files,
    /// The paths of the plans being read, outermost first.
    stack: Vec<String>,
    /// What became of the plans that are read; of one that cannot be read nothing.
    loaded: BTreeMap<String, Option<ModuleId>>,
    errors: Vec<Diagnostic>,
}

/// Something that a step can start from or take files from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Thing {
    Scratch,
    /// A step of a file, by its place among the file's steps.
    Step(ModuleId, usize),
    /// An input of a file, by its place among the file's inputs.
    Input(ModuleId, usize),
}

/// A file that a plan names and that must be read before anything can be said of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNeed {
    /// Its path from the directory of the plan.
    pub path: String,
    /// Where it is named.
    pub span: Span,
    /// What it is.
    pub kind: FileKind,
}

/// What a file that a plan names is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Another plan.
    Plan,
    /// A Dockerfile.
    Dockerfile,
    /// The ignore file of a Dockerfile; it need not be there.
    Ignore,
}

/// Files that were read, each once: to see what other files they name, and to load the plan.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    read: Mutex<Vec<OnShelf>>,
}

/// A file, the settings it was read with, and what came of it.
#[derive(Debug)]
struct OnShelf {
    source: Arc<SourceFile>,
    settings: Vec<String>,
    file: Result<Arc<File>, Vec<Diagnostic>>,
}

impl Shelf {
    /// Reads a file, if it was not read before.
    pub(crate) fn file(
        &self,
        source: &Arc<SourceFile>,
        settings: &[String],
    ) -> Result<Arc<File>, Vec<Diagnostic>> {
        // A thread that panicked here left what was there.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |have: &&OnShelf| Arc::ptr_eq(&have.source, source) && have.settings == settings;
        if let Some(have) = read.iter().find(same) {
            return have.file.clone();
        }
        let mut reader = Reader::with(source, settings);
        let file = match reader.file::<File>() {
            Some(file) if reader.errors.is_empty() => Ok(Arc::new(file)),
            _ => Err(reader.errors),
        };
        read.push(OnShelf {
            source: Arc::clone(source),
            settings: settings.to_vec(),
            file: file.clone(),
        });
        file
    }
}

/// The other files that a file in the directory `dir` names.
pub(crate) fn needs(file: &File, dir: &str) -> Vec<FileNeed> {
    let mut needs = Vec::new();
    for include in &file.include {
        let path = include.path();
        needs.push(FileNeed {
            path: paths::join(dir, &path.text),
            span: path.span.clone(),
            kind: FileKind::Plan,
        });
    }
    for input in file.inputs.values() {
        if let Input::Dockerfile(input) = &input.value {
            let span = &input.dockerfile.span;
            let path = paths::join(dir, &input.dockerfile.text);
            let context = match &input.context {
                Some(context) => paths::join(dir, &context.text),
                None => paths::parent(&path),
            };
            let need = |path: String, kind| FileNeed {
                path,
                span: span.clone(),
                kind,
            };
            needs.push(need(format!("{path}.dockerignore"), FileKind::Ignore));
            needs.push(need(
                paths::join(&context, ".dockerignore"),
                FileKind::Ignore,
            ));
            needs.push(need(path, FileKind::Dockerfile));
        }
    }
    needs
}

impl Include {
    fn path(&self) -> &Text {
        match self {
            Self::Path(path) => path,
            Self::Named(named) => &named.path,
        }
    }

    /// What its things are prefixed with.
    fn name(&self) -> Option<String> {
        let path = match self {
            Self::Named(named) => return Some(named.r#as.text.clone()),
            Self::Path(path) => paths::clean(&path.text),
        };
        let (dir, file) = path.rsplit_once('/').unwrap_or(("", &path));
        let name = match file.strip_suffix(".toml") {
            Some("rbuild") | None => dir.rsplit('/').next().unwrap_or_default(),
            Some(stem) => stem,
        };
        let usable = !name.is_empty() && name != "..";
        usable.then(|| name.replace('.', "-"))
    }
}

impl Modules {
    /// Reads a plan and all it includes. A file that several others include is one module, whatever they call it.
    /// Settings are for the plan itself.
    pub(crate) fn load(
        shelf: &Shelf,
        source: &Arc<SourceFile>,
        files: &Files,
        settings: &[String],
    ) -> Result<Self, Vec<Diagnostic>> {
        let mut modules = Self { list: Vec::new() };
        let mut loading = Loading {
            shelf,
            settings,
            files,
            stack: Vec::new(),
            loaded: BTreeMap::new(),
            errors: Vec::new(),
        };
        modules.add(source, String::new(), &mut loading);
        modules.name();
        match loading.errors.is_empty() {
            true => Ok(modules),
            false => Err(loading.errors),
        }
    }

    /// Gives all modules their prefixes.
    fn name(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        let mut open = VecDeque::from([ROOT]);
        while let Some(id) = open.pop_front() {
            let Some(module) = self.list.get(id.0) else {
                continue;
            };
            let prefix = module.prefix.clone();
            for (name, included) in module.includes.clone() {
                if named.insert(included) {
                    self.list[included.0].prefix = format!("{prefix}{name}.");
                    open.push_back(included);
                }
            }
        }
    }

    fn add(
        &mut self,
        source: &Arc<SourceFile>,
        dir: String,
        loading: &mut Loading<'_>,
    ) -> Option<ModuleId> {
        // Settings are for the plan itself.
        let settings = match self.list.is_empty() {
            true => loading.settings,
            false => &[],
        };
        let file = match loading.shelf.file(source, settings) {
            Ok(file) => file,
            Err(errors) => {
                loading.errors.extend(errors);
                return None;
            }
        };
        if file.schema.value != VERSION {
            let message = format!("this is version {} of the language", file.schema.value);
            let span = file.schema.span.clone();
            loading.errors.push(
                Diagnostic::error(message, span, "")
                    .hint(format!("this rbuild knows `schema = {VERSION}`")),
            );
            return None;
        }
        for (kind, names) in names(&file) {
            for (name, span) in names {
                if name.contains(['.', '{', '}', '[', ']', '='])
                    || name == "scratch"
                    || name == "..."
                {
                    let message = format!("`{name}` cannot be the name of {kind}");
                    let label =
                        "names have none of `.`, `=`, `{}`, `[]`, and are not `scratch` or `...`";
                    loading.errors.push(Diagnostic::error(message, span, label));
                }
            }
        }
        for (name, input) in &file.inputs {
            if let Some(step) = file.step.get(name) {
                let message = format!("`{name}` is a step and an input");
                loading.errors.push(
                    Diagnostic::error(message, step.name.clone(), "")
                        .also(input.name.clone(), "the input"),
                );
            }
        }
        let id = ModuleId(self.list.len());
        let includes = file.include.clone();
        self.list.push(Module {
            source: Arc::clone(source),
            dir: dir.clone(),
            prefix: String::new(),
            file,
            includes: BTreeMap::new(),
        });
        for include in includes {
            let text = include.path();
            let error = |message: String| Diagnostic::error(message, text.span.clone(), "");
            let Some(name) = include.name() else {
                loading.errors.push(
                    error("this include has no name: its directory has none".to_owned())
                        .hint("write `{ path = \"…\", as = \"NAME\" }`"),
                );
                continue;
            };
            let path = paths::join(&dir, &text.text);
            if loading.stack.contains(&path) || loading.stack.len() >= MAX_DEPTH {
                let chain: Vec<&str> = loading
                    .stack
                    .iter()
                    .chain([&path])
                    .map(String::as_str)
                    .collect();
                loading.errors.push(error(format!(
                    "plans include each other: `{}`",
                    chain.join("` → `")
                )));
                continue;
            }
            if let Some(_other) = self.list[id.0].includes.get(&name) {
                loading.errors.push(
                    error(format!("two included plans are called `{name}`"))
                        .hint("give one another name: `{ path = \"…\", as = \"NAME\" }`"),
                );
                continue;
            }
            if let Some(known) = loading.loaded.get(&path) {
                self.list[id.0]
                    .includes
                    .extend(known.map(|known| (name, known)));
                continue;
            }
            let Some(source) = loading.files.get(&path) else {
                loading
                    .errors
                    .push(error(format!("the included plan `{path}` does not exist")));
                continue;
            };
            loading.stack.push(path.clone());
            let added = self.add(source, paths::parent(&path), loading);
            loading.stack.pop();
            loading.loaded.insert(path, added);
            self.list[id.0]
                .includes
                .extend(added.map(|added| (name, added)));
        }
        Some(id)
    }

    pub(crate) fn get(&self, id: ModuleId) -> &Module {
        &self.list[id.0]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ModuleId, &Module)> {
        self.list
            .iter()
            .enumerate()
            .map(|(at, module)| (ModuleId(at), module))
    }

    /// The file in which a name of another is defined, and the name there: `common.apt` is `apt` of the included
    /// `common`.
    pub(crate) fn locate<'n>(&self, from: ModuleId, name: &'n str) -> (ModuleId, &'n str) {
        let (mut module, mut rest) = (from, name);
        if !name.as_bytes().contains(&b'.') {
            return (module, rest);
        }
        while let Some((include, inner)) = rest.split_once('.') {
            match self.get(module).includes.get(include) {
                Some(found) => (module, rest) = (*found, inner),
                None => break,
            }
        }
        (module, rest)
    }

    /// Something defined in a map of the file that a name leads to.
    pub(crate) fn find<'m, T>(
        &'m self,
        from: ModuleId,
        name: &Text,
        what: &str,
        map: impl Fn(&'m File) -> &'m Map<T>,
    ) -> Result<(ModuleId, &'m str, &'m T), Diagnostic> {
        let (module, rest) = self.locate(from, &name.text);
        let names = map(&self.get(module).file);
        match names.get_key_value(rest) {
            Some((key, entry)) => Ok((module, key.as_str(), &entry.value)),
            None => Err(self.unknown(from, name, what, names.keys().map(String::as_str))),
        }
    }

    /// A step that a file has.
    pub(crate) fn step(&self, module: ModuleId, at: usize) -> &Step {
        &self.get(module).file.step[at].value
    }

    /// An input that a file has.
    pub(crate) fn input(&self, module: ModuleId, at: usize) -> &Input {
        &self.get(module).file.inputs[at].value
    }

    /// What the whole plan calls a thing.
    pub(crate) fn qualified(&self, thing: Thing) -> String {
        let (module, name) = match thing {
            Thing::Scratch => return "scratch".to_owned(),
            Thing::Step(module, at) => {
                (module, self.get(module).file.step.get_index(at).map(first))
            }
            Thing::Input(module, at) => (
                module,
                self.get(module).file.inputs.get_index(at).map(first),
            ),
        };
        [&self.get(module).prefix, name.unwrap_or_default()].concat()
    }

    /// A step or an input.
    pub(crate) fn thing(&self, from: ModuleId, name: &Text) -> Result<Thing, Diagnostic> {
        if name.text == "scratch" {
            return Ok(Thing::Scratch);
        }
        let (module, rest) = self.locate(from, &name.text);
        let file = &self.get(module).file;
        if let Some(at) = file.step.get_index_of(rest) {
            return Ok(Thing::Step(module, at));
        }
        if let Some(at) = file.inputs.get_index_of(rest) {
            return Ok(Thing::Input(module, at));
        }
        let candidates = file.step.keys().chain(file.inputs.keys());
        let error = self.unknown(from, name, "step or input", candidates.map(String::as_str));
        let image = rest.contains(['/', ':']) && error.hints.iter().all(|h| !h.starts_with("did"));
        Err(match image {
            true => Diagnostic {
                hints: vec![format!(
                    "an image is an input: `[inputs]`, `NAME = {{ image = \"{}\" }}`",
                    name.text
                )],
                ..error
            },
            false => error,
        })
    }

    fn unknown<'c>(
        &self,
        from: ModuleId,
        name: &Text,
        what: &str,
        candidates: impl Iterator<Item = &'c str>,
    ) -> Diagnostic {
        let (module, rest) = self.locate(from, &name.text);
        let error = Diagnostic::error(
            format!("there is no {what} `{}`", name.text),
            name.span.clone(),
            "",
        );
        let candidates: Vec<&str> = candidates.collect();
        let include = rest.split_once('.').map(|(include, _)| include);
        if let Some(include) = include {
            let includes = &self.get(module).includes;
            return match nearest_name(include, includes.keys().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean the included `{near}`?")),
                None => error.hint(format!("nothing that is called `{include}` is included")),
            };
        }
        match nearest_name(rest, candidates.iter().copied()) {
            Some(near) => {
                let included = &name.text[..name.text.len() - rest.len()];
                error.hint(format!("did you mean `{included}{near}`?"))
            }
            None if candidates.is_empty() => error,
            None => error.hint(format!("there are `{}`", candidates.join("`, `"))),
        }
    }
}

fn first<T>((name, _): (&String, T)) -> &str {
    name
}

type Named = (&'static str, Vec<(String, Span)>);

/// The names that a file chooses, by what they are names of.
fn names(file: &File) -> [Named; 8] {
    fn of<T>(map: &Map<T>) -> Vec<(String, Span)> {
        map.iter()
            .map(|(name, entry)| (name.clone(), entry.name.clone()))
            .collect()
    }
    [
        ("an argument", of(&file.args)),
        ("an input", of(&file.inputs)),
        ("a cache", of(&file.caches)),
        ("a step", of(&file.step)),
        ("a test", of(&file.test)),
        ("an output", of(&file.output)),
        ("a group", of(&file.groups)),
        ("a function", of(&file.function)),
    ]
}
