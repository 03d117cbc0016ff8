//! Junk, and datagrams that were changed on their way: refused ones change nothing, and none crashes anything.

use std::collections::BTreeMap;
use std::time::Duration;

use dynamomini::swim::Input;
use dynamomini::swim::Standing;
use dynamomini::swim::Swim;
use proptest::prelude::*;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::net::Net;
use super::seeds;

/// All that a member holds of others, without what time does to it.
fn holds(swim: &Swim) -> Vec<(u64, u64, u64, Standing)> {
    let one =
        |seen: dynamomini::swim::Seen| (seen.node.0, seen.record.instance, seen.record.incarnation, seen.standing);
    let mut all: Vec<_> = swim.members().map(one).collect();
    all.push((swim.me().0, swim.own().record().instance, swim.own().record().incarnation, Standing::Alive));
    all
}

fn refused(swim: &Swim) -> u64 {
    let counters = swim.counters();
    counters.malformed + counters.oversized + counters.other_cluster + counters.own_name
}

/// Datagrams and messages of all kinds, as members with faults around them send them.
pub(crate) fn overheard(seed: u64) -> (Net, Vec<Vec<u8>>) {
    let mut net = Net::settled(seed, 6);
    net.overheard = Some(Vec::new());
    net.conditions.loss = 0.3;
    net.run_for(Duration::from_secs(3));
    net.kill(5);
    net.touch(4, |swim, now| swim.update(now, |record| record.weight = 5).unwrap());
    net.run_for(Duration::from_secs(5));
    net.start(5, 0, Vec::new(), &[0, 1]);
    net.run_for(Duration::from_secs(5));
    let all = net.overheard.take().unwrap();
    (net, all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn junk_changes_nothing(junk in proptest::collection::vec(any::<u8>(), 0..2_000), seed in 0u64..4) {
        let mut net = Net::settled(seed, 3);
        let from = net.hosts[1].address;
        let (before, was_refused) = net.hosts[0].swim.as_ref().map(|swim| (holds(swim), refused(swim))).unwrap();
        let now = net.now;
        let swim = net.hosts[0].swim.as_mut().unwrap();
        swim.handle(now, Input::Datagram { from, bytes: &junk });
        prop_assert_eq!(refused(swim), was_refused + 1);
        prop_assert!(swim.answer_ping(now, &junk).is_none());
        prop_assert!(swim.answer_sync(now, &junk).is_none());
        prop_assert_eq!(holds(swim), before);
    }
}

#[test]
fn changed_datagrams_raise_no_incarnation_and_refused_ones_change_nothing() {
    for seed in seeds(1) {
        let (mut net, all) = overheard(seed);
        assert!(all.len() > 20, "seed {seed}: only {} datagrams were overheard", all.len());
        let mut rng = StdRng::seed_from_u64(seed);
        let (from, peer, own) = (net.hosts[2].address, net.hosts[2].id, net.hosts[0].id.0);
        let now = net.now;
        let truth = |at: usize| net.hosts[at].swim.as_ref().map(|swim| (swim.me().0, swim.own().record().incarnation));
        let truth: BTreeMap<u64, u64> = (0..6).filter_map(truth).collect();
        let swim = net.hosts[0].swim.as_mut().unwrap();
        let (mut refused_some, mut taken_some) = (0, 0);
        for _ in 0..if cfg!(debug_assertions) { 4_000 } else { 100_000 } {
            let bytes = changed(&mut rng, &all);
            let (before, was_refused) = (holds(swim), refused(swim));
            let reply = swim.answer_ping(now, &bytes);
            if refused(swim) > was_refused {
                refused_some += 1;
                assert!(reply.is_none(), "seed {seed}: a refused datagram was answered");
                assert_eq!(holds(swim), before, "seed {seed}: a refused datagram changed something");
            } else {
                taken_some += 1;
            }
            swim.handle(now, Input::Datagram { from, bytes: &bytes });
            swim.answer_sync(now, &bytes);
            swim.handle(now, Input::SyncReply { peer, reply: Some(&bytes) });
            let after = holds(swim);
            assert_eq!(before.len(), after.len(), "seed {seed}: a member came or went");
            for (one, other) in before.iter().zip(&after) {
                // Only a member itself signs its incarnations; this one may have refuted, once for each message.
                let most = if one.0 == own { one.2 + 4 } else { truth[&one.0] };
                assert!(one.0 == other.0 && other.2 <= most, "seed {seed}: from {one:?} to {other:?}");
            }
            swim.take_effects();
            swim.take_events();
        }
        assert!(refused_some > 100 && taken_some > 100, "seed {seed}: {refused_some} refused, {taken_some} taken");
    }
}

/// One of these with up to three changes.
fn changed(rng: &mut StdRng, all: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = all[rng.random_range(0..all.len())].clone();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at.max(1)),
            _ => bytes.insert(at, rng.random()),
        }
    }
    bytes
}

#[test]
fn one_seed_gives_one_run() {
    let run = |seed| {
        let mut net = Net::settled(seed, 8);
        net.overheard = Some(Vec::new());
        net.conditions.loss = 0.3;
        net.run_for(Duration::from_secs(10));
        net.kill(1);
        net.run_for(Duration::from_secs(10));
        let events: Vec<_> = net.hosts.iter().map(|host| format!("{:?}", host.events)).collect();
        (net.overheard.take(), events)
    };
    assert!(run(7) == run(7), "seed 7: the runs differ");
    assert!(run(7) != run(8), "the seed decides nothing");
}
