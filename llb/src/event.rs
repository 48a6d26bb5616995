//! Progress events. The fields are those of BuildKit's `StatusResponse` (client/graph.go): `rawjson` prints them
//! as they are, and every other renderer works from them.

use serde::Serialize;

/// Nanoseconds since the Unix epoch, UTC. Serialised as RFC 3339 with nanoseconds, as Go prints `time.Time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u128);

impl Timestamp {
    /// RFC 3339 in UTC; trailing zeroes of the fraction are left out, as Go does.
    pub fn rfc3339(self) -> String {
        let (secs, nanos) = (
            (self.0 / 1_000_000_000) as i64,
            (self.0 % 1_000_000_000) as u32,
        );
        let mut text = rfc3339_seconds(secs);
        if nanos != 0 {
            text.pop();
            let fraction = format!("{nanos:09}");
            text.push('.');
            text.push_str(fraction.trim_end_matches('0'));
            text.push('Z');
        }
        text
    }
}

/// RFC 3339 in UTC of whole seconds since the Unix epoch, in the proleptic Gregorian calendar.
pub fn rfc3339_seconds(secs: i64) -> String {
    let (days, rest) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    // Days to civil date, counted in 400-year eras that begin on 1 March (Howard Hinnant's date algorithms).
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

/// Something the user may want to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step appeared, started, or ended. Sent again with more fields filled in as the step goes on.
    Vertex(VertexEvent),
    /// Progress inside a step: bytes of a layer, files of a context.
    Status(StatusEvent),
    /// Output of a step.
    Log(LogEvent),
    /// A lint finding or remark that belongs to a step or, with an empty vertex, to the build.
    Warning(WarningEvent),
}

/// BuildKit's `client.Vertex`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VertexEvent {
    /// Identifies the step within this build; of the form `sha256:` + 64 hexadecimal digits, as consumers of
    /// BuildKit's progress expect, but not an OCI digest.
    pub digest: String,
    /// `digest`s of the steps this one waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// As shown: `[build 2/5] RUN npm ci`.
    pub name: String,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended, in whichever way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<Timestamp>,
    /// Answered from the cache.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// Why it failed; empty when it did not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Why it is not answered from the cache, in one line; empty where there is nothing to say. BuildKit has no such
    /// field, and what reads its JSON passes over fields it does not know.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The program that emulates the CPU its processes are for; empty if this machine's executes them. BuildKit has no
    /// such field either.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub emulator: String,
}

/// BuildKit's `client.VertexStatus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusEvent {
    /// What is progressing: `sha256:… ` of a layer, `transferring context`.
    pub id: String,
    /// `digest` of the step.
    pub vertex: String,
    /// What is being done to it: `downloading`, `extracting`, `exporting`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Total in bytes, 0 when unknown.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// Done so far, in bytes.
    pub current: u64,
    /// When this was true.
    pub timestamp: Timestamp,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<Timestamp>,
}

/// BuildKit's `client.VertexLog`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// `digest` of the step.
    pub vertex: String,
    /// 1 = stdout, 2 = stderr.
    pub stream: u8,
    /// The bytes, not necessarily whole lines nor UTF-8. Serialised as base64, as Go does.
    pub data: Vec<u8>,
    /// When they were read.
    pub timestamp: Timestamp,
}

/// BuildKit's `client.VertexWarning`, with the diagnostic it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarningEvent {
    /// `digest` of the step, or empty.
    pub vertex: String,
    /// The finding.
    pub diagnostic: crate::Diagnostic,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn rfc3339_as_date_prints_it() {
        // From `date -u -d @N +%FT%TZ`.
        for (secs, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339_seconds(secs), want);
        }
        assert_eq!(Timestamp(1_500_000_000).rfc3339(), "1970-01-01T00:00:01.5Z");
    }
}
