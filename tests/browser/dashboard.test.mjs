import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { hears, online, openPage, say, startBrowser, startServer } from './harness.mjs';

let server, browser;
before(async () => {
  server = await startServer(['--admin', '127.0.0.1:0', '--workers', '2']);
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const text = (page, selector) => page.locator(selector).textContent();
/** Waits until the text of an element matches a pattern. */
const says = (page, selector, pattern) => page.waitForFunction(
  ([selector, source]) => new RegExp(source).test(document.querySelector(selector)?.textContent ?? ''),
  [selector, pattern.source],
);

test('the dashboard shows current values and requests only the metrics', async () => {
  const asked = new Set();
  const { page, context, complaints } = await openPage(browser, server.admin, {
    prepare: page => page.on('request', request => {
      // The icon is a data URL in the page.
      if (!request.url().startsWith('data:')) asked.add(request.url());
    }),
  });
  await says(page, '#state', /^live$/);
  await says(page, '#connections .value', /^0$/);
  await says(page, '#what', /^\d+\.\d+\.\d+ on (epoll|io-uring), for \d+/);
  assert.equal(await page.locator('#shards tr').count(), 2);

  const chat = await openPage(browser, server, { at: '/room/watched' });
  await online(chat.page);
  await says(page, '#connections .value', /^1$/);
  await say(chat.page, 'see me counted');
  await hears(chat.page, 'see me counted', (await text(chat.page, '#log .mine .name')).trim());
  await says(page, '#per-send .value', /^[\d.]+$/);
  await says(page, '#latency .value', /^[\d.]+ (µs|ms|s)$/);
  await says(page, '#turn .value', /^[\d.]+ (µs|ms|s)$/);
  await says(page, '#resident .value', /^[\d.]+ MiB$/);
  await says(page, '#memory tr:first-child td:last-child', /^[\d.]+ (B|KiB)$/);
  await page.waitForFunction(() => document.querySelector('#connections path:not(.second)').getAttribute('d').includes('L'));
  await chat.context.close();
  await says(page, '#connections .value', /^0$/);
  await says(page, '#closes', /100[0-9]/);

  const home = `http://${server.admin.host}:${server.admin.port}`;
  assert.deepEqual([...asked].sort(), [`${home}/`, `${home}/metrics`]);
  assert.deepEqual(complaints, []);
  if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/dashboard.png`, fullPage: true });
  await context.close();
});

/** Opens the dashboard with metrics from the test. */
async function staged(answer, options) {
  return openPage(browser, server.admin, {
    options,
    prepare: page => page.route('**/metrics', route => answer(route)),
  });
}
const METRICS = ({ seconds, started = 1000, age = 0, draining = 0 }) => `
uproar_info{version="9.8.7",backend="epoll"} 1
uproar_draining ${draining}
uproar_connections_limit 2000000
uproar_connections{shard="0",state="open"} 1234567
uproar_turns_total{shard="0"} ${seconds}
uproar_turn_age_seconds{shard="0"} ${age}
uproar_received_messages_total{shard="0"} ${5 * seconds}
uproar_deliveries_total{shard="0"} ${600 * seconds}
uproar_sends_total{shard="0"} ${200 * seconds}
uproar_send_latency_seconds_bucket{shard="0",le="0.001"} ${90 * seconds}
uproar_send_latency_seconds_bucket{shard="0",le="0.002"} ${100 * seconds}
uproar_send_latency_seconds_bucket{shard="0",le="+Inf"} ${100 * seconds}
uproar_refused_total{shard="0",reason="<b>bold</b>"} 3
process_resident_memory_bytes 1610612736
process_cpu_seconds_total ${seconds / 2}
process_start_time_seconds ${started}
`;

test('quantiles, ratios and units are right, and labels are shown as text', async () => {
  let seconds = 0;
  const { page, context, complaints } = await staged(route => route.fulfill({ body: METRICS({ seconds: ++seconds }) }));
  await says(page, '#latency .value', /^1\.9 ms$/);
  await says(page, '#latency .note', /^p50 556 µs/);
  await says(page, '#per-send .value', /^3$/);
  await says(page, '#connections .value', /^1\.23 M$/);
  await says(page, '#connections .note', /of 2 M allowed/);
  await says(page, '#resident .value', /^1\.5 GiB$/);
  assert.equal(await text(page, '#refused td:first-child'), '<b>bold</b>');
  assert.equal(await page.locator('#refused b').count(), 0);
  assert.deepEqual(complaints, []);
  await context.close();
});

test('the dashboard reports a hung shard, a draining server, a lost server and a restarted one', async () => {
  let seconds = 0;
  let now = { age: 7 };
  const { page, context } = await staged(route => now
    ? route.fulfill({ body: METRICS({ seconds: ++seconds, ...now }) })
    : route.abort());
  await says(page, '#state.bad', /^shard 0 hangs$/);
  await page.locator('#shards .hung', { hasText: 'hangs for 7 s' }).waitFor();
  now = { draining: 1 };
  await says(page, '#state', /^draining$/);
  assert.equal(await page.locator('#shards .hung').count(), 0);
  now = null;
  await says(page, '#state.lost', /^the server does not answer$/);
  // After a restart the counters are lower. No rate may be negative.
  seconds = 0;
  now = { started: 2000 };
  await says(page, '#state.live', /^live$/);
  const pattern = /-/;
  for (let response = 0; response < 3; response++) {
    const before = seconds;
    await page.waitForResponse('**/metrics');
    assert.ok(!pattern.test(await text(page, '#cards')), `after ${before} responses`);
  }
  await context.close();
});

for (const colorScheme of ['light', 'dark']) {
  test(`the dashboard fits on a phone, ${colorScheme}`, async () => {
    const phone = { viewport: { width: 360, height: 640 }, isMobile: true, deviceScaleFactor: 2, colorScheme };
    let seconds = 0;
    const { page, context } = await staged(route => route.fulfill({ body: METRICS({ seconds: ++seconds }) }), phone);
    await says(page, '#latency .value', /ms$/);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0);
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/dashboard-${colorScheme}.png`, fullPage: true });
    await context.close();
  });
}
