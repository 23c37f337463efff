/**
 * Issue 3, D.2: a snapshot without memory of a running machine with four drives, against one with a single drive and
 * against `virsh snapshot-create-as --disk-only --atomic` of a guest of the same shape.
 */
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { guestKernelArguments } from '../src/guest/build.ts';
import { BenchMachine, startServer } from './bench-machine.ts';
import { startLibvirtGuest } from './libvirt.ts';
import { ms, percentile, type Row, ratioRow, timed } from './support.ts';

const memoryMiB = 256;
const drives = 4;
const samples = 30;
const peerSamples = 10;
const settleMs = 50;

export async function machineSnapshot(): Promise<Row[]> {
  const server = await startServer('group');
  const single = await BenchMachine.start(server, { name: 'one', memoryMiB, modes: ['count'], drives: 1 });
  const several = await BenchMachine.start(server, { name: 'four', memoryMiB, modes: ['count'], drives });
  const found = { single: [] as number[], several: [] as number[] };
  for (let i = 0; i <= samples; i++) {
    await delay(settleMs);
    const one = await timed(() => single.snapshot({ quiesce: 'never' }));
    await delay(settleMs);
    const four = await timed(() => several.snapshot({ quiesce: 'never' }));
    if (i === 0) continue;
    found.single.push(one.ms);
    found.several.push(four.ms);
  }
  const ours = percentile(found.several, 0.5);
  const base = percentile(found.single, 0.5);
  const rows: Row[] = [
    { what: 'running machine, 1 drive: snapshot through the API, p50', value: ms(base), ratio: '1' },
    ratioRow(`running machine, ${drives} drives: snapshot through the API, p50`, ours, base, 1.5, 'atMost'),
  ];
  await single.powerOff();
  await several.powerOff();
  rows.push(await compareVirsh(server.directory, ours));
  await server.stop();
  rmSync(server.directory, { recursive: true, force: true });
  return rows;
}

async function compareVirsh(directory: string, ours: number): Promise<Row> {
  const what = `peer: virsh snapshot-create-as --disk-only --atomic, ${drives} drives, p50`;
  const guest = await startLibvirtGuest({
    drives,
    memoryMiB,
    boot: {
      kernel: join(directory, 'boot', 'guest-vmlinuz'),
      initrd: join(directory, 'boot', 'guest-initrd.img'),
      append: guestKernelArguments(['count']),
    },
  });
  if (guest === null) return { what, value: 'libvirt is not installed' };
  const virsh: number[] = [];
  for (let i = 0; i < peerSamples; i++) {
    const start = performance.now();
    execFileSync('virsh', [
      ...['-q', '-c', 'qemu:///system', 'snapshot-create-as', guest.name, `s${i}`],
      ...['--disk-only', '--no-metadata', '--atomic'],
    ]);
    virsh.push(performance.now() - start);
  }
  guest.stop();
  return ratioRow(what, percentile(virsh, 0.5), ours, 5, 'atLeast');
}
