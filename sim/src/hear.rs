//! What a client makes of what it hears: every message of the relay is checked against what the client
//! knows, at once where that takes constant time.

use crate::check;
use crate::client::{Nature, Session, Waiting};
use crate::fact::Class;
use crate::history::{Answer, History, Micros, Violation};
use crate::pool::{EventIndex, Pool};
use crate::world::Dice;
use serde_json::Value;

/// One message on its way into a client's head.
#[derive(Debug)]
pub struct Hearing<'a> {
    /// The connection on which it came.
    pub session: &'a mut Session,
    /// All events.
    pub pool: &'a Pool,
    /// What everybody was told.
    pub history: &'a mut History,
    /// When it came.
    pub now_us: Micros,
    /// For the marks.
    pub dice: &'a mut Dice,
    /// What the client is like.
    pub nature: Nature,
}

impl Hearing<'_> {
    /// Takes in a text message.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn message(&mut self, text: &[u8]) -> Result<(), Violation> {
        let text = std::str::from_utf8(text)
            .map_err(|_| Violation::new("the wire: UTF-8", "a text message is not UTF-8"))?;
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Violation::new("the wire: JSON", format!("{error}: {text}")))?;
        let string = |at: usize| value[at].as_str().unwrap_or_default();
        match string(0) {
            "EVENT" => self.event(&value),
            "OK" => self.ok(&value),
            "EOSE" => {
                let is_finished = value[2][0].as_str() == Some("finish");
                let Some(sub) = self.session.subscriptions.get_mut(string(1)) else {
                    return Ok(());
                };
                if sub.is_heir && sub.eose.is_none() && !sub.is_closed {
                    // It may be the answer to the one before; the check needs certainty.
                    self.dice.marks.hit("a subscription was replaced");
                }
                sub.eose = Some((self.now_us, is_finished));
                if !sub.is_heir {
                    check::answer(sub, self.pool, self.history, self.now_us, self.dice)?;
                }
                Ok(())
            }
            "CLOSED" => {
                let reason = string(2).to_owned();
                self.session.counts.remove(string(1));
                if let Some(sub) = self.session.subscriptions.get_mut(string(1)) {
                    // One that is replaced is closed silently, so this is about the one that is open.
                    sub.is_closed = true;
                }
                mark_closed(&reason, self.dice);
                check::closed(&reason, self.nature)
            }
            "COUNT" => {
                let count = value[2]["count"].as_u64().unwrap_or(0);
                let is_approximate = value[2]["approximate"].as_bool().unwrap_or(false);
                if let Some((wishes, sent_us, keys)) = self.session.counts.remove(string(1))
                    && !is_approximate
                {
                    let keys = (&keys[..], &self.session.asked_keys[..]);
                    check::count(count, &wishes, keys, sent_us, self.pool, self.history)?;
                }
                Ok(())
            }
            "AUTH" => {
                self.session.challenge = Some(string(1).to_owned());
                Ok(())
            }
            "NEG-ERR" | "NEG-MSG" if self.nature == Nature::Malicious => Ok(()),
            "NOTICE"
                if self.nature == Nature::Malicious || string(1).starts_with("rate-limited") =>
            {
                Ok(())
            }
            _ => Err(Violation::new("the wire: messages", format!("unexpected {text}"))),
        }
    }

    fn event(&mut self, value: &Value) -> Result<(), Violation> {
        let (pool, now_us) = (self.pool, self.now_us);
        let (session, history) = (&mut *self.session, &mut *self.history);
        let index = identify(&value[2], pool)?;
        let fact = &pool.events[index].fact;
        if history.first_sent(index).is_none() {
            let detail = format!("{} was never sent", fact.id);
            return Err(Violation::new("E2: nothing is served that nobody sent", detail));
        }
        if !fact.is_readable_by(&session.asked_keys) {
            let detail = format!("{} of kind {} reached a stranger", fact.id, fact.kind);
            return Err(Violation::new("private events go to their readers only", detail));
        }
        let name = value[1].as_str().unwrap_or_default();
        let is_ephemeral = fact.class == Class::Ephemeral || fact.kind == 21_059;
        if !is_ephemeral {
            history.served(index, now_us);
        }
        // A message that was under way when the client closed the subscription.
        let Some(sub) = session.subscriptions.get_mut(name) else { return Ok(()) };
        let mut wishes = sub.wishes.iter().chain(&sub.inherited);
        if !wishes.any(|wish| wish.wants(fact)) {
            let detail = format!("{} matches no filter of {name}", fact.id);
            return Err(Violation::new("E7: what is served was asked for", detail));
        }
        let is_stored = sub.eose.is_none();
        if sub.is_heir {
            let list = if is_stored { &mut sub.rows } else { &mut sub.live };
            list.push(index);
            return Ok(());
        }
        if sub.is_closed {
            let detail = format!("{} came after CLOSED of {name}", fact.id);
            return Err(Violation::new("nothing follows CLOSED", detail));
        }
        // What was removed and published again is another event to whoever listens; so is what expired
        // before the wall clock went back.
        let may_come_back = history.removed_us.contains_key(&index)
            || fact.expires_at <= history.unix_s_max
            || history.excuse(pool, index, now_us).is_some();
        let is_again = sub.rows.contains(&index) || sub.live.contains(&index);
        if !is_ephemeral && is_again && !may_come_back {
            let detail = format!("{} came twice for {name}", fact.id);
            return Err(Violation::new("E4: every event comes once", detail));
        }
        if is_stored {
            if is_ephemeral {
                let detail = format!("{} came as a stored event", fact.id);
                return Err(Violation::new("ephemeral events are not stored", detail));
            }
            check::row(sub, index, pool, history)?;
            sub.rows.push(index);
        } else {
            self.dice.marks.hit("live event");
            sub.live.push(index);
        }
        Ok(())
    }

    fn ok(&mut self, value: &Value) -> Result<(), Violation> {
        let (pool, now_us) = (self.pool, self.now_us);
        let (session, history) = (&mut *self.session, &mut *self.history);
        let id = value[1].as_str().unwrap_or_default();
        let is_true = value[2].as_bool().unwrap_or_default();
        let text = value[3].as_str().unwrap_or_default();
        if let Some(key) = session.auths.get(id) {
            if is_true {
                self.dice.marks.hit("authenticated");
                session.keys.push(key.clone());
            }
            return Ok(());
        }
        let waiting = session.waiting.get_mut(id).filter(|list| !list.is_empty());
        let Some(list) = waiting else {
            if self.nature == Nature::Malicious {
                return Ok(());
            }
            let detail = format!("OK for {id}, which waits for none");
            return Err(Violation::new("the wire: one OK per EVENT", detail));
        };
        let Waiting { event, sent_us, is_ambiguous } = list.remove(0);
        let answer = match (is_true, text.contains("newer version")) {
            (true, true) => Answer::Superseded,
            (true, false) => Answer::Stored,
            (false, _) => Answer::Refused,
        };
        mark_ok(is_true, text, self.dice);
        if is_ambiguous {
            self.dice.marks.hit("twins under way together");
            return Ok(());
        }
        // Of a forged twin the relay may say that it has the event of this id.
        let genuine = pool.genuine(id).filter(|genuine| *genuine != event);
        if let Some(genuine) = genuine.filter(|_| is_true && text.starts_with("duplicate: already"))
        {
            history.served(genuine, now_us);
        }
        history.answered(event, sent_us, now_us, answer);
        check::ok(event, is_true, text, pool, history)
    }
}

fn mark_closed(reason: &str, dice: &mut Dice) {
    for (part, mark) in [
        ("reads too slowly", "subscription of a slow reader closed"),
        ("fell behind", "a core fell off the ring"),
        ("before the stored ones", "too many held live events"),
        ("could not read", "query failed by a read error"),
        ("auth-required", "query refused for want of AUTH"),
        ("too many open", "too many subscriptions"),
        ("filter values", "filter budget used up"),
        ("too many queries", "queries over their rate"),
        ("shutting down", "query refused while shutting down"),
    ] {
        if reason.contains(part) {
            dice.marks.hit(mark);
        }
    }
}

/// The pool's event that a served one is, compared field by field.
fn identify(served: &Value, pool: &Pool) -> Result<EventIndex, Violation> {
    let id = served["id"].as_str().unwrap_or_default();
    let known = pool.genuine(id);
    let index = known.ok_or_else(|| {
        Violation::new("E3: only genuine events are served", format!("served {served}"))
    })?;
    let expected: Value = serde_json::from_str(&pool.events[index].json).unwrap_or_default();
    if expected != *served {
        let detail = format!("served {served} for {expected}");
        return Err(Violation::new("E3: only genuine events are served", detail));
    }
    Ok(index)
}

fn mark_ok(is_true: bool, text: &str, dice: &mut Dice) {
    let mark = match (is_true, text) {
        (true, "") => "event accepted",
        (true, text) if text.contains("newer version") => "event older than the stored one",
        (true, _) => "duplicate event",
        (false, text) => match text.split(':').next().unwrap_or_default() {
            "blocked" if text.contains("vanish") => "event of a vanished key refused",
            "blocked" if text.contains("banned") => "banned event refused",
            "blocked" => "deleted event refused",
            "rate-limited" if text.contains("behind") => "store behind",
            "rate-limited" => "event over its rate",
            "error" if text.contains("storage full") => "storage full",
            "error" if text.contains("shutting down") => "event refused while shutting down",
            "error" => "event refused by a read error",
            "invalid" if text.contains("expired") => "expired event refused",
            "invalid" if text.contains("signature") => "bad signature refused",
            "invalid" if text.contains("hash") => "wrong id refused",
            "invalid" => "event out of its time refused",
            _ => "event refused otherwise",
        },
    };
    dice.marks.hit(mark);
}
