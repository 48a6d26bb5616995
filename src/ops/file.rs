//! File ops: copies, directories, files and removals, worked out on the merged tree; the layer is what changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;

use rbuild_cache::Directory;
use rbuild_cache::Entry;
use rbuild_cache::Follow;
use rbuild_cache::LayerRef;
use rbuild_cache::Meta;
use rbuild_cache::NewNode;
use rbuild_cache::Node;
use rbuild_cache::Snapshot;
use rbuild_cache::Timestamp;
use rbuild_cache::TreeBuilder;
use rbuild_cache::TreeRef;
use rbuild_llb::ContentDigest;
use rbuild_llb::KeyRecord;
use rbuild_llb::Op;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::encode::Encoder;
use rbuild_llb::key::KeyValue;
use rbuild_llb::op::CopyAction;
use rbuild_llb::op::FileAction;
use rbuild_llb::op::FileActionKind;
use rbuild_llb::op::FileInput;
use rbuild_llb::op::FileOp;
use rbuild_llb::op::Owner;
use rbuild_llb::op::UserRef;

use super::Engine;
use super::OpError;
use super::StepResult;
use super::copy;
use super::copy::Change;
use super::copy::Target;
use super::owner::Accounts;
use super::owner::OwnerError;
use super::stack::layers_value;
use super::stack::snapshot_of;
use crate::clock;
use crate::solver::Input;
use crate::solver::InputKey;
use crate::solver::StepControl;

/// `/etc/passwd` and `/etc/group` larger than this are not what they claim to be.
const ACCOUNTS_LIMIT: u64 = 16 << 20;

impl Engine<'_> {
    pub(super) fn file_record(
        &self,
        vertex: &Vertex,
        op: &FileOp,
        inputs: &[InputKey],
    ) -> Result<KeyRecord, OpError> {
        let mut record = KeyRecord::new("file");
        record.field("inputs", self.input_keys(vertex, inputs));
        let actions = op.actions.iter().map(|action| {
            let mut value = action_value(action, true);
            if let (FileActionKind::Copy(copy), FileInput::Input(index)) =
                (&action.kind, action.secondary)
                && let Some(local) = self.local_input(vertex, index)
            {
                let scan = self.scan(local)?;
                if let KeyValue::Map(fields) = &mut value {
                    fields.remove("src");
                    fields.insert("files".into(), self.selected(&scan.tree, copy)?);
                }
            }
            Ok(value)
        });
        record.field(
            "actions",
            KeyValue::List(actions.collect::<Result<_, OpError>>()?),
        );
        self.date(&mut record);
        Ok(record)
    }

    /// The bytes of files that some steps copy out of contexts, or more: what `--exclude` leaves out counts, too, and what several
    /// copies take counts for each. Where all of the contexts are no more than `enough`, they are not looked into.
    pub(crate) fn bytes_to_copy<'v>(
        &self,
        steps: impl Iterator<Item = (VertexId, &'v Vertex)>,
        enough: u64,
    ) -> Result<u64, OpError> {
        let mut copies = Vec::new();
        for (_, vertex) in steps {
            let Op::File(op) = &vertex.op else { continue };
            for action in &op.actions {
                if let (FileActionKind::Copy(copy), FileInput::Input(index)) =
                    (&action.kind, action.secondary)
                    && let Some(local) = self.local_input(vertex, index)
                {
                    copies.push((copy, self.scan(local)?));
                }
            }
        }
        let mut bytes = copies.iter().map(|(_, scan)| scan.bytes).sum();
        if bytes <= enough {
            return Ok(bytes);
        }
        bytes = 0;
        let mut count = |entry: &Entry| {
            if let Node::File(file) = &entry.node {
                bytes += file.size;
            }
        };
        let trees = self.store.trees();
        for (copy, scan) in copies {
            for found in copy::sources(trees, &scan.tree, copy)? {
                count(&found.entry);
                if let Node::Dir(dir) = &found.entry.node {
                    trees.walk(&dir.tree, &mut |_, entry| {
                        count(entry);
                        ControlFlow::Continue(())
                    })?;
                }
            }
        }
        Ok(bytes)
    }

    pub(super) fn file_content_record(
        &self,
        op: &FileOp,
        inputs: &[Input<'_, StepResult>],
    ) -> Result<KeyRecord, OpError> {
        let content = |input: FileInput| match input {
            FileInput::Input(index) => Some(snapshot_of(inputs, index)),
            FileInput::Scratch | FileInput::Action(_) => None,
        };
        let mut record = KeyRecord::new("file/content");
        let actions = op.actions.iter().map(|action| {
            let mut value = action_value(action, false);
            if let KeyValue::Map(fields) = &mut value {
                if let Some(base) = content(action.input) {
                    fields.insert("base".into(), content_value(base.root));
                    fields.insert("layers".into(), layers_value(base));
                }
                match (&action.kind, content(action.secondary)) {
                    (FileActionKind::Copy(copy), Some(from)) => {
                        fields.insert("files".into(), self.selected(&from.root, copy)?);
                    }
                    (FileActionKind::Copy(copy), None) => {
                        fields.insert("src".into(), copy.src.as_str().into());
                    }
                    _ => {}
                }
            }
            Ok(value)
        });
        record.field(
            "actions",
            KeyValue::List(actions.collect::<Result<_, OpError>>()?),
        );
        self.date(&mut record);
        Ok(record)
    }

    /// What a copy takes from a tree: names below the destination with the content that arrives there. Owners and
    /// modes that the copy sets itself are those it sets.
    fn selected(&self, tree: &TreeRef, action: &CopyAction) -> Result<KeyValue, OpError> {
        let trees = self.store.trees();
        let owner = match &action.owner {
            // By name it is looked up in the base, which is in the key itself: any number will do here.
            Some(Owner {
                user: UserRef::Name(_),
                ..
            }) => Some((0, 0)),
            Some(owner) => Some(Accounts::default().owner(owner)),
            None => None,
        };
        let change = Change {
            owner,
            mode: action.mode.as_ref(),
            timestamp: None,
        };
        let mut list = Vec::new();
        let mut listing: BTreeMap<Vec<u8>, Vec<Entry>> = BTreeMap::new();
        for source in copy::sources(trees, tree, action)? {
            let entry = copy::arriving(trees, &source, action, &change)?;
            list.push(KeyValue::List(vec![
                String::from_utf8_lossy(&source.name).into_owned().into(),
                entry.content().into(),
            ]));
            let (above, name) = copy::split(&source.path);
            let name = name.to_owned();
            let listed = listing.entry(above.to_owned()).or_default();
            listed.push(Entry { name, ..entry });
        }
        let listing = listing.into_iter().map(|(above, mut entries)| {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            entries.dedup_by(|a, b| a.name == b.name);
            let tree = trees.put(Directory { entries }).tree;
            (String::from_utf8_lossy(&above).into_owned(), tree)
        });
        Ok(KeyValue::Listed {
            value: Box::new(KeyValue::List(list)),
            listing: listing.collect(),
        })
    }

    pub(super) fn file(
        &self,
        op: &FileOp,
        inputs: &[&Snapshot],
        step: &StepControl<'_>,
    ) -> Result<Vec<Snapshot>, OpError> {
        // Actions that build on each other are one layer: each result is the layers below, and the merged tree now.
        let mut results: Vec<(TreeRef, Snapshot)> = Vec::new();
        let mut outputs: Vec<(u32, Snapshot)> = Vec::new();
        for action in &op.actions {
            if step.cancel.is_cancelled() {
                return Err(OpError::Cancelled);
            }
            let pick = |input: FileInput| match input {
                FileInput::Scratch => (self.empty().root, self.empty()),
                FileInput::Input(at) => (inputs[at].root, inputs[at].clone()),
                FileInput::Action(at) => results[at].clone(),
            };
            let (lower, base) = pick(action.input);
            let root = self.action(&base, &pick(action.secondary).1, action)?;
            let changed = Snapshot {
                layers: base.layers,
                root,
            };
            if let Some(output) = action.output {
                outputs.push((output, self.as_layer(&lower, &changed)?));
            }
            results.push((lower, changed));
        }
        outputs.sort_by_key(|(index, _)| *index);
        Ok(outputs.into_iter().map(|(_, snapshot)| snapshot).collect())
    }

    /// Turns "these layers, which add up to `lower`, but this merged tree" into one layer more.
    fn as_layer(&self, lower: &TreeRef, changed: &Snapshot) -> Result<Snapshot, OpError> {
        let layer = self.store.trees().diff(&lower.tree, &changed.root.tree)?;
        let below = Snapshot {
            layers: changed.layers.clone(),
            root: *lower,
        };
        self.stack(
            &below,
            LayerRef {
                layer,
                origin: None,
                created: Some(clock::now().0),
                single: false,
            },
        )
    }

    /// What is made under one SOURCE_DATE_EPOCH has other times than what is made under another.
    fn date(&self, record: &mut KeyRecord) {
        if let Some(secs) = self.options.source_date_epoch {
            record.field("SOURCE_DATE_EPOCH", secs);
        }
    }

    /// Carries one action out and returns the merged tree after it.
    fn action(
        &self,
        base: &Snapshot,
        secondary: &Snapshot,
        action: &FileAction,
    ) -> Result<TreeRef, OpError> {
        let mut target = Target::new(self.store.trees(), base.root, self.file_time());
        match &action.kind {
            FileActionKind::Copy(copy) => {
                self.copy_action(&mut target, base, secondary, action.input, copy)?
            }
            FileActionKind::Mkdir {
                path,
                mode,
                make_parents,
                owner,
                timestamp,
            } => {
                let owner = self
                    .owner(base, action.input, owner.as_ref())?
                    .unwrap_or((0, 0));
                let path = target.resolve(&copy::clean(path))?;
                let (parent, last) = copy::split(&path);
                let there = self
                    .store
                    .trees()
                    .lookup(&target.root.tree, &path, Follow::NotLast)?;
                if let Some(found) = there {
                    target.must_be_dir(&path, &found.entry)?;
                } else {
                    let mode = mode & 0o777;
                    match make_parents {
                        true => target.make_dirs(parent, copy::Made { owner, mode })?,
                        false => target.must_have_parent(&path)?,
                    }
                    let node = copy::empty_dir(self.store.trees());
                    self.put(
                        &mut target,
                        &copy::join(parent, last),
                        mode,
                        owner,
                        *timestamp,
                        node,
                    )?;
                }
            }
            FileActionKind::Mkfile {
                path,
                mode,
                data,
                owner,
                timestamp,
            } => {
                let owner = self.owner(base, action.input, owner.as_ref())?;
                let path = target.resolve(&copy::clean(path))?;
                target.must_have_parent(&path)?;
                let there = self
                    .store
                    .trees()
                    .lookup(&target.root.tree, &path, Follow::NotLast)?;
                // A file that is there is written to: it keeps its mode, and its owner if no other is asked for.
                let (mode, kept) = match there.map(|found| found.entry) {
                    None => (mode & 0o777, (0, 0)),
                    Some(Entry {
                        node: Node::File(_),
                        meta,
                        ..
                    }) => (meta.mode, (meta.uid, meta.gid)),
                    Some(_) => return Err(copy::CopyError::exists(&path).into()),
                };
                let node = Node::File(self.spool_data(data)?);
                let owner = owner.unwrap_or(kept);
                self.put(&mut target, &path, mode, owner, *timestamp, node)?;
            }
            FileActionKind::Symlink {
                target: to,
                path,
                owner,
                timestamp,
            } => {
                let owner = self
                    .owner(base, action.input, owner.as_ref())?
                    .unwrap_or((0, 0));
                let path = target.resolve(&copy::clean(path))?;
                target.must_have_parent(&path)?;
                let there = self
                    .store
                    .trees()
                    .lookup(&target.root.tree, &path, Follow::NotLast)?;
                if there.is_some() {
                    return Err(copy::CopyError::exists(&path).into());
                }
                let node = Node::Symlink {
                    target: to.clone().into_bytes(),
                };
                self.put(&mut target, &path, 0o777, owner, *timestamp, node)?;
            }
            FileActionKind::Rm {
                path,
                allow_not_found,
                allow_wildcard,
            } => {
                self.remove(&mut target, path, *allow_not_found, *allow_wildcard)?;
            }
        }
        Ok(target.root)
    }

    fn put(
        &self,
        target: &mut Target<'_>,
        path: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
        timestamp: Option<i64>,
        node: Node,
    ) -> Result<(), OpError> {
        let secs = timestamp.unwrap_or(target.now);
        let mtime = Timestamp { secs, nanos: 0 };
        let meta = Meta {
            mode: mode & 0o7777,
            uid,
            gid,
            mtime,
            ..Meta::default()
        };
        Ok(target.graft(
            path,
            Entry {
                name: Vec::new(),
                meta,
                node,
            },
        )?)
    }

    fn remove(
        &self,
        target: &mut Target<'_>,
        path: &str,
        missing_ok: bool,
        wild: bool,
    ) -> Result<(), OpError> {
        let pattern = CopyAction {
            src: path.to_owned(),
            allow_wildcard: wild,
            // A pattern need not match.
            allow_empty_wildcard: missing_ok || wild,
            ..CopyAction::default()
        };
        match copy::sources(self.store.trees(), &target.root, &pattern) {
            Ok(list) => {
                for source in list {
                    target.remove(&source.path)?;
                }
                Ok(())
            }
            Err(copy::CopyError::NotFound { .. }) if missing_ok => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn copy_action(
        &self,
        target: &mut Target<'_>,
        base: &Snapshot,
        source: &Snapshot,
        input: FileInput,
        action: &CopyAction,
    ) -> Result<(), OpError> {
        let change = Change {
            owner: self.owner(base, input, action.owner.as_ref())?,
            mode: action.mode.as_ref(),
            timestamp: action.timestamp,
        };
        let trees = self.store.trees();
        if !action.create_dest_path {
            let dest = target.resolve(&copy::clean(&action.dest))?;
            target.must_have_parent(&dest)?;
        }
        for found in copy::sources(trees, &source.root, action)? {
            self.place_copied(source, &found.path, &found.entry)?;
            if action.attempt_unpack
                && let Node::File(node) = &found.entry.node
                && let Some(archive) = self.open_archive(source, &found.path, node)?
            {
                let owner = change.owner.unwrap_or((0, 0));
                let dest = target.resolve(&copy::clean(&action.dest))?;
                target.make_dirs(&dest, copy::Made::by(owner))?;
                // What is in an archive has a mode of its own, which `--chmod` does not change.
                self.unpack(target, &dest, archive, &change)?;
                continue;
            }
            target.copy(&found, action, &change)?;
        }
        Ok(())
    }

    /// The file, if it is a tar, compressed or not.
    fn open_archive(
        &self,
        source: &Snapshot,
        path: &[u8],
        node: &rbuild_cache::FileNode,
    ) -> Result<Option<File>, OpError> {
        let shown = std::path::PathBuf::from(String::from_utf8_lossy(path).into_owned());
        let read = |error| OpError::io("read", &shown, error);
        let mut failed = None;
        for layer in source.layers.iter().rev() {
            let mut file = match self.open_file(layer, path, node) {
                Ok(file) => file,
                // It may be of another layer.
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            let is_tar = rbuild_cache::is_archive(&file).map_err(read)?;
            std::io::Seek::rewind(&mut file).map_err(read)?;
            return Ok(is_tar.then_some(file));
        }
        failed.map_or(Ok(None), |error| Err(read(error)))
    }

    /// ADD of an archive: its tree below `dest`, its files kept aside.
    fn unpack(
        &self,
        target: &mut Target<'_>,
        dest: &[u8],
        archive: File,
        change: &Change<'_>,
    ) -> Result<(), OpError> {
        let trees = self.store.trees();
        let mut again = archive
            .try_clone()
            .map_err(|error| OpError::io("read", "archive".as_ref(), error))?;
        let read = rbuild_cache::read_layer(trees, archive, None)?;
        let mut wanted = BTreeMap::new();
        trees.walk(&read.layer.tree, &mut |path, entry| {
            if let Node::File(node) = &entry.node {
                wanted.insert(path.to_vec(), node.clone());
            }
            std::ops::ControlFlow::Continue(())
        })?;
        std::io::Seek::rewind(&mut again)
            .map_err(|error| OpError::io("read", "archive".as_ref(), error))?;
        self.spool_files(&read.layer, again, &wanted)?;
        let owned = match change.owner {
            Some(owner) => self.give(&read.layer, owner)?,
            None => read.layer,
        };
        // As an archive's own files, names that look like whiteouts are what they say: the merge applies them.
        let mut whole = trees.merge(&trees.empty().tree, &owned.tree)?;
        for (path, dir) in self.over_links(target, dest, &owned)? {
            let mut gone = TreeBuilder::new();
            gone.whiteout(&path);
            whole = trees.merge(&whole.tree, &gone.finish(trees).tree)?;
            let aside = trees.merge(&trees.empty().tree, &trees.subtree(&dir).tree)?;
            let dest = target.resolve(&copy::join(dest, &path))?;
            self.lay(target, &dest, &aside)?;
        }
        self.lay(target, dest, &whole)
    }

    /// What an archive names, with another owner. Directories that it only names in paths stay root's.
    fn give(&self, archive: &TreeRef, (uid, gid): (u32, u32)) -> Result<TreeRef, OpError> {
        let trees = self.store.trees();
        let mut builder = TreeBuilder::new();
        trees.walk(&archive.tree, &mut |path, entry| {
            let meta = Meta {
                uid,
                gid,
                ..entry.meta.clone()
            };
            match NewNode::of(&entry.node) {
                _ if matches!(&entry.node, Node::Dir(dir) if dir.implied) => {}
                _ if path.is_empty() => builder.set_root(meta),
                Some(node) => builder.insert(path, meta, node),
                None => {}
            }
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(builder.finish(trees))
    }

    /// The directories of an archive that it only names in paths, where the image has symbolic links: what is in them
    /// goes where those lead.
    fn over_links(
        &self,
        target: &Target<'_>,
        dest: &[u8],
        archive: &TreeRef,
    ) -> Result<Vec<(Vec<u8>, Entry)>, OpError> {
        let trees = self.store.trees();
        let mut implied: Vec<(Vec<u8>, Entry)> = Vec::new();
        trees.walk(&archive.tree, &mut |path, entry| {
            if !path.is_empty() && matches!(&entry.node, Node::Dir(dir) if dir.implied) {
                implied.push((path.to_vec(), entry.clone()));
            }
            std::ops::ControlFlow::Continue(())
        })?;
        let mut found: Vec<(Vec<u8>, Entry)> = Vec::new();
        for (path, entry) in implied {
            let is_below = |(above, _): &(Vec<u8>, Entry)| {
                path.starts_with(above) && path.get(above.len()) == Some(&b'/')
            };
            let there = copy::join(dest, &path);
            let there = trees.lookup(&target.root.tree, &there, Follow::NotLast)?;
            let is_link =
                there.is_some_and(|found| matches!(found.entry.node, Node::Symlink { .. }));
            if is_link && !found.iter().any(is_below) {
                found.push((path, entry));
            }
        }
        Ok(found)
    }

    /// Lays a file system upon the directory `dest`.
    fn lay(&self, target: &mut Target<'_>, dest: &[u8], whole: &TreeRef) -> Result<(), OpError> {
        let action = CopyAction {
            dest: format!("/{}", String::from_utf8_lossy(dest)),
            dir_copy_contents: true,
            always_replace_existing_dest_paths: true,
            ..CopyAction::default()
        };
        let root = copy::Source {
            path: Vec::new(),
            name: Vec::new(),
            entry: self.store.trees().root(&whole.tree)?,
        };
        Ok(target.copy(&root, &action, &Change::default())?)
    }

    /// `--chown`, looked up in the image, which must be one: nothing is known of names where it is `scratch`.
    fn owner(
        &self,
        base: &Snapshot,
        input: FileInput,
        owner: Option<&Owner>,
    ) -> Result<Option<(u32, u32)>, OpError> {
        let Some(owner) = owner else { return Ok(None) };
        let mut names = [Some(&owner.user), owner.group.as_ref()]
            .into_iter()
            .filter_map(|who| match who {
                Some(UserRef::Name(name)) => Some(name),
                _ => None,
            });
        let accounts = match names.next() {
            Some(name) if input == FileInput::Scratch => {
                return Err(OwnerError::NoAccounts(name.clone()).into());
            }
            Some(_) => self.accounts(base)?,
            None => Accounts::default(),
        };
        Ok(Some(accounts.owner(owner)))
    }

    /// The image's account files.
    pub(super) fn accounts(&self, snapshot: &Snapshot) -> Result<Accounts, OpError> {
        let read = |path: &[u8]| {
            self.read_small(snapshot, path, ACCOUNTS_LIMIT)
                .map(Option::unwrap_or_default)
        };
        Ok(Accounts {
            passwd: read(b"etc/passwd")?,
            group: read(b"etc/group")?,
        })
    }
}

fn content_value(root: TreeRef) -> KeyValue {
    KeyValue::Content {
        content: root.content,
        tree: Some(root.tree),
    }
}

/// A file action's own part of a key. `with_src` is false where the content it selects is in the key instead.
fn action_value(action: &FileAction, with_src: bool) -> KeyValue {
    let mut fields = BTreeMap::new();
    let mut put = |name: &str, value: KeyValue| fields.insert(name.to_owned(), value);
    put("input", input_value(action.input));
    put("output", action.output.map_or(-1, i64::from).into());
    let owner_value = |owner: &Option<Owner>| match owner {
        None => KeyValue::from("kept"),
        Some(owner) => {
            let one = |user: &UserRef| match user {
                UserRef::Id(id) => id.to_string(),
                UserRef::Name(name) => name.clone(),
            };
            KeyValue::from(format!(
                "{}:{}",
                one(&owner.user),
                owner.group.as_ref().map(one).unwrap_or_default()
            ))
        }
    };
    let time = |timestamp: &Option<i64>| timestamp.map_or(KeyValue::from("unset"), KeyValue::from);
    match &action.kind {
        FileActionKind::Copy(copy) => {
            put("action", "copy".into());
            put("from", input_value(action.secondary));
            put("dest", copy.dest.as_str().into());
            put("chown", owner_value(&copy.owner));
            put(
                "chmod",
                copy.mode
                    .as_ref()
                    .map_or("kept".into(), |mode| format!("{mode:?}").into()),
            );
            put("exclude", copy.exclude.iter().map(String::as_str).collect());
            put("include", copy.include.iter().map(String::as_str).collect());
            put("timestamp", time(&copy.timestamp));
            let flags = [
                copy.follow_symlinks,
                copy.dir_copy_contents,
                copy.attempt_unpack,
                copy.create_dest_path,
                copy.always_replace_existing_dest_paths,
                copy.parents,
            ];
            put("flags", flags.into_iter().collect());
            if with_src {
                put("src", copy.src.as_str().into());
                put(
                    "wildcard",
                    [copy.allow_wildcard, copy.allow_empty_wildcard]
                        .into_iter()
                        .collect(),
                );
            }
        }
        FileActionKind::Mkfile {
            path,
            mode,
            data,
            owner,
            timestamp,
        } => {
            put("action", "mkfile".into());
            put("path", path.as_str().into());
            put("mode", (*mode).into());
            put(
                "data",
                KeyValue::from(ContentDigest::from_bytes(*blake3::hash(data).as_bytes())),
            );
            put("chown", owner_value(owner));
            put("timestamp", time(timestamp));
        }
        FileActionKind::Mkdir {
            path,
            mode,
            make_parents,
            owner,
            timestamp,
        } => {
            put("action", "mkdir".into());
            put("path", path.as_str().into());
            put("mode", (*mode).into());
            put("parents", (*make_parents).into());
            put("chown", owner_value(owner));
            put("timestamp", time(timestamp));
        }
        FileActionKind::Symlink {
            target,
            path,
            owner,
            timestamp,
        } => {
            put("action", "symlink".into());
            put("path", path.as_str().into());
            put("target", target.as_str().into());
            put("chown", owner_value(owner));
            put("timestamp", time(timestamp));
        }
        FileActionKind::Rm {
            path,
            allow_not_found,
            allow_wildcard,
        } => {
            put("action", "rm".into());
            put("path", path.as_str().into());
            put(
                "flags",
                [*allow_not_found, *allow_wildcard].into_iter().collect(),
            );
        }
    }
    KeyValue::Map(fields)
}

fn input_value(input: FileInput) -> KeyValue {
    match input {
        FileInput::Scratch => "scratch".into(),
        FileInput::Input(index) => format!("input {index}").into(),
        FileInput::Action(index) => format!("action {index}").into(),
    }
}

/// BLAKE3 of a value that looks secret, so that equal values give equal keys without being stored.
pub(super) fn hidden(name: &str, value: &str) -> KeyValue {
    let mut encoder = Encoder::new();
    encoder.put(name).put(value);
    let digest = blake3::derive_key("rbuild 2026 hidden key field", encoder.bytes());
    KeyValue::Hidden(ContentDigest::from_bytes(digest))
}
