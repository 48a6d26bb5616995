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
    function("uuidv5", "uuidv5(namespace, name)", (2, 2), |_, a| {
        let namespace = text(a, 0)?;
        let id = namespace_id(&namespace)
            .ok_or_else(|| wrong(0, "it is `dns`, `url`, `oid`, `x500` or a UUID"))?;
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend(text(a, 1)?.into_bytes());
        // RFC 9562, 5.5: the first half of the digest, with version and variant put in.
        let id = hex(&Sha1::digest(bytes)[..16]);
        let id = u128::from_str_radix(&id, 16).expect("sixteen bytes are 32 digits");
        let id = id & !(0xf << 76) & !(0b11 << 62) | 5 << 76 | 0b10 << 62;
        let digits = format!("{id:032x}");
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits[part].to_owned());
        Ok(Value::String(parts.join("-")))
    }),
];

/// RFC 9562, 6.6, or the namespace as it is given.
fn namespace_id(name: &str) -> Option<u128> {
    let first: u128 = match name {
        "dns" => 0x6ba7_b810,
        "url" => 0x6ba7_b811,
        "oid" => 0x6ba7_b812,
        "x500" => 0x6ba7_b814,
        id => {
            let digits = id.replace('-', "");
            let valid = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            return valid.then(|| u128::from_str_radix(&digits, 16).ok())?;
        }
    };
    Some(first << 96 | 0x9dad_11d1_80b4_00c0_4fd4_30c8)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a string takes all that is written to it");
        out
    })
}
