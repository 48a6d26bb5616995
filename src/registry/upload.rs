//! Uploads of one blob (distribution-spec, Pushing Blobs): whole, and in chunks where a registry, or a proxy before it,
//! takes no request that large, where a registry says of itself how small chunks may be, or where an upload broke and the
//! registry remembers how far it came.
//!
//! A blob is read as it is sent, and read again only from where the registry lacks it.

use std::cell::RefCell;
use std::io;
use std::io::Read;

use ureq::Body;
use ureq::ResponseExt;
use ureq::http::Method;
use ureq::http::Response;
use ureq::http::StatusCode;
use ureq::http::header;

use super::call::Again;
use super::call::Failure;
use super::call::TRIES;
use super::client::Client;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::push::Blob;
use super::push::Pushed;
use super::push::scopes;
use super::transport;
use super::transport::OpenBlob;
use super::transport::Payload;
use super::transport::Request;

/// Chunks are at most as large.
const LARGEST_CHUNK: u64 = 64 << 20;
/// And not made smaller than that, which is what nginx takes unless told otherwise (`client_max_body_size`).
const SMALLEST_CHUNK: u64 = 1 << 20;
/// What the registry wants chunks to have at least (distribution-spec, Pushing a blob in chunks).
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// An upload that has begun.
struct Session {
    /// Where the next bytes go.
    place: String,
    /// Bytes the registry has.
    offset: u64,
    /// What chunks but the last must have at least.
    least: u64,
}

impl Client {
    /// Brings a blob into the repository that lacks it.
    pub(super) fn upload(&self, endpoint: &Endpoint, blob: &Blob<'_>) -> Result<Pushed, Failure> {
        let mut begun = self.begin(endpoint, blob, blob.mount_from)?;
        if let Some(session) = &begun
            && blob.size <= self.whole(endpoint, session)
        {
            let Err(failure) = self.put(endpoint, blob, session, Some(blob.open)) else {
                return Ok(Pushed::Sent);
            };
            begun = match &failure.error {
                error if is_too_large(error) && blob.size > SMALLEST_CHUNK => {
                    self.make_smaller(endpoint, blob.size);
                    self.begin(endpoint, blob, None)?
                }
                RegistryError::Unreachable { .. } => match self.progress(endpoint, blob, session) {
                    Ok(session) if session.offset > 0 => Some(session),
                    _ => return Err(failure),
                },
                _ => return Err(failure),
            };
        }
        let Some(session) = begun else {
            return Ok(Pushed::Mounted);
        };
        let session = self.in_chunks(endpoint, blob, session)?;
        self.put(endpoint, blob, &session, None)?;
        Ok(Pushed::Sent)
    }

    /// Asks for the blob of another repository; whether it was given. An upload that was offered instead is not wanted.
    pub(super) fn mount(&self, endpoint: &Endpoint, blob: &Blob<'_>) -> Result<bool, Failure> {
        let Some(session) = self.begin(endpoint, blob, blob.mount_from)? else {
            return Ok(true);
        };
        let cancel = Request::new(Method::DELETE, session.place);
        // Registries forget uploads that do not go on, too.
        drop(self.expect_success(endpoint, blob.to, &scopes(blob.to, None), &cancel));
        Ok(false)
    }

    /// Asks for a place to upload to, or for the blob of another repository; `None` if it gave that.
    fn begin(
        &self,
        endpoint: &Endpoint,
        blob: &Blob<'_>,
        mount_from: Option<&str>,
    ) -> Result<Option<Session>, Failure> {
        let mut url = endpoint.url("blobs/uploads/");
        if let Some(from) = mount_from {
            url = format!(
                "{url}?mount={}&from={}",
                transport::encode(&blob.digest.to_string()),
                transport::encode(from)
            );
        }
        let start = Request::new(Method::POST, url);
        let scopes = scopes(blob.to, mount_from);
        let response = match self.expect_success(endpoint, blob.to, &scopes, &start) {
            Ok(response) => response,
            // Who may not read the other repository may still write to this one.
            Err(Failure {
                again: Again::Never,
                error,
            }) if mount_from.is_some() && error.is_worth_another_host() => {
                return self.begin(endpoint, blob, None);
            }
            Err(failure) => return Err(failure),
        };
        if response.status() == StatusCode::CREATED && mount_from.is_some() {
            return Ok(None);
        }
        let least = response.headers().get(CHUNK_MIN_LENGTH);
        let least = least.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok(Some(Session {
            place: location(&response).ok_or_else(|| {
                self.protocol(endpoint, "it gives no place to upload to".to_owned())
            })?,
            offset: 0,
            least: least.unwrap_or(0),
        }))
    }

    /// Sends the blob, or ends an upload that has all of it.
    fn put<'a>(
        &self,
        endpoint: &Endpoint,
        blob: &Blob<'_>,
        session: &Session,
        open: Option<&'a OpenBlob<'a>>,
    ) -> Result<(), Failure> {
        let place = &session.place;
        let separator = if place.contains('?') { '&' } else { '?' };
        let digest = transport::encode(&blob.digest.to_string());
        let mut put = Request::new(Method::PUT, format!("{place}{separator}digest={digest}"));
        if let Some(open) = open {
            put = put
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .body(Payload::Reader {
                    open,
                    size: blob.size,
                });
        }
        self.expect_success(endpoint, blob.to, &scopes(blob.to, None), &put)?;
        Ok(())
    }

    /// Sends what is missing, in chunks. The session it returns has all.
    fn in_chunks(
        &self,
        endpoint: &Endpoint,
        blob: &Blob<'_>,
        mut session: Session,
    ) -> Result<Session, Failure> {
        let cursor = RefCell::new(Cursor {
            open: blob.open,
            reader: None,
            at: 0,
        });
        let mut failed = 0;
        while session.offset < blob.size {
            let chunk = self.largest_body(endpoint).unwrap_or(LARGEST_CHUNK);
            let length = chunk.max(session.least).min(blob.size - session.offset);
            let Failure { error, again } =
                match self.patch(endpoint, blob, &session, &cursor, length) {
                    Ok(next) => {
                        session = next;
                        failed = 0;
                        continue;
                    }
                    Err(failure) => failure,
                };
            let out_of_step = matches!(error, RegistryError::Status { status: 416, .. });
            if is_too_large(&error) && length > session.least.max(SMALLEST_CHUNK) {
                self.make_smaller(endpoint, length);
            } else if (out_of_step || again != Again::Never) && failed + 1 < TRIES {
                self.pause(failed);
                failed += 1;
            } else {
                return Err(Failure { error, again });
            }
            // Who does not remember the upload gets it from its beginning.
            session = self
                .progress(endpoint, blob, &session)
                .map_err(|_| Failure {
                    error,
                    again: Again::Later,
                })?;
        }
        Ok(session)
    }

    fn patch(
        &self,
        endpoint: &Endpoint,
        blob: &Blob<'_>,
        session: &Session,
        cursor: &RefCell<Cursor<'_>>,
        length: u64,
    ) -> Result<Session, Failure> {
        let (first, end) = (session.offset, session.offset + length);
        let open = || {
            cursor.borrow_mut().go_to(first)?;
            let left = length;
            Ok(Box::new(Chunk { cursor, left }) as Box<dyn Read>)
        };
        let patch = Request::new(Method::PATCH, session.place.clone())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_RANGE, format!("{first}-{}", end - 1))
            .body(Payload::Reader {
                open: &open,
                size: length,
            });
        let response = self.expect_success(endpoint, blob.to, &scopes(blob.to, None), &patch)?;
        let taken = taken(&response).unwrap_or(end);
        if taken <= first || taken > end {
            let why = format!("of the bytes {first} to {end} of an upload it has {taken}");
            return Err(self.protocol(endpoint, why));
        }
        Ok(session.after(&response, taken))
    }

    /// How far an upload came.
    fn progress(
        &self,
        endpoint: &Endpoint,
        blob: &Blob<'_>,
        session: &Session,
    ) -> Result<Session, Failure> {
        let get = Request::new(Method::GET, session.place.clone());
        let response = self.expect_success(endpoint, blob.to, &scopes(blob.to, None), &get)?;
        match taken(&response) {
            Some(taken) if taken <= blob.size => Ok(session.after(&response, taken)),
            _ => Err(self.protocol(
                endpoint,
                "it does not say how far an upload came".to_owned(),
            )),
        }
    }

    /// The largest blob that is sent whole: any, unless the endpoint refused one of that size, or speaks of chunks.
    fn whole(&self, endpoint: &Endpoint, session: &Session) -> u64 {
        let known = self.largest_body(endpoint);
        known.unwrap_or(match session.least {
            0 => u64::MAX,
            least => least.max(LARGEST_CHUNK),
        })
    }

    /// The largest body an endpoint takes, once that is known.
    fn largest_body(&self, endpoint: &Endpoint) -> Option<u64> {
        let known = self
            .shared
            .largest_bodies
            .lock()
            .expect("it is only looked up in");
        known.get(&endpoint.name).copied()
    }

    /// Notes that an endpoint does not take a body of that size.
    fn make_smaller(&self, endpoint: &Endpoint, size: u64) {
        let size = (size / 4).clamp(SMALLEST_CHUNK, LARGEST_CHUNK);
        let mut known = self
            .shared
            .largest_bodies
            .lock()
            .expect("it is only looked up in");
        let known = known.entry(endpoint.name.clone()).or_insert(size);
        *known = size.min(*known);
    }
}

impl Session {
    /// The session after an answer that says how many bytes there are.
    fn after(&self, response: &Response<Body>, offset: u64) -> Self {
        Self {
            place: location(response).unwrap_or_else(|| self.place.clone()),
            offset,
            least: self.least,
        }
    }
}

fn is_too_large(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Status { status: 413, .. })
}

fn location(response: &Response<Body>) -> Option<String> {
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    Some(transport::join(response.get_uri(), location)?.to_string())
}

/// `Range: 0-LAST` as a number of bytes. None and one cannot be told apart: it is none then.
fn taken(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get(header::RANGE)?.to_str().ok()?;
    let range = range.trim().trim_start_matches("bytes=");
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    match last {
        0 => Some(0),
        last => last.checked_add(1),
    }
}

/// A blob that is read from any place, best from where it was left.
struct Cursor<'a> {
    open: &'a OpenBlob<'a>,
    reader: Option<Box<dyn Read + 'a>>,
    at: u64,
}

impl Cursor<'_> {
    fn go_to(&mut self, offset: u64) -> io::Result<()> {
        if self.at > offset {
            self.reader = None;
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => {
                self.at = 0;
                none.insert((self.open)()?)
            }
        };
        let skipped = io::copy(&mut reader.take(offset - self.at), &mut io::sink())?;
        self.at += skipped;
        if self.at == offset {
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Parts of a blob that are sent one after another: what lies before one is not read again for it.
pub(crate) struct BlobParts<'a>(RefCell<Cursor<'a>>);

impl<'a> BlobParts<'a> {
    pub(crate) fn new(open: &'a OpenBlob<'a>) -> Self {
        Self(RefCell::new(Cursor {
            open,
            reader: None,
            at: 0,
        }))
    }

    /// So many bytes from an offset on.
    pub(crate) fn part(&self, from: u64, length: u64) -> io::Result<Box<dyn Read + '_>> {
        self.0.borrow_mut().go_to(from)?;
        Ok(Box::new(Chunk {
            cursor: &self.0,
            left: length,
        }))
    }
}

/// A part of a blob, from where its cursor is.
struct Chunk<'a, 'b> {
    cursor: &'a RefCell<Cursor<'b>>,
    left: u64,
}

impl Read for Chunk<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut cursor = self.cursor.borrow_mut();
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let Some(reader) = &mut cursor.reader else {
            return Ok(0);
        };
        let n = reader.read(&mut buf[..most])?;
        cursor.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
