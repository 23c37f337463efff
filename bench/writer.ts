/** A writer process: random 4 KiB writes at a steady rate over NBD; the longest one is remembered. */
import { NbdClient } from '../src/qemu/nbd-client.ts';

const [socketPath = '', exportName = '', perSecondText = '1000', spanText = '0'] = process.argv.slice(2);
const perSecond = Number(perSecondText);
const blocks = Math.floor(Number(spanText) / 4096);
const client = await NbdClient.connect({ kind: 'unix', path: socketPath }, { exportName });
const block = Buffer.alloc(4096, 7);
const begun = performance.now();
let sent = 0;
let done = 0;
let longestMs = 0;
let longestSince = 0;
let running = true;

async function write(): Promise<void> {
  const start = performance.now();
  block.writeUInt32LE(sent, 0);
  await client.write(Math.floor(Math.random() * blocks) * 4096, Buffer.from(block));
  const took = performance.now() - start;
  longestMs = Math.max(longestMs, took);
  longestSince = Math.max(longestSince, took);
  done++;
}

const timer = setInterval(() => {
  const due = Math.floor(((performance.now() - begun) / 1000) * perSecond);
  while (running && sent < due && sent - done < 64) {
    sent++;
    void write();
  }
  if (sent - done >= 64) sent = Math.min(sent, due);
}, 1);

process.on('message', (question) => {
  if (question === 'longest') {
    process.send?.(longestSince);
    longestSince = 0;
  } else {
    running = false;
    clearInterval(timer);
    process.send?.({ longestMs, perSecond: done / ((performance.now() - begun) / 1000) });
  }
});
process.on('disconnect', () => process.exit(0));
process.send?.('ready');
