// The browser and worker builds of pusher-js, and Echo's, in Debian's Chromium, without and with TLS.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { chromium } from 'playwright-core';
import { World, clientOptions, unique, until } from './support.mjs';

const world = await World.create();
const { backend, server, site } = world;
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    // Chromium does not trust the test's certificate.
    '--ignore-certificate-errors',
  ],
});
after(() => browser.close());

/** Opens a page of the site with scripts of the installed packages. */
async function openPage(...scripts) {
  const page = await browser.newPage();
  page.setDefaultTimeout(120_000);
  await page.goto(site.url);
  for (const script of scripts) await page.addScriptTag({ url: `${site.url}/${script}` });
  return page;
}

/**
 * Subscribes to channels in a page or a worker. Reports to the global function `report`: the names of channels that
 * are subscribed to, and their events. Runs in the page, so it uses nothing outside of it.
 */
function watch(Pusher, key, options, channels) {
  const client = new Pusher(key, options);
  client.connection.bind('error', error => report(`error ${JSON.stringify(error)}`));
  for (const name of channels) {
    const channel = client.subscribe(name);
    channel.bind('pusher:subscription_succeeded', () => report(`subscribed ${name}`));
    channel.bind('pusher:subscription_error', error => report(`refused ${name} ${error.type} ${error.status}`));
    channel.bind('pusher:member_added', ({ id }) => report(`joined ${id}`));
    channel.bind('news', data => report(`news ${name} ${JSON.stringify(data)}`));
    channel.bind('client-hello', data => channel.trigger('client-answer', data));
  }
  client.user.bind('mail', data => report(`mail ${JSON.stringify(data)}`));
  if (options.userAuthentication) client.signin();
}

const builds = [
  ['pusher.min.js', false, 'page'], ['pusher-with-encryption.min.js', true, 'page'], ['pusher.worker.min.js', false, 'worker'],
  ['pusher-with-encryption.worker.min.js', true, 'worker'],
];
for (const [build, encrypts, place] of builds) {
  for (const forceTLS of [false, true]) {
    test(`${build}, forceTLS ${forceTLS}`, async () => {
      const said = [];
      const page = await openPage();
      await page.exposeFunction('report', line => { said.push(line); });
      const name = unique();
      const channels = [name, `private-${name}`, `presence-${name}`, `cache-${name}`, ...(encrypts ? [`private-encrypted-${name}`] : [])];
      const user = unique('user-');
      const words = ['stock', clientOptions(server, site, { user, forceTLS }), channels].map(word => JSON.stringify(word));
      const url = `${site.url}/pusher-js/dist/${place === 'page' ? 'web' : 'worker'}/${build}`;
      if (place === 'page') {
        await page.addScriptTag({ url });
        await page.evaluate(`(${watch})(Pusher, ${words})`);
      } else {
        const code = `importScripts('${url}'); const report = line => postMessage(line); (${watch})(self.Pusher, ${words});`;
        await page.evaluate(code => {
          const worker = new Worker(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })));
          worker.onmessage = ({ data }) => report(data);
          worker.onerror = ({ message }) => report(`error ${message}`);
        }, code);
      }
      const says = line => until(() => said.includes(line), `the page says: ${line}; it said ${said}`);
      for (const channel of channels) await says(`subscribed ${channel}`);
      for (const channel of channels) {
        await backend.trigger(channel, 'news', { text: 'grüße 🎉' });
        await says(`news ${channel} {"text":"grüße 🎉"}`);
      }
      const other = await world.connected({ user: 'other' });
      const presence = other.subscribe(`presence-${name}`);
      await says('joined other');
      await until(() => presence.subscribed, 'the other is subscribed');
      assert.deepEqual(presence.members.get(user)?.info.name, `Integration ${user}`);
      const answer = new Promise(resolve => presence.bind('client-answer', (data, metadata) => resolve([data, metadata])));
      presence.trigger('client-hello', { n: 1 });
      assert.deepEqual(await answer, [{ n: 1 }, { user_id: user }]);
      while (!said.some(line => line.startsWith('mail'))) {
        // The client says nothing when it has signed in.
        await backend.sendToUser(user, 'mail', { n: 2 });
        await new Promise(resolve => setTimeout(resolve, 50));
      }
      await says('mail {"n":2}');
      assert.deepEqual(said.filter(line => /^(error|refused)/.test(line)), []);
      await page.close();
      await until(() => !presence.members.get(user), 'the page has left');
    });
  }
}

test('Echo in a page', async () => {
  const page = await openPage('pusher-js/dist/web/pusher.min.js', 'laravel-echo/dist/echo.iife.js');
  const name = unique();
  const { channelAuthorization, ...options } = clientOptions(server, site, { user: 'ann' });
  const got = page.evaluate(([options, channelAuthorization, name]) => new Promise((resolve, reject) => {
    const Constructor = window.Echo.default ?? window.Echo;
    const echo = new Constructor({
      broadcaster: 'reverb', key: 'stock', ...options, authEndpoint: channelAuthorization.endpoint,
      auth: { headers: channelAuthorization.headers },
    });
    echo.private(name).listen('.news', resolve).error(reject).subscribed(() => { document.title = echo.socketId(); });
  }), [options, channelAuthorization, name]);
  await page.waitForFunction(() => /^\d+\.\d+$/.test(document.title));
  await backend.trigger(`private-${name}`, 'news', { n: 3 });
  assert.deepEqual(await got, { n: 3 });
  await page.close();
});

test('a page of another origin than the application allows is refused for good', async () => {
  const page = await openPage('pusher-js/dist/web/pusher.min.js');
  const options = clientOptions(server, null);
  const error = await page.evaluate(options => new Promise(resolve => {
    const client = new Pusher('one-origin', options);
    client.connection.bind('error', ({ error }) => setTimeout(() => resolve([error.data.code, client.connection.state]), 0));
  }), options);
  assert.deepEqual(error, [4009, 'disconnected']);
  await page.close();
});
