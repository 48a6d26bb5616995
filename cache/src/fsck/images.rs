//! Images: their documents, and whether the bytes of their layers can be had.

use rbuild_llb::OciDigest;
use serde_json::Value;

use super::Fsck;
use super::Remedy;
use super::forms::has_form;
use crate::blobs::digest_in;
use crate::file;
use crate::images;
use crate::images::StoredImage;
use crate::store::KnownLayer;
use crate::store::StoreError;

/// Where the bytes of a layer are.
enum Bytes {
    Here,
    /// They came from somewhere, and can come again.
    Elsewhere,
    Gone,
}

impl Fsck<'_> {
    pub(super) fn images(&mut self) -> Result<(), StoreError> {
        for path in file::list(&self.path("images"))? {
            self.count("images");
            let Some(name) = path
                .file_name()
                .and_then(|name| images::decode(name.to_str()?))
            else {
                self.wrong(&path, "has a name no image goes by", Remedy::Leave)?;
                continue;
            };
            let image: StoredImage = match file::read_json(&path) {
                Ok(Some(image)) => image,
                Ok(None) => continue,
                Err(StoreError::Damaged { source, .. }) => {
                    let what = format!("is not as it was written: {source} (the image `{name}`)");
                    self.wrong(&path, what, Remedy::Leave)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for what in self.image(&name, &image)? {
                self.wrong(&path, what, Remedy::Leave)?;
            }
        }
        Ok(())
    }

    /// What an image lacks.
    fn image(&mut self, name: &str, image: &StoredImage) -> Result<Vec<String>, StoreError> {
        let again = "build or pull it again";
        let mut lacks = Vec::new();
        let Some(top) = self.store.blobs().document(&image.digest) else {
            lacks.push(format!(
                "the manifest {} of the image `{name}` is missing or damaged: {again}",
                image.digest
            ));
            return Ok(lacks);
        };
        let of = |json: &Value, list: &str| -> Vec<OciDigest> {
            let list = json[list].as_array().map_or(&[][..], Vec::as_slice);
            list.iter().filter_map(digest_in).collect()
        };
        let mut manifests: Vec<Value> = of(&top, "manifests")
            .iter()
            // An index also names the platforms that were not pulled.
            .filter_map(|digest| self.store.blobs().document(digest))
            .collect();
        manifests.push(top);
        for referrer in &image.referrers {
            let there = |digest: &OciDigest| self.store.blobs().contains(digest);
            let document = self.store.blobs().document(referrer);
            let whole = document.is_some_and(|json| {
                let config = digest_in(&json["config"]);
                of(&json, "layers").iter().chain(&config).all(there)
            });
            if !whole {
                lacks.push(format!(
                    "{referrer}, which is about the image `{name}`, is missing or damaged: {again} with `--referrers`"
                ));
            }
        }
        for manifest in &manifests {
            if let Some(config) = digest_in(&manifest["config"])
                && self.store.blobs().document(&config).is_none()
            {
                lacks.push(format!(
                    "the config {config} of the image `{name}` is missing or damaged: {again}"
                ));
            }
            for layer in of(manifest, "layers") {
                match self.bytes_of(&layer)? {
                    Bytes::Here => {}
                    Bytes::Elsewhere => self.found.notes.push(format!(
                        "the layer {layer} of the image `{name}` is fetched from where it came from when it is wanted"
                    )),
                    Bytes::Gone => lacks.push(format!(
                        "the layer {layer} of the image `{name}` has no bytes left: {again}"
                    )),
                }
            }
        }
        Ok(lacks)
    }

    fn bytes_of(&mut self, layer: &OciDigest) -> Result<Bytes, StoreError> {
        if self.store.blobs().contains(layer) {
            return Ok(Bytes::Here);
        }
        let path = self.store.known_path(layer);
        let known: Option<KnownLayer> = file::read_json(&path).ok().flatten();
        let Some(known) = known else {
            return Ok(Bytes::Elsewhere);
        };
        let tree = known.layer.tree;
        if self.lacking(&tree).is_none() && has_form(&self.store.layer_forms(&tree)) {
            return Ok(Bytes::Here);
        }
        let blobs = self.store.all_layer_blobs(&tree)?;
        let there = blobs
            .iter()
            .any(|blob| self.store.blobs().contains(&blob.digest));
        Ok(match there {
            true => Bytes::Here,
            false if blobs.iter().any(|blob| blob.digest == *layer) => Bytes::Gone,
            false => Bytes::Elsewhere,
        })
    }
}
