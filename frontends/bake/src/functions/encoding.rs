//! Digests, Base64, JSON and URLs.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use percent_encoding::AsciiSet;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::utf8_percent_encode;
use sha1::Sha1;
use sha2::Digest as _;
use sha2::Sha256;
use sha2::Sha512;

use super::Function;
use super::function;
use super::text;
use super::wrong;
use crate::json;
use crate::value::Value;

/// What stays as it is in a part of a query (Go's `url.QueryEscape`); a space becomes `+`.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b' ');

pub(super) const FUNCTIONS: &[Function] = &[
    function("base64decode", "base64decode(string)", (1, 1), |_, a| {
        let bytes = STANDARD
            .decode(text(a, 0)?)
            .map_err(|_| wrong(0, "this is not Base64"))?;
        String::from_utf8(bytes)
            .map(Value::String)
            .map_err(|_| wrong(0, "the decoded bytes are not UTF-8"))
    }),
    function("base64encode", "base64encode(string)", (1, 1), |_, a| {
        Ok(Value::String(STANDARD.encode(text(a, 0)?)))
    }),
    function("jsondecode", "jsondecode(string)", (1, 1), |_, a| {
        let json = serde_json::from_str(&text(a, 0)?)
            .map_err(|error| wrong(0, format!("this is not JSON: {error}")))?;
        Value::from_json(&json).ok_or_else(|| wrong(0, "a number in it is too large"))
    }),
    function("jsonencode", "jsonencode(value)", (1, 1), |_, a| {
        Ok(Value::String(json::encoded(&a[0])))
    })
    .with_nulls(),
    function("md5", "md5(string)", (1, 1), |_, a| {
        Ok(Value::String(hex(&Md5::digest(text(a, 0)?))))
    }),
    function("sha1", "sha1(string)", (1, 1), |_, a| {
        Ok(Value::String(hex(&Sha1::digest(text(a, 0)?))))
    }),
    function("sha256", "sha256(string)", (1, 1), |_, a| {
        Ok(Value::String(hex(&Sha256::digest(text(a, 0)?))))
    }),
    function("sha512", "sha512(string)", (1, 1), |_, a| {
        Ok(Value::String(hex(&Sha512::digest(text(a, 0)?))))
    }),
    function("urlencode", "urlencode(string)", (1, 1), |_, a| {
        let text = text(a, 0)?;
        let escaped = utf8_percent_encode(&text, QUERY).to_string();
        Ok(Value::String(escaped.replace(' ', "+")))
    }),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a string takes all that is written to it");
        out
    })
}
