import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { call, hears, online, openPage, say, startBrowser, startServer, startWire, violations } from './harness.mjs';

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
/** Waits until the page lists exactly these people. After a reload its former connection may be listed for a second. */
const lists = (page, wanted) => page.waitForFunction(
  wanted => [...document.querySelectorAll('#people li')].map(item => item.textContent).join() === wanted, wanted.join());

/** Opens the server's page with a WebSocket that the test controls, for events that a real server rarely sends. */
async function staged(play, options, at, prepare) {
  const sockets = [];
  const opened = await openPage(browser, server, {
    options,
    at,
    prepare: async page => {
      await page.routeWebSocket(/.*/, socket => { sockets.push(socket); play(socket, sockets.length); });
      await prepare?.(page);
      // Acts as a reverse proxy that serves the chat below /chat/.
      await page.route('**/chat/**', async route => {
        const response = await route.fetch({ url: route.request().url().replace('/chat/', '/') });
        await route.fulfill({ response });
      });
    },
  });
  return { ...opened, sockets };
}
/** Sends an event for this page alone, as the server does. */
const tell = (socket, event) => socket.send(Buffer.from(JSON.stringify(event)));
const LIMITS = { message: 1 << 20, private_message: 8192 };
const ME = 'User #7 (1)';
const member = (name, index) => [name === ME ? 7 : 100 + index, name];
const present = (socket, names) => tell(socket, { event: 'present', room: 'lobby', count: names.length, members: names.map(member) });
/** Welcomes the page and lists the members of its room. */
function welcome(socket, names = [ME], limits = LIMITS) {
  tell(socket, { event: 'welcome', room: 'lobby', name: ME, id: 7, limits });
  present(socket, names);
}
/** Answers /who with these names. */
function answer(socket, names) {
  socket.onMessage(text => {
    if (text === '/who') tell(socket, { event: 'people', room: 'lobby', names, count: names.length });
  });
}

test('two pages chat, and show name changes and the people in the room', async () => {
  const a = await openPage(browser, server, { at: '/room/tea' });
  const b = await openPage(browser, server, { at: '/#tea' });
  await online(a.page);
  await online(b.page);
  await call(a.page, 'alice');
  await b.page.locator('#log .notice', { hasText: /^User #\d+ is now alice$/ }).waitFor();
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
  await hears(b.page, 'for you', 'alice (private)');
  await hears(a.page, 'for you', 'to bob (private)');

  await b.page.reload();
  await online(b.page);
  await b.page.locator('#people li', { hasText: 'bobyou' }).waitFor();
  await hears(b.page, 'fish & chips, 1 < 2', 'alice');
  assert.deepEqual([...a.complaints, ...b.complaints], []);
  await a.context.close();
  await b.context.close();
});

test('changing the room changes the address of the page', async () => {
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

test('the WebSocket address follows the page address, also below a prefix of a proxy', async () => {
  for (const [at, expected] of [
    ['/', '/'], ['/#tea', '/room/tea'], ['/room/tea', '/room/tea'], ['/room/caf%C3%A9', '/room/caf%C3%A9'],
    ['/room/cafe%CC%81', '/room/caf%C3%A9'], ['/room/50%', '/room/50%25'], ['/#50%', '/room/50%25'], ['/#.', '/'], ['/#..', '/'], ['/#a/b', '/'],
    ['/chat/', '/chat/'], ['/chat/#tea', '/chat/room/tea'], ['/chat/room/tea', '/chat/room/tea'],
  ]) {
    const address = new Promise(resolve => {
      staged(socket => resolve(socket.url()), {}, at).then(({ context }) => context.close());
    });
    const [url, session] = (await address).split('&session=');
    assert.equal(url, `ws://${server.host}:${server.port}${expected}?format=json&presence=1`, at);
    assert.match(session, /^[\da-f]{32}$/);
  }
});

test('a page with a token sends it and uses the name in it', async () => {
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
  // The token is kept in another room and after a reload.
  await page.locator('#room').fill('two');
  await page.locator('#room').press('Enter');
  await page.waitForURL(`**/room/two?token=${token}`);
  await page.reload();
  await online(page);
  assert.equal(await page.locator('#title').textContent(), 'two');
  await lists(page, ['adayou']);
  assert.deepEqual(complaints, []);
  await context.close();
  const stranger = await openPage(browser, guarded, { at: '/?token=bad' });
  await stranger.page.locator('#reason', { hasText: 'refuses this token' }).waitFor();
  await stranger.context.close();
  await guarded.stop();
  await rm(directory, { recursive: true });
});

test('markup in messages is shown as text', async () => {
  const evil = '<img src=x onerror="window.pwned = 1"><script>window.pwned = 1</script>';
  const a = await openPage(browser, server, { at: '/room/html' });
  await online(a.page);
  await say(a.page, `before ${evil} after`);
  const entry = a.page.locator('#log .said', { hasText: /before.*after/ });
  await entry.waitFor();

  // The server strips tags, but the page must not depend on that.
  const b = await staged(socket => {
    welcome(socket, [ME, evil]);
    socket.send(`alice: ${evil}`);
    socket.send(`<b>bold</b>: ${evil}`);
    tell(socket, { event: 'private_from', name: 'bob', text: evil });
    tell(socket, { event: 'note', text: evil });
  });
  await hears(b.page, evil, 'alice');
  await hears(b.page, evil, '<b>bold</b>');
  await hears(b.page, evil, 'bob (private)');
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

test('a disconnected page reconnects and shows the missed messages', async t => {
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
  // Chromium reports each failed connection. The page must not report anything else.
  assert.deepEqual(b.complaints.filter(text => !text.startsWith('WebSocket connection to ')), []);
  assert.deepEqual(a.complaints, []);
  await a.context.close();
  await b.context.close();
});

test('replayed history is not shown twice after a reconnection', async () => {
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
      welcome(socket);
      for (const line of count === 1 ? first : second) socket.send(line);
        if (count === 1) socket.close({ code: 1001 });
      else tell(socket, { event: 'note', text: 'that was all' });
    });
    await hears(page, 'that was all');
    const texts = await page.locator('#log > div').evaluateAll(entries => entries.map(entry => (entry.querySelector('p') ?? entry).textContent));
    assert.deepEqual(texts.filter(text => !/^welcome|^that was all/.test(text)), shown);
    await context.close();
  }
});

test('a continued session shows no line twice and says what is lost', async () => {
  const missing = count => `${count} messages are missing here`;
  const lines = (socket, ...texts) => { for (const text of texts) socket.send(`alice: ${text}`); };
  const history = (socket, next) => tell(socket, { event: 'history', room: 'lobby', ages: [], unsent: 0, next });
  const resumed = (socket, next, missed = 0) => tell(socket, { event: 'resumed', room: 'lobby', next, missed });
  for (const [first, second, shown] of [
    // Equal lines are told apart by their numbers.
    [s => { history(s, 5); lines(s, 'a', 'a'); }, s => { resumed(s, 6); lines(s, 'a', 'a', 'a'); }, ['a', 'a', 'a', 'a']],
    [s => { history(s, 5); lines(s, 'a', 'b'); }, s => { resumed(s, 7); lines(s, 'b'); }, ['a', 'b', 'b']],
    [s => { lines(s, 'a', 'b'); history(s, 7); }, s => { resumed(s, 5); lines(s, 'a', 'b', 'b'); }, ['a', 'b', 'b']],
    // The page knows better than the server which lines it has.
    [s => { history(s, 5); lines(s, 'a', 'b'); }, s => { resumed(s, 10, 5); lines(s, 'c'); }, ['a', 'b', missing(3), 'c']],
    [s => { history(s, 5); lines(s, 'a', 'b'); }, s => { resumed(s, 7, 2); lines(s, 'c'); }, ['a', 'b', 'c']],
    [s => { history(s, 5); lines(s, 'a', 'b'); }, s => { resumed(s, 2, null); lines(s, 'b'); }, ['a', 'b', 'some messages are missing here', 'b']],
    // Without a number the lines are compared.
    [s => lines(s, 'a', 'b'), s => { resumed(s, 9); lines(s, 'b', 'c'); }, ['a', 'b', 'c']],
    // A new session begins with the history.
    [s => { history(s, 5); lines(s, 'a', 'b'); }, s => { lines(s, 'b', 'c'); history(s, 2); }, ['a', 'b', 'c']],
  ]) {
    const { page, context } = await staged((socket, count) => {
      welcome(socket);
      (count === 1 ? first : second)(socket);
      if (count === 1) socket.close({ code: 1001 });
      else tell(socket, { event: 'note', text: 'that was all' });
    });
    await hears(page, 'that was all');
    const texts = await page.locator('#log > div').evaluateAll(entries => entries.map(entry => (entry.querySelector('p') ?? entry).textContent));
    assert.deepEqual(texts.filter(text => !/^welcome|^that was all/.test(text)), shown);
    await context.close();
  }
});

test('a page has every line once after a hundred cuts', async t => {
  const wire = await startWire(server);
  t.after(() => wire.stop());
  const a = await openPage(browser, server, { at: '/room/cuts' });
  const b = await openPage(browser, wire, { at: '/room/cuts' });
  await online(a.page);
  await online(b.page);
  const speak = (page, text) => page.evaluate(text => say(text), text);
  for (let cut = 0; cut < 100; cut++) {
    // Equal lines, which only their numbers tell apart.
    await speak(a.page, `${cut % 3}`);
    wire.cut();
    await speak(a.page, `${cut % 2}`);
    wire.mend();
    await b.page.waitForFunction(() => { retryNow(); return document.querySelector('#state.online'); });
    // The server lets a page send 20 messages a second.
    if (cut % 5 === 0) await new Promise(resolve => setTimeout(resolve, 300));
  }
  await speak(a.page, 'the end');
  const texts = page => page.locator('#log .said p').allTextContents();
  for (const { page } of [a, b]) await page.locator('#log .said', { hasText: 'the end' }).waitFor();
  assert.deepEqual(await texts(b.page), await texts(a.page));
  assert.equal((await texts(b.page)).length, 201);
  assert.equal(await b.page.locator('#log .notice', { hasText: 'missing' }).count(), 0);
  await a.context.close();
  await b.context.close();
});

test('close codes are explained, "Try now" reconnects at once, and the page also retries by itself', async () => {
  const { page, context, sockets } = await staged((socket, count) => {
    welcome(socket);
    if (count === 1) socket.close({ code: 1013, reason: 'lagged' });
    if (count === 2) socket.close({ code: 1001 });
  }, {}, '/', async page => {
    // The page's clock is stopped, so that it retries only when the test advances the clock.
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

test('the page asks when the server is silent, hides the answer, and closes a connection without an answer', async () => {
  const asked = [];
  const { page, context, sockets } = await staged((socket, count) => {
    welcome(socket, [ME, 'alice']);
    socket.onMessage(text => {
      asked.push([count, text]);
      // The server stops answering after its first answer.
      if (asked.length > 1) return;
      tell(socket, { event: 'people', room: 'lobby', names: [ME, 'alice'], count: 2 });
    });
  }, {}, '/', async page => {
    await page.clock.install();
    await page.clock.pauseAt(Date.now() + 1000);
    await page.addInitScript(() => { Math.random = () => .5; });
  });
  await online(page);
  const wait = async seconds => { for (let i = 0; i < seconds; i++) await page.clock.runFor(1000); };
  await wait(15);
  sockets[0].send('alice: hello');
  await hears(page, 'hello', 'alice');
  await wait(7);
  assert.deepEqual(asked, [], 'a message shows that the connection works');
  await wait(19);
  assert.deepEqual(asked, [[1, '/who']]);
  await wait(20);
  assert.deepEqual(asked, [[1, '/who'], [1, '/who']]);
  assert.equal(await page.locator('#log .notice').count(), 1);
  await wait(20);
  await page.locator('#reason', { hasText: 'The server stopped answering.' }).waitFor({ state: 'attached' });
  await wait(2);
  await page.locator('#state.online').waitFor();
  assert.equal(sockets.length, 2);
  await context.close();
});

test('the list of people follows the presence events of the room', async () => {
  const { page, context, sockets } = await staged(socket => {
    answer(socket, [ME, 'alice']);
    welcome(socket, [ME, 'bob', 'alice']);
  });
  await online(page);
  assert.deepEqual(await names(page), ['User #7you', 'alice', 'bob']);
  const change = (count, joined, left, room = 'lobby') => tell(sockets[0], { event: 'presence', room, count, joined, left });
  const shows = async (wanted, count) => {
    await lists(page, wanted);
    assert.equal(await page.locator('#here').textContent(), `Here now (${count})`);
  };
  change(3, [[5, 'eve'], [102, 'alicia']], [101]);
  await shows(['User #7you', 'alicia', 'eve'], 3);
  // Another room, from which the page has moved, and a member that the page does not know.
  change(9, [[8, 'stranger']], [5], 'tea');
  change(1000, [[102, 'alice']], [4, 5]);
  await shows(['User #7you', 'alice', 'and 998 more'], 1000);
  // The line of a name change and its presence event come in any order.
  sockets[0].send('* alice is now bob');
  await hears(page, 'alice is now bob');
  change(2, [[102, 'bob']], []);
  await shows(['User #7you', 'bob'], 2);
  sockets[0].send(`* ${ME} is now carol`);
  await shows(['carolyou', 'bob'], 2);
  change(2, [[7, 'carol']], []);
  // A list without the page's own member, as at the beginning, when others came at the same time.
  tell(sockets[0], { event: 'present', room: 'lobby', count: 1, members: [[102, 'bob']] });
  await shows(['carolyou', 'bob'], 2);
  await say(page, '/who');
  await hears(page, 'in lobby (2): User #7, alice');
  await context.close();
});

test('a page sees silent members come, change their names and leave', async () => {
  // The page's timers stand still, so that it learns nothing by asking from time to time.
  const a = await openPage(browser, server, {
    at: '/room/silent',
    prepare: async page => {
      await page.clock.install();
      await page.clock.pauseAt(Date.now() + 1000);
    },
  });
  await online(a.page);
  const listed = text => a.page.locator('#people li').filter({ hasText: text });
  // A client without the page, on a page of another room.
  const b = await openPage(browser, server, { at: '/room/other' });
  await online(b.page);
  const welcome = await b.page.evaluate(() => new Promise(done => {
    window.silent = new WebSocket(`ws://${location.host}/room/silent`);
    window.silent.onmessage = event => done(event.data);
  }));
  const name = /you are (User #\d+)/.exec(welcome)[1];
  await listed(name).waitFor({ state: 'attached' });
  await b.page.evaluate(() => window.silent.send('/nick hush'));
  await listed('hush').waitFor({ state: 'attached' });
  assert.equal(await listed(name).count(), 0);
  await b.page.evaluate(() => window.silent.close());
  await listed('hush').waitFor({ state: 'detached' });
  await say(b.page, '/join silent');
  const other = await b.page.locator('#people li', { hasText: 'you' }).textContent();
  await listed(other.replace('you', '')).waitFor({ state: 'attached' });
  await b.context.close();
  await listed(other.replace('you', '')).waitFor({ state: 'detached' });
  assert.deepEqual(a.complaints, []);
  await a.context.close();
});

test('a remembered name that another user has is given up', async () => {
  const { page, context } = await staged(socket => {
    socket.onMessage(text => {
      if (text === '/nick alice') tell(socket, { event: 'taken', name: 'alice' });
    });
    socket.send('alice: this is another alice');
    welcome(socket, [ME, 'alice']);
  }, { storageState: { cookies: [], origins: [{ origin: `http://${server.host}:${server.port}`, localStorage: [{ name: 'uproar.nick', value: 'alice' }] }] } });
  await hears(page, 'the name alice is taken');
  assert.equal(await page.locator('#nick').inputValue(), '');
  assert.deepEqual(await names(page), ['User #7you', 'alice']);
  assert.equal(await page.locator('#log .mine').count(), 0);
  await context.close();
});

test('the log is limited, and a reader who scrolled up stays in place', async () => {
  const { page, context, sockets } = await staged(socket => {
    welcome(socket);
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
  test(`the chat fits on a phone and is readable, ${colorScheme}`, async () => {
    const { page, context, complaints } = await staged(socket => {
      welcome(socket, [ME, 'alice', 'bob']);
      socket.send('alice: ' + 'w'.repeat(300));
      socket.send('alice: https://example.com/' + 'path/'.repeat(40));
      socket.send(`${'m'.repeat(32)}: hello`);
      socket.send('User #7 (1): my own words');
      tell(socket, { event: 'private_from', name: 'bob', text: 'between us' });
      tell(socket, { event: 'missed', count: 12 });
    }, { ...PHONE, colorScheme });
    await hears(page, '12 messages missed');
    await online(page);
    const width = () => page.evaluate(() => [document.documentElement, document.body, document.querySelector('#log'), document.querySelector('#panel')]
      .map(element => element.scrollWidth - element.clientWidth));
    assert.deepEqual(await width(), [0, 0, 0, 0]);
    assert.ok(await page.locator('#text').evaluate(input => parseFloat(getComputedStyle(input).fontSize) >= 16));
    assert.ok(await page.locator('#composer').evaluate(form => form.getBoundingClientRect().bottom <= innerHeight));
    for (const where of ['.said:not(.mine) p', '.mine p', '.private p', '.notice', '.name', '.said time', '.said a', '#state', '#composer button']) {
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

test('history has the times at which the messages were sent', async () => {
  const minutes = 60_000;
  const clock = at => new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  const { page, context, sockets } = await staged(socket => {
    welcome(socket);
    socket.send('alice: one');
    socket.send('* alice is now bob');
    socket.send('bob: two');
    // Two of three lines have arrived before the ages. The last of five arrives after them.
    tell(socket, { event: 'history', room: 'lobby', ages: [9000, 7200, 7000, 3600, 1800], unsent: 1 });
    socket.send('bob: three');
    socket.send('bob: four');
  }, { locale: 'en-GB', timezoneId: 'UTC' });
  await hears(page, 'four', 'bob');
  const times = await page.locator('.said time').evaluateAll(times => times.map(time => [time.dateTime, time.textContent]));
  const ages = times.map(([at]) => Math.round((Date.now() - new Date(at)) / minutes));
  assert.deepEqual(ages, [120, 60, 30, 0]);
  assert.match(times[3][1], /^\d\d:\d\d$/);
  // Two pages of the real server show the same time.
  const real = await openPage(browser, server, { at: '/room/times' });
  await online(real.page);
  await say(real.page, 'early');
  await real.page.locator('.said').waitFor();
  await new Promise(done => setTimeout(done, 2500));
  const late = await openPage(browser, server, { at: '/room/times' });
  await late.page.locator('.said', { hasText: 'early' }).waitFor();
  await late.page.waitForFunction(() => Date.now() - new Date(document.querySelector('.said time').dateTime) > 1500);
  const [first, second] = await Promise.all([real, late].map(({ page }) => page.locator('.said time').getAttribute('datetime')));
  assert.ok(Math.abs(new Date(first) - new Date(second)) < 2000, `${first} ${second}`);
  assert.equal(clock(first).length > 0 && sockets.length, 1);
  for (const opened of [real, late, { context }]) await opened.context.close();
});

test('messages are shown with links, line breaks and their own text direction', async () => {
  const { page, context, complaints } = await staged(socket => {
    welcome(socket);
    for (const text of [
      'see https://example.org/a?b=c#d, and http://x.example/(y) (https://example.org/z).',
      'no links: javascript:alert(1) data:text/html,x ftp://example.org HTTPS:// www.example.org',
      'first ⏎ second ⏎  ⏎ fourth',
      'שלום world',
    ]) socket.send(`alice: ${text}`);
  });
  await hears(page, 'שלום world', 'alice');
  const links = await page.locator('#log a').evaluateAll(links => links.map(link => [link.href, link.textContent, link.rel, link.target]));
  assert.deepEqual(links, ['https://example.org/a?b=c#d', 'http://x.example/(y)', 'https://example.org/z']
    .map(url => [url, url, 'noopener noreferrer', '_blank']));
  await hears(page, 'first\nsecond\n\nfourth', 'alice');
  assert.deepEqual(await page.locator('.said p').evaluateAll(bodies => bodies.map(body => getComputedStyle(body).direction)), ['ltr', 'ltr', 'ltr', 'rtl']);
  assert.deepEqual(complaints, []);
  await context.close();
});

test('Shift+Enter begins a new line, Enter sends', async () => {
  const a = await openPage(browser, server, { at: '/room/lines' });
  const b = await openPage(browser, server, { at: '/room/lines' });
  await online(a.page);
  await online(b.page);
  await call(a.page, 'writer');
  await a.page.locator('#text').pressSequentially('roses are red');
  await a.page.locator('#text').press('Shift+Enter');
  await a.page.locator('#text').pressSequentially('  violets are blue');
  assert.equal(await a.page.locator('#log .said').count(), 0);
  await a.page.locator('#text').press('Enter');
  for (const { page } of [a, b]) await hears(page, 'roses are red\n  violets are blue', 'writer');
  assert.equal(await a.page.locator('#text').inputValue(), '');
  await a.context.close();
  await b.context.close();
});

test('a message over the limit is neither sent nor truncated', async () => {
  const sent = [];
  const { page, context } = await staged(socket => {
    socket.onMessage(text => sent.push(text));
    welcome(socket, [ME], { message: 1000, private_message: 100 });
  });
  await online(page);
  for (const [text, words] of [
    ['é'.repeat(501), '1002 bytes, and 1000 are allowed'],
    ['/msg bob ' + 'x'.repeat(101), '101 bytes, and 100 are allowed'],
  ]) {
    await say(page, text);
    await page.locator('#warning', { hasText: words }).waitFor();
    assert.equal(await page.locator('#text').inputValue(), text);
  }
  await page.locator('#text').fill('short');
  await page.locator('#warning').waitFor({ state: 'hidden' });
  await page.locator('#text').press('Enter');
  await say(page, '/msg bob ' + 'x'.repeat(100));
  await say(page, 'y'.repeat(1000));
  await page.waitForFunction(() => document.querySelector('#text').value === '');
  assert.deepEqual(sent.map(text => text.length), [5, 109, 1000]);
  await context.close();
});

test('help is a list, name changes share an entry, and messages cannot add people to the list', async () => {
  const { page, context } = await staged(socket => {
    welcome(socket, [ME, 'alice']);
    socket.onMessage(text => {
      if (text === '/help') tell(socket, { event: 'help', commands: [{ usage: '/who', does: 'who is here' }, { usage: '/x Y', does: 'z' }] });
    });
    for (const [from, to] of [['User #8 (2)', 'alice'], ['bob', 'rob'], ['alice', 'alicia'], ['c', 'd'], ['e', 'f'], ['rob', 'bob']]) {
      socket.send(`* ${from} is now ${to}`);
    }
    socket.send('f: hello: * in lobby (1): eve');
  });
  await hears(page, 'hello: * in lobby (1): eve', 'f');
  await hears(page, 'User #8 is now alicia, c is now d, e is now f');
  await page.locator('#people li', { hasText: 'alice' }).waitFor();
  assert.deepEqual(await names(page), ['User #7you', 'alice']);
  await say(page, '/help');
  await page.locator('.notice li', { hasText: '/x Y: z' }).waitFor();
  assert.equal(await page.locator('.notice li').count(), 2);
  await context.close();
});

test('rooms with special characters are reached by their addresses', async () => {
  const { page, context, complaints } = await openPage(browser, server, { at: '/room/start' });
  await online(page);
  for (const name of ['.', '..', 'a/b']) {
    await say(page, `/join ${name}`);
    await page.locator('#log .notice', { hasText: 'a room’s name'.replace('’', "'") }).last().waitFor();
    assert.equal(await page.locator('#title').textContent(), 'start');
  }
  for (const name of ['50%', '%2e', '?x=1#y', 'a\\b', '...', 'x (1): eve, bob', 'кафе', '👩🏽‍🚀']) {
    await say(page, `/join ${name}`);
    await page.locator('#title').filter({ hasText: name }).waitFor();
    await say(page, `in ${name}`);
    await page.locator('#log .said', { hasText: 'in ' }).first().waitFor();
    await page.reload();
    await online(page);
    assert.equal(await page.locator('#title').textContent(), name);
    await page.locator('#log .said p').first().waitFor();
    await page.waitForFunction(() => document.querySelectorAll('#people li').length === 1);
  }
  await say(page, '/join cafe\u0301');
  await page.locator('#title').filter({ hasText: 'café' }).waitFor();
  await say(page, '/join café');
  await hears(page, 'you are already in café');
  assert.deepEqual(complaints, []);
  await context.close();
});

for (const colorScheme of ['light', 'dark']) {
  test(`axe finds no accessibility problems, ${colorScheme}`, async () => {
    const { page, context } = await staged(socket => {
      welcome(socket, [ME, 'alice', 'שלום']);
      socket.send('alice: https://example.org/ and more');
      socket.send(`${ME}: mine`);
      socket.send('* alice is now bob');
      tell(socket, { event: 'private_from', name: 'bob', text: 'between us' });
      tell(socket, { event: 'help', commands: [{ usage: '/who', does: 'who is here' }] });
    }, { colorScheme });
    await online(page);
    await page.locator('.notice li').waitFor();
    assert.deepEqual(await violations(page), []);
    await page.setViewportSize({ width: 360, height: 640 });
    await say(page, 'x'.repeat(9000));
    await page.locator('#warning').waitFor();
    assert.deepEqual(await violations(page), []);
    await page.locator('#toggle').click();
    assert.deepEqual(await violations(page), []);
    await context.close();
  });
}

// Returns the WCAG 2 contrast of an element's text with the nearest opaque background behind it.
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
