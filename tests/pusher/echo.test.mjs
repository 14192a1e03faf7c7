// laravel-echo with its broadcasters reverb and pusher.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import Echo from 'laravel-echo';
import Pusher from 'pusher-js';
import { World, clientOptions, unique, until } from './support.mjs';

const world = await World.create();
const { backend, server, site } = world;
const echoes = [];
after(() => echoes.forEach(echo => echo.disconnect()));

/** Returns Echo with the options of a Laravel application. */
async function connected(broadcaster, user) {
  const { wsHost, wsPort, wssPort, forceTLS, enabledTransports, userAuthentication } = clientOptions(server, site, { user });
  const echo = new Echo({
    broadcaster, Pusher, key: 'stock', wsHost, wsPort, wssPort, forceTLS, enabledTransports,
    ...(broadcaster === 'pusher' && { cluster: 'mt1' }),
    authEndpoint: `${site.url}/auth`, auth: { headers: { 'X-User': user } }, userAuthentication, withoutInterceptors: true,
  });
  echoes.push(echo);
  await until(() => echo.connectionStatus() === 'connected', 'Echo connects');
  return echo;
}

const done = channel => until(() => channel.subscription.subscribed, `${channel.name} is subscribed to`);

for (const broadcaster of ['reverb', 'pusher']) {
  test(`${broadcaster}: events of public, private and encrypted channels`, async () => {
    const echo = await connected(broadcaster, 'ann');
    const name = unique();
    for (const [channel, full] of [
      [echo.channel(name), name], [echo.private(name), `private-${name}`],
      [echo.encryptedPrivate(name), `private-encrypted-${name}`],
    ]) {
      const got = [];
      channel.listen('OrderShipped', data => got.push(['OrderShipped', data]));
      channel.listen('.plain', data => got.push(['plain', data]));
      channel.listenToAll((event, data) => got.push([event, data]));
      await done(channel);
      await backend.trigger(full, 'App\\Events\\OrderShipped', { order: { id: 7 } });
      await backend.trigger(full, 'plain', { ok: true });
      await until(() => got.length === 4, 'all listeners get the events');
      assert.deepEqual(got.filter(([event]) => event === 'OrderShipped'), Array(2).fill(['OrderShipped', { order: { id: 7 } }]));
      assert.deepEqual(got.find(([event]) => event === 'plain'), ['plain', { ok: true }]);
    }
    // toOthers() sends the socket's identifier.
    const got = [];
    echo.channel(name).listen('.others', () => got.push('others')).listen('.last', () => got.push('last'));
    await backend.trigger(name, 'others', {}, { socket_id: echo.socketId() });
    await backend.trigger(name, 'last', {});
    await until(() => got.includes('last'), 'the last event arrives');
    assert.deepEqual(got, ['last']);
  });

  test(`${broadcaster}: whispers of private and presence channels`, async () => {
    const [one, other] = [await connected(broadcaster, 'ann'), await connected(broadcaster, 'bob')];
    for (const kind of ['private', 'join']) {
      const room = unique();
      const channels = [one[kind](room), other[kind](room)];
      const got = channels.map(() => []);
      channels.forEach((channel, index) => channel.listenForWhisper('typing', data => got[index].push(data)));
      await Promise.all(channels.map(done));
      channels[0].whisper('typing', { name: 'ann' });
      channels[1].whisper('typing', { name: 'bob' });
      await until(() => got.every(whispers => whispers.length > 0), 'the whispers arrive');
      assert.deepEqual(got, [[{ name: 'bob' }], [{ name: 'ann' }]]);
    }
  });

  test(`${broadcaster}: who is here, joins and leaves`, async () => {
    const room = unique();
    const [one, other] = [await connected(broadcaster, 'ann'), await connected(broadcaster, 'bob')];
    const got = [];
    const name = ({ name }) => name;
    one.join(room)
      .here(users => got.push(['here', users.map(name)]))
      .joining(user => got.push(['joining', name(user)]))
      .leaving(user => got.push(['leaving', name(user)]));
    await until(() => got.length === 1, 'the list arrives');
    const theirs = [];
    other.join(room).here(users => theirs.push(users.map(name).sort()));
    await until(() => theirs.length === 1 && got.length === 2, 'the other is there');
    other.leave(room);
    await until(() => got.length === 3, 'the other has left');
    assert.deepEqual(got, [['here', ['Integration ann']], ['joining', 'Integration bob'], ['leaving', 'Integration bob']]);
    assert.deepEqual(theirs, [['Integration ann', 'Integration bob']]);
  });

  test(`${broadcaster}: errors`, async () => {
    const echo = await connected(broadcaster, 'ann');
    const error = channel => new Promise(resolve => channel.error(resolve));
    assert.equal((await error(echo.private(unique('forbidden-')))).status, 403);
    assert.equal((await error(echo.join(unique('forbidden-')))).status, 403);
    const forged = new Echo({
      broadcaster, client: new Pusher('stock', clientOptions(server, null, {
        channelAuthorization: { customHandler: (_, done) => done(null, { auth: `stock:${'0'.repeat(64)}`, channel_data: '{"user_id":"1"}' }) },
      })), withoutInterceptors: true, key: 'stock',
    });
    echoes.push(forged);
    const errors = await Promise.all([forged.private(unique()), forged.join(unique())].map(error));
    assert.deepEqual(errors.map(({ type, status }) => [type, status]), Array(2).fill(['AuthError', 401]));
  });

  test(`${broadcaster}: signing in`, async () => {
    const echo = await connected(broadcaster, 'ann');
    const got = [];
    echo.connector.pusher.user.bind('mail', data => got.push(data));
    echo.connector.signin();
    await until(() => echo.connector.pusher.user.serverToUserChannel?.subscribed, 'Echo is signed in');
    await backend.sendToUser('ann', 'mail', { n: 1 });
    await until(() => got.length === 1, 'the event arrives');
    assert.deepEqual(got, [{ n: 1 }]);
  });
}
