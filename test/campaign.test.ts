/** The crash campaign, short: thirty deaths and everything checked after each. `npm run campaign` is the long one. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Campaign } from './campaign/campaign.ts';
import { summaryOf } from './campaign/report.ts';

const kills = 30;

test('nothing acknowledged is lost when server and storage daemon are killed', { timeout: 400_000 }, async () => {
  const seed = Number(process.env.CALOTYPE_CAMPAIGN_SEED ?? Math.floor(Math.random() * 1e6));
  const directory = mkdtempSync(join(tmpdir(), 'calotype-campaign-'));
  const startedAt = performance.now();
  const campaign = new Campaign({ kills, seed, directory });
  let failure: unknown;
  try {
    await campaign.run();
  } catch (error) {
    failure = error;
    const words = error instanceof Error ? (error.stack ?? error.message) : String(error);
    const log = readFileSync(campaign.server.logPath, 'utf8').trimEnd().split('\n').slice(-20).join('\n');
    console.error(
      `seed ${seed}, at ${campaign.stage}: ${words}\nThe data is kept in ${directory}. Last of the log:\n${log}`,
    );
  }
  console.log(`crash campaign, seed ${seed}\n${summaryOf(campaign.totals, (performance.now() - startedAt) / 1000)}`);
  if (failure === undefined) rmSync(directory, { recursive: true, force: true });
  expect(failure, `seed ${seed}`).toBeUndefined();
});
