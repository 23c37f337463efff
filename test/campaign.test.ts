/** The crash campaign, short: twenty deaths and everything checked after each. `npm run campaign` is the long one. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import { Campaign } from './campaign/campaign.ts';
import { summaryOf } from './campaign/report.ts';

const kills = 20;
const killsWithMachines = 20;
const isLong = process.env.CALOTYPE_LONG === '1';

test('nothing acknowledged is lost when server and storage daemon are killed', { timeout: 400_000 }, () =>
  campaign({ kills }),
);

if (isLong) {
  test('nor when machines run, and their processes are killed as well', { timeout: 3_600_000 }, async (context) => {
    if ((await guestFilesOrNull('/tmp')) === null) context.skip('there is no guest');
    await campaign({ kills: killsWithMachines, machines: 1 });
  });
}

async function campaign(options: { kills: number; machines?: number }): Promise<void> {
  const seed = Number(process.env.CALOTYPE_CAMPAIGN_SEED ?? Math.floor(Math.random() * 1e6));
  const directory = mkdtempSync(join(tmpdir(), 'calotype-campaign-'));
  const startedAt = performance.now();
  const run = new Campaign({ ...options, seed, directory });
  let failure: unknown;
  try {
    await run.run();
  } catch (error) {
    failure = error;
    const words = error instanceof Error ? (error.stack ?? error.message) : String(error);
    const log = readFileSync(run.server.logPath, 'utf8').trimEnd().split('\n').slice(-20).join('\n');
    console.error(
      `seed ${seed}, at ${run.stage}: ${words}\nThe data is kept in ${directory}. Last of the log:\n${log}`,
    );
  }
  console.log(`crash campaign, seed ${seed}\n${summaryOf(run.totals, (performance.now() - startedAt) / 1000)}`);
  if (failure === undefined) rmSync(directory, { recursive: true, force: true });
  expect(failure, `seed ${seed}`).toBeUndefined();
}
