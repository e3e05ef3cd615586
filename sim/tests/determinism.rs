//! The simulator's own promises: a seed is a run, checks change nothing, and the oracle says no.
#![allow(clippy::unwrap_used)]

use sim::check;
use sim::fact::{Fact, Wish};
use sim::history::{Answer, History};
use sim::plan::{Fault, Overrides, Plan};
use sim::pool::Pool;
use sim::run::run;
use std::collections::BTreeSet;

/// Runs of this test; the swarm runs thousands.
const SEEDS: u64 = 6;

#[test]
fn a_seed_runs_the_same_twice_and_its_story_changes_nothing() {
    let pool = Pool::new();
    let mut traces = BTreeSet::new();
    for seed in 0..SEEDS {
        let first = run(seed, &Overrides::default(), &pool, false).unwrap();
        let second = run(seed, &Overrides::default(), &pool, true).unwrap();
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.marks, second.marks, "seed {seed}");
        traces.insert(first.trace);
    }
    assert_eq!(traces.len() as u64, SEEDS, "different seeds are different runs");
}

#[test]
fn each_fault_is_absent_in_about_half_of_the_runs_and_can_be_taken_away() {
    let none = Overrides::default();
    for fault in Fault::ALL {
        let has = (0..1_000).filter(|seed| Plan::draw(*seed, 96, &none).has(fault)).count();
        assert!((100..620).contains(&has), "{} in {has} of 1000", fault.name());
        let without = Overrides { without: vec![fault], ..Overrides::default() };
        assert!((0..200).all(|seed| !Plan::draw(seed, 96, &without).has(fault)));
        assert_eq!(Fault::named(fault.name()), Some(fault));
    }
    let plans: Vec<Plan> = (0..1_000).map(|seed| Plan::draw(seed, 96, &none)).collect();
    assert!(plans.iter().all(|plan| plan.ops >= 300 && plan.clients >= 3));
    assert!(plans.iter().all(|plan| (2..=8).contains(&plan.shards)));
    let crashing = plans.iter().filter(|plan| plan.has(Fault::Kill) || plan.has(Fault::PowerCut));
    assert!(crashing.count() > 600);
}

/// A pool whose events are all acknowledged, and what a right relay would show of them.
fn acknowledged(events: &[usize]) -> History {
    let mut history = History { max_limit: 500, ..History::default() };
    for (at, event) in (10..).zip(events) {
        history.sent(*event, at * 10);
        history.answered(*event, at * 10, at * 10 + 5, Answer::Stored);
    }
    history
}

fn find(pool: &Pool, wanted: impl Fn(&Fact) -> bool) -> usize {
    pool.events.iter().position(|pooled| pooled.fact.is_genuine && wanted(&pooled.fact)).unwrap()
}

#[test]
fn the_oracle_finds_what_is_lost_forged_refused_or_not_gone() {
    let pool = Pool::new();
    let note = find(&pool, |fact| fact.kind == 1 && fact.expires_at == u64::MAX);
    let history = acknowledged(&[note]);
    let checks = |visible: &[usize], history: &History| {
        let visible = visible.iter().copied().collect();
        check::visible(&visible, &pool, history).err().map(|violation| violation.check)
    };
    assert_eq!(checks(&[note], &history), None);
    assert!(checks(&[], &history).unwrap().starts_with("E1"));
    // Somebody else's is not excused by it.
    let stranger = find(&pool, |fact| fact.pubkey != pool.events[note].fact.pubkey);
    assert!(checks(&[note, stranger], &history).unwrap().starts_with("E2"));
    // A deletion that was acknowledged ends its target, in whatever order they came.
    let deletion = find(&pool, |fact| fact.kind == 5 && fact.values("e").next().is_some());
    let target = pool.events[deletion].fact.values("e").next().unwrap().to_owned();
    let target = find(&pool, |fact| fact.id == target);
    assert!(pool.events[deletion].fact.deletes(&pool.events[target].fact));
    let history = acknowledged(&[target, deletion]);
    assert_eq!(checks(&[deletion], &history), None);
    assert!(checks(&[deletion, target], &history).unwrap().starts_with("E5"));
    // Of two versions of one slot the later one stays; of two of one second the lower id.
    let versions: Vec<usize> = (0..pool.events.len())
        .filter(|at| {
            let fact = &pool.events[*at].fact;
            fact.is_genuine && fact.slot == pool.events[find(&pool, |f| f.kind == 0)].fact.slot
        })
        .collect();
    let last = *versions
        .iter()
        .max_by_key(|at| {
            let fact = &pool.events[**at].fact;
            (fact.created_at, std::cmp::Reverse(fact.id.clone()))
        })
        .unwrap();
    let history = acknowledged(&versions);
    assert_eq!(checks(&[last], &history), None);
    let other = *versions.iter().find(|at| **at != last).unwrap();
    assert!(checks(&[other], &history).is_some());
    assert!(checks(&[other, last], &history).unwrap().starts_with("E5"));
}

#[test]
fn the_naive_relay_orders_limits_and_keeps_secrets() {
    let pool = Pool::new();
    let all: BTreeSet<usize> = (0..200).filter(|at| pool.events[*at].fact.is_genuine).collect();
    let history = History { max_limit: 500, unix_s: 1, ..History::default() };
    let everything = [Wish::default()];
    let rows = check::naive((&everything, 500), &[], &all, &pool, &history);
    let facts: Vec<&Fact> = rows.iter().map(|at| &pool.events[*at].fact).collect();
    assert!(facts.windows(2).all(|two| two[0].created_at >= two[1].created_at));
    assert!(facts.iter().all(|fact| fact.readers().is_none()), "nobody authenticated");
    let few = [Wish { limit: Some(3), ..Wish::default() }];
    assert_eq!(check::naive((&few, 500), &[], &all, &pool, &history), rows[..3]);
    let wrap = pool.events.iter().find(|pooled| pooled.fact.kind == 1059).unwrap();
    let reader = wrap.fact.recipient().unwrap().to_owned();
    let mine = [Wish { kinds: Some(vec![1059]), ..Wish::default() }];
    let whole: BTreeSet<usize> = (0..pool.events.len()).collect();
    let seen = check::naive((&mine, 500), &[reader], &whole, &pool, &history);
    assert!(
        !seen.is_empty() && check::naive((&mine, 500), &[], &whole, &pool, &history).is_empty()
    );
}
