//! Caches in a registry on the loopback interface.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use super::measure::Bound;
use super::measure::Measured;
use super::measure::in_turns;
use super::measure::line;
use super::measure::run;
use super::place::Place;
use super::place::busybox;
use super::pull::Registry;

/// So many stages of so many steps that each leave a layer, and a copy of each stage's file.
fn stages(place: &Place, stages: usize, steps: usize) {
    place.program(&place.context("true"));
    let mut text = String::new();
    for stage in 0..stages {
        write!(text, "FROM scratch AS stage{stage}\nCOPY true /true\n").unwrap();
        for step in 2..steps {
            write!(text, "ENV STEP={stage}-{step}\nRUN [\"/true\"]\n").unwrap();
        }
    }
    text.push_str("FROM scratch\n");
    for stage in 0..stages {
        writeln!(text, "COPY --from=stage{stage} /hello.txt /{stage}.txt").unwrap();
    }
    place.dockerfile(&text);
}

/// Another machine builds and pushes what is in the registry, cache and image: a new store each time.
pub(crate) fn second_machine() -> Measured<String> {
    let place = Place::new();
    let registry = Registry::start(&place)?;
    stages(&place, 1, 20);
    let host = format!("127.0.0.1:{}", registry.port);
    let image = format!("{host}/app:1");
    let cache = format!("type=registry,ref={host}/cache:1");
    let build = |store: &str, flag: &str| {
        let mut build = place.rbuild(store);
        build.args(["build", "-f", "Dockerfile", "-t", &image, "--push", flag]);
        build.arg("context");
        build
    };
    run(&mut build("first", &format!("--cache-to={cache},mode=max")))?;
    let busybox = busybox()?;
    let (ours, exec) = in_turns(
        20,
        |_| {
            let time = run(&mut build("store", &format!("--cache-from={cache}")))?;
            place.remove("store");
            Ok(time)
        },
        |_| run(Command::new(&busybox).arg("true")),
    )?;
    let bound = Bound {
        within: Some(Duration::from_millis(150)),
        times: None,
    };
    Ok(line(&ours, &exec, "exec of a static program", &bound))
}

/// An unchanged build of 500 steps that writes a cache of all of them, which is there.
pub(crate) fn unchanged_cache() -> Measured<String> {
    let place = Place::new();
    let registry = Registry::start(&place)?;
    stages(&place, 10, 49);
    let to = format!(
        "--cache-to=type=registry,ref=127.0.0.1:{}/cache:1,mode=max",
        registry.port
    );
    let build = |flags: &[&str]| run(place.build("store").args(flags).arg("context"));
    build(&[&to])?;
    let (ours, without) = in_turns(20, |_| build(&[&to]), |_| build(&[]))?;
    let bound = Bound {
        within: Some(Duration::from_millis(100)),
        times: None,
    };
    Ok(line(&ours, &without, "the same build without it", &bound))
}
