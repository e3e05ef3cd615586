//! Why something was refused: one enum, so that every refusal has a NIP-01 prefix, a text and the
//! name of its counter, and so that refusing never allocates.

/// The standard prefixes of NIP-01, NIP-42 and NIP-77.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prefix {
    /// The relay has it already.
    Duplicate,
    /// Proof of work.
    Pow,
    /// Banned or deleted.
    Blocked,
    /// Slow down.
    RateLimited,
    /// Malformed.
    Invalid,
    /// Not allowed for this key.
    Restricted,
    /// Authenticate first.
    AuthRequired,
    /// The relay cannot do that.
    Unsupported,
    /// The relay ended the session (NIP-77).
    Closed,
    /// The relay's own fault or state.
    Error,
}

impl Prefix {
    /// The word before the colon.
    pub fn word(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Pow => "pow",
            Self::Blocked => "blocked",
            Self::RateLimited => "rate-limited",
            Self::Invalid => "invalid",
            Self::Restricted => "restricted",
            Self::AuthRequired => "auth-required",
            Self::Unsupported => "unsupported",
            Self::Closed => "closed",
            Self::Error => "error",
        }
    }
}

macro_rules! reasons {
    ($( $(#[$doc:meta])* $name:ident, $prefix:ident, $label:literal, $text:literal; )+) => {
        /// A refusal or a final word about a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $( $(#[$doc])* $name, )+ }

        impl Reason {
            /// Every reason, in declaration order; `reason as usize` indexes it.
            pub const ALL: &'static [Reason] = &[ $( Reason::$name, )+ ];

            /// The machine-readable prefix.
            pub fn prefix(self) -> Prefix { match self { $( Self::$name => Prefix::$prefix, )+ } }

            /// Label of the counter `turnpike_refused_total{reason="…"}`.
            pub fn label(self) -> &'static str { match self { $( Self::$name => $label, )+ } }

            /// What a person reads after the prefix.
            pub fn text(self) -> &'static str { match self { $( Self::$name => $text, )+ } }

            /// `prefix: text`, as it stands in OK and CLOSED.
            pub fn message(self) -> &'static str {
                match self { $( Self::$name => concat_prefix!($prefix, $text), )+ }
            }
        }
    };
}

macro_rules! concat_prefix {
    (Duplicate, $text:literal) => {
        concat!("duplicate: ", $text)
    };
    (Pow, $text:literal) => {
        concat!("pow: ", $text)
    };
    (Blocked, $text:literal) => {
        concat!("blocked: ", $text)
    };
    (RateLimited, $text:literal) => {
        concat!("rate-limited: ", $text)
    };
    (Invalid, $text:literal) => {
        concat!("invalid: ", $text)
    };
    (Restricted, $text:literal) => {
        concat!("restricted: ", $text)
    };
    (AuthRequired, $text:literal) => {
        concat!("auth-required: ", $text)
    };
    (Unsupported, $text:literal) => {
        concat!("unsupported: ", $text)
    };
    (Closed, $text:literal) => {
        concat!("closed: ", $text)
    };
    (Error, $text:literal) => {
        concat!("error: ", $text)
    };
}

reasons! {
    // --- duplicates ---------------------------------------------------------------------------
    /// The event is stored.
    Duplicate, Duplicate, "duplicate", "already have this event";
    /// A newer version holds the slot.
    DuplicateNewer, Duplicate, "duplicate_newer", "have a newer version";
    // --- JSON and messages --------------------------------------------------------------------
    /// The message is not JSON.
    BadJson, Invalid, "bad_json", "message is not valid JSON";
    /// Not UTF-8, or an escape that is half of a surrogate pair.
    BadUtf8, Invalid, "bad_utf8", "text is not valid UTF-8";
    /// Deeper than the limit.
    TooDeep, Invalid, "too_deep", "JSON is nested too deeply";
    /// A number with more characters than any of ours has.
    NumberTooLong, Invalid, "number_too_long", "a number has more than 20 characters";
    /// The message is no array, or its first element is no string.
    NotAMessage, Invalid, "not_a_message", "a message is an array that begins with a verb";
    /// Unknown verb.
    UnknownVerb, Invalid, "unknown_verb", "unknown message type";
    /// Longer than the limit.
    MessageTooLong, Invalid, "message_too_long", "message is too long";
    /// More or fewer elements than the verb takes.
    WrongArity, Invalid, "wrong_arity", "message has the wrong number of elements";
    /// Subscription id empty, too long, or no string.
    BadSubscriptionId, Invalid, "bad_subscription_id", "subscription id must be 1 to 64 characters";
    // --- events -------------------------------------------------------------------------------
    /// The event is no object.
    EventNotObject, Invalid, "event_not_object", "event must be an object";
    /// A key occurs twice.
    DuplicateKey, Invalid, "duplicate_key", "an object has the same key twice";
    /// More fields that are none of ours than the limit.
    TooManyFields, Invalid, "too_many_fields", "event has too many fields beside those of NIP-01";
    /// One of the seven fields is missing.
    MissingField, Invalid, "missing_field", "event lacks one of id, pubkey, created_at, kind, tags, content, sig";
    /// `id` is not 64 lower-case hex digits.
    BadId, Invalid, "bad_id", "id must be 64 lower-case hex digits";
    /// `pubkey` is not 64 lower-case hex digits.
    BadPubkey, Invalid, "bad_pubkey", "pubkey must be 64 lower-case hex digits";
    /// `sig` is not 128 lower-case hex digits.
    BadSigFormat, Invalid, "bad_sig_format", "sig must be 128 lower-case hex digits";
    /// `created_at` is no integer below 2^32.
    BadCreatedAt, Invalid, "bad_created_at", "created_at must be an integer of unix seconds below 4294967296";
    /// `kind` is no integer below 65536.
    BadKind, Invalid, "bad_kind", "kind must be an integer from 0 to 65535";
    /// `tags` is no array of non-empty arrays of strings.
    BadTags, Invalid, "bad_tags", "tags must be an array of non-empty arrays of strings";
    /// `content` is no string.
    BadContent, Invalid, "bad_content", "content must be a string";
    /// Too many tags.
    TooManyTags, Invalid, "too_many_tags", "event has too many tags";
    /// Too many elements in a tag.
    TooManyTagElements, Invalid, "too_many_tag_elements", "a tag has too many elements";
    /// Larger than the limit.
    EventTooLarge, Invalid, "event_too_large", "event is too large";
    /// The id is not the hash of the event.
    IdMismatch, Invalid, "id_mismatch", "id is not the hash of the event";
    /// The signature does not verify.
    BadSignature, Invalid, "bad_signature", "signature does not verify";
    /// Older than accepted.
    TooOld, Invalid, "too_old", "created_at is too far in the past";
    /// Newer than accepted.
    TooNew, Invalid, "too_new", "created_at is too far in the future";
    /// Its expiration has passed.
    Expired, Invalid, "expired", "event has expired";
    /// Its expiration tag is no timestamp.
    BadExpiration, Invalid, "bad_expiration", "expiration must be unix seconds";
    /// A gift wrap without exactly one `p`.
    WrapRecipient, Invalid, "wrap_recipient", "a gift wrap must name exactly one recipient in a p tag";
    /// A kind 13 seal with tags.
    SealTags, Invalid, "seal_tags", "a seal must have no tags";
    /// A deletion with more targets than the limit.
    DeletionTooLarge, Invalid, "deletion_too_large", "a deletion request may name at most 100 targets";
    /// A deletion that names nothing.
    DeletionEmpty, Invalid, "deletion_empty", "a deletion request must name at least one e or a tag";
    /// Kind 22242 as an EVENT.
    AuthEventAsEvent, Invalid, "auth_event_as_event", "kind 22242 is for AUTH only";
    /// Not enough proof of work.
    PowTooLow, Pow, "pow_too_low", "difficulty is below what this relay asks for";
    /// Deleted by its author.
    Deleted, Blocked, "deleted", "this event was deleted by its author";
    /// Banned by the operator.
    Banned, Blocked, "banned", "this event is banned by this relay's operator";
    /// A request to vanish without a relay tag.
    VanishNoRelay, Invalid, "vanish_no_relay", "a request to vanish must have a relay tag";
    /// A request to vanish that is for others.
    VanishOtherRelay, Invalid, "vanish_other_relay", "this request to vanish names other relays only";
    /// The author asked to vanish after making it.
    Vanished, Blocked, "vanished", "its author asked this relay to vanish";
    /// The purges of other keys have to end first.
    VanishBusy, RateLimited, "vanish_busy", "too many requests to vanish are being carried out, try again";
    /// The operator's plug-in said no without saying why.
    Policy, Blocked, "policy", "refused by this relay's policy";
    /// The operator's plug-in gives no answer.
    PolicyDown, Error, "policy_down", "this relay's policy cannot be asked now, try again";
    // --- authentication -----------------------------------------------------------------------
    /// A protected event without AUTH.
    ProtectedNeedsAuth, AuthRequired, "protected_needs_auth", "a protected event is accepted only from its authenticated author";
    /// A protected event from another key.
    ProtectedNotAuthor, Restricted, "protected_not_author", "a protected event is accepted only from its author";
    /// Private kinds only, without AUTH.
    PrivateNeedsAuth, AuthRequired, "private_needs_auth", "private messages are served only to their authenticated recipients";
    /// The relay asks for AUTH before anything.
    AuthFirst, AuthRequired, "auth_first", "authenticate first";
    /// AUTH event of the wrong kind or shape.
    AuthBadEvent, Invalid, "auth_bad_event", "an AUTH event is of kind 22242 with relay and challenge tags";
    /// AUTH with a challenge that is not the last one.
    AuthBadChallenge, Invalid, "auth_bad_challenge", "challenge is not the one this connection was given";
    /// AUTH for another relay.
    AuthBadRelay, Invalid, "auth_bad_relay", "relay tag does not name this relay";
    /// AUTH with a timestamp more than ten minutes off.
    AuthBadTime, Invalid, "auth_bad_time", "created_at of an AUTH event must be within ten minutes of now";
    /// Too many keys on one connection.
    AuthTooManyKeys, RateLimited, "auth_too_many_keys", "too many keys authenticated on this connection";
    // --- filters and subscriptions ------------------------------------------------------------
    /// A filter is no object.
    FilterNotObject, Invalid, "filter_not_object", "filter must be an object";
    /// A filter key that the relay does not know.
    UnknownFilterKey, Unsupported, "unknown_filter_key", "filter has a key that this relay does not support";
    /// An `ids` value that is not 64 hex digits.
    BadFilterId, Invalid, "bad_filter_id", "ids must be 64 lower-case hex digits each";
    /// An `authors` value that is not 64 hex digits.
    BadFilterAuthor, Invalid, "bad_filter_author", "authors must be 64 lower-case hex digits each";
    /// A `kinds` value out of range.
    BadFilterKind, Invalid, "bad_filter_kind", "kinds must be integers from 0 to 65535";
    /// A tag list with something that is no string, or `#e`/`#p` that are not hex.
    BadFilterTag, Invalid, "bad_filter_tag", "tag values must be strings, and #e and #p 64 lower-case hex digits";
    /// `since` is no integer.
    BadFilterSince, Invalid, "bad_filter_since", "since must be an integer of unix seconds";
    /// `until` is no integer.
    BadFilterUntil, Invalid, "bad_filter_until", "until must be an integer of unix seconds";
    /// `limit` is no integer.
    BadFilterLimit, Invalid, "bad_filter_limit", "limit must be a non-negative integer";
    /// REQ or COUNT without a filter.
    NoFilter, Invalid, "no_filter", "at least one filter is needed";
    /// Too many filters.
    TooManyFilters, Invalid, "too_many_filters", "too many filters";
    /// Too many values.
    TooManyFilterValues, Invalid, "too_many_filter_values", "filters have too many values";
    /// Too many open subscriptions.
    TooManySubscriptions, RateLimited, "too_many_subscriptions", "too many open subscriptions on this connection";
    /// The values of open subscriptions use up what there is for them.
    FilterBudget, RateLimited, "filter_budget", "open subscriptions hold too many filter values, close some or ask for less";
    /// The client reads too slowly for its subscription.
    SlowReader, Error, "slow_reader", "connection reads too slowly, subscription closed";
    /// This core fell off a shard's ring of recent events.
    FellBehind, Error, "fell_behind", "relay fell behind on live events, subscribe again";
    /// Too many live events while stored ones were being sent.
    LiveOverflow, Error, "live_overflow", "too many live events before the stored ones were sent";
    /// The scan took more than its budget.
    ScanBudget, Error, "scan_budget", "query takes too long, narrow it";
    // --- negentropy (NIP-77) --------------------------------------------------------------------
    /// The message of NEG-OPEN or NEG-MSG is no hex.
    NegBadHex, Invalid, "neg_bad_hex", "the message must be an even number of hex digits";
    /// The message is hex but no message of the protocol.
    NegMalformed, Invalid, "neg_malformed", "this is not a negentropy message";
    /// The filter matches more than a session may hold.
    NegTooMany, Blocked, "neg_too_many", "too many records match, narrow the filter";
    /// Too many open sessions.
    NegSessions, Blocked, "neg_sessions", "too many open sessions";
    /// NEG-MSG for a session that is not open.
    NegUnknown, Closed, "neg_unknown", "no such session";
    /// The session was idle for too long.
    NegTimeout, Closed, "neg_timeout", "session timed out";
    /// The relay offers no negentropy.
    NegOff, Unsupported, "neg_off", "this relay does not offer negentropy";
    // --- load and state -----------------------------------------------------------------------
    /// Too many events a second.
    RateEvents, RateLimited, "rate_events", "too many events, slow down";
    /// Too many messages a second.
    RateMessages, RateLimited, "rate_messages", "too many messages, slow down";
    /// Too many queries a second.
    RateQueries, RateLimited, "rate_queries", "too many queries, slow down";
    /// The index is behind the log.
    StoreBehind, RateLimited, "store_behind", "store is behind, try again";
    /// The relay is shutting down.
    ShuttingDown, Error, "shutting_down", "relay is shutting down";
    /// No space for log or index.
    StorageFull, Error, "storage_full", "storage full";
    /// A read from disk failed.
    ReadFailed, Error, "read_failed", "relay could not read its store";
}

impl Reason {
    /// Whether NIP-01 answers this one with `OK true`: the relay has the event or a newer one.
    pub fn is_accepted(self) -> bool {
        self.prefix() == Prefix::Duplicate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_begin_with_their_prefix_and_labels_are_unique() {
        let mut labels = std::collections::BTreeSet::new();
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            let expected = format!("{}: {}", reason.prefix().word(), reason.text());
            assert_eq!(reason.message(), expected);
            assert!(labels.insert(reason.label()), "{} twice", reason.label());
        }
    }
}
