//! Nodes that take their time, and results that come in part.

use tokio::sync::watch;

use super::*;

/// A node that takes the connection, and never answers.
fn late() -> (watch::Sender<bool>, Fake) {
    let (tell, told) = watch::channel(false);
    let fake = Fake::start(Script {
        answers_when: Some(told),
        ..Script::asked(|_, channel| say("late", None, channel))
    });
    (tell, fake)
}

#[test]
fn who_answers_late_is_done_without() {
    let (_never, late) = late();
    let one = native("one", "amd64", false);
    let said = |name: &str, platform: &str| Node {
        platforms: vec![platform.parse().unwrap()],
        ..at(name, &late)
    };
    // The name says whose a build is: some of them are the late one's, of which one is enough.
    let given_up = ["a", "b", "c", "d", "e", "f"].into_iter().find_map(|name| {
        let mut project = Project::local(&["linux/amd64"]).in_a_hurry();
        project.request.tags[0].name = format!("registry.example/{name}:latest");
        let nodes = vec![said("late", "linux/amd64"), at("one", &one)];
        let outcome = project.build(nodes).unwrap();
        assert_eq!(project.file("who"), "one");
        outcome.ran[0].failed.first().cloned()
    });
    let (node, why) = given_up.unwrap();
    assert_eq!(node, "late");
    assert!(
        why.starts_with("cannot connect to the builder") && why.ends_with("timed out"),
        "{why}"
    );

    // Nobody else is there: it is why the build fails.
    let mut project = Project::local(&["linux/amd64"]).in_a_hurry();
    let nodes = vec![said("late", "linux/amd64"), said("same", "linux/amd64")];
    let error = project.build(nodes).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Environment);
    assert!(
        error.to_string().contains("`same`: cannot connect"),
        "{error}"
    );
}

/// Each builds only when the other is done: which of them is slow makes no difference to the other.
#[test]
fn who_builds_slowly_holds_nobody_up() {
    for slow in ["amd64", "arm64"] {
        let (tell, told) = watch::channel(false);
        let tell = Arc::new(tell);
        let node = |arch: &'static str| {
            let (tell, told) = (Arc::clone(&tell), told.clone());
            Fake::start(Script {
                platforms: vec![arch],
                ..Script::asked(move |_, channel| {
                    let (tell, mut told) = (Arc::clone(&tell), told.clone());
                    async move {
                        if arch == slow {
                            let minute = Duration::from_secs(60);
                            let quick = told.wait_for(|done| *done);
                            let quick = tokio::time::timeout(minute, quick).await;
                            drop(quick.map_err(|_| Status::unknown("the other was held up"))?);
                            return say("slow", Some(arch), channel).await;
                        }
                        let sent = say("quick", Some(arch), channel).await;
                        tell.send_replace(true);
                        sent
                    }
                })
            })
        };
        let (amd, arm) = (node("amd64"), node("arm64"));
        let mut project = Project::local(&["linux/amd64", "linux/arm64"]);
        project.build(vec![at("a", &amd), at("b", &arm)]).unwrap();
        assert_eq!(project.file(&format!("linux_{slow}/who")), "slow");
    }
}

/// More is to be built than nodes have places for: those of the slow one are not the other's.
#[test]
fn who_builds_slowly_has_no_place_of_another() {
    const TARGETS: usize = 10;
    let (tell, told) = watch::channel(0);
    let tell = Arc::new(tell);
    let node = |arch: &'static str| {
        let (tell, told) = (Arc::clone(&tell), told.clone());
        Fake::start(Script {
            platforms: vec![arch],
            ..Script::asked(move |_, _| {
                let (tell, mut told) = (Arc::clone(&tell), told.clone());
                async move {
                    match arch {
                        "amd64" => tell.send_modify(|done| *done += 1),
                        _ => {
                            let others = told.wait_for(|done| *done == TARGETS);
                            let others = tokio::time::timeout(Duration::from_secs(60), others);
                            let held_up = |_| Status::unknown("the others were held up");
                            drop(others.await.map_err(held_up)?);
                        }
                    }
                    Ok(HashMap::new())
                }
            })
        })
    };
    let (amd, arm) = (node("amd64"), node("arm64"));
    let mut project = Project::new(&["linux/arm64", "linux/amd64"], OutputKind::CacheOnly);
    let stages = (0..TARGETS).map(|nth| format!("FROM scratch AS t{nth}\nCOPY f /{nth}\nRUN x\n"));
    project.dockerfile(&stages.collect::<String>());
    project.request.targets = (0..TARGETS).map(|nth| format!("t{nth}")).collect();
    project.request.tags.clear();
    project.request.iidfile = None;
    let outcome = project.build(vec![at("a", &amd), at("b", &arm)]).unwrap();
    assert_eq!(outcome.ran.len(), 2 * TARGETS);
}

/// One that sends this, and says that it is done.
fn sends(bytes: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Fake {
    Fake::start(Script::asked(move |_, channel| {
        let data = bytes();
        async move {
            let mut client = filesync::file_send_client::FileSendClient::new(channel);
            let sent = client.diff_copy(iter([filesync::BytesMessage { data }]));
            let mut answers = sent.await?.into_inner();
            while let Ok(Some(_)) = answers.message().await {}
            Ok(HashMap::new())
        }
    }))
}

fn to_archive(project: &mut Project) {
    project.request.outputs = vec![OutputSpec::plain(OutputKind::Oci {
        dest: Destination::File(project.out()),
        tar: true,
    })];
}

#[test]
fn half_an_archive_leaves_nothing() {
    let half = || archive("amd64")[..1000].to_vec();
    let (one, two) = (sends(half), sends(half));
    for nodes in [
        vec![at("one", &one)],
        vec![at("one", &one), at("two", &two)],
    ] {
        let mut project = Project::local(&["linux/amd64"]);
        to_archive(&mut project);
        let several = nodes.len() > 1;
        let error = project.build(nodes).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Environment);
        let text = error.to_string();
        let said = "says that it is done, and has sent a part of an archive";
        assert!(text.contains(said), "{text}");
        assert_eq!(text.matches(said).count(), if several { 2 } else { 1 });
        let left = fs::read_dir(project.dir.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.retain(|name| name != "context" && name != "state");
        assert_eq!(left, [""; 0]);
    }
    // What one cuts off another sends whole.
    let whole = sends(|| archive("amd64"));
    let both = || vec![at("one", &one), at("whole", &whole)];
    let failed = ["a", "b", "c", "d", "e", "f"].into_iter().find_map(|name| {
        let mut project = Project::local(&["linux/amd64"]);
        project.request.tags[0].name = format!("registry.example/{name}:latest");
        to_archive(&mut project);
        let outcome = project.build(both()).unwrap();
        assert_eq!(fs::read(project.out()).unwrap(), archive("amd64"));
        outcome.ran[0].failed.first().cloned()
    });
    assert_eq!(failed.unwrap().0, "one");
}
