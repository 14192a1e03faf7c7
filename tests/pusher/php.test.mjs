// `signer.php`: plain PHP without a library.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { World, apps, event, here, subscribed, unique } from './support.mjs';

const world = await World.create();

async function php(...words) {
  const { id, key, secret } = apps.stock;
  const { stdout } = await promisify(execFile)('php', [
    path.join(here, 'signer.php'), `http://127.0.0.1:${world.server.port}`, id, key, secret, ...words,
  ]);
  return JSON.parse(stdout);
}

test('PHP triggers events', async () => {
  const [one, other] = [await world.connected(), await world.connected()];
  const [first, second] = [unique(), unique('private-')];
  const channels = [await subscribed(one, first), await subscribed(one, second), await subscribed(other, first)];
  const data = { text: 'grüße & 100 % "\\', list: [1, 2] };
  assert.deepEqual(await php('trigger', `${first} ${second}`, 'news', JSON.stringify(data)), []);
  for (const channel of channels) assert.deepEqual(await event(channel, 'news'), data);
  await php('trigger', first, 'others', '1', one.connection.socket_id);
  await php('trigger', first, 'last', '2');
  await event(channels[0], 'last');
  assert.deepEqual(channels[0].log.map(([name]) => name).filter(name => name === 'others'), []);
  await event(channels[2], 'others');
});

test('PHP reads channels and users', async () => {
  const name = unique('presence-');
  await subscribed(await world.connected({ user: 'ann' }), name);
  await subscribed(await world.connected({ user: 'bob' }), name);
  assert.deepEqual(await php('get', '/channels', `filter_by_prefix=${name}`, 'info=user_count'), { channels: { [name]: { user_count: 2 } } });
  const channel = await php('get', `/channels/${name}`, 'info=user_count,subscription_count');
  assert.deepEqual(channel, { occupied: true, user_count: 2, subscription_count: 2 });
  const { users } = await php('get', `/channels/${name}/users`);
  assert.deepEqual(users.map(({ id }) => id).sort(), ['ann', 'bob']);
});

test('PHP authorizes clients', async () => {
  const user = { user_id: 'ünal', user_info: { name: 'Ünal' } };
  const client = await world.connected({
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, done) => {
        const words = channelName.startsWith('presence-') ? [JSON.stringify(user)] : [];
        php('auth', socketId, channelName, ...words).then(answer => done(null, answer), done);
      },
    },
  });
  await subscribed(client, unique('private-'));
  const channel = await subscribed(client, unique('presence-'));
  assert.deepEqual(channel.members.me, { id: 'ünal', info: { name: 'Ünal' } });
});

test('PHP hears of errors', async () => {
  await assert.rejects(php('get', '/channels/open/users'), /400 Bad Request/);
  await assert.rejects(php('get', '/nonsense'), /404 Not Found/);
});
