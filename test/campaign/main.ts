/** `npm run campaign -- --kills 500 --seed 7`: the long crash campaign. Exits with 1 and keeps its data when anything is wrong. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Campaign, stepsOfEngine, stepsOfMachines } from './campaign.ts';
import { summaryOf } from './report.ts';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '100' },
    seed: { type: 'string' },
    directory: { type: 'string' },
    steps: { type: 'string' },
    machines: { type: 'string', default: '0' },
    minutes: { type: 'string' },
    quiet: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

if (values.help) {
  console.log(`npm run campaign -- [--kills N] [--seed N] [--directory DIR] [--steps NAME,…] [--machines N] [--minutes N] [--quiet]

Kills the server and its storage daemon N times (100) at random instants and at named steps, and checks everything after
each. --directory: where its data goes (a temporary directory). --steps: die at these only; the engine names
${stepsOfEngine().join(', ')}.
--minutes: end after so long, even with fewer kills.
--machines: so many machines with guests run meanwhile (0), and their QEMU and helper processes are killed, too; steps of theirs are
${stepsOfMachines().join(', ')}.`);
  process.exit(0);
}

const kills = Number(values.kills);
const seed = values.seed === undefined ? Math.floor(Math.random() * 1e9) : Number(values.seed);
const machines = Number(values.machines);
if (!Number.isSafeInteger(machines) || machines < 0) {
  console.error('--machines takes a whole number.');
  process.exit(2);
}
if (!Number.isSafeInteger(kills) || kills < 1 || !Number.isSafeInteger(seed) || seed < 0) {
  console.error('--kills and --seed take whole numbers.');
  process.exit(2);
}
const directory = mkdtempSync(join(values.directory ?? tmpdir(), 'calotype-campaign-'));
console.log(`seed ${seed}, ${kills} kills, data in ${directory}`);

const startedAt = performance.now();
const seconds = (): number => (performance.now() - startedAt) / 1000;
let done = 0;
const campaign = new Campaign({
  kills,
  seed,
  directory,
  machines,
  ...(values.minutes === undefined ? {} : { minutes: Number(values.minutes) }),
  ...(values.steps === undefined ? {} : { steps: values.steps.split(',') }),
  say: (line) => {
    done++;
    if (!values.quiet) console.log(`${seconds().toFixed(1).padStart(7)} s  ${line}`);
  },
});

const tail = (path: string, lines: number): string =>
  readFileSync(path, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');

let failed = 0;
try {
  await campaign.run();
} catch (error) {
  failed = 1;
  console.error(`\nFAILED with seed ${seed} at ${campaign.stage}`);
  console.error(error instanceof Error ? (error.stack ?? error.message) : String(error));
  console.error(`\nlast steps:\n${tail(campaign.server.tracePath, 25)}`);
  console.error(`\nlast lines of ${campaign.server.logPath}:\n${tail(campaign.server.logPath, 25)}`);
  console.error(`\nThe data is kept in ${directory}.`);
}
console.log(`\n${summaryOf(campaign.totals, seconds())}`);
if (failed === 0) rmSync(directory, { recursive: true, force: true });
console.log(`${done} passed, ${failed} failed`);
process.exit(failed);
