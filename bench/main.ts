/** `npm run bench [-- NAME…]`: runs the benchmarks and prints their figures beside what is asked of them. */
import { cpus, totalmem } from 'node:os';
import { deleteAndRevert } from './delete-revert.ts';
import { dialects } from './dialects.ts';
import { liveSnapshot } from './live-snapshot.ts';
import { machineSnapshot } from './machine-snapshot.ts';
import { manyDrives } from './many-drives.ts';
import { memoryPause } from './memory-pause.ts';
import { memoryRevert } from './memory-revert.ts';
import { million } from './million.ts';
import { readDepth } from './read-depth.ts';
import type { Row } from './support.ts';

const benchmarks: Readonly<Record<string, () => Promise<Row[]>>> = {
  'live-snapshot': liveSnapshot,
  'many-drives': manyDrives,
  million,
  dialects,
  'read-depth': readDepth,
  'delete-revert': deleteAndRevert,
  'machine-snapshot': machineSnapshot,
  'memory-pause': memoryPause,
  'memory-revert': memoryRevert,
};

const asked = process.argv.slice(2);
const unknown = asked.filter((name) => benchmarks[name] === undefined);
if (unknown.length > 0) {
  process.stderr.write(
    `No benchmark is called ${unknown.join(', ')}. There are: ${Object.keys(benchmarks).join(', ')}.\n`,
  );
  process.exit(2);
}
process.stdout.write(
  `${cpus().length} × ${cpus()[0]?.model ?? 'CPU'}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.versions.node}\n`,
);
let missed = 0;
for (const [name, run] of Object.entries(benchmarks)) {
  if (asked.length > 0 && !asked.includes(name)) continue;
  process.stdout.write(`\n${name}\n`);
  for (const row of await run()) {
    if (row.holds === false) missed++;
    const verdict = row.holds === undefined ? '' : row.holds ? 'ok' : 'MISSED';
    process.stdout.write(
      `  ${row.what.padEnd(72)} ${row.value.padStart(18)} ${(row.ratio ?? '').padStart(14)} ${(row.limit ?? '').padStart(12)} ${verdict}\n`,
    );
  }
}
process.exit(missed === 0 ? 0 : 1);
