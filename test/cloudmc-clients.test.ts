/** CloudMC by curl: the script that the Terraform provider's requests come to, and what the dialect's README prints. */
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

beforeAll(async () => {
  rig = await DialectRig.start();
  scratch = mkdtempSync(join(tmpdir(), 'cloudmc-clients-'));
});
afterAll(async () => {
  rmSync(scratch, { recursive: true, force: true });
  await rig[Symbol.asyncDispose]();
});

test('from the id of an environment to a volume, a snapshot, and back', async () => {
  const root = await rig.drive('root');
  const machine = await rig.machine('web', [root.id]);
  const { items } = await rig.native('GET', '/projects');
  const { stdout } = await run(join(import.meta.dirname, 'clients/cloudmc.sh'), {
    env: {
      ...process.env,
      API: `${rig.origin('cloudmc')}/v1/`,
      KEY: rig.admin.token,
      ENVIRONMENT_ID: items[0].id,
      INSTANCE_ID: machine.id,
    },
  });
  expect(stdout.trim().split('\n')).toEqual([
    'base services/compute/default',
    'volume tf-data data 1 Ready',
    'of type DATA 1',
    'resized 2',
    'snapshot tf-snapshot BackedUp tf-data DATADISK',
    'listed 1 BackedUp',
    'snapshot gone',
    'detached true',
    'volume gone',
  ]);
});

test('the first snapshot of the README', async () => {
  await rig.drive('demo-disk1');
  const readme = readFileSync(join(import.meta.dirname, '../src/dialects/cloudmc/README.md'), 'utf8');
  const script = /```sh\n(.*?)```/s.exec(readme)?.[1] ?? '';
  expect(script.trim().split('\n').length).toBeLessThanOrEqual(5);
  await mkdir(join(scratch, 'data'));
  const access = {
    token: rig.admin.token,
    endpoints: { cloudmc: `${rig.origin('cloudmc')}/api/v2` },
    cloudmc: { serviceCode: 'compute', environment: 'default' },
  };
  await writeFile(join(scratch, 'data/access.json'), JSON.stringify(access));
  const { stdout } = await run('bash', ['-euc', script], { cwd: scratch });
  const { data } = JSON.parse(stdout);
  expect(data).toEqual([expect.objectContaining({ name: 'by-cloudmc', state: 'BackedUp', volume: 'demo-disk1' })]);
});
