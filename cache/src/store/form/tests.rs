use super::*;
use crate::tree::Meta;
use crate::tree::TreeRef;

struct Fixture {
    store: Store,
    _dir: tempfile::TempDir,
}

const DOMAIN: &str = "map";

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Self { store, _dir: dir }
    }

    /// A layer of its own for each mode.
    fn layer(&self, mode: u32) -> TreeRef {
        let trees = self.store.trees();
        let meta = Meta {
            mode,
            ..Meta::default()
        };
        let (_, dir) = trees.root_dir(&trees.empty().tree).unwrap();
        trees.put_root(meta, dir)
    }

    fn whole(&self, layer: TreeRef, files: &[(&str, &str)]) {
        let scratch = self.store.scratch().unwrap();
        let into = scratch.path().join("fs");
        fs::create_dir(&into).unwrap();
        for (name, text) in files {
            fs::write(into.join(name), text).unwrap();
        }
        let adopted = self.store.adopt_layer_dir(&layer.tree, DOMAIN, &into);
        adopted.unwrap();
    }

    fn delta(
        &self,
        layer: TreeRef,
        near: TreeRef,
        files: &[&str],
        bare: &[&[u8]],
    ) -> Option<LayerForm> {
        let scratch = self.store.scratch().unwrap();
        let from = scratch.path().join("delta");
        fs::create_dir_all(from.join("fs")).unwrap();
        for name in files {
            fs::write(from.join("fs").join(name), "above").unwrap();
        }
        let delta = Delta {
            layer,
            bare: bare.iter().map(|path| path.to_vec()).collect(),
            entries: files.len(),
        };
        let adopted = self
            .store
            .adopt_layer_delta(&layer.tree, DOMAIN, &near.tree, &delta, &from);
        adopted.unwrap()
    }

    fn form(&self, layer: TreeRef) -> Option<LayerForm> {
        self.store.layer_form(&layer.tree, DOMAIN)
    }
}

fn text(form: &LayerForm, path: &str) -> Result<String, io::ErrorKind> {
    let read = |file| io::read_to_string(file).unwrap();
    let kind = |error: io::Error| error.kind();
    let text = form.open(path.as_bytes()).map(read).map_err(kind);
    let reader = form.reader().unwrap();
    assert_eq!(reader.open(path.as_bytes()).map(read).map_err(kind), text);
    text
}

#[test]
fn a_difference_stands_over_the_whole_of_a_near_layer() {
    let fixture = Fixture::new();
    let [first, second, third] = [0o700, 0o711, 0o755].map(|mode| fixture.layer(mode));
    fixture.whole(first, &[("a", "below"), ("b", "below"), ("c", "below")]);
    let over = fixture
        .delta(second, first, &["b"], &[b"x", b"y\nz"])
        .unwrap();
    assert_eq!(over.over(), [first.tree]);
    let form = fixture.delta(third, second, &["c"], &[b"w"]).unwrap();
    assert_eq!(fixture.form(third).as_ref(), Some(&form));
    assert_eq!(form.over(), [first.tree, second.tree]);
    assert_eq!(
        form.bare(),
        [b"w".to_vec(), b"x".to_vec(), b"y\nz".to_vec()]
    );
    assert!(form.dirs()[0].ends_with(DOMAIN) && form.dirs().len() == 3);
    let found = ["a", "b", "c"].map(|path| text(&form, path).unwrap());
    assert_eq!(found, ["below", "above", "above"]);
    assert_eq!(text(&form, "d"), Err(io::ErrorKind::NotFound));
    assert_eq!(
        fixture.store.stands_over(&third.tree).unwrap(),
        [second.tree]
    );
    assert_eq!(fixture.store.stands_over(&first.tree).unwrap(), []);
    assert_eq!(fixture.store.layer_form(&third.tree, "other"), None);

    // Once it is whole, it needs no other.
    fixture.whole(second, &[("b", "whole")]);
    let form = fixture.form(third).unwrap();
    assert_eq!(form.over(), [second.tree]);
    assert_eq!(text(&form, "b").unwrap(), "whole");
}

#[test]
fn what_something_is_missing_of_is_no_form() {
    let fixture = Fixture::new();
    let [first, second, third] = [0o700, 0o711, 0o755].map(|mode| fixture.layer(mode));
    assert_eq!(
        fixture.delta(third, second, &["b"], &[]),
        None,
        "the near layer"
    );
    assert_eq!(
        fixture.delta(second, first, &["b"], &[b"x"]),
        None,
        "what that stands on"
    );
    fixture.whole(first, &[]);
    assert!(fixture.form(third).is_some(), "all is there");

    let over = fixture
        .store
        .layer_forms(&second.tree)
        .join("map.delta/over");
    let whole = fs::read(&over).unwrap();
    for damaged in [&whole[..whole.len() - 1], &whole[..60], b"", b"\n", b"x\n"] {
        fs::write(&over, damaged).unwrap();
        assert_eq!(
            fixture.form(second),
            None,
            "{}",
            String::from_utf8_lossy(damaged)
        );
    }
    fs::write(&over, whole).unwrap();
    assert!(fixture.form(third).is_some());
}

/// A circle is no form, whoever made it.
#[test]
fn a_pile_has_an_end() {
    let fixture = Fixture::new();
    let [first, second] = [0o700, 0o711].map(|mode| fixture.layer(mode));
    fixture.delta(first, second, &[], &[]);
    fixture.delta(second, first, &[], &[]);
    assert_eq!(fixture.form(first), None);
    // A file of the layer is none of ours.
    let layer = fixture.layer(0o755);
    let text = format!("{}\n", first.tree.hex());
    fixture.whole(layer, &[("over", &text)]);
    assert_eq!(fixture.store.stands_over(&layer.tree).unwrap(), []);
}

#[test]
fn a_place_remembers_what_got_a_form_there() {
    let fixture = Fixture::new();
    let layers = [0o700, 0o711].map(|mode| fixture.layer(mode).tree);
    for layer in layers {
        fixture.store.set_near("here", DOMAIN, &layer).unwrap();
        assert_eq!(fixture.store.near("here", DOMAIN).unwrap(), Some(layer));
    }
    assert_eq!(fixture.store.near("here", "other").unwrap(), None);
    assert_eq!(fixture.store.near("there", DOMAIN).unwrap(), None);
}
