/** H.2: 100 drives snapshotted by 16 clients at once, against one `qemu-img` process after another for the same work. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { BenchServer, ms, type Row, temporaryDirectory, timed } from './support.ts';

const drives = 100;
const clients = 16;
const sizeBytes = 256 * 1024 * 1024;

export async function manyDrives(): Promise<Row[]> {
  const server = await BenchServer.start(temporaryDirectory('many'));
  const ids: string[] = [];
  for (let i = 0; i < drives; i++) ids.push(await server.createDrive(`d${i}`, sizeBytes));
  const rounds: number[] = [];
  for (let round = 0; round < 5; round++) {
    const queue = [...ids];
    const client = async (): Promise<void> => {
      for (let id = queue.pop(); id !== undefined; id = queue.pop()) {
        await server.done('POST', '/v1/snapshots', { driveIds: [id], name: `r${round}` });
      }
    };
    rounds.push((await timed(() => Promise.all(Array.from({ length: clients }, client)))).ms);
  }
  await server.stop();

  const directory = temporaryDirectory('img');
  for (let i = 0; i < drives; i++) {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(directory, `d${i}`), String(sizeBytes)]);
  }
  const serial: number[] = [];
  for (let round = 0; round < 3; round++) {
    const one = await timed(async () => {
      for (let i = 0; i < drives; i++)
        execFileSync('qemu-img', ['snapshot', '-c', `r${round}`, join(directory, `d${i}`)]);
    });
    serial.push(one.ms);
  }
  const ours = Math.min(...rounds.slice(1));
  const theirs = Math.min(...serial);
  return [
    { what: `${drives} drives, one qemu-img snapshot after another`, value: ms(theirs) },
    {
      what: `${drives} drives, ${clients} clients at once through the API`,
      value: ms(ours),
      ratio: `${(theirs / ours).toFixed(1)}× faster`,
      limit: '≥ 5× faster',
      holds: theirs / ours >= 5,
    },
  ];
}
