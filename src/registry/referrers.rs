//! What says something of a manifest and names it as its subject: signatures, lists of what is in an image (distribution-spec,
//! Listing Referrers and Pushing Manifests with Subject). A registry that knows of them is asked by the API and keeps its
//! lists itself; of one that does not, a tag that is made of the subject's digest (Referrers Tag Schema) leads to an index
//! which those who push keep.
//!
//! A list proves nothing: no digest stands for it. What it names does, and is compared as all else is.

use std::collections::BTreeSet;

use rbuild_llb::OciDigest;
use serde::Deserialize;
use serde_json::Value;
use ureq::Body;
use ureq::ResponseExt as _;
use ureq::http::HeaderMap;
use ureq::http::Method;
use ureq::http::Response;
use ureq::http::StatusCode;
use ureq::http::header;

use super::MAX_DOCUMENT;
use super::call::Again;
use super::call::Failure;
use super::client::Client;
use super::client::pull_scopes;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::push::scopes;
use super::reference::Reference;
use super::resolve;
use super::transport;
use super::transport::Payload;
use super::transport::Request;
use crate::image::Descriptor;
use crate::image::Document;
use crate::image::DocumentError;
use crate::image::Format;
use crate::image::Index;
use crate::image::media_type;

/// Pages that one list may have.
const MAX_PAGES: usize = 1000;
/// Bytes that all pages of a list may have.
const MAX_LIST: u64 = 4 * MAX_DOCUMENT;
/// By which a registry says that it has noted what a manifest is about.
const NOTED: &str = "oci-subject";

impl Client {
    /// What the registry knows to be about the manifest or index with that digest; with `kind` what is of that type.
    ///
    /// # Errors
    /// [`RegistryError`]. That nothing is known is none.
    pub fn referrers(
        &self,
        of: &Reference,
        subject: OciDigest,
        kind: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let of = of.with_digest(subject);
        let listed = self.over_endpoints(&self.shared.places.to_pull(&of)?, |endpoint| {
            self.listed(endpoint, &of, &subject, kind)
        });
        let mut found = match listed {
            Err(error) if has_no_api(&error) => self.tagged(&of, &subject)?,
            listed => listed?,
        };
        // A registry need not sort out (`OCI-Filters-Applied`), and one that says it did may be wrong.
        if let Some(kind) = kind {
            found.retain(|entry| entry.artifact_type.as_deref() == Some(kind));
        }
        let mut seen = BTreeSet::new();
        found.retain(|entry| seen.insert(entry.digest));
        Ok(found)
    }

    /// A referrer and its bytes: a manifest that is in a list, of the size that it has there, about that subject.
    ///
    /// # Errors
    /// [`RegistryError`]; `Protocol` if it is about something else.
    pub fn referrer(
        &self,
        of: &Reference,
        subject: &OciDigest,
        entry: &Descriptor,
    ) -> Result<(Document, Vec<u8>), RegistryError> {
        let exact = of.with_digest(entry.digest);
        let found = self.manifest(&exact)?;
        resolve::check_size(entry, &found.bytes)?;
        let document = resolve::parse(&entry.digest.to_string(), &found)?;
        match document.subject() {
            Some(own) if own.digest == *subject => Ok((document, found.bytes)),
            _ => Err(RegistryError::Protocol {
                registry: of.registry.clone(),
                why: format!(
                    "{} is listed among what is about {subject}, and is not about it",
                    entry.digest
                ),
            }),
        }
    }

    /// By the API, page by page.
    fn listed(
        &self,
        endpoint: &Endpoint,
        of: &Reference,
        subject: &OciDigest,
        kind: Option<&str>,
    ) -> Result<Vec<Descriptor>, Failure> {
        let mut url = endpoint.url(&format!("referrers/{subject}"));
        if let Some(kind) = kind {
            let separator = if url.contains('?') { '&' } else { '?' };
            url = format!("{url}{separator}artifactType={}", transport::encode(kind));
        }
        let what = list_of(subject);
        let (mut found, mut bytes, mut asked) = (Vec::new(), 0, BTreeSet::new());
        loop {
            let request = Request::new(Method::GET, url.clone())
                .header(header::ACCEPT, media_type::OCI_INDEX);
            let mut response =
                self.expect_success(endpoint, of, &pull_scopes(endpoint), &request)?;
            let said = response.headers().get(header::CONTENT_TYPE);
            let said = said.and_then(|value| value.to_str().ok());
            // A page for people, as some registries have for every path, is no answer.
            if said.is_none_or(|said| media_type::essence(said) != media_type::OCI_INDEX) {
                return Err(RegistryError::NotFound {
                    registry: endpoint.name.clone(),
                    reference: of.written().to_owned(),
                    message: None,
                }
                .into());
            }
            let next = next_page(&response);
            let page = self.read_small(endpoint, &what, &mut response)?;
            bytes += page.len() as u64;
            if bytes > MAX_LIST {
                let limit = MAX_LIST;
                return Err(RegistryError::TooLarge { what, limit }.into());
            }
            found.extend(read_list(&what, &page)?.1);
            asked.insert(std::mem::take(&mut url));
            url = match next {
                None => return Ok(found),
                Some(next) if !transport::same_origin(&next, &endpoint.root()) => {
                    return Err(self.protocol(endpoint, format!("{what} goes on at another host")));
                }
                Some(next) if asked.contains(&next) || asked.len() == MAX_PAGES => {
                    return Err(self.protocol(endpoint, format!("{what} has no end")));
                }
                Some(next) => next,
            };
        }
    }

    /// By the tag.
    fn tagged(
        &self,
        of: &Reference,
        subject: &OciDigest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        match self.manifest(&tag_of(of, subject)) {
            Ok(found) => Ok(read_list(&list_of(subject), &found.bytes)?.1),
            Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Sees to it that a manifest which is in the repository of `to` now, and is about another, is found by that: `noted` is
    /// what the registry answered.
    pub(super) fn refer(
        &self,
        to: &Reference,
        media_type: &str,
        bytes: &[u8],
        noted: &HeaderMap,
    ) -> Result<(), RegistryError> {
        let Some(subject) = subject_of(bytes).filter(|_| !noted.contains_key(NOTED)) else {
            return Ok(());
        };
        let entry = entry(media_type, bytes).map_err(|source| RegistryError::Document {
            what: to.written().to_owned(),
            source,
        })?;
        let tag = tag_of(to, &subject);
        // Those of this process take turns; for those of others see `write`.
        let _turn = self.shared.lists.lock().expect("nothing in here panics");
        self.over_endpoints(&self.shared.places.to_push(to)?, |endpoint| {
            let (list, version) = self.read(endpoint, &tag, &subject)?;
            match with_entry(list, &entry) {
                None => Ok(()),
                Some(list) => self.write(endpoint, &tag, &subject, &list, version.as_deref()),
            }
        })
    }

    /// The list under a tag as the registry has it now, with the version that it calls it by.
    fn read(
        &self,
        endpoint: &Endpoint,
        tag: &Reference,
        subject: &OciDigest,
    ) -> Result<(Option<Value>, Option<String>), Failure> {
        let url = endpoint.url(&format!("manifests/{}", tag.version()));
        let request =
            Request::new(Method::GET, url).header(header::ACCEPT, media_type::MANIFESTS.join(", "));
        let mut response = match self.expect_success(endpoint, tag, &scopes(tag, None), &request) {
            Err(Failure {
                error: RegistryError::NotFound { .. },
                ..
            }) => return Ok((None, None)),
            answered => answered?,
        };
        let version = response.headers().get(header::ETAG);
        let version = version.and_then(|value| value.to_str().ok());
        // A weak one says nothing of the bytes, and no condition holds for it (RFC 9110, section 13.1.1).
        let version = version.filter(|version| !version.starts_with("W/"));
        let version = version.map(str::to_owned);
        let bytes = self.read_small(endpoint, &list_of(subject), &mut response)?;
        let (list, _) = read_list(&list_of(subject), &bytes)?;
        Ok((Some(list), version))
    }

    /// Puts a list under its tag, unless somebody else has done so since it was read. Registries that know no versions
    /// keep the later one: of several that push at once, one may be left out there.
    fn write(
        &self,
        endpoint: &Endpoint,
        tag: &Reference,
        subject: &OciDigest,
        list: &[u8],
        version: Option<&str>,
    ) -> Result<(), Failure> {
        if list.len() as u64 > MAX_DOCUMENT {
            let (what, limit) = (list_of(subject), MAX_DOCUMENT);
            return Err(RegistryError::TooLarge { what, limit }.into());
        }
        let url = endpoint.url(&format!("manifests/{}", tag.version()));
        let mut put = Request::new(Method::PUT, url)
            .header(header::CONTENT_TYPE, media_type::OCI_INDEX)
            .body(Payload::Bytes(list));
        if let Some(version) = version {
            put = put.header(header::IF_MATCH, version);
        }
        match self.expect_success(endpoint, tag, &scopes(tag, None), &put) {
            Ok(_) => Ok(()),
            Err(Failure {
                error: error @ RegistryError::Status { status: 412, .. },
                ..
            }) => Err(Failure {
                error,
                again: Again::Later,
            }),
            Err(failure) => Err(failure),
        }
    }
}

/// Whether that is how registries answer which have no such API: those of the specification by 404, others less well.
fn has_no_api(error: &RegistryError) -> bool {
    const METHOD_NOT_ALLOWED: u16 = StatusCode::METHOD_NOT_ALLOWED.as_u16();
    const NOT_ACCEPTABLE: u16 = StatusCode::NOT_ACCEPTABLE.as_u16();
    match error {
        RegistryError::NotFound { .. } => true,
        RegistryError::Status { status, .. } => {
            [METHOD_NOT_ALLOWED, NOT_ACCEPTABLE].contains(status)
        }
        _ => false,
    }
}

fn list_of(subject: &OciDigest) -> String {
    format!("the list of what is about {subject}")
}

/// `sha256-…`, which is what a digest becomes where only tags are known.
fn tag_of(of: &Reference, subject: &OciDigest) -> Reference {
    of.with_tag(subject.to_string().replace(':', "-"))
}

/// A list, and what is in it that goes by a digest rbuild knows how to compare.
fn read_list(what: &str, bytes: &[u8]) -> Result<(Value, Vec<Descriptor>), RegistryError> {
    let parse = || -> Result<_, DocumentError> {
        let malformed = |source| DocumentError::Malformed { source };
        let list: Value = serde_json::from_slice(bytes).map_err(malformed)?;
        let mut known = list.clone();
        if let Some(entries) = known.get_mut("manifests").and_then(Value::as_array_mut) {
            let is_known = |digest: &str| digest.starts_with("sha256:");
            entries.retain(|entry| entry["digest"].as_str().is_none_or(is_known));
        }
        let known = serde_json::to_vec(&known).map_err(malformed)?;
        match Document::parse(&known, Some(media_type::OCI_INDEX))? {
            Document::Index(index) => Ok((list, index.manifests)),
            Document::Manifest(manifest) => Err(DocumentError::Mismatch {
                media_type: manifest.media_type,
            }),
        }
    };
    parse().map_err(|source| RegistryError::Document {
        what: what.to_owned(),
        source,
    })
}

/// The URL of `Link: <URL>; rel="next"` (RFC 8288), whole.
fn next_page(response: &Response<Body>) -> Option<String> {
    let links = response.headers().get_all(header::LINK);
    let mut links = links.iter().filter_map(|value| value.to_str().ok());
    let next = links.find_map(next_link)?;
    Some(transport::join(response.get_uri(), next)?.to_string())
}

fn next_link(mut header: &str) -> Option<&str> {
    // A URL may have commas in it, so it is not for them to say where a link ends.
    while let Some((url, rest)) = header.split_once('<')?.1.split_once('>') {
        let end = rest.find('<').unwrap_or(rest.len());
        let mut parameters = rest[..end].split([';', ',']);
        let is_next = parameters.any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                let is_rel = name.trim().eq_ignore_ascii_case("rel");
                let mut words = value.trim().trim_matches('"').split(' ');
                is_rel && words.any(|word| word.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return Some(url);
        }
        header = &rest[end..];
    }
    None
}

/// What a document says it is about.
fn subject_of(bytes: &[u8]) -> Option<OciDigest> {
    #[derive(Deserialize)]
    struct About {
        subject: Option<Subject>,
    }
    #[derive(Deserialize)]
    struct Subject {
        digest: OciDigest,
    }
    let about: About = serde_json::from_slice(bytes).ok()?;
    Some(about.subject?.digest)
}

/// What a list says of a document (distribution-spec, Pushing Manifests with Subject).
fn entry(media_type: &str, bytes: &[u8]) -> Result<Descriptor, DocumentError> {
    let (kind, annotations) = match Document::parse(bytes, Some(media_type))? {
        Document::Manifest(manifest) => {
            let kind = manifest.artifact_type.filter(|kind| !kind.is_empty());
            let kind = kind.or(Some(manifest.config.media_type));
            (kind, manifest.annotations)
        }
        Document::Index(index) => (index.artifact_type, index.annotations),
    };
    Ok(Descriptor {
        artifact_type: kind.filter(|kind| !kind.is_empty()),
        annotations,
        ..Descriptor::of(media_type, bytes)
    })
}

/// A list with one more in it; `None` if it is there. What others wrote stays as it is, understood or not.
fn with_entry(list: Option<Value>, entry: &Descriptor) -> Option<Vec<u8>> {
    let Some(mut list) = list else {
        return Some(Index::new(Format::Oci, vec![entry.clone()]).to_json());
    };
    let entries = list.get_mut("manifests").and_then(Value::as_array_mut);
    let entries = entries.expect("what was read as an index has entries");
    let digest = entry.digest.to_string();
    if entries.iter().any(|known| known["digest"] == digest) {
        return None;
    }
    entries
        .push(serde_json::to_value(entry).expect("it holds strings, numbers and maps of strings"));
    Some(serde_json::to_vec(&list).expect("a JSON value can always be written"))
}

#[cfg(test)]
mod t {
    use super::*;

    /// RFC 8288, section 3, and the distribution-spec's own.
    #[test]
    fn the_next_page_is_found_among_links() {
        for (header, want) in [
            ("</v2/a?n=1&last=b>; rel=\"next\"", Some("/v2/a?n=1&last=b")),
            ("<x>; rel=next", Some("x")),
            ("<a,b>; REL=\"prev next\"", Some("a,b")),
            ("<a>; rel=prev, <b>; title=\"x\"; rel=\"next\"", Some("b")),
            ("<a>; rel=prev", None),
            ("<a>; title=next", None),
            ("a; rel=next", None),
            ("<a; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_link(header), want, "{header}");
        }
    }

    #[test]
    fn what_others_wrote_into_a_list_stays() {
        let entry = Descriptor::of(media_type::OCI_MANIFEST, b"new");
        let theirs = r#"{"schemaVersion":2,"annotations":{"a":"b"},"manifests":[{"digest":"sha512:00","size":1,"data":"eA=="}],"x":7}"#;
        let list: Value = serde_json::from_str(theirs).unwrap();
        let grown = with_entry(Some(list.clone()), &entry).unwrap();
        let mut grown: Value = serde_json::from_slice(&grown).unwrap();
        assert!(with_entry(Some(grown.clone()), &entry).is_none());
        let added = grown["manifests"].as_array_mut().unwrap().pop().unwrap();
        assert_eq!(grown, list);
        assert_eq!(added["digest"], entry.digest.to_string());
    }
}
