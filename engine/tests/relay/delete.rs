//! NIP-09 and NIP-40: what is deleted or expired is never served, in whatever order things arrive.

use crate::common::client::{Client, id_of};
use crate::common::{Setup, draft, now_s};
use crate::on_every_setup;
use bench::{Draft, Signer};
use proto::Reason;
use serde_json::json;

on_every_setup!(
    a_deletion_by_id_removes_own_events_for_good,
    a_deletion_by_id_works_before_its_target_arrives,
    a_deletion_leaves_events_of_others_and_deletions,
    a_deletion_by_address_removes_every_version_up_to_its_time,
    a_deletion_by_address_works_before_its_target_arrives,
    a_gift_wrap_is_deleted_by_its_recipient,
    deletions_survive_a_kill,
    expired_events_are_refused_and_expiring_ones_vanish,
);

const DELETED: fn() -> (bool, String) = || (false, Reason::Deleted.message().to_owned());

fn deletion(at: u32) -> Draft {
    Draft::new(5, at)
}

fn is_gone(client: &mut Client, id: &str) {
    assert_eq!(client.query_ids(&json!({"ids": [id]})), [""; 0]);
    assert_eq!(client.count(&[json!({"ids": [id]})]), Ok(0));
}

fn a_deletion_by_id_removes_own_events_for_good(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    for seed in 0..8 {
        let signer = Signer::from_seed(seed);
        let victims: Vec<_> = [1, 7, 0, 30_023]
            .into_iter()
            .map(|kind| client.post(&signer, &draft(kind).content("to go")))
            .collect();
        let kept = client.post(&signer, &draft(1).content("to stay"));
        let mut request = deletion(now_s());
        for victim in &victims {
            request.push_tag(&["e", &id_of(victim)]);
        }
        let request = client.post(&signer, &request);
        for victim in &victims {
            is_gone(&mut client, &id_of(victim));
            assert_eq!(client.publish(victim), DELETED());
        }
        let author = json!({"authors": [signer.pubkey().to_hex()]});
        let mut left = client.query_ids(&author);
        let mut expected = [id_of(&kept), id_of(&request)];
        left.sort();
        expected.sort();
        assert_eq!(left, expected, "the request itself is served");
    }
}

fn a_deletion_by_id_works_before_its_target_arrives(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    for seed in 0..8 {
        let signer = Signer::from_seed(seed);
        let victim = signer.sign(&draft(1).content("late"));
        client.post(&signer, &deletion(now_s()).tag(&["e", &id_of(&victim)]));
        assert_eq!(client.publish(&victim), DELETED());
        is_gone(&mut client, &id_of(&victim));
    }
}

fn a_deletion_leaves_events_of_others_and_deletions(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let (owner, stranger) = (Signer::from_seed(1), Signer::from_seed(2));
    let event = client.post(&owner, &draft(1).content("mine"));
    let address = client.post(&owner, &draft(30_023).tag(&["d", "x"]));
    let coordinate = format!("30023:{}:x", owner.pubkey());
    client.post(&stranger, &deletion(now_s()).tag(&["e", &id_of(&event)]).tag(&["a", &coordinate]));
    assert_eq!(client.count(&[json!({"ids": [id_of(&event), id_of(&address)]})]), Ok(2));
    // Kind 5 against kind 5 has no effect.
    let request = client.post(&owner, &deletion(now_s()).tag(&["e", &id_of(&event)]));
    is_gone(&mut client, &id_of(&event));
    client.post(&owner, &deletion(now_s()).tag(&["e", &id_of(&request)]));
    assert_eq!(client.query_ids(&json!({"ids": [id_of(&request)]})), [id_of(&request)]);
    assert_eq!(client.publish(&event), DELETED());
    let empty = owner.sign(&deletion(now_s()));
    assert_eq!(client.publish(&empty), (false, Reason::DeletionEmpty.message().to_owned()));
}

fn a_deletion_by_address_removes_every_version_up_to_its_time(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    for (seed, kind) in [(1, 30_023), (2, 0), (3, 10_002), (4, 3)] {
        let signer = Signer::from_seed(seed);
        let d = if kind == 30_023 { "essay" } else { "" };
        let coordinate = format!("{kind}:{}:{d}", signer.pubkey());
        let at = now_s() - 100;
        let version = |at| Draft::new(kind, at).tag(&["d", d]);
        let old = client.post(&signer, &version(at));
        client.post(&signer, &deletion(at + 10).tag(&["a", &coordinate]));
        is_gone(&mut client, &id_of(&old));
        for covered in [at - 5, at + 5, at + 10] {
            assert_eq!(client.publish(&signer.sign(&version(covered))), DELETED(), "{kind}");
        }
        let later = client.post(&signer, &version(at + 11));
        let filter = json!({"kinds": [kind], "authors": [signer.pubkey().to_hex()]});
        assert_eq!(client.query_ids(&filter), [id_of(&later)]);
    }
}

fn a_deletion_by_address_works_before_its_target_arrives(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(6);
    let at = now_s() - 100;
    let coordinate = format!("30023:{}:early", signer.pubkey());
    client.post(&signer, &deletion(at).tag(&["a", &coordinate]));
    let covered = signer.sign(&Draft::new(30_023, at).tag(&["d", "early"]));
    assert_eq!(client.publish(&covered), DELETED());
    // Another slot of the same author is not touched, nor a later version of this one.
    client.post(&signer, &Draft::new(30_023, at).tag(&["d", "other"]));
    client.post(&signer, &Draft::new(30_023, at + 1).tag(&["d", "early"]));
    let filter = json!({"kinds": [30_023], "authors": [signer.pubkey().to_hex()]});
    assert_eq!(client.count(&[filter]), Ok(2));
}

fn a_gift_wrap_is_deleted_by_its_recipient(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    for seed in 0..6 {
        let (recipient, stranger) = (Signer::from_seed(seed), Signer::from_seed(1_000 + seed));
        let one_time = Signer::from_seed(2_000 + seed);
        let wrap =
            one_time.sign(&draft(1059).tag(&["p", &recipient.pubkey().to_hex()]).content("sealed"));
        client.accept(&wrap);
        let mut inbox = relay.connect();
        inbox.auth(&recipient);
        assert_eq!(inbox.query_ids(&json!({"ids": [id_of(&wrap)]})), [id_of(&wrap)]);
        client.post(&stranger, &deletion(now_s()).tag(&["e", &id_of(&wrap)]));
        assert_eq!(inbox.query_ids(&json!({"ids": [id_of(&wrap)]})), [id_of(&wrap)]);
        client.post(&recipient, &deletion(now_s()).tag(&["e", &id_of(&wrap)]));
        is_gone(&mut inbox, &id_of(&wrap));
        assert_eq!(client.publish(&wrap), DELETED());
    }
}

fn deletions_survive_a_kill(setup: Setup) {
    let mut relay = setup.start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let at = now_s() - 100;
    let victim = client.post(&signer, &draft(1).content("gone"));
    let late = signer.sign(&draft(1).content("never seen"));
    let coordinate = format!("30023:{}:x", signer.pubkey());
    client.post(
        &signer,
        &deletion(at)
            .tag(&["e", &id_of(&victim)])
            .tag(&["e", &id_of(&late)])
            .tag(&["a", &coordinate]),
    );
    relay.kill();
    let dir = relay.data_dir.clone();
    let again = crate::common::RelayOptions::new(setup).data_dir(&dir).start();
    let mut client = again.connect();
    is_gone(&mut client, &id_of(&victim));
    assert_eq!(client.publish(&victim), DELETED());
    assert_eq!(client.publish(&late), DELETED());
    let covered = signer.sign(&Draft::new(30_023, at).tag(&["d", "x"]));
    assert_eq!(client.publish(&covered), DELETED());
}

fn expired_events_are_refused_and_expiring_ones_vanish(setup: Setup) {
    let relay = setup.start();
    let mut client = relay.connect();
    let signer = Signer::from_seed(1);
    let past = signer.sign(&draft(1).tag(&["expiration", &(now_s() - 1).to_string()]));
    assert_eq!(client.publish(&past), (false, Reason::Expired.message().to_owned()));
    let odd = signer.sign(&draft(1).tag(&["expiration", "soon"]));
    assert_eq!(client.publish(&odd), (false, Reason::BadExpiration.message().to_owned()));
    let far = client.post(&signer, &draft(1).tag(&["expiration", "4000000000"]));
    let ends_at = now_s() + 2;
    let soon = client.post(&signer, &draft(1).tag(&["expiration", &ends_at.to_string()]));
    let both = json!({"ids": [id_of(&far), id_of(&soon)]});
    while now_s() <= ends_at {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(client.query_ids(&both), [id_of(&far)]);
    assert_eq!(client.count(&[both]), Ok(1));
}
