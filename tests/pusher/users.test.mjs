// Users that sign in, with pusher-js and npm's `pusher`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { World, backendFor, refusal, subscribed, unique, until } from './support.mjs';

const world = await World.create();
const { backend } = world;

/** Creates a client that is signed in. `got` collects its user's events. */
async function signedIn(user, options = {}) {
  const client = await world.connected({ user, ...options });
  client.got = [];
  client.user.bind_global((name, data) => client.got.push([name, data]));
  client.signin();
  await until(() => client.user.serverToUserChannel?.subscribed, `${user} is signed in`);
  return client;
}

test('events to a user go to all of its connections and to nobody else', async () => {
  const [one, other, stranger] = [await signedIn('ann'), await signedIn('ann'), await signedIn('bob')];
  assert.equal(one.user.user_data.id, 'ann');
  assert.deepEqual(one.user.user_data.user_info, { name: 'Integration ann', email: 'integration-ann@example.com' });
  await backend.sendToUser('ann', 'mail', { from: 'grüße' });
  await backend.sendToUser('bob', 'last', {});
  for (const client of [one, other, stranger]) await until(() => client.got.length > 0, 'the event arrives');
  assert.deepEqual(one.got, [['mail', { from: 'grüße' }]]);
  assert.deepEqual(other.got, one.got);
  assert.deepEqual(stranger.got, [['last', {}]]);
});

test('a user of another application is another user', async () => {
  const [mine, theirs] = [
    await signedIn('eve'),
    await signedIn('eve', { key: 'counted', userAuthentication: {
      customHandler: ({ socketId }, done) => done(null, backendFor(world.server, 'counted').authenticateUser(socketId, { id: 'eve' })),
    } }),
  ];
  await backendFor(world.server, 'counted').sendToUser('eve', 'foreign', {});
  await until(() => theirs.got.length > 0, 'the event arrives');
  await backend.sendToUser('eve', 'last', {});
  await until(() => mine.got.length > 0, 'the event arrives');
  assert.deepEqual([mine.got, theirs.got], [[['last', {}]], [['foreign', {}]]]);
  await backend.terminateUserConnections('eve');
  await until(() => mine.connection.state === 'disconnected', 'the connection is closed');
  assert.equal(theirs.connection.state, 'connected');
});

test('a connection is closed for good when its user is terminated', async () => {
  const [one, other, stranger] = [await signedIn('gone'), await signedIn('gone'), await signedIn('here')];
  const guest = await world.connected();
  await backend.terminateUserConnections('gone');
  for (const client of [one, other]) {
    await until(() => client.connection.state === 'disconnected', 'the connection is closed');
    const code = client.errors.at(-1).code;
    assert.ok(code >= 4000 && code < 4100, `closed with ${code}`);
  }
  assert.deepEqual([stranger.connection.state, guest.connection.state], ['connected', 'connected']);
  await backend.terminateUserConnections('nobody');
  // The user may come back.
  const again = await signedIn('gone');
  await backend.sendToUser('gone', 'welcome', {});
  await until(() => again.got.length > 0, 'the event arrives');
});

test('identifiers of users may have unusual characters', async () => {
  for (const id of ['a@b.example', 'x=1,2;3', '-_', 'x'.repeat(164)]) {
    const client = await signedIn(id);
    await backend.sendToUser(id, 'mail', {});
    await until(() => client.got.length > 0, `${id} gets the event`);
  }
});

for (const [what, answer] of [
  ['a wrong signature', (_, data) => ({ auth: `stock:${'0'.repeat(64)}`, user_data: JSON.stringify(data) })],
  ['another application', (socket, data) => backendFor(world.server, 'counted').authenticateUser(socket, data)],
  ['other data than those that are signed', (socket, data) => ({
    ...backend.authenticateUser(socket, data), user_data: JSON.stringify({ id: 'root' }),
  })],
  ['no identifier', socket => {
    const user_data = JSON.stringify({ name: 'x' });
    return { auth: `stock:${backend.config.token.sign(`${socket}::user::${user_data}`)}`, user_data };
  }],
  ['an empty identifier', socket => {
    const user_data = JSON.stringify({ id: '' });
    return { auth: `stock:${backend.config.token.sign(`${socket}::user::${user_data}`)}`, user_data };
  }],
]) {
  test(`signing in fails with ${what}`, async () => {
    const client = await world.connected({
      userAuthentication: { customHandler: ({ socketId }, done) => done(null, answer(socketId, { id: 'ann' })) },
    });
    client.signin();
    await until(() => client.connection.state === 'disconnected', 'the connection is closed');
    assert.equal(client.errors.at(-1).code, 4009);
    assert.equal(client.user.user_data, null);
  });
}

test('a site that refuses the user leaves the connection open', async () => {
  const client = await world.connected({ user: 'forbidden' });
  const failed = new Promise(resolve => client.user.bind('pusher:signin_error', resolve));
  client.signin();
  assert.equal((await failed).status, 403);
  await subscribed(client, unique());
});

test('only the user subscribes to its own channel', async () => {
  const client = await signedIn('ann');
  for (const id of ['bob', '', 'ann2']) {
    const { type, status } = await refusal(client, `#server-to-user-${id}`);
    assert.deepEqual([type, status], id ? ['AuthError', 401] : ['LimitReached', 4009], id);
  }
  const guest = await world.connected();
  assert.equal((await refusal(guest, '#server-to-user-ann')).type, 'AuthError');
});

test('a watchlist is accepted, and one with more than 100 users has an error', async () => {
  const watching = await world.connected({
    userAuthentication: {
      customHandler: ({ socketId }, done) => done(null, backend.authenticateUser(socketId, { id: 'watcher', watchlist: ['ann', 'bob'] })),
    },
  });
  watching.signin();
  await until(() => watching.user.serverToUserChannel?.subscribed, 'the client is signed in');
  const crowd = Array.from({ length: 101 }, (_, n) => `user-${n}`);
  const long = await world.connected({
    userAuthentication: {
      customHandler: ({ socketId }, done) => done(null, backend.authenticateUser(socketId, { id: 'watcher', watchlist: crowd })),
    },
  });
  long.signin();
  await until(() => long.user.serverToUserChannel?.subscribed, 'the client is signed in');
  assert.deepEqual(long.errors.map(({ code }) => code), [4302]);
  assert.deepEqual(watching.errors, []);
});
