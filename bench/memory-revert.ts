/** Issue 3, D.3: a revert with the memory, from the HTTP request until the guest runs again. */
import { rmSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { BenchMachine, startServer } from './bench-machine.ts';
import { ms, percentile, type Row, timed } from './support.ts';

const memoryMiB = 256;
const samples = 10;
const limitMs = 500;
const settleMs = 1000;

export async function memoryRevert(): Promise<Row[]> {
  const server = await startServer('back');
  const machine = await BenchMachine.start(server, { name: 'back', memoryMiB, modes: ['count', 'disk'], drives: 1 });
  await delay(settleMs);
  const snapshot = await machine.snapshot({ memory: true });
  const measure = async (keepSafety: boolean): Promise<Row> => {
    const found: number[] = [];
    for (let i = 0; i < samples; i++) {
      await delay(settleMs);
      found.push((await timed(() => machine.revert(snapshot, { keepSafety }))).ms);
    }
    const p50 = percentile(found, 0.5);
    return {
      what: `${memoryMiB} MiB: revert with memory, ${keepSafety ? 'the state before kept with its memory' : 'nothing kept'}, p50`,
      value: ms(p50),
      limit: `< ${limitMs} ms`,
      holds: p50 < limitMs,
    };
  };
  const rows = [await measure(false), await measure(true)];
  await machine.powerOff();
  await server.stop();
  rmSync(server.directory, { recursive: true, force: true });
  return rows;
}
