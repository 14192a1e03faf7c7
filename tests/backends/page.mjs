// Tests the examples for backends: page.mjs UPROAR PAGES, with the URLs of the server and of PHP's pages.
//
// Two browsers show the page of PHP. A form sent in one of them appears in both. Then PHP, Node.js and Python make all their calls,
// and both browsers show what was published.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { openPage, startBrowser } from '../browser/harness.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const [uproar, pages] = process.argv.slice(2).map(url => new URL(url));
const address = { host: pages.hostname, port: Number(pages.port) };
const line = (page, text) => page.locator('#lines li').filter({ hasText: text });
const user = async page => (await page.locator('h1').textContent()).replace('Hello ', '');
const run = async (...command) => JSON.parse((await promisify(execFile)(command[0], command.slice(1))).stdout);

/** Returns the status of a WebSocket handshake with a token. */
async function handshake(token) {
  const headers = { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAAAA==' };
  const request = http.get(new URL(`/room/garden?token=${token}`, uproar), { headers });
  const [response] = await Promise.race([once(request, 'upgrade'), once(request, 'response')]);
  response.socket.destroy();
  return response.statusCode;
}

async function checkForm(ada, bob) {
  // Chromium enters the room by the page's WebSocket.
  await line(ada.page, 'welcome to garden').waitFor();
  await line(bob.page, 'welcome to garden').waitFor();
  const [name, other] = [await user(ada.page), await user(bob.page)];
  assert.notEqual(name, other);
  const text = '<b>fish</b> & chips, 1 < 2';
  await ada.page.locator('input').fill(text);
  await ada.page.locator('button').click();
  // The server removes the tags.
  for (const { page } of [ada, bob]) await line(page, `${name}: fish & chips, 1 < 2`).waitFor();
  // Without JavaScript the form is sent as a page.
  const response = await bob.page.request.post(pages.href, { form: { text: 'an ordinary form' } });
  assert.equal(response.status(), 200);
  assert.match(await response.text(), new RegExp(`<h1>Hello ${other}</h1>`));
  for (const { page } of [ada, bob]) await line(page, `${other}: an ordinary form`).waitFor();
  assert.equal(await ada.page.locator('#lines b').count(), 0);
}

async function checkCalls(ada, bob) {
  const [name, other] = [await user(ada.page), await user(bob.page)];
  const scripts = [['php', 'check.php'], ['node', 'check.mjs'], ['python3', 'check.py']];
  const parts = [];
  for (const [program, script] of scripts) parts.push(await run(program, path.join(here, script), name));
  const { 'without a key': withoutKey, 'without a server': withoutServer, ...results } = Object.assign({}, ...parts);
  assert.deepEqual(Object.keys(results).sort(), ['node', 'php', 'python', 'yii']);
  for (const [from, result] of Object.entries(results)) {
    assert.equal(typeof result.published.number, 'number', from);
    assert.deepEqual([result.sent, result.nobody, result.genuine, result.forged], [1, 0, true, false], from);
    assert.deepEqual(result.members.sort(), [name, other].sort(), from);
    assert.match(result.error, /^.+\. .+\.$/, from);
    assert.equal(await handshake(result.token), 101, from);
    for (const { page } of [ada, bob]) await line(page, `* from ${from} & co`).waitFor();
    await line(ada.page, `* only for you from ${from}`).waitFor();
    assert.equal(await line(bob.page, `only for you from ${from}`).count(), 0, from);
  }
  for (const from of ['php', 'yii']) await line(bob.page, `somebody: as somebody from ${from}`).waitFor();
  assert.equal(await handshake('wrong'), 401);
  assert.match(withoutKey, /set "key"/);
  assert.match(withoutServer, /No answer from http:\/\/127\.0\.0\.1:1\. Is uproar running\?/);
}

async function checkWebhook() {
  const { WEBHOOK_BODY: body, WEBHOOK_SIGNATURE: signature } = process.env;
  for (const [given, status] of [[signature, 204], [signature.replace(/.$/, 'x'), 403], ['', 403]]) {
    const headers = { 'Content-Type': 'application/json', 'Uproar-Signature': given };
    const response = await fetch(new URL('/webhook.php', pages), { method: 'POST', headers, body });
    assert.equal(response.status, status, given);
  }
}

const browser = await startBrowser();
try {
  const [ada, bob] = await Promise.all([openPage(browser, address), openPage(browser, address)]);
  await checkForm(ada, bob);
  await checkCalls(ada, bob);
  await checkWebhook();
  assert.deepEqual([...ada.complaints, ...bob.complaints], []);
} finally {
  await browser.close();
}
console.log('    the page of PHP in Chromium, and all calls from PHP, Yii, Node.js and Python: passed');
