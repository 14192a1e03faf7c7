// Presence channels with pusher-js: members and their changes, over connections of several workers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { World, backendFor, event, names, recorded, subscribed, unique, until } from './support.mjs';

const world = await World.create();
const { backend } = world;

const info = id => ({ name: `Integration ${id}`, email: `integration-${id}@example.com` });
const ids = channel => Object.keys(channel.members.members).sort();
const changes = channel => channel.log
  .filter(([name]) => name.startsWith('pusher:member_'))
  .map(([name, { id }]) => [name.slice('pusher:member_'.length), id]);

test('members know themselves and each other', async () => {
  const name = unique('presence-');
  const first = await subscribed(await world.connected({ user: 'ann' }), name);
  assert.deepEqual([first.members.count, first.members.me], [1, { id: 'ann', info: info('ann') }]);
  const two = await world.connected({ user: 'bob' });
  const second = await subscribed(two, name);
  assert.deepEqual([second.members.count, ids(second)], [2, ['ann', 'bob']]);
  assert.deepEqual(second.members.get('ann'), { id: 'ann', info: info('ann') });
  assert.deepEqual(await event(first, 'pusher:member_added'), { id: 'bob', info: info('bob') });
  assert.equal(first.members.count, 2);
  two.unsubscribe(name);
  assert.deepEqual(await event(first, 'pusher:member_removed'), { id: 'bob', info: info('bob') });
  assert.deepEqual([first.members.count, ids(first), first.members.get('bob')], [1, ['ann'], null]);
  // The new member heard nothing of itself.
  assert.deepEqual(changes(second), []);
});

test('a user with several connections is one member', async () => {
  const name = unique('presence-');
  const watcher = await subscribed(await world.connected({ user: 'watcher' }), name);
  const connections = [];
  for (let n = 0; n < 5; n++) connections.push(await world.connected({ user: 'ann' }));
  const channels = await Promise.all(connections.map(client => subscribed(client, name)));
  for (const channel of channels) assert.deepEqual([channel.members.count, ids(channel)], [2, ['ann', 'watcher']]);
  const users = await backend.get({ path: `/channels/${name}/users` }).then(answer => answer.json());
  assert.deepEqual(users.users.map(({ id }) => id).sort(), ['ann', 'watcher']);
  connections[0].disconnect();
  connections[1].unsubscribe(name);
  for (const client of connections.slice(2, 4)) client.disconnect();
  const late = await world.connected({ user: 'late' });
  await subscribed(late, name);
  await until(() => changes(watcher).length === 2, 'the late one is there');
  assert.deepEqual(changes(watcher), [['added', 'ann'], ['added', 'late']]);
  connections[4].disconnect();
  await until(() => changes(watcher).length === 3, 'the last connection of the user has ended');
  assert.deepEqual([changes(watcher).at(-1), ids(watcher)], [['removed', 'ann'], ['late', 'watcher']]);
});

test('a dropped connection leaves', async () => {
  const name = unique('presence-');
  const watcher = await subscribed(await world.connected(), name);
  const dropped = await world.connected({ user: 'dropped' });
  await subscribed(dropped, name);
  await event(watcher, 'pusher:member_added');
  // The client must not come back, so its socket ends below pusher-js.
  dropped.connection.connection.transport.socket._stream.destroy();
  dropped.disconnect();
  assert.equal((await event(watcher, 'pusher:member_removed')).id, 'dropped');
  assert.equal(watcher.members.count, 1);
});

test('many members come and go, and all lists agree in the end', async () => {
  const name = unique('presence-');
  const watcher = await subscribed(await world.connected({ user: 'watcher' }), name);
  const clients = await Promise.all(Array.from({ length: 40 }, (_, n) => world.connected({ user: `user-${n % 20}` })));
  for (let round = 0; round < 3; round++) {
    const channels = await Promise.all(clients.map(client => subscribed(client, name)));
    await until(() => watcher.members.count === 21, 'all members are there');
    for (const channel of channels) await until(() => channel.members.count === 21, 'each member sees all');
    for (const client of clients) client.unsubscribe(name);
    await until(() => watcher.members.count === 1, 'all members have left');
  }
  const balance = {};
  for (const [change, id] of changes(watcher)) {
    balance[id] = (balance[id] ?? 0) + (change === 'added' ? 1 : -1);
    assert.ok([0, 1].includes(balance[id]), `${id} was ${change} twice`);
  }
});

test('a number as the identifier of a user works', async () => {
  const name = unique('presence-');
  const watcher = await subscribed(await world.connected(), name);
  const client = await world.connected({
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, done) => done(null, backend.authorizeChannel(socketId, channelName, { user_id: 12, user_info: { n: 1 } })),
    },
  });
  const channel = await subscribed(client, name);
  assert.deepEqual(channel.members.me, { id: 12, info: { n: 1 } });
  assert.equal(String((await event(watcher, 'pusher:member_added')).id), '12');
  client.disconnect();
  await event(watcher, 'pusher:member_removed');
  assert.equal(watcher.members.count, 1);
});

test('an application limits members and their data', async () => {
  const name = unique('presence-');
  const small = backendFor(world.server, 'small');
  const join = (userId, info) => world.connected({
    key: 'small', channelAuthorization: {
      headers: {},
      customHandler: ({ socketId, channelName }, done) => done(null, small.authorizeChannel(socketId, channelName, { user_id: userId, user_info: info })),
    },
  });
  const tooLarge = await event(recorded(await join('large', 'x'.repeat(200)), name), 'pusher:subscription_error');
  assert.deepEqual([tooLarge.type, tooLarge.status], ['LimitReached', 4301]);
  const first = await subscribed(await join('ann', {}), name);
  const second = await join('bob', {});
  await subscribed(second, name);
  const refused = recorded(await join('eve', {}), name);
  const full = await event(refused, 'pusher:subscription_error');
  assert.deepEqual([full.type, full.status], ['LimitReached', 4100]);
  // Another connection of a member is none.
  await subscribed(await join('ann', {}), name);
  second.disconnect();
  await event(first, 'pusher:member_removed');
  await subscribed(await join('eve', {}), name);
  assert.deepEqual(changes(first), [['added', 'bob'], ['removed', 'bob'], ['added', 'eve']]);
});

test('a signed-in user joins without channel data', async () => {
  const name = unique('presence-signed-in-');
  const client = await world.connected({ user: 'ann' });
  client.signin();
  const channel = await subscribed(client, name);
  assert.deepEqual(channel.members.me, { id: 'ann', info: info('ann') });
});

test('members that leave while others come are never listed', async () => {
  const name = unique('presence-');
  const watcher = await subscribed(await world.connected({ user: 'watcher' }), name);
  const client = await world.connected({ user: 'ann' });
  for (let round = 0; round < 10; round++) {
    // Subscribing, cancelling and subscribing again without waiting.
    client.subscribe(name);
    client.unsubscribe(name);
    client.subscribe(name);
    await until(() => client.channel(name)?.subscribed, 'the subscription succeeds');
    client.unsubscribe(name);
  }
  await until(() => changes(watcher).at(-1)?.[0] === 'removed' && watcher.members.count === 1, 'the member has left');
  const late = await subscribed(await world.connected({ user: 'late' }), name);
  assert.deepEqual(ids(late), ['late', 'watcher']);
  assert.deepEqual(names(late).filter(name => name.includes('member')), []);
});
