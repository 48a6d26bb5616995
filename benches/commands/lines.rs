//! What is measured.

use std::fmt::Write as _;
use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::bare;
use super::caches;
use super::interrupt::interrupt;
use super::limits;
use super::measure::Bound;
use super::measure::Measured;
use super::measure::Times;
use super::measure::in_turns;
use super::measure::line;
use super::measure::run;
use super::measure::run_at_once;
use super::measure::run_watched;
use super::mounts;
use super::packages::packages;
use super::place::Place;
use super::place::busybox;
use super::pull::pull;
use super::store;

/// A line's name, and what measures it.
pub(crate) type Line = (&'static str, fn() -> Measured<String>);

pub(crate) const LINES: [Line; 22] = [
    ("cached", cached),
    ("cached-eight", cached_eight),
    ("cached-1000", cached_thousand),
    ("cached-plan", cached_plan),
    ("steps", steps),
    ("interrupt", interrupt),
    ("packages", packages),
    ("stages", stages),
    ("second-platform", second_platform),
    ("context", context),
    ("unchanged-context", unchanged_context),
    ("one-file", one_file),
    ("export", export),
    ("export-again", export_again),
    ("image-again", image_again),
    ("pull", pull),
    ("second-machine", caches::second_machine),
    ("unchanged-cache", caches::unchanged_cache),
    ("mounts", mounts::mounts),
    ("gc", store::gc),
    ("gc-half", store::gc_half),
    ("du", store::du),
];

const CONTEXT_DIRS: usize = 100;
const CONTEXT_FILES: usize = 500;
const STEPS: u32 = 50;
const EXPORT_BYTES: usize = 1 << 30;

/// The context and Dockerfile of `cached`.
fn three_stages(place: &Place) {
    place.program(&place.context("true"));
    place.dockerfile(
        "FROM scratch AS tools\nCOPY true /true\n\
         FROM tools AS work\nRUN [\"/true\"]\n\
         FROM scratch\nCOPY --from=work /hello.txt /hello.txt\n",
    );
}

fn cached() -> Measured<String> {
    let place = Place::new();
    three_stages(&place);
    let busybox = busybox()?;
    let build = || run(place.build("store").arg("context"));
    build()?;
    let (ours, exec) = in_turns(
        100,
        |_| build(),
        |_| run(Command::new(&busybox).arg("true")),
    )?;
    let bound = Bound {
        within: Some(Duration::from_millis(5)),
        times: Some(5.0),
    };
    Ok(line(&ours, &exec, "exec of a static program", &bound))
}

/// Eight of them at once on one store: what each takes of a core.
fn cached_eight() -> Measured<String> {
    const BUILDS: u32 = 8;
    let place = Place::new();
    three_stages(&place);
    let one = || run(place.build("store").arg("context"));
    one()?;
    let cores = thread::available_parallelism().map_or(1, NonZero::get) as u32;
    let eight = || {
        let builds = (0..BUILDS).map(|_| {
            let mut build = place.build("store");
            build.arg("context");
            build
        });
        let time = run_at_once(builds.collect())?;
        Ok(time * cores.min(BUILDS) / BUILDS)
    };
    let (ours, alone) = in_turns(50, |_| eight(), |_| one())?;
    let what = "one alone";
    Ok(line(&ours, &alone, what, &Bound::times(1.3)))
}

/// A thousand steps in stages of fifty, all cached.
fn cached_thousand() -> Measured<String> {
    const STAGES: usize = 20;
    let place = Place::new();
    place.program(&place.context("true"));
    let mut text = String::new();
    for stage in 0..STAGES {
        write!(text, "FROM scratch AS stage{stage}\nCOPY true /true\n").unwrap();
        for step in 0..49 {
            write!(text, "ENV STEP={stage}-{step}\nRUN [\"/true\"]\n").unwrap();
        }
    }
    text.push_str("FROM scratch\n");
    for stage in 0..STAGES {
        writeln!(text, "COPY --from=stage{stage} /hello.txt /{stage}.txt").unwrap();
    }
    place.dockerfile(&text);
    let busybox = busybox()?;
    let build = || run(place.build("store").arg("context"));
    build()?;
    let (ours, exec) = in_turns(50, |_| build(), |_| run(Command::new(&busybox).arg("true")))?;
    let bound = Bound {
        within: Some(Duration::from_millis(30)),
        times: None,
    };
    Ok(line(&ours, &exec, "exec of a static program", &bound))
}

/// The build of `cached` as a plan, beside the same as a Dockerfile, both unchanged.
fn cached_plan() -> Measured<String> {
    let place = Place::new();
    three_stages(&place);
    fs::write(
        place.context("rbuild.toml"),
        "schema = 1\n[inputs]\nctx = { local = '.', modes = 'exact' }\n\
         [step.tools]\nfrom = 'scratch'\ncopy = [{ from = 'ctx', path = 'true', to = '/true' }]\n\
         [step.work]\nfrom = 'tools'\nnetwork = true\nrun = [['/true']]\n\
         [step.last]\nfrom = 'scratch'\ncopy = [{ from = 'work', path = '/hello.txt', to = '/hello.txt' }]\n\
         [output.hello]\nstep = 'last'\n",
    )
    .unwrap();
    let plan = || {
        run(place
            .build("store")
            .args(["-f", "context/rbuild.toml", "context"]))
    };
    let dockerfile = || run(place.build("store").args(["-f", "Dockerfile", "context"]));
    plan()?;
    dockerfile()?;
    let (ours, twin) = in_turns(100, |_| plan(), |_| dockerfile())?;
    let bound = Bound {
        within: None,
        times: Some(1.1),
    };
    Ok(line(&ours, &twin, "the same as a Dockerfile", &bound))
}

fn steps() -> Measured<String> {
    const ROUNDS: usize = 5;
    let place = Place::new();
    place.program(&place.context("true"));
    let lower = place.beside("lower");
    fs::create_dir(&lower).unwrap();
    place.program(&lower.join("true"));
    let without = "FROM scratch\nCOPY true /true\n".to_owned();
    let mut with = without.clone();
    for step in 0..STEPS {
        write!(with, "ENV STEP={step}\nRUN [\"/true\"]\n").unwrap();
    }
    let cold = |dockerfile: &str| {
        place.dockerfile(dockerfile);
        let time = run(place.build("store").arg("context"));
        place.remove("store");
        time
    };
    let mut fixed = Times::default();
    let (ours, bare) = in_turns(
        ROUNDS,
        |_| {
            fixed.push(cold(&without)?);
            cold(&with)
        },
        |_| bare::steps(&lower, &place.beside("bare"), STEPS as usize),
    )?;
    let bound = Bound {
        within: Some(Duration::from_millis(5)),
        times: Some(2.0),
    };
    let ours = ours.per_part(fixed.best(), STEPS);
    let bare = bare.per_part(Duration::ZERO, STEPS);
    let mut text = line(&ours, &bare, "namespaces + overlay + exec", &bound);
    let mut bwrap = Times::default();
    for _ in 0..STEPS {
        let mut command = Command::new("bwrap");
        let ran = run(command.arg("--unshare-all").arg("--bind").args([
            lower.as_os_str(),
            "/".as_ref(),
            "/true".as_ref(),
        ]));
        match ran {
            Ok(time) => bwrap.push(time),
            Err(_) => return Ok(text),
        }
    }
    write!(text, "; bwrap {:.2} ms", bwrap.best().as_secs_f64() * 1e3).unwrap();
    Ok(text)
}

fn stages() -> Measured<String> {
    let place = Place::new();
    let busybox = busybox()?;
    fs::copy(&busybox, place.context("busybox")).unwrap();
    let mut text = "FROM scratch AS base\nCOPY busybox /bin/busybox\n".to_owned();
    let stage = |text: &mut String, name: &str, index: usize, seconds: u32| {
        write!(
            text,
            "FROM base AS {name}{index}\nENV STAGE={name}{index}\n\
             RUN [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox sleep {seconds}; echo > /{name}{index}\"]\n"
        )
        .unwrap();
    };
    (0..4).for_each(|index| stage(&mut text, "wanted", index, 1));
    (0..6).for_each(|index| stage(&mut text, "unreachable", index, 10));
    text.push_str("FROM scratch\n");
    for index in 0..4 {
        writeln!(text, "COPY --from=wanted{index} /wanted{index} /").unwrap();
    }
    place.dockerfile(&text);
    let (ours, sleep) = in_turns(
        3,
        |_| {
            let time = run(place.build("store").arg("context"));
            place.remove("store");
            time
        },
        |_| run(Command::new(&busybox).args(["sleep", "1"])),
    )?;
    let bound = Bound {
        within: Some(Duration::from_millis(1100)),
        times: None,
    };
    Ok(line(&ours, &sleep, "sleep 1", &bound))
}

/// A compiler is stood in for by a program that takes a second, as one does that has a core of its own.
fn second_platform() -> Measured<String> {
    let place = Place::new();
    fs::copy(busybox()?, place.context("busybox")).unwrap();
    let step = |command: &str| format!("RUN [\"/bin/busybox\", \"sh\", \"-c\", \"{command}\"]\n");
    let text = [
        "FROM --platform=$BUILDPLATFORM scratch AS tools\nCOPY busybox /bin/busybox\n",
        &step("/bin/busybox sleep 1; /bin/busybox head -c 16777216 /dev/urandom > /assets"),
        "FROM tools AS build\nARG TARGETARCH\n",
        &step(
            "/bin/busybox sleep 1; (echo $TARGETARCH; /bin/busybox head -c 4194304 /assets) > /program",
        ),
        "FROM scratch\nCOPY --from=tools /assets /\nCOPY --from=build /program /\n",
    ];
    place.dockerfile(&text.concat());
    let build = |platforms: &str| {
        let output = format!("type=oci,dest={}", place.beside("image.tar").display());
        let platforms = format!("--platform={platforms}");
        let time = run(place
            .build("store")
            .args([&platforms, "-o", &output, "context"]));
        place.remove("store");
        time
    };
    let (two, one) = in_turns(
        3,
        |_| build("linux/amd64,linux/arm64"),
        |_| build("linux/amd64"),
    )?;
    Ok(line(&two, &one, "one platform", &Bound::times(1.15)))
}

fn context() -> Measured<String> {
    let place = Place::new();
    small_files(&place.context(""));
    place.dockerfile("FROM scratch\nCOPY . .\n");
    let mut peak = 0;
    let (ours, cp) = in_turns(
        4,
        |_| {
            let (time, memory) = run_watched(place.build("store").arg("context"))?;
            peak = peak.max(memory);
            place.remove("store");
            Ok(time)
        },
        |_| {
            let mut cp = Command::new("cp");
            let time = run(cp.arg("-a").args([place.context(""), place.beside("copy")]));
            place.remove("copy");
            time
        },
    )?;
    let text = line(&ours, &cp, "cp -a", &Bound::times(2.0));
    Ok(format!("{text}; {}", memory(peak)))
}

fn unchanged_context() -> Measured<String> {
    let place = Place::new();
    small_files(&place.context(""));
    place.dockerfile("FROM scratch\nCOPY . .\n");
    let pool = pool();
    // Files that were made within two seconds are read again: the first of these builds may be too early.
    for _ in 0..2 {
        run(place.build("store").arg("context"))?;
    }
    let mut peak = 0;
    let (ours, walk) = in_turns(
        20,
        |round| {
            let mut build = place.build("store");
            build.arg("context");
            if round > 0 {
                return run(&mut build);
            }
            let (time, memory) = run_watched(&mut build)?;
            peak = memory;
            Ok(time)
        },
        |_| limits::stat_walk(&place.context(""), &pool),
    )?;
    let text = line(&ours, &walk, "parallel stat walk", &Bound::times(1.5));
    Ok(format!("{text}; {}", memory(peak)))
}

/// A context of which one file has changed, and a RUN that sees all of it. What it cannot do without are the walk and the
/// step.
fn one_file() -> Measured<String> {
    let place = Place::new();
    small_files(&place.context(""));
    place.program(&place.context("true"));
    place.dockerfile("FROM scratch\nCOPY . .\nRUN [\"/true\"]\n");
    let pool = pool();
    let lower = place.beside("lower");
    fs::create_dir(&lower).unwrap();
    place.program(&lower.join("true"));
    for _ in 0..2 {
        run(place.build("store").arg("context"))?;
    }
    let mut peak = 0;
    let (ours, least) = in_turns(
        10,
        |round| {
            let changed = place.context("directory-50/file-250.txt");
            fs::write(changed, format!("round {round}\n")).unwrap();
            let (time, memory) = run_watched(place.build("store").arg("context"))?;
            peak = peak.max(memory);
            Ok(time)
        },
        |_| {
            let walk = limits::stat_walk(&place.context(""), &pool)?;
            Ok(walk + bare::steps(&lower, &place.beside("bare"), 1)?)
        },
    )?;
    let bound = Bound {
        within: Some(Duration::from_millis(400)),
        times: None,
    };
    let text = line(&ours, &least, "parallel stat walk + bare step", &bound);
    Ok(format!("{text}; {}", memory(peak)))
}

fn export() -> Measured<String> {
    let place = Place::new();
    let data = half_compressible(2, EXPORT_BYTES);
    File::create(place.context("data"))
        .and_then(|mut file| file.write_all(&data))
        .unwrap();
    place.dockerfile("FROM scratch\nCOPY data /data\n");
    run(place.build("store").arg("context"))?;
    let pool = pool();
    let mut peak = 0;
    let (ours, gzip) = in_turns(
        3,
        |round| {
            place.remove("image.tar");
            let mut build = place.build("store");
            // Another epoch is another layer, and without its tables nothing that was compressed before serves.
            fs::remove_dir_all(place.beside("store/v1/frames")).or_else(|error| match round {
                0 => Ok(()),
                _ => Err(error.to_string()),
            })?;
            build
                .env("SOURCE_DATE_EPOCH", (1_000_000_000 + round).to_string())
                .args(["-o", "type=oci,dest=image.tar,compression=gzip,compression-level=6,rewrite-timestamp=true"])
                .arg("context");
            let (time, memory) = run_watched(&mut build)?;
            peak = peak.max(memory);
            Ok(time)
        },
        |_| Ok(limits::gzip(&data, &pool)),
    )?;
    let text = line(&ours, &gzip, "libdeflate alone", &Bound::times(1.3));
    Ok(format!("{text}; {}", memory(peak)))
}

fn export_again() -> Measured<String> {
    let output = "type=oci,dest=image.tar,compression=gzip,compression-level=6";
    again(&["-o", output], Some("image.tar"))
}

/// Into rbuild's own store, where the blob is the tar.
fn image_again() -> Measured<String> {
    again(&[], None)
}

/// A gigabyte of files, of which one has changed, the first: what the digests are of is all new from there on. `archive` is
/// what is written besides the store, a layer's blob but for some hundred bytes.
fn again(output: &[&str], archive: Option<&str>) -> Measured<String> {
    let place = Place::new();
    let data = half_compressible(1, EXPORT_BYTES);
    fs::create_dir(place.context("files")).unwrap();
    for (at, part) in data.chunks(512 << 10).enumerate() {
        fs::write(place.context(&format!("files/{at:04}")), part).unwrap();
    }
    place.dockerfile("FROM scratch\nCOPY files /files\n");
    let build = || {
        let mut build = place.build("store");
        build.env("SOURCE_DATE_EPOCH", "1000000000").args(output);
        build.arg("context");
        build
    };
    run(&mut build())?;
    let blob = archive.map_or_else(Vec::new, |archive| fs::read(place.beside(archive)).unwrap());
    let mut peak = 0;
    let (ours, sha256) = in_turns(
        5,
        |round| {
            if let Some(archive) = archive {
                place.remove(archive);
            }
            fs::write(place.context("files/0000"), format!("{round}\n")).unwrap();
            let (time, memory) = run_watched(&mut build())?;
            peak = peak.max(memory);
            Ok(time)
        },
        |_| Ok(limits::sha256(&data, &blob)),
    )?;
    let what = match archive {
        Some(_) => "SHA-256 of tar and blob",
        None => "SHA-256 of the tar",
    };
    let text = line(&ours, &sha256, what, &Bound::times(1.2));
    Ok(format!("{text}; {}", memory(peak)))
}

pub(crate) fn memory(kib: u64) -> String {
    format!("peak memory {} MiB", kib / 1024)
}

pub(crate) fn pool() -> rayon::ThreadPool {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
}

/// 50,000 files of 0 to 2 KiB, no two alike.
fn small_files(dir: &Path) {
    let mut random = Random(1);
    for above in 0..CONTEXT_DIRS {
        let dir = dir.join(format!("directory-{above}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..CONTEXT_FILES {
            let len = 8 + (random.next() % 2040) as usize;
            let mut text = random.next().to_le_bytes().to_vec();
            text.resize(len, b'a' + (file % 26) as u8);
            fs::write(dir.join(format!("file-{file}.txt")), text).unwrap();
        }
    }
}

/// 2 KiB of noise, 2 KiB of words, and so on.
pub(crate) fn half_compressible(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 8] = [
        "layer ", "store ", "frame ", "graph ", "a ", "stage ", "of the ", "digest\n",
    ];
    let mut random = Random(seed);
    let mut data = Vec::with_capacity(len + 4096);
    while data.len() < len {
        let noise = data.len() + 2048;
        while data.len() < noise {
            data.extend(random.next().to_le_bytes());
        }
        let words = data.len() + 2048;
        while data.len() < words {
            data.extend(WORDS[(random.next() % 8) as usize].bytes());
        }
        data.truncate(words);
    }
    data.truncate(len);
    data
}

/// Marsaglia's xorshift64*: the same data in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}
