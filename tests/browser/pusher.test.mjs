// Tests of the page of a Pusher server.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { openPage, startBrowser, startServer, violations } from './harness.mjs';

const directory = mkdtempSync(path.join(tmpdir(), 'uproar-'));
const file = path.join(directory, 'apps.toml');
let server, browser;
before(async () => {
  // The secret is longer than a block of the hash.
  writeFileSync(file, `[[app]]\nid = "7"\nkey = "page-key"\nsecret = "${'s3cret'.repeat(12)}"\n`);
  server = await startServer(['--app', 'pusher', '--workers', '2', '--pusher-apps', file]);
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await server?.stop();
  rmSync(directory, { recursive: true });
});

const credentials = `7:page-key:${'s3cret'.repeat(12)}`;
const line = (page, text) => page.locator('#log p', { hasText: text }).last().waitFor();
const row = (page, ...cells) => page.locator('#channels tr', { hasText: cells[0] }).filter({ has: page.locator(`td:nth-child(2):text-is("${cells[1]}")`) });

async function subscribe(page, channel) {
  await page.locator('#channel').fill(channel);
  await page.locator('#channel').press('Enter');
}

test('the page subscribes, triggers events and shows channels with their counts', async () => {
  const pages = await Promise.all([0, 1].map(() => openPage(browser, server, { at: `/#${credentials}` })));
  const [{ page }, { page: other }] = pages;
  for (const { page } of pages) {
    await page.locator('#state.online').waitFor();
    assert.equal(new URL(page.url()).hash, '', 'the address no longer has the secret');
    for (const channel of ['my-channel', 'private-a', 'presence-b']) {
      await subscribe(page, channel);
      await line(page, `subscription_succeeded${channel}`);
    }
  }
  for (const channel of ['my-channel', 'private-a', 'presence-b']) await row(page, channel, 2).waitFor();
  assert.equal(await row(page, 'presence-b', 2).locator('td').nth(2).textContent(), '2');
  await page.locator('#to').fill('presence-b');
  await page.locator('#data').fill('{"message": "grüße"}');
  await page.locator('#trigger button').click();
  for (const { page } of pages) await line(page, 'my-eventpresence-b  {"message": "grüße"}');
  await other.locator('button[aria-label="Leave presence-b"]').click();
  await line(page, 'member_removed');
  await row(page, 'presence-b', 1).waitFor();
  assert.deepEqual(pages.flatMap(({ complaints }) => complaints), []);
  await Promise.all(pages.map(({ context }) => context.close()));
});

test('wrong credentials and names are explained', async () => {
  const { page, context } = await openPage(browser, server, { at: '/#7:page-key:wrong' });
  await page.locator('#problem', { hasText: '401' }).waitFor();
  await page.locator('#secret').fill('s3cret'.repeat(12));
  await page.locator('#settings button').click();
  await page.locator('#none').waitFor();
  await page.locator('#to').fill('no channel');
  await page.locator('#trigger button').click();
  await page.locator('#result', { hasText: "is no channel's name" }).waitFor();
  await page.locator('#key').fill('other');
  await page.locator('#settings button').click();
  await page.locator('#state.offline', { hasText: '4001' }).waitFor();
  await context.close();
});

test('the page connects again after the server has closed its connection', async () => {
  const { page, context } = await openPage(browser, server, { at: `/#${credentials}` });
  await page.locator('#state.online').waitFor();
  const first = await page.locator('#state').textContent();
  await subscribe(page, 'my-channel');
  await line(page, 'subscription_succeeded');
  await page.evaluate(() => socket.close());
  await page.locator('#state.online').filter({ hasNotText: first }).waitFor();
  await page.locator('#log p', { hasText: 'subscription_succeeded' }).nth(1).waitFor();
  await context.close();
});

for (const colorScheme of ['light', 'dark']) {
  test(`axe finds no accessibility problems in the page of a Pusher server, ${colorScheme}`, async () => {
    const { page, context } = await openPage(browser, server, { at: `/#${credentials}`, options: { colorScheme } });
    await page.locator('#state.online').waitFor();
    await subscribe(page, 'my-channel');
    await row(page, 'my-channel', 1).waitFor();
    assert.deepEqual(await violations(page), []);
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/pusher-${colorScheme}.png`, fullPage: true });
    await context.close();
  });
}
