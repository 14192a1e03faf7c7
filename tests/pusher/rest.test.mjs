// The REST API with npm's `pusher`: questions about channels, limits and errors.
import assert from 'node:assert/strict';
import http from 'node:http';
import net from 'node:net';
import { test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import Backend from 'pusher';
import { World, apps, backendFor, event, names, recorded, subscribed, unique, until } from './support.mjs';

const world = await World.create();
const { backend } = world;

const json = async (path, params) => (await backend.get({ path, params })).json();
const refused = (call, status) => assert.rejects(call, error => {
  assert.equal(error.status, status, `${error.status} ${error.body}`);
  assert.notEqual(JSON.parse(error.body).error, '');
  return true;
});

test('channels are listed with their users, by prefix', async () => {
  const mark = unique();
  const [first, second] = [await world.connected({ user: 'ann' }), await world.connected({ user: 'bob' })];
  const [open, closed, present] = [`${mark}-open`, `private-${mark}`, `presence-${mark}`];
  for (const name of [open, closed, present]) await subscribed(first, name);
  await subscribed(second, present);
  const all = (await json('/channels')).channels;
  for (const name of [open, closed, present]) assert.deepEqual(all[name], {}, name);
  assert.deepEqual(await json('/channels', { filter_by_prefix: mark }), { channels: { [open]: {} } });
  assert.deepEqual(await json('/channels', { filter_by_prefix: present, info: 'user_count' }), { channels: { [present]: { user_count: 2 } } });
  assert.deepEqual(await json('/channels', { filter_by_prefix: 'presence-nobody' }), { channels: {} });
  await refused(backend.get({ path: '/channels', params: { info: 'user_count' } }), 400);
  await refused(backend.get({ path: '/channels', params: { info: 'user_count', filter_by_prefix: 'private-' } }), 400);
  first.disconnect();
  second.disconnect();
  for (const name of [open, closed, present]) {
    while ((await json(`/channels/${name}`)).occupied) await new Promise(resolve => setTimeout(resolve, 20));
  }
  assert.deepEqual(await json('/channels', { filter_by_prefix: mark }), { channels: {} });
});

test('a channel counts its subscriptions and users: 1, 2, 1, 0', async () => {
  const name = unique('presence-');
  const info = { info: 'user_count,subscription_count' };
  const [one, other] = [await world.connected({ user: 'ann' }), await world.connected({ user: 'ann' })];
  const third = await world.connected({ user: 'bob' });
  const expect = async (subscription_count, user_count) => {
    const expected = { occupied: subscription_count > 0, user_count, subscription_count };
    let found;
    for (let tries = 0; tries < 500; tries++) {
      found = await json(`/channels/${name}`, info);
      if (isDeepStrictEqual(found, expected)) break;
      // Clients leave after they have asked to.
      await new Promise(resolve => setTimeout(resolve, 20));
    }
    assert.deepEqual(found, expected);
    const users = (await json(`/channels/${name}/users`)).users;
    assert.equal(users.length, user_count);
  };
  await expect(0, 0);
  await subscribed(one, name);
  await expect(1, 1);
  await subscribed(other, name);
  await expect(2, 1);
  await subscribed(third, name);
  await expect(3, 2);
  assert.deepEqual((await json(`/channels/${name}/users`)).users.map(({ id }) => id).sort(), ['ann', 'bob']);
  other.unsubscribe(name);
  await expect(2, 2);
  one.disconnect();
  await expect(1, 1);
  third.disconnect();
  await expect(0, 0);
});

test('only attributes that a channel has can be asked for', async () => {
  await refused(backend.get({ path: '/channels/open', params: { info: 'user_count' } }), 400);
  await refused(backend.get({ path: '/channels/open', params: { info: 'cache' } }), 400);
  await refused(backend.get({ path: '/channels/open/users' }), 400);
  await refused(backend.get({ path: '/channels/private-x/users' }), 400);
  assert.deepEqual(await json('/channels/cache-nobody', { info: 'cache' }), { occupied: false, cache: null });
  assert.deepEqual(await json('/channels/presence-nobody/users'), { users: [] });
});

test('answers to events have the attributes that are asked for', async () => {
  const [name, present] = [unique(), unique('presence-')];
  const client = await world.connected({ user: 'ann' });
  await subscribed(client, name);
  await subscribed(client, present);
  assert.deepEqual(await backend.trigger(name, 'a', {}).then(answer => answer.json()), {});
  const info = { info: 'subscription_count,user_count' };
  assert.deepEqual(await backend.trigger([name, present], 'a', {}, info).then(answer => answer.json()), {
    channels: { [name]: { subscription_count: 1 }, [present]: { subscription_count: 1, user_count: 1 } },
  });
  const batch = [{ channel: present, name: 'a', data: 1, info: 'user_count' }, { channel: name, name: 'a', data: 1 }];
  assert.deepEqual(await backend.triggerBatch(batch).then(answer => answer.json()), { batch: [{ user_count: 1 }, {}] });
});

test('a hundred channels and ten events of a batch are possible, and not more', async () => {
  const many = Array.from({ length: 101 }, (_, n) => unique(`many-${n}-`));
  const last = await subscribed(await world.connected(), many[99]);
  await backend.trigger(many.slice(0, 100), 'a', {});
  await event(last, 'a');
  await refused(backend.post({ path: '/events', body: { name: 'b', data: '{}', channels: many } }), 400);
  const batch = Array.from({ length: 11 }, () => ({ channel: last.name, name: 'c', data: '{}' }));
  await backend.triggerBatch(batch.slice(0, 10));
  await until(() => names(last).filter(name => name === 'c').length === 10, 'the whole batch arrives');
  await refused(backend.post({ path: '/batch_events', body: { batch } }), 400);
});

test('events are checked', async () => {
  const event = { name: 'a', data: '{}', channel: 'open' };
  for (const wrong of [
    { name: undefined }, { name: 7 }, { name: 'x'.repeat(201) }, { data: undefined }, { channel: undefined }, { channel: 'a b' },
    { channel: 'x'.repeat(201) }, { channel: 7 }, { socket_id: 'x' }, { info: 'nonsense' }, { channels: [] },
  ]) {
    const body = { ...event, ...wrong };
    if ('channels' in wrong) delete body.channel;
    await refused(backend.post({ path: '/events', body }), 400);
  }
  for (const body of [[], 'text', { batch: {} }, { batch: [{ ...event, name: undefined }] }]) {
    await refused(backend.post({ path: '/batch_events', body }), 400);
  }
  await refused(backend.trigger('open', 'a', 'x'.repeat(10_241)), 413);
  await backend.trigger('open', 'a', 'x'.repeat(10_240));
  await refused(backendFor(world.server, 'small').trigger('open', 'a', 'x'.repeat(1_001)), 413);
});

test('requests need the application and its signature', async () => {
  const credentials = { appId: '1', key: 'stock', secret: apps.stock.secret, host: 'localhost', port: world.server.port, useTLS: false };
  const as = wrong => new Backend({ ...credentials, ...wrong });
  await refused(as({ appId: '999' }).trigger('open', 'a', {}), 404);
  await refused(as({ secret: 'wrong' }).trigger('open', 'a', {}), 401);
  await refused(as({ key: 'counted' }).trigger('open', 'a', {}), 401);
  await refused(as({ key: 'counted', secret: apps.counted.secret }).get({ path: '/channels' }), 401);
  await refused(backend.get({ path: '/nonsense' }), 404);
  await refused(backend.post({ path: '/channels', body: {} }), 405);
  // The application's identifier may also be a number.
  await as({ appId: 1 }).trigger('open', 'a', {});

  const request = async (query, body = '') => {
    const options = { method: body === '' ? 'GET' : 'POST', body: body || undefined };
    const answer = await fetch(`http://localhost:${world.server.port}/apps/1/${body === '' ? 'channels' : 'events'}?${query}`, options);
    return answer.status;
  };
  const body = JSON.stringify({ name: 'a', data: '{}', channel: 'open' });
  const signed = backend.createSignedQueryString({ method: 'POST', path: '/apps/1/events', body });
  assert.equal(await request(signed, body), 200);
  assert.equal(await request(signed, body.replace('open', 'shut')), 401);
  assert.equal(await request(signed.replace(/auth_signature=./, 'auth_signature=g'), body), 401);
  assert.equal(await request(''), 401);
  for (const [minutes, status] of [[0, 200], [-5, 200], [5, 200], [-11, 401], [11, 401]]) {
    const then = Date.now() + minutes * 60_000;
    const query = `auth_key=stock&auth_timestamp=${Math.floor(then / 1_000)}&auth_version=1.0`;
    const signature = backend.config.token.sign(`GET\n/apps/1/channels\n${query}`);
    assert.equal(await request(`${query}&auth_signature=${signature}`), status, `${minutes} minutes`);
  }
});

test('a disabled application takes no events', async () => {
  await refused(backendFor(world.server, 'disabled').trigger('open', 'a', {}), 403);
});

test('requests share a connection', async () => {
  let connections = 0;
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  agent.createConnection = options => {
    connections++;
    return net.createConnection(options);
  };
  const kept = backendFor(world.server, 'stock', { agent });
  const channel = await subscribed(await world.connected(), unique());
  for (let n = 0; n < 50; n++) {
    await kept.trigger(channel.name, 'a', { n }).then(answer => answer.text());
    await kept.get({ path: `/channels/${channel.name}` }).then(answer => answer.text());
  }
  await until(() => names(channel).filter(name => name === 'a').length === 50, 'all events arrive');
  assert.deepEqual(channel.log.filter(([name]) => name === 'a').map(([, { n }]) => n), Array.from({ length: 50 }, (_, n) => n));
  assert.equal(connections, 1);
  agent.destroy();
});

test('requests over TLS work', async () => {
  const channel = await subscribed(await world.connected({ forceTLS: true }), unique());
  await backendFor(world.server, 'stock', { useTLS: true, port: world.server.securePort }).trigger(channel.name, 'secure', { n: 1 });
  assert.deepEqual(await event(channel, 'secure'), { n: 1 });
});

test('the number of connections is that of the application', async () => {
  const counted = backendFor(world.server, 'counted');
  const ask = async () => (await counted.get({ path: '/connections' }).then(answer => answer.json())).connections;
  assert.equal(await ask(), 0);
  const client = await world.connected({ key: 'counted' });
  recorded(client, unique());
  assert.equal(await ask(), 1);
});
