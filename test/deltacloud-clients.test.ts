/** Deltacloud by curl: what the C client and the Ruby client send, and what the dialect's README prints. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DialectRig } from './support/dialect-rig.ts';

const run = promisify(execFile);
let rig: DialectRig;
let scratch: string;
let environment: NodeJS.ProcessEnv;

beforeAll(async () => {
  rig = await DialectRig.start();
  scratch = mkdtempSync(join(tmpdir(), 'deltacloud-clients-'));
  const volume = await rig.drive('demo-disk1');
  const instance = await rig.machine('web', []);
  environment = {
    ...process.env,
    API: `${rig.origin('deltacloud')}/api`,
    CREDENTIALS: `admin:${rig.admin.password}`,
    VOLUME: `vol-${volume.number.toString(16)}`,
    INSTANCE: `inst-${instance.number.toString(16)}`,
  };
});
afterAll(async () => {
  rmSync(scratch, { recursive: true, force: true });
  await rig[Symbol.asyncDispose]();
});

async function linesOf(script: string): Promise<string[]> {
  const { stdout } = await run(join(import.meta.dirname, 'clients', script), { env: environment });
  return stdout.trim().split('\n');
}

test('the C client: from the entry point to a snapshot and back', async () => {
  expect(await linesOf('deltacloud-c.sh')).toEqual([
    'driver mock',
    'created before upgrade, COMPLETED',
    'found before upgrade',
    'listed 1',
    'deleted 204, 0 bytes',
    'gone 404',
    'not deleted again 404',
    'attached IN-USE /dev/sdh local',
    'detached AVAILABLE',
    'not attached 404',
  ]);
});

test('the Ruby client: everything in the query string', async () => {
  expect(await linesOf('deltacloud-ruby.sh')).toEqual([
    'credentials 200',
    'wrong ones 401: Authentication failed',
    'created 201 nightly, by hand',
    'filtered 200 1',
    'filtered 200 0',
    'shown 200 nightly',
    'without an id 404',
    'deleted 204',
    'gone 404 404',
    "refused 400: Required parameter 'volume_id' not found in [name]",
    'attached 202 IN-USE',
    'reloaded IN-USE 1',
    'detached 202 AVAILABLE 0',
    'forbidden 403',
  ]);
});

test('the first snapshot of the README', async () => {
  const readme = readFileSync(join(import.meta.dirname, '../src/dialects/deltacloud/README.md'), 'utf8');
  const script = /```sh\n(.*?)```/s.exec(readme)?.[1] ?? '';
  expect(script.trim().split('\n').length).toBeLessThanOrEqual(5);
  await mkdir(join(scratch, 'data'));
  const { password } = rig.admin;
  const access = { user: 'admin', password, endpoints: { deltacloud: environment.API } };
  await writeFile(join(scratch, 'data/access.json'), JSON.stringify(access));
  const { stdout } = await run('bash', ['-euc', script], { cwd: scratch });
  expect(stdout).toMatch(
    /^<\?xml version='1\.0' encoding='utf-8' \?>\n<storage_snapshot href='[^']*' id='(snap-\w+)'>\n {2}<name>first<\/name>/,
  );
  expect(stdout).toContain('<storage_snapshots>\n');
});
