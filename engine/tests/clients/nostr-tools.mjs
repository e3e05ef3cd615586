// nostr-tools, as its users have it, against a relay: publish, query, live, AUTH, COUNT, delete,
// replace, private kinds. Ends with status 0 only if every step held.
import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { finalizeEvent, generateSecretKey, getPublicKey, verifyEvent } from 'nostr-tools/pure';
import { Relay, useWebSocketImplementation } from 'nostr-tools/relay';
import * as nip04 from 'nostr-tools/nip04';
import * as nip11 from 'nostr-tools/nip11';
import * as nip17 from 'nostr-tools/nip17';

useWebSocketImplementation(WebSocket);

const url = process.env.RELAY_URL;
const now = () => Math.floor(Date.now() / 1000);
let steps = 0;

function person() {
  const secret = generateSecretKey();
  return { secret, key: getPublicKey(secret) };
}

function sign(who, kind, { tags = [], content = '', at = now() } = {}) {
  return finalizeEvent({ kind, tags, content, created_at: at }, who.secret);
}

// Stored events of a filter; rejects with the reason if the relay closes the subscription.
function query(relay, filter) {
  return new Promise((resolve, reject) => {
    const events = [];
    let ended = false;
    const sub = relay.subscribe([filter], {
      eoseTimeout: 60_000,
      onevent: (event) => events.push(event),
      oneose: () => { ended = true; sub.close(); resolve(events); },
      onclose: (reason) => { if (!ended) reject(new Error(reason)); },
    });
  });
}

const ids = (events) => events.map((event) => event.id);

// nostr-tools authenticates with the last challenge it has seen; one round trip makes sure of it.
async function authenticate(connection, who) {
  await connection.count([{ ids: [] }], {});
  assert.equal(await connection.auth(async (template) => finalizeEvent(template, who.secret)), '');
}

async function step(name, run) {
  await run();
  steps += 1;
  console.log(`ok ${name}`);
}

const relay = await Relay.connect(url);
const people = Array.from({ length: 24 }, person);
const [alice, bob, carol] = people;

await step('publish', async () => {
  for (const who of people) {
    const event = sign(who, 1, { content: 'hello "relay"\n漢字 🤙 \\', tags: [['t', 'hello']] });
    assert.equal(await relay.publish(event), '');
    assert.match(await relay.publish(event), /^duplicate: /);
    who.note = event;
  }
  const forged = { ...sign(alice, 1, { content: 'genuine' }), content: 'altered' };
  await assert.rejects(relay.publish(forged), /invalid: /);
});

await step('query', async () => {
  const all = await query(relay, { kinds: [1], '#t': ['hello'] });
  assert.deepEqual(ids(all).sort(), people.map((who) => who.note.id).sort());
  const [found] = await query(relay, { ids: [bob.note.id] });
  // nostr-tools marks events that it has verified; a copy through JSON has no marks.
  const plain = (event) => JSON.parse(JSON.stringify(event));
  assert.deepEqual(plain(found), plain(bob.note));
  assert.ok(verifyEvent(plain(found)));
  for (let at = 1; at < all.length; at += 1) {
    const [before, after] = [all[at - 1], all[at]];
    assert.ok(before.created_at > after.created_at
      || (before.created_at === after.created_at && before.id < after.id), 'order of the answer');
  }
  assert.equal((await query(relay, { kinds: [1], limit: 5 })).length, 5);
  assert.deepEqual(await query(relay, { authors: [person().key] }), []);
});

await step('live', async () => {
  const reader = await Relay.connect(url);
  const seen = [];
  let done;
  const complete = new Promise((resolve) => { done = resolve; });
  let wanted = people.length;
  await new Promise((resolve) => {
    reader.subscribe([{ kinds: [1], '#t': ['live'], limit: 0 }], {
      oneose: resolve,
      onevent: (event) => { seen.push(event.id); if (seen.length === wanted) done(); },
    });
  });
  const sent = [];
  for (const who of people) {
    const event = sign(who, 1, { content: 'live', tags: [['t', 'live']] });
    await relay.publish(event);
    sent.push(event.id);
  }
  await complete;
  assert.deepEqual(seen.sort(), sent.sort());
  reader.close();
});

await step('AUTH', async () => {
  const connection = await Relay.connect(url);
  const mine = sign(alice, 1, { tags: [['-']], content: 'protected' });
  await assert.rejects(connection.publish(mine), /auth-required: /);
  await authenticate(connection, alice);
  assert.equal(await connection.publish(mine), '');
  const theirs = sign(bob, 1, { tags: [['-']], content: 'not hers to publish' });
  await assert.rejects(connection.publish(theirs), /restricted: /);
  connection.close();
});

await step('COUNT', async () => {
  assert.equal(await relay.count([{ kinds: [1], '#t': ['hello'] }], {}), people.length);
  assert.equal(await relay.count([{ kinds: [1], authors: [person().key] }], {}), 0);
});

await step('delete', async () => {
  const victim = sign(bob, 1, { content: 'a mistake' });
  await relay.publish(victim);
  await relay.publish(sign(carol, 5, { tags: [['e', victim.id]] }));
  assert.equal((await query(relay, { ids: [victim.id] })).length, 1, 'only authors delete');
  await relay.publish(sign(bob, 5, { tags: [['e', victim.id], ['k', '1']] }));
  assert.deepEqual(await query(relay, { ids: [victim.id] }), []);
  await assert.rejects(relay.publish(victim), /blocked: /);
  const essay = sign(bob, 30023, { tags: [['d', 'essay']], at: now() - 10 });
  await relay.publish(essay);
  await relay.publish(sign(bob, 5, { tags: [['a', `30023:${bob.key}:essay`]], at: now() - 5 }));
  assert.deepEqual(await query(relay, { ids: [essay.id] }), []);
});

await step('replace', async () => {
  for (const [kind, tags] of [[0, []], [3, [['p', bob.key]]], [30023, [['d', 'x']]]]) {
    const old = sign(carol, kind, { tags, content: '1', at: now() - 20 });
    const newer = sign(carol, kind, { tags, content: '2', at: now() - 10 });
    const stale = sign(carol, kind, { tags, content: '3', at: now() - 15 });
    assert.equal(await relay.publish(old), '');
    assert.equal(await relay.publish(newer), '');
    assert.match(await relay.publish(stale), /^duplicate: /);
    const found = await query(relay, { kinds: [kind], authors: [carol.key] });
    assert.deepEqual(ids(found), [newer.id]);
  }
});

await step('private kinds', async () => {
  const direct = sign(alice, 4, {
    tags: [['p', bob.key]], content: nip04.encrypt(alice.secret, bob.key, 'for bob only'),
  });
  const wrap = nip17.wrapEvent(alice.secret, { publicKey: bob.key }, 'sealed for bob');
  assert.equal(await relay.publish(direct), '');
  assert.equal(await relay.publish(wrap), '');
  const inbox = { kinds: [4, 1059], '#p': [bob.key] };
  await assert.rejects(query(relay, inbox), /auth-required: /);
  const both = [direct.id, wrap.id];
  assert.deepEqual(await query(relay, { ids: both }), [], 'unnamed kinds are no way around');
  for (const [who, expected] of [[bob, both], [carol, []], [alice, [direct.id]]]) {
    const connection = await Relay.connect(url);
    await authenticate(connection, who);
    const found = await query(connection, { ids: both });
    assert.deepEqual(ids(found).sort(), [...expected].sort());
    assert.equal(await connection.count([{ ids: both }], {}), expected.length);
    if (who === bob) {
      const opened = nip17.unwrapEvent(found.find((event) => event.kind === 1059), bob.secret);
      assert.equal(opened.content, 'sealed for bob');
      const message = found.find((event) => event.kind === 4);
      assert.equal(nip04.decrypt(bob.secret, alice.key, message.content), 'for bob only');
    }
    connection.close();
  }
});

const document = await nip11.fetchRelayInformation(url);
for (const nip of [1, 9, 11, 17, 40, 42, 45, 59, 70]) {
  assert.ok(document.supported_nips.includes(nip), `NIP-${nip} is advertised`);
}

relay.close();
console.log(`all ${steps} steps hold`);
process.exit(0);
