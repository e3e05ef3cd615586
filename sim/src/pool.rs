//! The events of all runs: signed once per process, from fixed seeds, so that a run is the same on
//! every machine. They come in families whose members get into each other's way: versions of one
//! slot, ties, deletions of them, requests to vanish, wraps, expirations, forged twins.

use crate::fact::Fact;
use bench::corpus::signer::{Draft, Signer};
use bench::rng::Rng;
use proto::verify::{Secp256k1Verifier, Verifier, VerifyItem};
use proto::{Event, Secret, SeededMap, SeededState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The wall clock when a run begins.
pub const EPOCH_S: u64 = 1_750_000_000;
/// Families; a run uses a few of them.
const FAMILIES: usize = 96;
/// AUTH challenges that connections are given in turn.
pub const CHALLENGES: usize = 16;

/// Index of an event in the pool.
pub type EventIndex = usize;

/// An event with everything that is known of it.
#[derive(Debug)]
pub struct Pooled {
    /// As the product packs it.
    pub event: Event,
    /// As a client writes it.
    pub json: String,
    /// What the oracle knows.
    pub fact: Fact,
    /// Events whose acceptance may be why this one is not there.
    pub removers: Vec<EventIndex>,
}

/// Verdicts of the real verifier about every event of the pool.
pub type Verdicts = SeededMap<[u8; 64], (VerifyItem, bool)>;

/// All events. One per process; about 20 MB.
#[derive(Debug)]
pub struct Pool {
    /// The events.
    pub events: Vec<Pooled>,
    /// By family.
    pub families: Vec<Vec<EventIndex>>,
    /// Author of each family.
    pub authors: Vec<String>,
    signers: Vec<Signer>,
    by_id: BTreeMap<String, Vec<EventIndex>>,
    /// See [`Verdicts`].
    pub verdicts: Arc<Verdicts>,
    /// Signed AUTH events by author and challenge.
    auths: Vec<Vec<String>>,
}

fn seed() -> SeededState {
    SeededState::new(Secret([0x51; 16]))
}

/// The entropy behind challenge `number`.
pub fn challenge_entropy(number: usize) -> [u8; 16] {
    let mut entropy = [0xc4; 16];
    entropy[0] = number as u8;
    entropy
}

impl Pool {
    /// Signs everything.
    pub fn new() -> Self {
        let signers: Vec<Signer> =
            (0..FAMILIES as u64).map(|number| Signer::from_seed(7_000 + number)).collect();
        let mut maker = Maker { signers: &signers, made: Vec::new(), families: Vec::new() };
        (0..FAMILIES).for_each(|family| maker.family(family));
        let Maker { made, families, .. } = maker;
        let mut verifier = Secp256k1Verifier::new(seed(), FAMILIES * 2);
        let mut verdicts = Verdicts::with_hasher(seed());
        let mut events = Vec::with_capacity(made.len());
        let mut by_id: BTreeMap<String, Vec<EventIndex>> = BTreeMap::new();
        for event in made {
            let view = event.view();
            let item = VerifyItem::of(&view);
            let verdict = verifier.verify(&item);
            verdicts.insert(item.sig.0, (item, verdict));
            let mut json = Vec::new();
            view.write_json(&mut json);
            let json = String::from_utf8(json).expect("JSON is UTF-8");
            let fact = Fact::read(&json, verdict && view.id_is_valid());
            by_id.entry(fact.id.clone()).or_default().push(events.len());
            events.push(Pooled { event, json, fact, removers: Vec::new() });
        }
        let authors: Vec<String> =
            signers.iter().map(|signer| signer.pubkey().to_string()).collect();
        let mut pool = Self {
            auths: signers.iter().map(|_| vec![String::new(); CHALLENGES]).collect(),
            events,
            families,
            authors,
            signers,
            by_id,
            verdicts: Arc::new(verdicts),
        };
        pool.find_removers();
        pool.sign_auths();
        pool
    }

    fn find_removers(&mut self) {
        // Only members of one family, or an author and the recipient of a wrap, can meet.
        let neighbours = |family: usize| [family, (family + 1) % FAMILIES, (family + 2) % FAMILIES];
        for family in 0..FAMILIES {
            let near: Vec<EventIndex> =
                neighbours(family).iter().flat_map(|at| self.families[*at].clone()).collect();
            for of in self.families[family].clone() {
                let fact = &self.events[of].fact;
                let removers = near.iter().copied().filter(|by| {
                    let by = &self.events[*by].fact;
                    by.is_genuine && by.may_remove(fact)
                });
                let removers = removers.collect();
                self.events[of].removers = removers;
            }
        }
    }

    fn sign_auths(&mut self) {
        let mut verifier = Secp256k1Verifier::new(seed(), FAMILIES * 2);
        let mut verdicts = (*self.verdicts).clone();
        for (signer, auths) in self.signers.iter().zip(&mut self.auths) {
            for (number, auth) in auths.iter_mut().enumerate() {
                let challenge = hex(&challenge_entropy(number));
                let draft = Draft::new(22_242, EPOCH_S as u32)
                    .tag(&["relay", "wss://sim.example/"])
                    .tag(&["challenge", &challenge]);
                let event = signer.sign(&draft);
                let item = VerifyItem::of(&event.view());
                verdicts.insert(item.sig.0, (item, verifier.verify(&item)));
                let mut json = Vec::new();
                event.view().write_json(&mut json);
                *auth = String::from_utf8(json).expect("JSON is UTF-8");
            }
        }
        self.verdicts = Arc::new(verdicts);
    }

    /// The AUTH event of an author for a challenge, if it is one of those that runs give out.
    pub fn auth(&self, author: usize, challenge: &str) -> Option<&str> {
        let number = (0..CHALLENGES).find(|n| hex(&challenge_entropy(*n)) == challenge)?;
        Some(&self.auths[author][number])
    }

    /// Events of this id: the genuine one, and forged twins.
    pub fn with_id(&self, id: &str) -> &[EventIndex] {
        self.by_id.get(id).map_or(&[], Vec::as_slice)
    }

    /// The genuine event of this id.
    pub fn genuine(&self, id: &str) -> Option<EventIndex> {
        self.with_id(id).iter().copied().find(|at| self.events[*at].fact.is_genuine)
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Maker<'a> {
    signers: &'a [Signer],
    made: Vec<Event>,
    families: Vec<Vec<EventIndex>>,
}

impl Maker<'_> {
    fn add(&mut self, family: usize, event: Event) -> String {
        let id = event.view().id().to_string();
        self.families[family].push(self.made.len());
        self.made.push(event);
        id
    }

    fn sign(&mut self, family: usize, draft: &Draft) -> String {
        let event = self.signers[family].sign(draft);
        self.add(family, event)
    }

    /// The members of one family. All times lie around the beginning of a run.
    fn family(&mut self, family: usize) {
        self.families.push(Vec::new());
        let mut rng = Rng::new(0xfa31_0000 + family as u64);
        let me = self.signers[family].pubkey().to_string();
        let friend = self.signers[(family + 1) % FAMILIES].pubkey().to_string();
        let mut time = |spread: u64| (EPOCH_S - 4_000 + rng.below(spread)) as u32;
        let mut notes = Vec::new();
        for number in 0..14 {
            let topic = format!("topic{}", (family + number) % 5);
            let draft = Draft::new(if number % 4 == 3 { 7 } else { 1 }, time(600))
                .tag(&["t", &topic])
                .tag(&["p", &friend])
                .content(&format!("note {number} of family {family}"));
            notes.push(self.sign(family, &draft));
        }
        for number in 0..4 {
            let draft = Draft::new(1, time(600))
                .tag(&["e", &notes[number], "", "reply"])
                .content(&"a longer reply. ".repeat(1 + number * 40));
            notes.push(self.sign(family, &draft));
        }
        let replaceable = self.versions(family, 0, None, &mut time);
        let follows = self.versions(family, 10_002, None, &mut time);
        let long = self.versions(family, 30_023, Some("essay"), &mut time);
        let other = self.versions(family, 30_023, Some(""), &mut time);
        for _ in 0..3 {
            let draft = Draft::new(20_001, time(4_000)).tag(&["t", "topic0"]).content("now");
            self.sign(family, &draft);
        }
        self.private(family, &friend, &mut time);
        for after in [5, 30, 90, 600] {
            let at = (EPOCH_S + after).to_string();
            let draft = Draft::new(1, time(600)).tag(&["expiration", &at]).tag(&["t", "brief"]);
            self.sign(family, &draft.content(&format!("gone after {after}")));
        }
        let draft = Draft::new(1, time(600)).tag(&["-"]).content("only from me");
        self.sign(family, &draft);
        self.deletions(family, &me, [&notes[0], &notes[1], &replaceable, &long], &mut time);
        let draft = Draft::new(5, time(4_000)).tag(&["e", &follows]).tag(&["e", &other]);
        self.sign(family, &draft);
        // A third of the families ask to vanish, at a time that leaves some of them.
        if family.is_multiple_of(3) {
            for at in [EPOCH_S - 3_700, EPOCH_S - 3_500] {
                let draft = Draft::new(62, at as u32).tag(&["relay", "ALL_RELAYS"]);
                self.sign(family, &draft);
            }
        }
        self.forgeries(family);
    }

    /// Versions of one slot, two of them of the same second; returns the id of one in the middle.
    fn versions(
        &mut self,
        family: usize,
        kind: u16,
        d: Option<&str>,
        time: &mut impl FnMut(u64) -> u32,
    ) -> String {
        let base = time(400);
        let mut ids = Vec::new();
        for (number, after) in [0, 10, 20, 20, 35].into_iter().enumerate() {
            let mut draft = Draft::new(kind, base + after);
            if let Some(d) = d {
                draft.push_tag(&["d", d]);
            }
            draft.push_tag(&["t", "slots"]);
            ids.push(self.sign(family, &draft.content(&format!("version {number}"))));
        }
        ids.swap_remove(2)
    }

    fn private(&mut self, family: usize, friend: &str, time: &mut impl FnMut(u64) -> u32) {
        for number in 0..2 {
            let draft = Draft::new(4, time(600)).tag(&["p", friend]);
            self.sign(family, &draft.content(&format!("secret {number}?iv=x")));
        }
        // Wraps are signed by keys that nobody knows and live with their recipient.
        let mut wraps = Vec::new();
        for number in 0..3_u64 {
            let unknown = Signer::from_seed(90_000 + family as u64 * 8 + number);
            let mut draft = Draft::new(1059, time(600)).content("wrapped");
            draft.push_tag(&["p", friend]);
            let event = unknown.sign(&draft);
            wraps.push(self.add(family, event));
        }
        let draft = Draft::new(21_059, time(600)).tag(&["p", friend]).content("now or never");
        self.sign(family, &draft);
        // The recipient deletes one of them.
        let draft = Draft::new(5, time(4_000)).tag(&["e", &wraps[0]]);
        let event = self.signers[(family + 1) % FAMILIES].sign(&draft);
        self.add(family, event);
    }

    fn deletions(
        &mut self,
        family: usize,
        me: &str,
        [first, second, version, essay]: [&String; 4],
        time: &mut impl FnMut(u64) -> u32,
    ) {
        let draft = Draft::new(5, time(4_000)).tag(&["e", first]).tag(&["e", second]);
        self.sign(family, &draft);
        let draft = Draft::new(5, time(4_000)).tag(&["e", version]);
        self.sign(family, &draft);
        let draft = Draft::new(5, time(400)).tag(&["a", &format!("30023:{me}:essay")]);
        self.sign(family, &draft);
        let draft = Draft::new(5, time(4_000)).tag(&["e", essay]);
        self.sign(family, &draft);
        let draft = Draft::new(5, time(400)).tag(&["a", &format!("0:{me}:")]);
        self.sign(family, &draft);
        // Somebody else's: without effect.
        let stranger = (family + 2) % FAMILIES;
        let draft = Draft::new(5, time(4_000)).tag(&["e", first]).tag(&["e", essay]);
        let event = self.signers[stranger].sign(&draft);
        self.add(family, event);
    }

    /// Twins of some members with a wrong signature or a wrong id.
    fn forgeries(&mut self, family: usize) {
        let members = self.families[family].clone();
        for (number, member) in members.into_iter().step_by(9).enumerate() {
            let genuine = self.made[member].clone();
            let view = genuine.view();
            let mut parts = view.parts();
            if number % 3 == 2 {
                parts.created_at += 1;
                parts.sig = self.signers[family].sign_id(&parts.id);
            } else {
                parts.sig.0[40] ^= 1;
            }
            let event = parts.pack();
            self.add(family, event);
        }
    }
}

/// Answers from the pool's table; whatever is not in it goes to the real verifier.
pub struct TableVerifier {
    verdicts: Arc<Verdicts>,
    real: Secp256k1Verifier,
}

impl TableVerifier {
    /// Over a pool's verdicts.
    pub fn new(pool: &Pool) -> Self {
        Self { verdicts: Arc::clone(&pool.verdicts), real: Secp256k1Verifier::new(seed(), 64) }
    }
}

impl Verifier for TableVerifier {
    fn verify(&mut self, item: &VerifyItem) -> bool {
        match self.verdicts.get(&item.sig.0) {
            Some((known, verdict)) if known == item => *verdict,
            _ => self.real.verify(item),
        }
    }
}
