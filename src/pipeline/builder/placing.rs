//! Which nodes of a builder may make an output, the best first. Pure.
//!
//! What counts is what must run: an output for arm64 whose steps all run on the build platform needs an amd64 node. Last come
//! daemons that do not list a platform: they may have an emulator of their own, which they do not tell of. Of nodes
//! that emulate equally little, the order is that of their scores (rendezvous hashing): the hash of the build's identity
//! and the node's name. So a build goes to the node that it went to before, whatever is in its files; and when a node comes
//! or goes, only the builds that are its own move.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use rbuild_llb::Platform;

/// A node, as far as placing goes.
#[derive(Debug, Clone)]
pub(super) struct Site<'a> {
    pub(super) node: &'a str,
    /// What the configuration says that it is native to.
    pub(super) declared: &'a [Platform],
    /// What the daemon says that it builds for, its own platform first; none if it was not asked.
    pub(super) reported: &'a [Platform],
    /// Whether it may emulate what it does not list.
    pub(super) may_emulate: bool,
}

/// What an output needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    /// What it is for.
    pub(super) platform: Platform,
    /// The platforms of the steps that run for it, and how many they are.
    pub(super) steps: BTreeMap<Platform, usize>,
}

/// A node that may make an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Which of the sites.
    pub(super) site: usize,
    /// How many steps it emulates.
    pub(super) emulated: usize,
    /// How many of these it does not say that it can run.
    pub(super) unlisted: usize,
}

impl Site<'_> {
    /// Whether its CPU runs programs for `platform`.
    fn is_native(&self, platform: &Platform) -> bool {
        let kin = |own: &Platform| own.os == platform.os && own.arch == platform.arch;
        if !self.declared.is_empty() {
            // Of a variant the daemon knows, such as amd64/v3.
            return self.declared.contains(platform)
                || (self.declared.iter().any(kin) && self.reported.contains(platform));
        }
        // BuildKit (util/archutil) tries the lesser CPUs of the family, and lists those that work.
        let family = |own: &Platform| {
            let arch = (own.arch.as_ref(), platform.arch.as_ref());
            kin(own)
                || (own.os == platform.os && matches!(arch, ("amd64", "386") | ("arm64", "arm")))
        };
        self.reported.contains(platform) && self.reported.first().is_some_and(family)
    }

    /// Whether it says that it runs programs for `platform`.
    pub(super) fn lists(&self, platform: &Platform) -> bool {
        self.is_native(platform) || runs(self.reported, platform)
    }

    /// Whether it is worth a try. BuildKit lists what its kernel runs; the emulators that come with it (`buildkit-qemu-*`,
    /// solver/llbsolver/ops/exec_binfmt.go) it looks for when a step needs one, and for another amd64 it does not.
    pub(super) fn may_run(&self, platform: &Platform) -> bool {
        let emulates = platform.os == "linux"
            && (platform.arch != "amd64" || matches!(&*platform.variant, "" | "v2"));
        self.lists(platform) || (self.may_emulate && emulates)
    }
}

/// Whether a daemon that says it builds for these runs programs for `platform`: of CPUs that do more it names no lesser ones
/// that nobody asks for (arm/v5 on arm/v7).
pub(super) fn runs(reported: &[Platform], platform: &Platform) -> bool {
    let mut own = reported.iter();
    own.any(|own| own.arch == platform.arch && own.fallbacks().contains(platform))
}

/// The nodes that can make an output, in the order in which they are tried; `key` is the build's identity.
pub(super) fn order(key: &str, sites: &[Site<'_>], need: &Need) -> Vec<Candidate> {
    let able = sites.iter().enumerate().filter(|(_, site)| {
        let mut platforms = need.steps.keys();
        platforms.all(|platform| site.may_run(platform))
    });
    let mut ranked: Vec<_> = able
        .map(|(at, site)| {
            let steps = |is: &dyn Fn(&Platform) -> bool| {
                let steps = need.steps.iter().filter(|(platform, _)| !is(platform));
                steps.map(|(_, steps)| steps).sum()
            };
            let candidate = Candidate {
                site: at,
                emulated: steps(&|platform| site.is_native(platform)),
                unlisted: steps(&|platform| site.lists(platform)),
            };
            // Where nothing runs any node will do, and that of the platform is where people look for it.
            let elsewhere = !site.is_native(&need.platform);
            let rank = (
                candidate.unlisted,
                candidate.emulated,
                elsewhere,
                Reverse(score(key, site.node)),
            );
            (rank, candidate)
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}

/// What has been heard of a node that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// Something there has taken the connection.
    Connected,
    Answer,
    /// It is of no use.
    Failure,
}

/// Who is passed over, if it is clear who makes an output though some have not answered. `patient`: whether who has not even
/// taken the connection may be there still.
pub(super) fn settle(
    key: &str,
    sites: &[Site<'_>],
    heard: &[Heard],
    need: &Need,
    patient: bool,
) -> Option<Vec<usize>> {
    let wanted: Vec<Platform> = need.steps.keys().chain([&need.platform]).cloned().collect();
    // Who has not said what it is may be native to everything.
    let hoped = sites.iter().zip(heard).map(|(site, heard)| {
        let unknown = matches!(heard, Heard::Nothing | Heard::Connected);
        match unknown && site.declared.is_empty() {
            true => Site {
                declared: &wanted,
                ..site.clone()
            },
            false => site.clone(),
        }
    });
    let hoped: Vec<Site<'_>> = hoped.collect();
    let mut passed_over = Vec::new();
    for candidate in order(key, &hoped, need) {
        match heard[candidate.site] {
            Heard::Failure => {}
            Heard::Nothing if !patient => passed_over.push(candidate.site),
            Heard::Nothing | Heard::Connected => return None,
            // To wait takes less time than to emulate.
            Heard::Answer if candidate.emulated > 0 && !passed_over.is_empty() => return None,
            Heard::Answer => return Some(passed_over),
        }
    }
    None
}

fn score(key: &str, node: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    // The length keeps ("a", "bc") and ("ab", "c") apart.
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(node.as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod t {
    use super::*;

    fn platforms(texts: &[&str]) -> Vec<Platform> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn need(platform: &str, steps: &[(&str, usize)]) -> Need {
        let steps = steps.iter();
        Need {
            platform: platform.parse().unwrap(),
            steps: steps.map(|(p, n)| (p.parse().unwrap(), *n)).collect(),
        }
    }

    fn sites<'a>(names: &'a [String], native: &'a [Platform]) -> Vec<Site<'a>> {
        let site = |node: &'a String| Site {
            node,
            declared: native,
            reported: &[],
            may_emulate: true,
        };
        names.iter().map(site).collect()
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("node{at}")).collect()
    }

    /// The winners of many builds among these nodes, by name.
    fn winners<'a>(nodes: &'a [String], native: &[Platform]) -> Vec<&'a str> {
        let need = need("linux/amd64", &[("linux/amd64", 3)]);
        (0..1000)
            .map(|build| {
                let order = order(&format!("project{build}"), &sites(nodes, native), &need);
                nodes[order[0].site].as_str()
            })
            .collect()
    }

    #[test]
    fn a_node_that_goes_moves_its_own_builds_alone() {
        let native = platforms(&["linux/amd64"]);
        for count in 2..8 {
            let all = names(count);
            let before = winners(&all, &native);
            for gone in 0..count {
                let mut rest = all.clone();
                let gone = rest.remove(gone);
                for (before, after) in before.iter().zip(winners(&rest, &native)) {
                    match *before == gone {
                        true => assert_ne!(after, gone),
                        false => assert_eq!(after, *before, "{count} nodes without {gone}"),
                    }
                }
            }
        }
    }

    #[test]
    fn builds_are_spread_and_where_nodes_stand_does_not_matter() {
        let native = platforms(&["linux/amd64"]);
        let all = names(4);
        let before = winners(&all, &native);
        for node in &all {
            let share = before.iter().filter(|winner| **winner == node).count();
            // 250 of 1000 each, give or take five standard deviations.
            assert!((180..320).contains(&share), "{node}: {share}");
        }
        let reversed: Vec<String> = all.iter().rev().cloned().collect();
        assert_eq!(winners(&reversed, &native), before);
    }

    /// Who is first, and who follows, are the same order for all platforms that nodes share.
    #[test]
    fn platforms_of_one_build_meet_on_one_node() {
        let native = platforms(&["linux/amd64", "linux/386"]);
        let all = names(5);
        let sites = sites(&all, &native);
        for build in 0..50 {
            let key = format!("project{build}");
            let of = |platform: &str| order(&key, &sites, &need(platform, &[(platform, 1)]));
            assert_eq!(of("linux/amd64"), of("linux/386"));
        }
    }

    #[test]
    fn who_is_native_to_what_runs_comes_first() {
        let (amd, arm, both) = (
            platforms(&["linux/amd64", "linux/amd64/v2", "linux/386"]),
            platforms(&["linux/arm64", "linux/arm/v7"]),
            // One with emulators: after its own.
            platforms(&["linux/amd64", "linux/386", "linux/arm64"]),
        );
        let said = platforms(&["linux/riscv64"]);
        const NAMES: [&str; 4] = ["amd", "arm", "both", "said"];
        let of = [(&[][..], &amd), (&[], &arm), (&[], &both), (&said, &amd)];
        let sites: Vec<Site<'_>> = NAMES
            .iter()
            .zip(of)
            .map(|(node, (declared, reported))| Site {
                node,
                declared,
                reported,
                may_emulate: false,
            })
            .collect();
        let order_of = |platform: &str, steps: &[(&str, usize)]| {
            let order = order("project", &sites, &need(platform, steps));
            let names = order.iter().map(|c| (NAMES[c.site], c.emulated));
            names.collect::<Vec<_>>()
        };
        let sorted = |mut list: Vec<(&'static str, usize)>| {
            list.sort();
            list
        };
        assert_eq!(
            order_of("linux/arm64", &[("linux/arm64", 2)]),
            [("arm", 0), ("both", 2)]
        );
        // Cross-compiled: nothing of it runs on arm64. What is declared counts, though the daemon says more.
        let cross = order_of("linux/arm64", &[("linux/amd64", 4)]);
        assert_eq!(sorted(cross[..2].to_vec()), [("amd", 0), ("both", 0)]);
        assert_eq!(cross[2..], [("said", 4)]);
        assert_eq!(
            order_of("linux/riscv64", &[("linux/riscv64", 1)]),
            [("said", 0)]
        );
        assert_eq!(order_of("linux/arm/v7", &[("linux/arm/v7", 1)])[0].0, "arm");
        assert_eq!(order_of("linux/s390x", &[("linux/s390x", 1)]), []);
        // What runs programs for v7 runs those for v5.
        assert!(!order_of("linux/arm/v5", &[("linux/arm/v5", 1)]).is_empty());
        // Nothing runs: that of its platform, then anybody.
        let copied = order_of("linux/arm64", &[]);
        assert_eq!(copied[0].0, "arm");
        assert_eq!(copied.len(), 4);
        // Of both architectures: as few emulated steps as can be.
        let mixed = order_of("linux/arm64", &[("linux/amd64", 1), ("linux/arm64", 5)]);
        assert_eq!(mixed, [("both", 5)]);
    }

    #[test]
    fn who_lists_nothing_of_the_kind_comes_last() {
        let amd = platforms(&["linux/amd64", "linux/386"]);
        let emulating = platforms(&["linux/amd64", "linux/arm64"]);
        let site = |node, reported, may_emulate| Site {
            node,
            declared: &[],
            reported,
            may_emulate,
        };
        let sites = [
            site("daemon", &amd, true),
            site("dockerd", &amd, false),
            site("listing", &emulating, true),
        ];
        let order_of = |platform: &str, steps: &[(&str, usize)]| {
            let order = order("project", &sites, &need(platform, steps));
            let names = order.iter();
            let names = names.map(|c| (sites[c.site].node, c.emulated, c.unlisted));
            names.collect::<Vec<_>>()
        };
        assert_eq!(
            order_of("linux/arm64", &[("linux/arm64", 2)]),
            [("listing", 2, 0), ("daemon", 2, 2)]
        );
        let mut s390x = order_of("linux/s390x", &[("linux/s390x", 1), ("linux/amd64", 3)]);
        s390x.sort_unstable();
        assert_eq!(s390x, [("daemon", 1, 1), ("listing", 1, 1)]);
        // A daemon refuses these.
        for platform in ["linux/amd64/v4", "windows/amd64"] {
            assert_eq!(order_of(platform, &[(platform, 1)]), []);
        }
    }

    #[test]
    fn nobody_waits_for_who_cannot_matter() {
        let amd = platforms(&["linux/amd64"]);
        let arm = platforms(&["linux/arm64"]);
        let both = platforms(&["linux/amd64", "linux/arm64"]);
        let site = |node, declared, reported| Site {
            node,
            declared,
            reported,
            may_emulate: true,
        };
        let native = need("linux/amd64", &[("linux/amd64", 1)]);
        // The two that answer alike, in the order of their scores.
        let pair = ["one", "two"].map(|node| site(node, &amd, &amd));
        let ranked = order("project", &pair, &native);
        let [first, second] = [ranked[0].site, ranked[1].site].map(|at| pair[at].node);
        let settled = |sites: &[Site<'_>], heard: &[Heard], need: &Need| {
            [true, false].map(|patient| settle("project", sites, heard, need, patient).is_some())
        };
        use Heard::Answer;
        use Heard::Connected;
        use Heard::Failure;
        use Heard::Nothing;
        // Whose build it is has answered.
        let sites = [site(first, &[], &amd), site(second, &[], &[])];
        assert_eq!(settled(&sites, &[Answer, Nothing], &native), [true, true]);
        // The other has: a little patience, and more with one that is there.
        let sites = [site(first, &[], &[]), site(second, &[], &amd)];
        assert_eq!(settled(&sites, &[Nothing, Answer], &native), [false, true]);
        let passed_over = settle("project", &sites, &[Nothing, Answer], &native, false);
        assert_eq!(passed_over, Some(vec![0]));
        assert_eq!(settled(&sites, &[Connected, Answer], &native), [false; 2]);
        assert_eq!(settled(&sites, &[Failure, Answer], &native), [true; 2]);
        // It is for something else.
        let sites = [site(first, &arm, &[]), site(second, &[], &amd)];
        assert_eq!(settled(&sites, &[Nothing, Answer], &native), [true; 2]);
        // The one that answers would have to emulate.
        let foreign = need("linux/arm64", &[("linux/arm64", 1)]);
        let sites = [site("arm", &arm, &[]), site("both", &[], &both)];
        assert_eq!(settled(&sites, &[Nothing, Answer], &foreign), [false; 2]);
        assert_eq!(settled(&sites, &[Failure, Answer], &foreign), [true; 2]);
        assert_eq!(settled(&sites, &[Nothing, Failure], &foreign), [false; 2]);
    }
}
