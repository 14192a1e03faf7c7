import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { call, hears, online, openPage, say, startBrowser, startServer, startWire } from './harness.mjs';

let server, browser;
before(async () => {
  server = await startServer();
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const PHONE = { viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
const names = page => page.locator('#people li').allTextContents();

/** A page of the real server whose WebSocket is played by the test, for what a server says only in bad moments. */
async function staged(play, options, at, prepare) {
  const sockets = [];
  const opened = await openPage(browser, server, {
    options,
    at,
    prepare: async page => {
      await page.routeWebSocket(/.*/, socket => { sockets.push(socket); play(socket, sockets.length); });
      await prepare?.(page);
      // What a reverse proxy does that serves the chat under /chat/.
      await page.route('**/chat/**', async route => {
        const response = await route.fetch({ url: route.request().url().replace('/chat/', '/') });
        await route.fulfill({ response });
      });
    },
  });
  return { ...opened, sockets };
}
function answer(socket, people = 'User #7 (1)') {
  socket.onMessage(text => {
    if (text === '/who') socket.send(`* in lobby (${people.split(', ').length}): ${people}`);
  });
}

test('two pages chat, see names change and who is here', async () => {
  const a = await openPage(browser, server, { at: '/room/tea' });
  const b = await openPage(browser, server, { at: '/#tea' });
  await online(a.page);
  await online(b.page);
  await call(a.page, 'alice');
  await b.page.locator('#log .notice', { hasText: /^User #\d+ \(\d+\) is now alice$/ }).waitFor();
  await call(b.page, 'bob');

  await say(a.page, 'fish & chips, 1 < 2');
  await say(b.page, 'with peas: yes');
  for (const { page } of [a, b]) {
    await hears(page, 'fish & chips, 1 < 2', 'alice');
    await hears(page, 'with peas: yes', 'bob');
    await page.waitForFunction(() => [...document.querySelectorAll('#people li')].map(li => li.textContent.replace('you', '')).sort().join() === 'alice,bob');
    assert.equal(await page.locator('#log .mine').count(), 1);
  }
  await say(a.page, '/msg bob for you');
  await hears(b.page, 'for you', 'alice, to you alone');
  await hears(a.page, 'for you', 'to bob alone');

  await b.page.reload();
  await online(b.page);
  await b.page.locator('#people li', { hasText: 'bobyou' }).waitFor();
  await hears(b.page, 'fish & chips, 1 < 2', 'alice');
  assert.deepEqual([...a.complaints, ...b.complaints], []);
  await a.context.close();
  await b.context.close();
});

test('a page changes rooms, and its address with it', async () => {
  const { page, context, complaints } = await openPage(browser, server, { at: '/room/one' });
  await online(page);
  await say(page, 'left behind');
  await page.locator('#log .said').waitFor();
  await page.locator('#room').fill('two');
  await page.locator('#room').press('Enter');
  await page.waitForURL('**/room/two');
  assert.equal(await page.locator('#title').textContent(), 'two');
  assert.equal(await page.locator('#log .said').count(), 0);
  await page.goBack();
  await page.locator('#log .said', { hasText: 'left behind' }).waitFor();
  assert.equal(await page.locator('#title').textContent(), 'one');
  assert.deepEqual(complaints, []);
  await context.close();
});

test('the socket follows the address, under the prefix of a proxy too', async () => {
  for (const [at, expected] of [
    ['/', '/'], ['/#tea', '/room/tea'], ['/room/tea', '/room/tea'], ['/room/caf%C3%A9', '/room/caf%C3%A9'],
    ['/chat/', '/chat/'], ['/chat/#tea', '/chat/room/tea'], ['/chat/room/tea', '/chat/room/tea'],
  ]) {
    const address = new Promise(resolve => {
      staged(socket => resolve(socket.url()), {}, at).then(({ context }) => context.close());
    });
    assert.equal(await address, `ws://${server.host}:${server.port}${expected}`, at);
  }
});

test('a page with a token passes it on, and has the name that it says', async () => {
  const directory = await mkdtemp(path.join(tmpdir(), 'uproar-'));
  const secret = 'a secret for tests, of more than 32 bytes';
  await writeFile(path.join(directory, 'secret'), secret);
  const guarded = await startServer(['--auth-hmac-secret-file', path.join(directory, 'secret')]);
  const claims = { sub: 'ada', exp: Math.floor(Date.now() / 1000) + 3600 };
  const text = [{ alg: 'HS256' }, claims].map(part => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  const token = `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
  const { page, context, complaints } = await openPage(browser, guarded, {
    at: `/room/one?token=${token}`,
    prepare: page => page.addInitScript(() => localStorage.setItem('uproar.nick', 'somebody')),
  });
  await online(page);
  await say(page, 'hello');
  await hears(page, 'hello', 'ada');
  assert.equal(await page.locator('#name-form').isVisible(), false);
  // Another room, and all of it again after a reload.
  await page.locator('#room').fill('two');
  await page.locator('#room').press('Enter');
  await page.waitForURL(`**/room/two?token=${token}`);
  await page.reload();
  await online(page);
  assert.equal(await page.locator('#title').textContent(), 'two');
  assert.deepEqual(await names(page), ['adayou']);
  assert.deepEqual(complaints, []);
  await context.close();
  const stranger = await openPage(browser, guarded, { at: '/?token=bad' });
  await stranger.page.locator('#reason', { hasText: 'not this token' }).waitFor();
  await stranger.context.close();
  await guarded.stop();
  await rm(directory, { recursive: true });
});

test('markup from others is text', async () => {
  const evil = '<img src=x onerror="window.pwned = 1"><script>window.pwned = 1</script>';
  const a = await openPage(browser, server, { at: '/room/html' });
  await online(a.page);
  await say(a.page, `before ${evil} after`);
  const entry = a.page.locator('#log .said', { hasText: /before.*after/ });
  await entry.waitFor();

  // The server strips tags; the page must not depend on it.
  const b = await staged(socket => {
    answer(socket, `User #7 (1), ${evil}`);
    socket.send('* welcome to lobby, you are User #7 (1); /help lists the commands');
    socket.send(`alice: ${evil}`);
    socket.send(`<b>bold</b>: ${evil}`);
    socket.send(`* from bob: ${evil}`);
    socket.send(`* ${evil}`);
  });
  await hears(b.page, evil, 'alice');
  await hears(b.page, evil, '<b>bold</b>');
  await hears(b.page, evil, 'bob, to you alone');
  await hears(b.page, evil);
  await b.page.locator('#people li').nth(1).waitFor();
  for (const { page, complaints } of [a, b]) {
    assert.equal(await page.locator('body img, #log script, #log b, #people img').count(), 0);
    assert.equal(await page.evaluate(() => window.pwned), undefined);
    assert.deepEqual(complaints, []);
  }
  await a.context.close();
  await b.context.close();
});

test('a page that was cut off comes back by itself and catches up', async t => {
  const wire = await startWire(server);
  t.after(() => wire.stop());
  const a = await openPage(browser, server, { at: '/room/cut' });
  const b = await openPage(browser, wire, { at: '/room/cut' });
  await online(a.page);
  await online(b.page);
  await call(b.page, 'carol');
  await say(a.page, 'first');
  await say(a.page, 'second');
  await b.page.locator('#log .said', { hasText: 'second' }).waitFor();

  await b.page.evaluate(() => {
    window.told = new Set();
    const reason = document.querySelector('#reason');
    new MutationObserver(() => window.told.add(reason.textContent)).observe(reason, { childList: true });
  });
  wire.cut();
  await b.page.waitForFunction(() => window.told.has('The connection was lost.'));
  await say(a.page, 'while you were out');
  await a.page.locator('#log .said', { hasText: 'while you were out' }).waitFor();
  await b.page.waitForFunction(() => window.told.has('The server cannot be reached, or accepts no more connections.'));
  assert.ok(wire.refusals() > 0, 'the page tried while the wire was cut');
  wire.mend();

  await b.page.locator('#state.online').waitFor();
  await b.page.locator('#log .said', { hasText: 'while you were out' }).waitFor();
  assert.ok(await b.page.locator('#banner').isHidden());
  assert.deepEqual(await b.page.locator('#log .said p').allTextContents(), ['first', 'second', 'while you were out']);
  await b.page.locator('#people li', { hasText: 'carolyou' }).waitFor();
  await say(b.page, 'back again');
  await hears(a.page, 'back again', 'carol');
  // Chromium itself reports every connection that fails; the page may say nothing more.
  assert.deepEqual(b.complaints.filter(text => !text.startsWith('WebSocket connection to ')), []);
  assert.deepEqual(a.complaints, []);
  await a.context.close();
  await b.context.close();
});

test('what is replayed after a reconnection is not shown twice', async () => {
  const lines = (...texts) => texts.map(text => text.startsWith('* ') ? text : `alice: ${text}`);
  const gap = 'some messages may be missing here';
  for (const [first, second, shown] of [
    [lines('a', 'b', 'c'), lines('b', 'c', 'd'), ['a', 'b', 'c', 'd']],
    [lines('a', 'b', 'a'), lines('a', 'x'), ['a', 'b', 'a', 'x']],
    [lines('a', 'a', 'a'), lines('a', 'a', 'a', 'x'), ['a', 'a', 'a', 'x']],
    [lines('a', 'b'), lines('x', 'y'), ['a', 'b', gap, 'x', 'y']],
    [lines('a', '* bob is now rob', 'b'), lines('* bob is now rob', 'b', 'x'), ['a', 'bob is now rob', 'b', 'x']],
    [lines('a', 'b'), lines('a', 'b'), ['a', 'b']],
  ]) {
    const { page, context } = await staged((socket, count) => {
      socket.send('* welcome to lobby, you are User #7 (1); /help lists the commands');
      for (const line of count === 1 ? first : second) socket.send(line);
      answer(socket);
      if (count === 1) socket.close({ code: 1001 });
      else socket.send('* that was all');
    });
    await hears(page, 'that was all');
    const texts = await page.locator('#log > div').evaluateAll(entries => entries.map(entry => (entry.querySelector('p') ?? entry).textContent));
    assert.deepEqual(texts.filter(text => !/^welcome|^that was all/.test(text)), shown);
    await context.close();
  }
});

test('close codes are told in words, "Try now" does not wait, and the page tries by itself', async () => {
  const { page, context, sockets } = await staged((socket, count) => {
    answer(socket);
    socket.send('* welcome to lobby, you are User #7 (1); /help lists the commands');
    if (count === 1) socket.close({ code: 1013, reason: 'lagged' });
    if (count === 2) socket.close({ code: 1001 });
  }, {}, '/', async page => {
    // The page's time stands still, so that it does not try before it is told to.
    await page.clock.install();
    await page.clock.pauseAt(Date.now() + 1000);
    await page.addInitScript(() => { Math.random = () => .5; });
  });
  await page.locator('#reason', { hasText: 'could not keep up with the room and was closed. (lagged)' }).waitFor();
  assert.equal(await page.locator('#countdown').textContent(), 'Next try in 1 s.');
  await page.locator('#retry').click();
  await page.locator('#reason', { hasText: 'The server is going away.' }).waitFor();
  assert.equal(sockets.length, 2);
  await page.clock.runFor(2000);
  await page.locator('#state.online').waitFor();
  await page.locator('#banner').waitFor({ state: 'hidden' });
  assert.equal(sockets.length, 3);
  await context.close();
});

test('what a page asks for itself is not shown, what its user asks for is', async () => {
  const { page, context } = await staged(socket => {
    answer(socket, 'User #7 (1), alice');
    socket.send('* welcome to lobby, you are User #7 (1); /help lists the commands');
  });
  await online(page);
  assert.deepEqual(await names(page), ['User #7 (1)you', 'alice']);
  assert.equal(await page.locator('#log .notice').count(), 1);
  await say(page, '/who');
  await hears(page, 'in lobby (2): User #7 (1), alice');
  await context.close();
});

test('a remembered name that somebody else holds is given up', async () => {
  const { page, context } = await staged(socket => {
    socket.onMessage(text => {
      if (text === '/who') socket.send('* in lobby (2): User #7 (1), alice');
      if (text === '/nick alice') socket.send('* the name alice is taken');
    });
    socket.send('alice: this is another alice');
    socket.send('* welcome to lobby, you are User #7 (1); /help lists the commands');
  }, { storageState: { cookies: [], origins: [{ origin: `http://${server.host}:${server.port}`, localStorage: [{ name: 'uproar.nick', value: 'alice' }] }] } });
  await hears(page, 'the name alice is taken');
  assert.equal(await page.locator('#nick').inputValue(), '');
  assert.deepEqual(await names(page), ['User #7 (1)you', 'alice']);
  assert.equal(await page.locator('#log .mine').count(), 0);
  await context.close();
});

test('a long log is bounded, and a reader who scrolled up stays there', async () => {
  const { page, context, sockets } = await staged(socket => {
    answer(socket);
    socket.send('* welcome to lobby, you are User #7 (1); /help lists the commands');
    for (let i = 0; i < 1100; i++) socket.send(`alice: line ${i}`);
  });
  await hears(page, 'line 1099', 'alice');
  assert.equal(await page.locator('#log > div').count(), 1000);
  const atEnd = () => { const log = document.querySelector('#log'); return log.scrollHeight - log.scrollTop - log.clientHeight < 2; };
  await page.waitForFunction(atEnd);
  await page.evaluate(() => new Promise(done => {
    const log = document.querySelector('#log');
    log.addEventListener('scroll', () => requestAnimationFrame(done), { once: true });
    log.scrollTop = 5000;
  }));
  sockets[0].send('alice: news');
  await page.locator('#jump').waitFor();
  assert.equal(await page.evaluate(atEnd), false);
  await page.locator('#jump').click();
  await page.waitForFunction(atEnd);
  await page.locator('#jump').waitFor({ state: 'hidden' });
  await context.close();
});

for (const colorScheme of ['light', 'dark']) {
  test(`on a phone, ${colorScheme}: fits, and is readable`, async () => {
    const { page, context, complaints } = await staged(socket => {
      answer(socket, 'User #7 (1), alice, bob');
      socket.send('* welcome to lobby, you are User #7 (1); /help lists the commands');
      socket.send('alice: ' + 'w'.repeat(300));
      socket.send('alice: https://example.com/' + 'path/'.repeat(40));
      socket.send(`${'m'.repeat(32)}: hello`);
      socket.send('User #7 (1): my own words');
      socket.send('* from bob: between us');
      socket.send('* 12 messages missed');
    }, { ...PHONE, colorScheme });
    await hears(page, '12 messages missed');
    await online(page);
    const width = () => page.evaluate(() => [document.documentElement, document.body, document.querySelector('#log'), document.querySelector('#panel')]
      .map(element => element.scrollWidth - element.clientWidth));
    assert.deepEqual(await width(), [0, 0, 0, 0]);
    assert.ok(await page.locator('#text').evaluate(input => parseFloat(getComputedStyle(input).fontSize) >= 16));
    assert.ok(await page.locator('#composer').evaluate(form => form.getBoundingClientRect().bottom <= innerHeight));
    for (const where of ['.said:not(.mine) p', '.mine p', '.private p', '.notice', '.name', '#state', '#composer button']) {
      const contrast = await page.locator(where).first().evaluate(contrastOf);
      assert.ok(contrast >= 4.5, `${where}: ${contrast.toFixed(2)}`);
    }
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/phone-${colorScheme}.png` });
    await page.locator('#toggle').click();
    await page.locator('#people').waitFor();
    assert.ok(await page.locator('#panel').evaluate(panel => panel.getBoundingClientRect().bottom === innerHeight));
    assert.deepEqual(await width(), [0, 0, 0, 0]);
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/panel-${colorScheme}.png` });
    await page.keyboard.press('Escape');
    await page.locator('#people').waitFor({ state: 'hidden' });
    assert.deepEqual(complaints, []);
    await context.close();
  });
}

// WCAG 2 contrast of an element's text with the nearest background that is painted behind it.
function contrastOf(element) {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [[r, .2126], [g, .7152], [b, .0722]]
    .reduce((sum, [value, weight]) => sum + weight * (value <= 10 ? value / 3294 : ((value / 255 + .055) / 1.055) ** 2.4), 0);
  let behind = element;
  while (rgba(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
  const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(colour => luminance(rgba(colour)));
  return (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
}
