// Tests of the form of the admin listener that asks for the token.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { openPage, startBrowser, startServer, violations } from './harness.mjs';

const token = 'form-token+0123456789&=%';
const directory = mkdtempSync(path.join(tmpdir(), 'uproar-'));
const file = path.join(directory, 'token');
let server, browser;
before(async () => {
  writeFileSync(file, `${token}\n`);
  server = await startServer(['--admin', '127.0.0.1:0', '--admin-token-file', file]);
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await server?.stop();
  rmSync(directory, { recursive: true });
});

async function logIn(page, token) {
  await page.locator('#token').fill(token);
  await page.locator('#token').press('Enter');
}

test('the form takes the token, and a new token brings the form back', async () => {
  const { page, context, complaints } = await openPage(browser, server.admin);
  await logIn(page, 'wrong-token-0123456789');
  await page.locator('.bad', { hasText: 'This is not the token' }).waitFor();
  await logIn(page, token);
  await page.locator('#state.live').waitFor();
  assert.equal(new URL(page.url()).pathname, '/');
  const [cookie, ...others] = await context.cookies();
  assert.deepEqual([others, cookie.httpOnly, cookie.sameSite, cookie.path], [[], true, 'Strict', '/']);
  assert.equal(await page.evaluate(() => document.cookie), '');
  await page.reload();
  await page.locator('#state.live').waitFor();
  writeFileSync(file, 'another-token-0123456789');
  server.signal('SIGHUP');
  await page.locator('#token').waitFor();
  await logIn(page, 'another-token-0123456789');
  await page.locator('#state.live').waitFor();
  writeFileSync(file, token);
  server.signal('SIGHUP');
  await page.locator('#token').waitFor();
  // The browser reports each 401 response, and nothing else may be wrong.
  assert.deepEqual(complaints.filter(text => !text.includes('401 (Unauthorized)')), []);
  await context.close();
});

for (const colorScheme of ['light', 'dark']) {
  test(`axe finds no accessibility problems in the form, ${colorScheme}`, async () => {
    const { page, context } = await openPage(browser, server.admin, { options: { colorScheme } });
    await logIn(page, 'wrong');
    await page.locator('.bad').waitFor();
    assert.deepEqual(await violations(page), []);
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/login-${colorScheme}.png` });
    await context.close();
  });
}
