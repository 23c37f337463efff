/**
 * Issue 3, D.1: how long a guest stands still for a snapshot with its memory, by the times of QEMU's STOP and RESUME events
 * and by the guest's own clock, against QEMU's `snapshot-save` of an equal guest. QEMU stops the guest's clock with the
 * guest: what the guest sees is how much it is held up around that, by pages that have to be saved before they are written to.
 */
import { rmSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { GuestMode } from '../src/guest/build.ts';
import { BenchMachine, type MachineShape, startServer } from './bench-machine.ts';
import { PlainQemu } from './plain-qemu.ts';
import { ms, percentile, type Row } from './support.ts';

const snapshots = 25;
const peerSnapshots = 3;
const limits = { p50Ms: 10, p99Ms: 50, timesFaster: 20 };
const settleMs = 500;

async function compare(label: string, memoryMiB: number, modes: readonly GuestMode[]): Promise<Row[]> {
  const shape: MachineShape = { name: 'pause', memoryMiB, modes, drives: 1 };
  const peer = await PlainQemu.start(shape);
  const theirs: number[] = [];
  for (let i = 0; i < peerSnapshots; i++) {
    await delay(settleMs);
    theirs.push(await peer.snapshotSave());
  }
  await peer.stop();

  const server = await startServer('pause');
  const machine = await BenchMachine.start(server, shape);
  const pauses: number[] = [];
  const gaps: number[] = [];
  for (let i = 0; i < snapshots; i++) {
    await delay(settleMs);
    await machine.serial.longestGapMs();
    pauses.push(await machine.pauseMs(await machine.snapshot({ memory: true })));
    gaps.push(await machine.serial.longestGapMs());
  }
  await machine.powerOff();
  await server.stop();
  rmSync(server.directory, { recursive: true, force: true });

  const p50 = percentile(pauses, 0.5);
  const p99 = percentile(pauses, 0.99);
  const base = percentile(theirs, 0.5);
  return [
    { what: `${label}: QEMU's snapshot-save, stopped, p50`, value: ms(base) },
    {
      what: `${label}: stopped, p50`,
      value: ms(p50),
      ratio: `${(base / p50).toFixed(0)}× less`,
      limit: `≤ ${limits.p50Ms} ms`,
      holds: p50 <= limits.p50Ms && base / p50 >= limits.timesFaster,
    },
    { what: `${label}: stopped, p99`, value: ms(p99), limit: `≤ ${limits.p99Ms} ms`, holds: p99 <= limits.p99Ms },
    {
      what: `${label}: longest gap by the guest's clock while it is saved, p50 / p99`,
      value: `${ms(percentile(gaps, 0.5))} / ${ms(percentile(gaps, 0.99))}`,
    },
  ];
}

export async function memoryPause(): Promise<Row[]> {
  return [
    ...(await compare('256 MiB, idle', 256, ['gap'])),
    ...(await compare('256 MiB, dirtying', 256, ['gap', 'dirty'])),
    ...(await compare('1 GiB, idle', 1024, ['gap'])),
    ...(await compare('1 GiB, dirtying', 1024, ['gap', 'dirty'])),
  ];
}
