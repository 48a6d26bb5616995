//! What a daemon is sent of a context that it knows from an earlier build.

use bollard_buildkit_proto::fsutil::types::Packet;
use bollard_buildkit_proto::fsutil::types::Stat;
use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use tokio::sync::mpsc;
use tonic::Request;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use super::*;

/// What a daemon keeps of a context: size and time of every file.
type Kept = HashMap<String, (i64, i64)>;

/// Takes a context as a daemon does, which asks for files that differ from what it keeps in size or time (fsutil, diff.go,
/// `sameFile`); gives what was sent.
async fn take(channel: Channel, kept: &Mutex<Kept>) -> Result<Vec<(String, Vec<u8>)>, Status> {
    let packet = |kind: PacketType, id: usize| Packet {
        r#type: kind.into(),
        id: u32::try_from(id).unwrap(),
        ..Packet::default()
    };
    let (ask, asked) = mpsc::channel(1024);
    let mut request = Request::new(ReceiverStream::new(asked));
    let name = "context".parse().unwrap();
    request.metadata_mut().insert("dir-name", name);
    let mut client = filesync::file_sync_client::FileSyncClient::new(channel);
    let mut packets = client.diff_copy(request).await?.into_inner();
    let mut stats: Vec<Stat> = Vec::new();
    let mut sent: HashMap<u32, Vec<u8>> = HashMap::new();
    let (mut open, mut all_named) = (0, false);
    while let Some(got) = packets.message().await? {
        match (got.r#type(), got.stat) {
            (PacketType::PacketStat, Some(stat)) => {
                let now = (stat.size, stat.mod_time);
                let is_file = stat.mode & DIR == 0;
                let before = kept.lock().unwrap().insert(stat.path.clone(), now);
                stats.push(stat);
                if is_file && before != Some(now) {
                    open += 1;
                    let wanted = packet(PacketType::PacketReq, stats.len() - 1);
                    ask.send(wanted).await.unwrap();
                }
            }
            (PacketType::PacketStat, None) => all_named = true,
            (PacketType::PacketData, _) => {
                open -= usize::from(got.data.is_empty());
                sent.entry(got.id).or_default().extend(&got.data);
            }
            (PacketType::PacketFin, _) => break,
            (kind, _) => panic!("{kind:?}"),
        }
        if all_named && open == 0 {
            all_named = false;
            ask.send(packet(PacketType::PacketFin, 0)).await.unwrap();
        }
    }
    let named = { sent.into_iter() }.map(|(id, bytes)| (stats[id as usize].path.clone(), bytes));
    Ok(named.collect())
}

#[test]
fn one_changed_file_is_one_file_sent() {
    type Sent = Arc<Mutex<Vec<Vec<(String, Vec<u8>)>>>>;
    let (kept, sent) = (Arc::<Mutex<Kept>>::default(), Sent::default());
    let noted = Arc::clone(&sent);
    let fake = Fake::start(Script::asked(move |_, channel| {
        let (kept, noted) = (Arc::clone(&kept), Arc::clone(&noted));
        async move {
            let got = take(channel.clone(), &kept).await?;
            noted.lock().unwrap().push(got);
            say("one", None, channel).await
        }
    }));
    let mut project = Project::local(&["linux/amd64"]);
    project.dockerfile("FROM scratch\nCOPY tree /\n");
    let tree = project.dir.path().join("context/tree");
    for file in 0..500 {
        let path = tree.join(format!("d{}/f{file}", file % 20));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("file {file}")).unwrap();
    }
    let mut build = || {
        project.build(vec![at("one", &fake)]).unwrap();
        sent.lock().unwrap().pop().unwrap()
    };
    // No file but those that the COPY takes.
    assert_eq!(build().len(), 500);
    assert_eq!(build(), []);
    fs::write(tree.join("d7/f7"), "changed").unwrap();
    assert_eq!(build(), [("tree/d7/f7".to_owned(), b"changed".to_vec())]);
}
