//! The syntax of flag values, as `docker buildx build` has it. Every function here is pure, and names the flag and
//! the value in its error.

use std::net::IpAddr;
use std::str::FromStr;

use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use rbuild_llb::op::FileModes;
use rbuild_llb::op::NetworkMode;
use rbuild_llb::op::Ulimit;

use crate::request::Compression;
use crate::request::Space;
use crate::sandbox::HOST_GATEWAY;

/// A problem with the request that no file is to blame for.
pub(crate) fn problem(message: impl Into<String>) -> Diagnostic {
    Diagnostic::unplaced(message)
}

/// `invalid value for `--flag`: …`
pub(crate) fn invalid(flag: &str, value: &str, why: impl std::fmt::Display) -> Diagnostic {
    problem(format!("`--{flag} {value}`: {why}"))
}

/// The words Go's strconv.ParseBool takes.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("`{text}` is neither `true` nor `false`")),
    }
}

/// The fields of one CSV record (RFC 4180): a field that begins with a double quote ends with one, and holds `""`
/// for each quote inside.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let field = &rest[..end];
                if field.contains('"') {
                    return Err(format!(
                        "`{field}` has a double quote that is not at its start"
                    ));
                }
                (field.to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(fields),
            None => return Err("a quoted field goes on after its closing quote".to_owned()),
        }
    }
}

/// A field whose opening quote has been read, and what follows its closing one.
fn quoted_field(text: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest
            .find('"')
            .ok_or("a field that begins with a double quote does not end with one")?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Ok((field, rest)),
        }
    }
}

/// `key=value,key=value` with keys in lower case.
pub(crate) fn options(flag: &str, text: &str) -> Result<Vec<(String, String)>, Diagnostic> {
    let fields = csv(text).map_err(|why| invalid(flag, text, why))?;
    let pairs = fields.iter().map(|field| match field.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_ascii_lowercase(), value.to_owned())),
        None => Err(invalid(
            flag,
            text,
            format!("`{field}` is not of the form `key=value`"),
        )),
    });
    pairs.collect()
}

/// `compression=` and `compression-level=`; what is wrong with them, and a hint.
pub(crate) fn compression(
    word: Option<&str>,
    level: Option<&str>,
) -> Result<Compression, (String, Option<&'static str>)> {
    let level = match level.map(|text| (text, text.parse::<u32>())) {
        None => None,
        Some((_, Ok(level))) => Some(level),
        Some((text, Err(_))) => {
            return Err((format!("compression-level `{text}` is not a number"), None));
        }
    };
    let (compression, levels) = match word {
        Some("gzip") => (Compression::Gzip(level), 0..=9),
        // 0 is zstd's own default.
        Some("zstd") => (Compression::Zstd(level.filter(|level| *level != 0)), 0..=22),
        Some("uncompressed") => (Compression::Uncompressed, 0..=0),
        Some("estargz") => {
            let why = "rbuild does not write eStargz layers".to_owned();
            let hint = "`gzip` is what readers without lazy pulling make of them";
            return Err((why, Some(hint)));
        }
        Some(word) => {
            let why = format!("there is no compression `{word}`");
            let words = "the compressions are `gzip`, `zstd` and `uncompressed`";
            return Err((why, Some(words)));
        }
        // BuildKit's compressor where none is named.
        None if level.is_some() => (Compression::Gzip(level), 0..=9),
        None => (Compression::Default, 0..=0),
    };
    match level {
        Some(_) if compression == Compression::Uncompressed => {
            let why = "`uncompressed` has no compression-level".to_owned();
            Err((why, None))
        }
        Some(level) if !levels.contains(&level) => {
            let (first, last) = levels.into_inner();
            let why = format!("compression-level {level} is not from {first} to {last}");
            Err((why, None))
        }
        _ => Ok(compression),
    }
}

/// `KEY=value`, or `KEY` alone.
pub(crate) fn key_value<'a>(
    flag: &str,
    text: &'a str,
) -> Result<(&'a str, Option<&'a str>), Diagnostic> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    if key.is_empty() {
        return Err(invalid(flag, text, "the name before `=` is empty"));
    }
    Ok((key, value))
}

/// `--shm-size`: bytes, or with a unit.
pub(crate) fn shm_size(text: &str) -> Result<u64, Diagnostic> {
    match Space::from_str(text) {
        Ok(Space::Bytes(bytes)) => Ok(bytes),
        Ok(Space::Percent(_)) | Err(_) => {
            let why = format!("`{text}` is not a size such as `512m` or `1g`");
            Err(invalid("shm-size", text, why))
        }
    }
}

/// `--add-host host:ip`, `host=ip`, `host=ip,ip`, addresses also in square brackets.
pub(crate) fn host(text: &str) -> Result<Vec<(String, String)>, Diagnostic> {
    let (host, addresses) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .filter(|(host, addresses)| !host.is_empty() && !addresses.is_empty())
        .ok_or_else(|| invalid("add-host", text, "wanted `host:ip` or `host=ip`"))?;
    let address = |address: &str| {
        // Which address that is, the step's network decides.
        if address == HOST_GATEWAY {
            return Ok((host.to_owned(), address.to_owned()));
        }
        let bare = address
            .strip_prefix('[')
            .and_then(|a| a.strip_suffix(']'))
            .unwrap_or(address);
        match IpAddr::from_str(bare) {
            Ok(_) => Ok((host.to_owned(), bare.to_owned())),
            Err(_) => Err(invalid(
                "add-host",
                text,
                format!("`{address}` is not an IP address"),
            )),
        }
    };
    addresses.split(',').map(address).collect()
}

/// `--ulimit name=soft[:hard]`; -1 is no limit.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, Diagnostic> {
    // Those docker knows: all of setrlimit(2)'s but RLIMIT_AS.
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let invalid = |why: String| invalid("ulimit", text, why);
    let (name, limits) = text
        .split_once('=')
        .ok_or_else(|| invalid("wanted `name=soft` or `name=soft:hard`".into()))?;
    if !NAMES.contains(&name) {
        return Err(invalid(format!("there is no limit `{name}`"))
            .hint(format!("the limits are {}", NAMES.join(", "))));
    }
    let number = |text: &str| match text.parse::<i64>() {
        Ok(n) if n >= -1 => Ok(n),
        _ => Err(invalid(format!(
            "`{text}` is neither a number nor -1, which is no limit"
        ))),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(invalid(format!(
            "the soft limit {soft} is above the hard limit {hard}"
        )));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// `--context-modes`.
pub(crate) fn context_modes(text: &str) -> Result<FileModes, Diagnostic> {
    match text {
        "keep" => Ok(FileModes::Exact),
        "git" => Ok(FileModes::Git),
        _ => Err(invalid(
            "context-modes",
            text,
            "modes are as they are (`keep`), or as git keeps them (`git`)",
        )),
    }
}

/// `--network`.
pub(crate) fn network(text: &str) -> Result<NetworkMode, Diagnostic> {
    match text {
        "" | "default" => Ok(NetworkMode::Default),
        "host" => Ok(NetworkMode::Host),
        "none" => Ok(NetworkMode::None),
        _ => Err(invalid(
            "network",
            text,
            "wanted `default`, `host` or `none`",
        )),
    }
}

/// `--platform os/arch,os/arch`.
pub(crate) fn platforms(text: &str) -> Result<Vec<Platform>, Diagnostic> {
    let platform = |word: &str| {
        Platform::from_str(word.trim()).map_err(|error| invalid("platform", text, error))
    };
    text.split(',').map(platform).collect()
}

/// `24h`, `90m`, `30s`, `1h30m`, or plain seconds.
pub(crate) fn duration(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a duration such as `24h`, `90m` or `0`");
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let (mut total, mut digits) = (0_u64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let n: u64 = digits.parse().map_err(|_| wrong())?;
        digits.clear();
        total = n
            .checked_mul(unit)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(wrong)?;
    }
    if text.is_empty() || !digits.is_empty() {
        return Err(wrong());
    }
    Ok(total)
}

#[cfg(test)]
mod t {
    use super::*;
    use snapbox::assert_data_eq;
    use snapbox::str;

    fn errors<T: std::fmt::Debug>(
        results: impl IntoIterator<Item = Result<T, Diagnostic>>,
    ) -> String {
        let rendered = results
            .into_iter()
            .map(|r| crate::ui::render(&r.unwrap_err(), false) + "\n");
        rendered.collect()
    }

    #[test]
    fn csv_fields() {
        for (text, want) in [
            ("a", vec!["a"]),
            ("a,b", vec!["a", "b"]),
            ("a,,", vec!["a", "", ""]),
            ("", vec![""]),
            (r#""a,b",c"#, vec!["a,b", "c"]),
            (r#"x,"say ""hi""""#, vec!["x", r#"say "hi""#]),
        ] {
            assert_eq!(csv(text).unwrap(), want, "{text}");
        }
        for text in [
            r#"a"b"#,
            r#""a"#,
            r#""a"b"#,
            r#""a""#.repeat(3).trim_end_matches('"'),
        ] {
            assert!(csv(text).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_as_go_reads_them() {
        assert_eq!(boolean("T"), Ok(true));
        assert_eq!(boolean("0"), Ok(false));
        assert_eq!(
            boolean("yes"),
            Err("`yes` is neither `true` nor `false`".to_owned())
        );
    }

    #[test]
    fn shm_sizes() {
        assert_eq!(shm_size("512m"), Ok(512 << 20));
        assert_eq!(shm_size("1000"), Ok(1000));
        assert_data_eq!(
            errors(["10%", "x"].map(shm_size)),
            str![[r#"
error: `--shm-size 10%`: `10%` is not a size such as `512m` or `1g`
error: `--shm-size x`: `x` is not a size such as `512m` or `1g`

"#]]
        );
    }

    #[test]
    fn hosts() {
        for (text, want) in [
            ("db:10.0.0.1", vec![("db", "10.0.0.1")]),
            ("db=10.0.0.1", vec![("db", "10.0.0.1")]),
            ("db:::1", vec![("db", "::1")]),
            ("db=[2001:db8::1]", vec![("db", "2001:db8::1")]),
            ("db=10.0.0.1,::1", vec![("db", "10.0.0.1"), ("db", "::1")]),
            ("me:host-gateway", vec![("me", "host-gateway")]),
        ] {
            let hosts = host(text).unwrap();
            let hosts: Vec<(&str, &str)> = hosts.iter().map(|(h, a)| (&**h, &**a)).collect();
            assert_eq!(hosts, want);
        }
        assert_data_eq!(
            errors(["db", ":1.2.3.4", "db:1.2.3"].map(host)),
            str![[r#"
error: `--add-host db`: wanted `host:ip` or `host=ip`
error: `--add-host :1.2.3.4`: wanted `host:ip` or `host=ip`
error: `--add-host db:1.2.3`: `1.2.3` is not an IP address

"#]]
        );
    }

    #[test]
    fn ulimits() {
        for (text, soft, hard) in [
            ("nofile=1024", 1024, 1024),
            ("nofile=1:2", 1, 2),
            ("nofile=5:-1", 5, -1),
            ("nofile=-1", -1, -1),
        ] {
            let limit = ulimit(text).unwrap();
            assert_eq!(
                (&*limit.name, limit.soft, limit.hard),
                ("nofile", soft, hard)
            );
        }
        let wrong = [
            "nofile",
            "as=1",
            "cpu=x",
            "cpu=2:1",
            "cpu=-1:5",
            "cpu=1:2:3",
            "cpu=-2",
        ];
        assert_data_eq!(
            errors(wrong.map(ulimit)),
            str![[r#"
error: `--ulimit nofile`: wanted `name=soft` or `name=soft:hard`
error: `--ulimit as=1`: there is no limit `as`
hint: the limits are core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack
error: `--ulimit cpu=x`: `x` is neither a number nor -1, which is no limit
error: `--ulimit cpu=2:1`: the soft limit 2 is above the hard limit 1
error: `--ulimit cpu=-1:5`: the soft limit -1 is above the hard limit 5
error: `--ulimit cpu=1:2:3`: `2:3` is neither a number nor -1, which is no limit
error: `--ulimit cpu=-2`: `-2` is neither a number nor -1, which is no limit

"#]]
        );
    }

    #[test]
    fn networks_platforms_and_pairs() {
        assert_eq!(network("none").unwrap(), NetworkMode::None);
        assert_eq!(context_modes("keep").unwrap(), FileModes::Exact);
        assert_eq!(context_modes("git").unwrap(), FileModes::Git);
        let names =
            |text| platforms(text).map(|p| p.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            names("linux/amd64, arm64").unwrap(),
            ["linux/amd64", "linux/arm64"]
        );
        assert_eq!(key_value("label", "a=b=c").unwrap(), ("a", Some("b=c")));
        assert_eq!(key_value("label", "a").unwrap(), ("a", None));
        assert_data_eq!(
            errors([
                network("bridge").map(drop),
                context_modes("0644").map(drop),
                platforms("linux/").map(drop),
                key_value("build-arg", "=x").map(drop),
                options("secret", "id=a,b").map(drop),
            ]),
            str![[r#"
error: `--network bridge`: wanted `default`, `host` or `none`
error: `--context-modes 0644`: modes are as they are (`keep`), or as git keeps them (`git`)
error: `--platform linux/`: `linux/` is not a platform: wanted OS/ARCH[/VARIANT], such as `linux/amd64` or `linux/arm/v7`
error: `--build-arg =x`: the name before `=` is empty
error: `--secret id=a,b`: `b` is not of the form `key=value`

"#]]
        );
    }

    #[test]
    fn durations() {
        for (text, want) in [
            ("0", 0),
            ("90", 90),
            ("90s", 90),
            ("1h30m", 5400),
            ("2d", 172_800),
        ] {
            assert_eq!(duration(text), Ok(want));
        }
        for text in [
            "",
            "h",
            "1h30",
            "1w",
            "-1h",
            "99999999999999999999h",
            "9999999999999999999h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
