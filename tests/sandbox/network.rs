//! The network that steps have by default. Whether it is one of their own, the machine decides: each test says what holds
//! in either case.

use super::*;
use crate::support::Gate;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixListener;

/// Whether steps get networks of their own here, and through what, or why not.
fn uplink(fixture: &Fixture) -> Result<String, String> {
    let said = fixture.sh(&["--uplink"], "true").stdout();
    let inside = |kind: &str| {
        let text = said.trim().strip_prefix(kind)?.strip_prefix("(\"")?;
        Some(text.strip_suffix("\")")?.to_owned())
    };
    match (inside("Own"), inside("Shared")) {
        (Some(program), _) => Ok(program),
        (None, why) => Err(why.unwrap_or_else(|| panic!("{said}"))),
    }
}

#[test]
fn there_is_an_uplink_or_a_reason() {
    let fixture = Fixture::new();
    let tun = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    let script = "ls /sys/class/net; cat /etc/resolv.conf";
    let seen = fixture.sh(&[], script).stdout();
    match (uplink(&fixture), tun) {
        (Ok(program), Ok(_)) => {
            assert!(["slirp4netns", "pasta"].contains(&&*program), "{program}");
            let (devices, resolvers) = seen.split_once("nameserver ").unwrap();
            assert_eq!(devices, "eth0\nlo\n");
            assert!(resolvers.contains(".255.3\n"), "{resolvers}");
            assert_eq!(resolvers.matches("nameserver").count(), 0);
        }
        (Err(why), Err(_)) => {
            assert!(why.contains("cannot open /dev/net/tun: "), "{why}");
            assert_eq!(seen, fixture.sh(&["--host-network"], script).stdout());
        }
        (uplink, tun) => panic!("{uplink:?} {tun:?}"),
    }
}

#[test]
fn steps_meet_on_ports_only_where_they_share_the_hosts() {
    let fixture = Fixture::new();
    // One that nobody has, and that nobody gets who asks for any (ip_local_port_range).
    let mut ports = 20_000_u16..32_000;
    let port = ports
        .find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok())
        .unwrap();
    // Each goes on listening until the other listens as well, or for want of the port has ended.
    let script = format!(
        "/bin/busybox nc -l -p {port} > /dev/null < /dev/null & pid=$!
         lives() {{ [ -e /proc/$pid/exe ]; }}
         listens() {{
             socket=$(ls -l /proc/$pid/fd 2> /dev/null | grep socket: | cut -d[ -f2 | cut -d] -f1)
             [ \"$socket\" ] && grep -q \":{port:04X} .* 0A .* $socket \" /proc/net/tcp /proc/net/tcp6
         }}
         while lives && ! listens; do :; done
         mkdir /meet/a 2> /dev/null || mkdir /meet/b
         until [ -d /meet/b ]; do :; done
         lives && kill $pid && echo listened"
    );
    let meet = fixture.path("meet");
    fs::create_dir(&meet).unwrap();
    let bind = format!("--mount=type=bind,src={},dst=/meet", meet.display());
    let both = fixture.sh(&["--threads=2", &bind], &script).text();
    let listened = both.matches("listened").count();
    match uplink(&fixture) {
        Ok(_) => assert_eq!(listened, 2, "{both}"),
        Err(_) => assert_eq!(listened, 1, "{both}"),
    }
}

/// Steps that come one after the other, as those of a build.
#[test]
fn a_network_that_was_a_steps_is_anothers_only_if_nothing_is_left_in_it() {
    let fixture = Fixture::new();
    let lines = |times: &str, script: &str| -> Vec<String> {
        let said = fixture.sh(&[times], script).stdout();
        let (said, _) = said.split_once("entered in ").unwrap();
        said.lines().map(str::to_owned).collect()
    };
    let Ok(_) = uplink(&fixture) else {
        // There is one network, the host's.
        let host = fs::read_link("/proc/self/ns/net").unwrap();
        let host = host.to_str().unwrap().to_owned();
        let seen = lines("--times=3", "readlink /proc/self/ns/net");
        assert_eq!(seen, vec![host; 3]);
        return;
    };
    // Packets that went over the loopback device, which only who was there before can have sent. Nobody listens: the
    // connection is refused, and of that nothing is left.
    let seen =
        "grep -c ' lo: *[1-9]' /proc/net/dev; /bin/busybox nc -w 1 127.0.0.1 9 < /dev/null; :";
    let seen = lines("--times=20", seen);
    assert_eq!(
        seen[..2],
        ["0", "0"],
        "the second is made while the first runs"
    );
    assert!(seen.contains(&"1".to_owned()), "{seen:?}");
    // Who closes a connection first keeps its port for a minute. The next step finds none that is kept.
    let keep = "grep -o 'tw [0-9]*' /proc/net/sockstat | /bin/busybox tr '\\n' ' '
         /bin/busybox nc -l -p 81 -e /bin/busybox cat & pid=$!
         until grep -q ':0051 .* 0A ' /proc/net/tcp /proc/net/tcp6; do :; done
         echo x | /bin/busybox nc 127.0.0.1 81 > /dev/null; wait $pid
         grep -c ' 06 ' /proc/net/tcp";
    for (time, line) in lines("--times=6", keep).iter().enumerate() {
        let kept = line
            .strip_prefix("tw 0 ")
            .and_then(|kept| kept.parse().ok());
        assert!(kept.is_some_and(|kept: u32| kept > 0), "{time}: {line}");
    }
}

#[test]
fn what_listens_on_the_hosts_loopback_address_is_out_of_reach() {
    let fixture = Fixture::new();
    let Ok(_) = uplink(&fixture) else {
        // The reason is another test's; the host's loopback is the step's then.
        assert_eq!(
            fixture
                .sh(&[], "ip -o addr | grep -c '127.0.0.1/8'")
                .stdout(),
            "1\n"
        );
        return;
    };
    let inside = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = |address: &str, listener: &TcpListener| {
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        fixture.sh(
            &[],
            &format!("/bin/busybox nc -w 1 {address} {port} < /dev/null"),
        );
        listener.accept().is_ok()
    };
    let gateway = fixture
        .sh(&[], "ip route | grep default | cut -d' ' -f3")
        .stdout();
    let network = gateway
        .trim()
        .split('.')
        .take(2)
        .collect::<Vec<_>>()
        .join(".");
    let own = [".255.2", ".255.3", ".255.100"].map(|end| format!("{network}{end}"));
    for address in ["127.0.0.1", gateway.trim()]
        .into_iter()
        .chain(own.iter().map(|a| &**a))
    {
        assert!(!connect(address, &inside), "{address}");
    }
    // What the host offers by its other addresses is there.
    let gate = Gate::new();
    let script = format!("/bin/busybox {} && echo passed", gate.pass());
    std::thread::scope(|scope| {
        let step = scope.spawn(|| fixture.sh(&[], &script).stdout());
        gate.wait().go_on();
        assert_eq!(step.join().unwrap(), "passed\n");
    });
}

/// In a network of the step's own they are not there, and on the host's network landlock(7) closes them.
#[test]
fn abstract_sockets_of_the_host_are_closed_unless_its_network_is_asked_for() {
    let fixture = Fixture::new();
    fixture.attacker();
    let name = format!("rbuild-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let connect = |options: &[&str]| {
        fixture
            .sh(options, &format!("attack abstract {name}"))
            .text()
    };
    assert_eq!(connect(&["--host-network"]), "abstract: done\n");
    let refused = ["abstract: ECONNREFUSED\n", "abstract: EPERM\n"];
    for options in [&[] as &[&str], &["--no-network"], &["--user=7:8"]] {
        let said = connect(options);
        assert!(refused.contains(&&*said), "{options:?}: {said}");
    }
}

#[test]
fn the_uplink_ends_with_a_killed_builder() {
    let fixture = Fixture::new();
    let mut child = fixture
        .command()
        .args(["--uplink", "sh", "-c", "echo ready; sleep 86400"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let uplink = lines.next().unwrap().unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let below = lifetime::descendants(child.id());
    let named = |name: &str| below.iter().any(|process| process.contains(name));
    assert_eq!(
        uplink.starts_with("Own"),
        named("(slirp4netns)") || named("(pas"),
        "{below:?}"
    );
    lifetime::signal(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    lifetime::all_gone(&below);
}
