/** The pages, as a browser without scripts uses them: every link leads somewhere, every form does what its button says. */
import { createHash } from 'node:crypto';
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DialectRig, MiB } from '../../../test/support/dialect-rig.ts';
import { DeltacloudClient } from './testing/client.ts';

let rig: DialectRig;
let client: DeltacloudClient;
let volume: string;
let snapshot: string;
let image: string;
let instance: string;
let origin: string;

const nasty = `<script>alert("x")</script> & 'quotes'`;
const browser = {
  accept: 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8',
  'sec-fetch-site': 'same-origin',
};
const unpaired = ['meta', 'input', 'wbr'];

beforeAll(async () => {
  rig = await DialectRig.start();
  client = new DeltacloudClient(rig);
  origin = rig.origin('deltacloud');
  volume = await client.volume({ name: nasty, description: nasty });
  snapshot = await client.snapshot(volume, { name: nasty, description: nasty });
  const machine = await rig.machine(nasty, [(await rig.drive('root', MiB)).id]);
  instance = `inst-${machine.number.toString(16)}`;
  const taken = await rig.snapshot({ machineId: machine.id });
  const made = await rig.native('POST', '/images', { snapshotId: taken.id, name: nasty, description: nasty });
  image = `img-${made.image.number.toString(16)}`;
});
afterAll(() => rig[Symbol.asyncDispose]());

const page = async (path: string, status = 200): Promise<string> => {
  const answer = await client.get(path, browser);
  expect([answer.status, answer.headers['content-type']], path).toEqual([status, 'text/html']);
  return answer.text;
};

interface Form {
  readonly action: string;
  readonly method: string;
  readonly fields: Record<string, string>;
  readonly buttons: readonly string[];
}

const unescapeHtml = (text: string): string =>
  text.replace(
    /&(amp|lt|gt|quot|#39);/g,
    (_, name: string) => ({ amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'" })[name] ?? '',
  );
const attribute = (tag: string, name: string): string | undefined => {
  const value = new RegExp(` ${name}="([^"]*)"`).exec(tag)?.[1];
  return value === undefined ? undefined : unescapeHtml(value);
};

/** The forms of a page with what their fields hold. */
function formsOf(text: string): Form[] {
  return [...text.matchAll(/<form[^>]*>.*?<\/form>/gs)].map(([whole]) => {
    const fields: Record<string, string> = {};
    for (const [tag] of whole.matchAll(/<input[^>]*>/g))
      fields[attribute(tag, 'name') ?? ''] = attribute(tag, 'value') ?? '';
    for (const [tag] of whole.matchAll(/<select.*?<\/select>/gs)) {
      const options = [...tag.matchAll(/<option[^>]*>/g)].map(([option]) => option);
      const chosen = options.find((option) => option.includes(' selected')) ?? options[0] ?? '';
      fields[attribute(tag, 'name') ?? ''] = attribute(chosen, 'value') ?? '';
    }
    const buttons = [...whole.matchAll(/<button[^>]*>([^<]*)<\/button>/g)].map(([, label = '']) => label);
    return { action: attribute(whole, 'action') ?? '', method: attribute(whole, 'method') ?? '', fields, buttons };
  });
}

/** Presses a button, and follows where it leads. */
async function press(path: string, button: string, fields: Record<string, string> = {}): Promise<string> {
  const form = formsOf(await page(path)).find((each) => each.buttons.includes(button));
  if (form === undefined) throw new Error(`${path} has no button ${button}`);
  expect(form.method).toBe('post');
  const answer = await client.post(form.action.slice(origin.length), { ...form.fields, ...fields }, browser);
  if (answer.status !== 303) {
    expect(answer.status, answer.text).toBeLessThan(300);
    return answer.text;
  }
  return page(String(answer.headers.location).slice(origin.length));
}

function assertAccessible(text: string): void {
  const [, rest = ''] = text.split('<!DOCTYPE html>\n');
  // Well-formed, but for tags that HTML does not close.
  const checked = XMLValidator.validate(rest, { allowBooleanAttributes: true, unpairedTags: unpaired });
  expect(checked, text).toBe(true);
  expect(() =>
    new XMLParser({ unpairedTags: unpaired, ignoreAttributes: false, allowBooleanAttributes: true }).parse(rest),
  ).not.toThrow();
  expect(text).toContain('<html lang="en">');
  expect(text).toContain('<title>Deltacloud API 1.1.3</title>');
  expect(text).toContain('name="viewport"');
  for (const tag of ['h1', 'main', 'header', 'footer'])
    expect(text.split(`<${tag}`), `one ${tag}: ${text}`).toHaveLength(2);
  expect(text).toContain('<a class="skip" href="#content">');
  expect(text).toContain('<main id="content">');
  for (const [tag] of text.matchAll(/<(?:input|select)[^>]*>/g)) {
    if (attribute(tag, 'type') === 'hidden') continue;
    expect(text).toContain(`<label for="${attribute(tag, 'id')}">`);
    const described = attribute(tag, 'aria-describedby');
    if (described !== undefined) expect(text).toContain(`id="${described}"`);
  }
  const ids = [...text.matchAll(/ id="([^"]*)"/g)].map(([, id]) => id);
  expect(new Set(ids).size).toBe(ids.length);
  for (const [, before = '', caption = ''] of text.matchAll(/([^\n]*)<table>\n<caption>([^<]*)/g)) {
    // One that is wider than the window is scrolled by keyboard, too, and says what it is.
    expect(before).toMatch(/<div class="scroll" role="region" aria-label="[^"]+" tabindex="0">$/);
    expect(before).toContain(`aria-label="${caption}"`);
  }
  for (const [table] of text.matchAll(/<table>.*?<\/table>/gs)) {
    expect(table).toContain('<caption>');
    expect(table).toContain('<th scope="col">');
    expect(table).toContain('<th scope="row">');
  }
}

describe('every page', () => {
  it('can be reached by links from the first one; none of them is dead; all are accessible and harmless', async () => {
    const seen = new Set<string>();
    const waiting = ['/'];
    for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
      if (seen.has(path)) continue;
      seen.add(path);
      const answer = await client.get(path, browser);
      expect(answer.status, path).toBe(200);
      if (answer.headers['content-type'] !== 'text/html') continue;
      assertAccessible(answer.text);
      expect(answer.text).not.toMatch(/<script|<img|<link| on\w+=| src=| style=/);
      expect(answer.text).not.toContain('undefined');
      for (const [, href = ''] of answer.text.matchAll(/ href="([^"#]+)"/g)) {
        const target = unescapeHtml(href);
        expect(target.startsWith(origin), target).toBe(true);
        waiting.push(target.slice(origin.length));
      }
    }
    for (const path of [
      '/api',
      '/api/docs/storage_volumes/attach',
      `/api/storage_snapshots/${snapshot}`,
      `/api/storage_volumes/${volume}/attach_instance`,
      `/api/storage_snapshots/new?volume_id=${volume}`,
      `/api/storage_volumes/new?snapshot_id=${snapshot}`,
      `/api/instances/${instance}`,
      `/api/images/${image}`,
      '/api/realms/local',
      '/api/drivers/mock',
      '/api/instance_states',
      '/api/storage_snapshots?format=json',
    ]) {
      expect([...seen], path).toContain(path);
    }
  });

  it('may load its own style sheet and nothing else', async () => {
    const { headers, text } = await client.get('/api', browser);
    const style = /<style>(.*)<\/style>/s.exec(text)?.[1] ?? '';
    const hash = createHash('sha256').update(style).digest('base64');
    expect(headers['content-security-policy']).toBe(
      `default-src 'none'; style-src 'sha256-${hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'`,
    );
    expect(style).not.toMatch(/url\(|@import/);
    expect(headers['x-content-type-options']).toBe('nosniff');
  });

  it('shows what people wrote as text', async () => {
    const escaped = '&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &#39;quotes&#39;';
    for (const path of [
      `/api/storage_snapshots/${snapshot}`,
      `/api/storage_volumes/${volume}`,
      `/api/instances/${instance}`,
      `/api/images/${image}`,
    ]) {
      expect(await page(path)).toContain(escaped);
    }
    // Of any length: it breaks where it must, other words do not.
    for (const collection of ['storage_snapshots', 'storage_volumes', 'instances', 'images']) {
      expect(await page(`/api/${collection}`)).toContain(`<td><span class="free">${escaped}</span></td>`);
    }
    const answer = await client.get(`/api/storage_snapshots/${encodeURIComponent('<script>')}`, browser);
    expect([answer.status, answer.text.includes('<script>')]).toEqual([404, false]);
  });

  it('has the same thing as XML and JSON in its footer', async () => {
    const text = await page('/api/storage_snapshots?id=x&format=html');
    for (const format of ['xml', 'json']) {
      expect(text).toContain(`href="${origin}/api/storage_snapshots?id=x&amp;format=${format}"`);
    }
    expect(text).toContain(`<a href="${origin}/api">Home</a>`);
  });

  it('stays on its mount', async () => {
    const { authorization } = {
      authorization: `Basic ${Buffer.from(`admin:${rig.admin.password}`).toString('base64')}`,
    };
    const answer = await rig.send('native', {
      path: `/deltacloud/api/storage_volumes/${volume}`,
      headers: { ...browser, authorization },
    });
    expect(answer.status).toBe(200);
    for (const [, href = ''] of answer.text.matchAll(/ (?:href|action)="([^"#]+)"/g)) {
      expect(href.startsWith(`${rig.origin('native')}/deltacloud/api`), href).toBe(true);
    }
  });
});

describe('buttons and forms', () => {
  it('a snapshot is made from the page of its volume, and deleted on its own', async () => {
    const made = await press(`/api/storage_snapshots/new?volume_id=${volume}`, 'Create snapshot', { name: 'by hand' });
    const id = /<h1>Storage snapshot (snap-\w+)<\/h1>/.exec(made)?.[1] ?? '';
    expect((await client.json(`/api/storage_snapshots/${id}`)).storage_snapshot).toMatchObject({
      name: 'by hand',
      storage_volume: { id: volume },
    });
    expect(await press(`/api/storage_snapshots/${id}`, 'Delete')).toContain('<h1>Storage snapshots</h1>');
    expect((await client.get(`/api/storage_snapshots/${id}`)).status).toBe(404);
  });

  it('a volume is made from a snapshot, attached, detached and deleted', async () => {
    const made = await press(`/api/storage_volumes/new?snapshot_id=${snapshot}`, 'Create volume', { name: 'from it' });
    const id = /<h1>Storage volume (vol-\w+)<\/h1>/.exec(made)?.[1] ?? '';
    const path = `/api/storage_volumes/${id}`;
    expect(await page(path)).toContain('>Attach…</a>');
    expect(await page(path)).toContain(`href="${origin}/api/storage_snapshots/new?volume_id=${id}">Snapshot…</a>`);
    const attached = await press(`${path}/attach_instance`, 'Attach');
    expect(attached).toContain('<dt>State</dt><dd>IN-USE</dd>');
    expect(attached).toContain('<dt>Device</dt><dd>/dev/sdc</dd>');
    expect(attached).toContain(`>${instance}</a>`);
    expect(formsOf(attached).flatMap(({ buttons }) => buttons)).toEqual(['Detach']);
    expect(await press(path, 'Detach')).toContain('<dt>State</dt><dd>AVAILABLE</dd>');
    expect(await press(path, 'Delete')).toContain('<h1>Storage volumes</h1>');
    expect((await client.get(path)).status).toBe(404);
  });

  it('an instance is made from the page of its image, and its page has the buttons of its state', async () => {
    const made = await press(`/api/images/${image}`, 'Create and start', { name: 'from the page' });
    const id = /<h1>Instance (inst-\w+)<\/h1>/.exec(made)?.[1] ?? '';
    const path = `/api/instances/${id}`;
    const buttons = async () => formsOf(await page(path)).flatMap((form) => form.buttons);
    expect(await buttons()).toEqual(['Reboot', 'Stop']);
    expect(await press(path, 'Reboot')).toContain('<dt>State</dt><dd>RUNNING</dd>');
    const { items } = await rig.native('GET', '/machines?name=from%20the%20page');
    await rig.native('POST', `/machines/${items[0].id}/stop`, { mode: 'power' });
    expect(await buttons()).toEqual(['Start', 'Delete']);
    expect(await press(path, 'Delete')).toContain('<h1>Instances</h1>');
  });

  it('what goes wrong is a page that says so', async () => {
    const answer = await client.post('/api/storage_volumes', { capacity: 'ten' }, browser);
    expect(answer.status).toBe(400);
    assertAccessible(answer.text);
    expect(answer.text).toContain('<h1>400 - Bad Request</h1>');
    expect(answer.text).toContain('The capacity is a number of GB above zero');
  });
});

describe('the reference', () => {
  it('lists the operations of a collection, and the parameters of an operation with stars', async () => {
    const collection = await page('/api/docs/storage_snapshots');
    for (const head of ['Name', 'Method', 'Path', 'Description'])
      expect(collection).toContain(`<th scope="col">${head}</th>`);
    expect(collection).toContain('<code>/<wbr>api/<wbr>storage_<wbr>snapshots/<wbr>:id</code>');
    const operation = await page('/api/docs/storage_snapshots/create');
    for (const head of ['Name', 'Type', 'Valid values', 'Description'])
      expect(operation).toContain(`<th scope="col">${head}</th>`);
    expect(operation).toContain('<th scope="row">volume_id <abbr title="required">*</abbr></th>');
    expect(operation).toContain('<th scope="row">description</th>');
  });

  it('is HTML whatever is asked for, if it is anything', async () => {
    for (const accept of ['application/xml', 'application/json']) {
      expect((await client.get('/api/docs', { accept })).headers['content-type']).toBe('text/html');
    }
    expect((await client.get('/api/docs', { accept: 'text/plain' })).status).toBe(406);
    for (const path of ['/api/docs/nope', '/api/docs/images/nope'])
      expect((await client.get(path, browser)).status).toBe(404);
  });
});
