//! Results that come in part or not at all, and daemons that say nothing any more.

use std::time::Duration;
use std::time::Instant;

use super::*;

fn archive() -> Sink {
    Sink::Archive {
        path: "app.tar".into(),
        to: Box::new(io::sink()),
    }
}

/// What has come of a result, as the user is told.
fn half(built: Result<Vec<Event>, EngineError>) -> &'static str {
    match built {
        Err(EngineError::Half { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_result_that_does_not_come_is_no_success() {
    let fake = Fake::start(Script::new(|_| async { done() }));
    let dir = tempfile::tempdir().unwrap();
    let files = Sink::Directory(dir.path().to_owned());
    for (sink, want) in [(archive(), "no archive"), (files, "no files")] {
        assert_eq!(half(carry_out(&fake, build(offer([]), sink))), want);
    }
}

#[test]
fn half_an_archive_is_no_success() {
    // It ends as if it were all, or is cut off; the daemon says that it is done either way.
    for is_cut in [false, true] {
        let fake = Fake::start(Script::new(move |channel| async move {
            let (tell, told) = mpsc::channel(4);
            let mut client = filesync::file_send_client::FileSendClient::new(channel);
            let answers = client.diff_copy(ReceiverStream::new(told)).await?;
            let mut answers = answers.into_inner();
            tell.send(data(&tar()[..700])).await.unwrap();
            if is_cut {
                drop(answers);
                return done();
            }
            drop(tell);
            let told = answers.message().await.unwrap_err();
            assert_eq!(told.code(), tonic::Code::DataLoss);
            done()
        }));
        let built = carry_out(&fake, build(offer([]), archive()));
        assert_eq!(half(built), "a part of an archive");
    }
}

#[test]
fn half_of_the_files_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(Script::new(|channel| async move {
        let (tell, told) = mpsc::channel(16);
        let mut client = packet::file_send_client::FileSendClient::new(channel);
        let answers = client.diff_copy(ReceiverStream::new(told)).await?;
        let mut answers = answers.into_inner();
        for packet in [
            stat("f", 0o644, ""),
            stat("g", 0o644, ""),
            Packet::default(),
        ] {
            tell.send(packet).await.unwrap();
        }
        let asked = answers.message().await?.unwrap();
        for bytes in [&b"bytes"[..], b""] {
            let packet = Packet {
                r#type: PacketType::PacketData.into(),
                id: asked.id,
                data: bytes.to_vec(),
                ..Packet::default()
            };
            tell.send(packet).await.unwrap();
        }
        drop(tell);
        while let Ok(Some(_)) = answers.message().await {}
        done()
    }));
    let sink = Sink::Directory(dir.path().to_owned());
    let built = carry_out(&fake, build(offer([]), sink));
    assert_eq!(half(built), "a part of the files");
}

/// Why an export broke off the daemon knows better.
#[test]
fn what_a_daemon_says_of_half_an_archive_counts() {
    let fake = Fake::start(Script::new(|channel| async move {
        let mut client = filesync::file_send_client::FileSendClient::new(channel);
        let answers = client.diff_copy(iter([data(&tar()[..700])])).await?;
        drop(answers.into_inner().message().await);
        Err(Status::unknown("a blob is damaged"))
    }));
    let built = carry_out(&fake, build(offer([]), archive()));
    let Err(EngineError::Failed { message, .. }) = built else {
        panic!("{built:?}");
    };
    assert_eq!(message, "a blob is damaged");
}

#[test]
fn a_daemon_that_hangs_is_given_up() {
    let fake = Fake::start(Script::new(|_| std::future::pending()));
    let connection = Connection::open(&fake.address(), &CancelToken::new()).unwrap();
    let connection = connection.bearing(Duration::from_secs(1));
    let built = connection.build(build(offer([]), Sink::Nothing), &|_| {});
    let Err(error @ EngineError::Silent { .. }) = built else {
        panic!("{built:?}");
    };
    assert_eq!(
        error.to_string(),
        format!(
            "nothing has come from the builder `{}` for 1 seconds: it hangs, or its machine does",
            fake.address()
        )
    );
    drop(connection);
    assert!(fake.is_abandoned());
}

/// All that it says is what every daemon asks: whether we are there.
#[test]
fn a_daemon_whose_step_says_nothing_is_waited_for() {
    let silence = Duration::from_secs(2);
    let fake = Fake::start(Script::new(move |channel| async move {
        let mut health = health::health_client::HealthClient::new(channel);
        let began = Instant::now();
        while began.elapsed() < silence + silence / 4 {
            health.check(health::HealthCheckRequest::default()).await?;
            tokio::time::sleep(silence / 40).await;
        }
        done()
    }));
    let connection = Connection::open(&fake.address(), &CancelToken::new()).unwrap();
    let connection = connection.bearing(silence);
    connection
        .build(build(offer([]), Sink::Nothing), &|_| {})
        .unwrap();
}
