// Channels of all kinds with pusher-js and npm's `pusher`: who gets which event, and what is refused.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { World, backendFor, event, masterKey, names, recorded, refusal, subscribed, unique, until } from './support.mjs';

const world = await World.create();
const { backend, site } = world;

/** Checks that the channel has got exactly these events before one that is triggered now. */
async function onlyGets(channel, expected) {
  const mark = unique('last-');
  await backend.trigger(channel.name, mark, {});
  await event(channel, mark);
  assert.deepEqual(names(channel).filter(name => !/^(pusher:|last-)/.test(name)), expected);
}

test('events from the backend arrive with their data', async () => {
  const channel = await subscribed(await world.connected(), unique());
  const values = [{ x: 1, y: 'z' }, 'text', 'grüße 🎉 "\\\n\u2028', 42, [1, [2]], null, true, {}, 'x'.repeat(9_000)];
  for (const value of values) await backend.trigger(channel.name, 'value', value);
  await onlyGets(channel, values.map(() => 'value'));
  assert.deepEqual(channel.log.filter(([name]) => name === 'value').map(([, data]) => data), values);
});

test('an event goes to several channels, and not to an excluded client', async () => {
  const [one, other] = [await world.connected(), await world.connected()];
  const [first, second, third] = [unique(), unique('private-'), unique()];
  const [mine, theirs] = [await subscribed(one, first), await subscribed(other, first)];
  const elsewhere = await subscribed(other, second);
  await backend.trigger([first, second, third], 'news', { n: 1 }, { socket_id: one.connection.socket_id });
  assert.deepEqual(await event(theirs, 'news'), { n: 1 });
  assert.deepEqual(await event(elsewhere, 'news'), { n: 1 });
  await onlyGets(mine, []);
  await backend.trigger(first, 'news', {}, { socket_id: '1.1' });
  await onlyGets(mine, ['news']);
});

test('a batch has events for different channels', async () => {
  const client = await world.connected();
  const [first, second] = [await subscribed(client, unique()), await subscribed(client, unique('private-'))];
  await backend.triggerBatch([
    { channel: first.name, name: 'a', data: { n: 1 } },
    { channel: second.name, name: 'b', data: 'text' },
    { channel: first.name, name: 'c', data: [2], socket_id: client.connection.socket_id },
  ]);
  assert.deepEqual(await event(first, 'a'), { n: 1 });
  assert.deepEqual(await event(second, 'b'), 'text');
  await onlyGets(first, ['a']);
});

test('nothing arrives after unsubscribing, and everything again after subscribing', async () => {
  const client = await world.connected();
  const name = unique();
  const gone = await subscribed(client, name);
  const witness = await subscribed(client, unique());
  client.unsubscribe(name);
  await backend.trigger([name, witness.name], 'missed', {});
  await event(witness, 'missed');
  assert.deepEqual(names(gone).filter(name => name === 'missed'), []);
  const again = await subscribed(client, name);
  await onlyGets(again, []);
});

test('applications do not share channels', async () => {
  const name = unique();
  const [mine, theirs] = [
    await subscribed(await world.connected(), name), await subscribed(await world.connected({ key: 'counted' }), name),
  ];
  await backendFor(world.server, 'counted').trigger(name, 'foreign', {});
  await event(theirs, 'foreign');
  await onlyGets(mine, []);
});

for (const prefix of ['private-', 'presence-', 'private-encrypted-', 'private-cache-', 'presence-cache-']) {
  test(`a ${prefix} channel needs the application's signature`, async () => {
    const client = await world.connected();
    const signers = [
      { auth: '' }, { auth: 'nonsense' }, { auth: `stock:${'0'.repeat(64)}` },
      // Another application's signature, and a signature for another channel.
      backendFor(world.server, 'counted').authorizeChannel(client.connection.socket_id, unique('private-'), { user_id: '1' }),
      backend.authorizeChannel(client.connection.socket_id, unique('private-'), { user_id: '1' }),
    ];
    for (const answer of signers) {
      const denied = await world.connected({
        channelAuthorization: { customHandler: (_, done) => done(null, { shared_secret: 'AAAA', channel_data: '{"user_id":"1"}', ...answer }) },
      });
      const channel = recorded(denied, unique(prefix));
      const error = await event(channel, 'pusher:subscription_error');
      assert.deepEqual([error.type, error.status, channel.subscribed], ['AuthError', 401, false]);
      assert.notEqual(error.error, '');
      await backend.trigger(channel.name, 'secret', {});
      assert.equal((await backend.get({ path: `/channels/${channel.name}` }).then(answer => answer.json())).occupied, false);
      assert.deepEqual(names(channel), ['pusher:subscription_error']);
    }
    const forbidden = recorded(client, unique(`${prefix}forbidden-`));
    assert.equal((await event(forbidden, 'pusher:subscription_error')).status, 403);
    await subscribed(client, unique(prefix));
  });
}

test('client events go to the other clients of a private channel', async () => {
  const name = unique('private-');
  const [one, other] = [await subscribed(await world.connected(), name), await subscribed(await world.connected(), name)];
  const values = [{ foo: 'bar' }, 'text', [1], {}, 'grüße'];
  for (const value of values) assert.ok(one.trigger('client-typing', value));
  await until(() => names(other).filter(name => name === 'client-typing').length === values.length, 'all events arrive');
  assert.deepEqual(other.log.filter(([name]) => name === 'client-typing').map(([, data]) => data), values);
  await onlyGets(one, []);
});

test('client events of a presence channel name their sender', async () => {
  const name = unique('presence-');
  const [one, other] = [await world.connected({ user: '7' }), await world.connected()];
  const [sender, receiver] = [await subscribed(one, name), await subscribed(other, name)];
  const got = new Promise(resolve => receiver.bind('client-typing', (data, metadata) => resolve({ data, metadata })));
  sender.trigger('client-typing', { user_id: 'forged' });
  assert.deepEqual(await got, { data: { user_id: 'forged' }, metadata: { user_id: '7' } });
});

test('encrypted channels carry events that only their subscribers read', async () => {
  const client = await world.connected();
  const channel = await subscribed(client, unique('private-encrypted-'));
  const witnessed = [];
  client.connection.bind('message', message => witnessed.push(message));
  await backend.trigger(channel.name, 'secret', { card: 'ace' });
  assert.deepEqual(await event(channel, 'secret'), { card: 'ace' });
  const sealed = witnessed.find(({ event }) => event === 'secret').data;
  assert.deepEqual(Object.keys(sealed).sort(), ['ciphertext', 'nonce']);
  assert.throws(() => channel.trigger('client-typing', {}), /not currently supported/);
  // The client asks the site for a new key when it cannot open an event.
  const before = site.requests.length;
  const newKey = Buffer.alloc(32, 'rotated').toString('base64');
  site.masterKey = newKey;
  await backendFor(world.server, 'stock', { encryptionMasterKeyBase64: newKey }).trigger(channel.name, 'rotated', { card: 'king' });
  assert.deepEqual(await event(channel, 'rotated'), { card: 'king' });
  assert.equal(site.requests.length, before + 1);
  site.masterKey = masterKey;
});

for (const prefix of ['cache-', 'private-cache-', 'presence-cache-', 'private-encrypted-cache-']) {
  test(`a ${prefix} channel has a miss, then its last event`, async () => {
    const name = unique(prefix);
    const first = recorded(await world.connected(), name);
    await event(first, 'pusher:cache_miss');
    assert.equal(names(first)[0], 'pusher:subscription_succeeded');
    const backend = backendFor(world.server, 'stock', { encryptionMasterKeyBase64: site.masterKey });
    for (const n of [1, 2]) await backend.trigger(name, `news-${n}`, { n });
    await event(first, 'news-2');
    if (!prefix.includes('encrypted') && prefix !== 'cache-') {
      const sender = await subscribed(await world.connected(), name);
      sender.trigger('client-typing', {});
      await event(first, 'client-typing');
    }
    const second = recorded(await world.connected(), name);
    assert.deepEqual(await event(second, 'news-2'), { n: 2 });
    assert.deepEqual(names(second).filter(name => !name.includes('member')), ['pusher:subscription_succeeded', 'news-2']);
    const cached = await backend.get({ path: `/channels/${name}`, params: { info: 'cache' } }).then(answer => answer.json());
    assert.ok(cached.cache.ttl > 0 && cached.cache.ttl <= 1_800, JSON.stringify(cached));
  });
}

test('names of channels have a limit and an alphabet', async () => {
  const client = await world.connected();
  for (const name of ['x'.repeat(164), 'x'.repeat(200), 'aZ09_-=@,.;', '-', 'private', 'presence']) {
    await subscribed(client, name);
    client.unsubscribe(name);
  }
  for (const name of ['', 'x'.repeat(201), 'a b', 'ü', 'a/b', 'a:b', '#x']) {
    const { type, status } = await refusal(client, name);
    assert.deepEqual([type, status], ['LimitReached', 4009], name);
  }
  assert.equal(client.connection.state, 'connected');
});

test('subscribers of an application with counts hear how many they are', async () => {
  const name = unique();
  const counts = channel => channel.log.filter(([name]) => name === 'pusher:subscription_count').map(([, data]) => data.subscription_count);
  const [one, other] = [await world.connected({ key: 'counted' }), await world.connected({ key: 'counted' })];
  const channel = await subscribed(one, name);
  await until(() => counts(channel).at(-1) === 1, 'the count is 1');
  const second = await subscribed(other, name);
  await until(() => counts(channel).at(-1) === 2 && counts(second).at(-1) === 2, 'the count is 2');
  assert.equal(second.subscriptionCount, 2);
  other.unsubscribe(name);
  await until(() => counts(channel).at(-1) === 1, 'the count is 1 again');
});
