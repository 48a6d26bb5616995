//! Platforms, normalised and matched as containerd does it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

/// An operating system and CPU (OCI image-spec, image-index.md, `platform`). Always normalised: `x86_64` is
/// `amd64`, `aarch64` is `arm64`, and the variant `v8` of `arm64` is left out.
///
/// Each step has one, and nearly all are of a few names, which are not copied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// GOOS value, such as `linux`.
    pub os: Cow<'static, str>,
    /// GOARCH value, such as `amd64`.
    #[serde(rename = "architecture")]
    pub arch: Cow<'static, str>,
    /// CPU variant, such as `v7`; empty when there is none.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub variant: Cow<'static, str>,
}

/// A platform that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a platform: wanted OS/ARCH[/VARIANT], such as `linux/amd64` or `linux/arm/v7`"
)]
pub struct ParsePlatformError(pub String);

impl Platform {
    /// Builds a normalised platform.
    pub fn new(os: &str, arch: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".into(),
            os => known(&["linux"], os),
        };
        let (arch, variant) = (arch.to_ascii_lowercase(), variant.to_ascii_lowercase());
        // The same table as containerd's platforms package.
        let (arch, variant): (&'static str, Cow<'static, str>) =
            match (arch.as_str(), variant.as_str()) {
                ("i386", _) => ("386", "".into()),
                ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", "".into()),
                ("x86_64" | "x86-64" | "amd64", _) => ("amd64", known(&[""], variant)),
                ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", "".into()),
                ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9".into()),
                ("aarch64" | "arm64", _) => ("arm64", known(&[""], variant)),
                ("armhf", _) => ("arm", "v7".into()),
                ("armel", _) => ("arm", "v6".into()),
                ("arm", "" | "7") => ("arm", "v7".into()),
                ("arm", "5" | "6" | "8") => ("arm", format!("v{variant}").into()),
                _ => {
                    return Self {
                        os,
                        arch: known(&ARCHITECTURES, arch),
                        variant: known(&[""], variant),
                    };
                }
            };
        Self {
            os,
            arch: arch.into(),
            variant,
        }
    }

    /// The platform this program was built for.
    pub fn host() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            arch => arch,
        };
        Self::new("linux", arch, "")
    }

    /// The platforms whose images can stand in for this one, best first, as containerd orders them
    /// (containerd/platforms, `platformVector`): a CPU variant takes the lesser ones, 64 bits take 32 bits.
    pub fn fallbacks(&self) -> Vec<Platform> {
        let with = |arch: &str, variant: &str| Platform::new(&self.os, arch, variant);
        let mut list = vec![self.clone()];
        match (self.arch.as_ref(), self.variant.as_ref()) {
            ("amd64", variant) => {
                let level = variant
                    .strip_prefix('v')
                    .and_then(|v| v.parse::<u32>().ok().filter(|v| *v < 10))
                    .unwrap_or(1);
                list.extend((1..level).rev().map(|v| with("amd64", &format!("v{v}"))));
                list.push(with("386", ""));
            }
            ("arm64", variant) => {
                // containerd takes one digit behind the dot.
                let level = |text: &str| text.parse::<u32>().ok().filter(|level| *level < 10);
                let digits = variant.strip_prefix('v').unwrap_or("8");
                let (major, minor) = digits.split_once('.').unwrap_or((digits, "0"));
                // ARMv9.0 has what ARMv8.5 has.
                let v8 = match (level(major), level(minor)) {
                    (Some(8), Some(minor)) => minor,
                    (Some(9), Some(minor)) => {
                        list.extend((0..minor).rev().map(|v| with("arm64", &format!("v9.{v}"))));
                        minor + 6
                    }
                    _ => 0,
                };
                list.extend((0..v8).rev().map(|v| with("arm64", &format!("v8.{v}"))));
                list.extend(["v8", "v7", "v6", "v5"].map(|v| with("arm", v)));
            }
            ("arm", variant) => {
                let level = variant
                    .strip_prefix('v')
                    .and_then(|v| v.parse::<u32>().ok().filter(|v| *v < 10))
                    .unwrap_or(7);
                list.extend((5..level).rev().map(|v| with("arm", &format!("v{v}"))));
            }
            _ => {}
        }
        list
    }
}

/// A name that need not be copied if it is one of these.
fn known(names: &[&'static str], name: String) -> Cow<'static, str> {
    match names.iter().find(|known| **known == name) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(name),
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// What containerd takes for an architecture where it stands alone (containerd/platforms, `isKnownArch` after
/// `normalizeArch`).
const ARCHITECTURES: [&str; 30] = [
    "386",
    "aarch64",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "armel",
    "armhf",
    "i386",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
    "x86-64",
    "x86_64",
];

impl FromStr for Platform {
    type Err = ParsePlatformError;

    /// Reads `OS/ARCH[/VARIANT]`, or an ARCH alone, which means `linux`.
    fn from_str(text: &str) -> Result<Self, ParsePlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let sound = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(sound) {
            return Err(ParsePlatformError(text.to_owned()));
        }
        match parts[..] {
            ["local"] => Ok(Self::host()),
            ["linux"] => Ok(Self::new("linux", &Self::host().arch, "")),
            [arch] if ARCHITECTURES.contains(&arch.to_lowercase().as_str()) => {
                Ok(Self::new("linux", arch, ""))
            }
            [os, arch] => Ok(Self::new(os, arch, "")),
            [os, arch, variant] => Ok(Self::new(os, arch, variant)),
            _ => Err(ParsePlatformError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn normalises_as_containerd() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("LINUX/AMD64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(
                text.parse::<Platform>().unwrap().to_string(),
                want,
                "{text}"
            );
        }
        for bad in [
            "",
            "/",
            "linux/",
            "linux/a b",
            "a/b/c/d",
            "linux-arm64",
            "x86",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lesser_variants_stand_in() {
        let names = |p: &str| {
            p.parse::<Platform>()
                .unwrap()
                .fallbacks()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names("linux/arm/v7"),
            ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]
        );
        assert_eq!(
            names("linux/amd64/v3"),
            [
                "linux/amd64/v3",
                "linux/amd64/v2",
                "linux/amd64",
                "linux/386"
            ]
        );
        assert_eq!(names("linux/amd64"), ["linux/amd64", "linux/386"]);
        assert_eq!(
            names("linux/arm64"),
            [
                "linux/arm64",
                "linux/arm/v8",
                "linux/arm/v7",
                "linux/arm/v6",
                "linux/arm/v5"
            ]
        );
        assert_eq!(
            names("linux/arm64/v8.2")[..4],
            [
                "linux/arm64/v8.2",
                "linux/arm64/v8.1",
                "linux/arm64",
                "linux/arm/v8"
            ]
        );
        assert_eq!(
            names("linux/arm64/v9.1")[..4],
            [
                "linux/arm64/v9.1",
                "linux/arm64/v9",
                "linux/arm64/v8.6",
                "linux/arm64/v8.5"
            ]
        );
        assert_eq!(names("linux/arm64/v9999999.1").len(), 5);
    }
}
