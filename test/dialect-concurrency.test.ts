/**
 * Fifty clients of all front doors at once on one machine. Its drives only ever held two states, whole: so whatever is
 * found at the end, in a drive, a snapshot or a clone, is one of them, and of both drives of a snapshot the same one.
 */
import { expect, test } from 'vitest';
import { DialectRig, type Loose, MiB, type Person } from './support/dialect-rig.ts';
import { type Face, facesOf, Refusal, type Target } from './support/faces.ts';

const clients = 50;
const stepsEach = process.env.CALOTYPE_LONG === '1' ? 100 : 3;
const sizeBytes = 2 * MiB;

const stateA = Buffer.alloc(sizeBytes, 0xaa);
const stateB = Buffer.alloc(sizeBytes, 0xbb);

interface Ledger {
  /** Names of snapshots that were acknowledged, and not given to deletion. */
  readonly kept: Set<string>;
  /** Of those whose deletion was acknowledged. */
  readonly deleted: Set<string>;
  /** Somebody was about to delete them. */
  readonly touched: Set<string>;
  readonly clones: string[];
  readonly counts: Map<string, number>;
}

test(`${clients} clients of all dialects work on one machine`, { timeout: 600_000 }, async () => {
  await using rig = await DialectRig.start();
  const drives = [await rig.drive('web-1', sizeBytes), await rig.drive('web-2', sizeBytes)];
  const machine = await rig.machine(
    'web',
    drives.map((drive) => drive.id),
  );
  const target: Target = { machine, drives };
  for (const state of [stateA, stateB]) {
    for (const drive of drives) await rig.write(drive.id, 0, state);
    await rig.snapshot({ machineId: machine.id }, `origin ${state[0]?.toString(16)}`);
  }
  const people: Person[] = [];
  for (const name of ['ann', 'ben', 'cat']) people.push(await rig.person(name, 'member'));
  const doors = people.map((person) => facesOf(rig, person, target));
  const ledger: Ledger = {
    kept: new Set(['origin aa', 'origin bb']),
    deleted: new Set(),
    touched: new Set(),
    clones: [],
    counts: new Map(),
  };
  await Promise.all(
    Array.from({ length: clients }, (_, at) => {
      const faces = doors[at % doors.length] ?? [];
      const face = faces[at % faces.length];
      return face === undefined ? undefined : runClient(face, `c${at}`, ledger);
    }),
  );
  await rig.settled();
  console.log(`answers: ${[...ledger.counts].map(([what, count]) => `${what} ${count}`).join(', ')}`);
  for (const what of ['create', 'revert', 'clone', 'remove'])
    expect(ledger.counts.get(what) ?? 0, what).toBeGreaterThan(0);

  const { items } = await rig.native('GET', '/snapshots?limit=1000');
  const names = new Set(items.map((item: Loose) => item.name));
  for (const name of ledger.kept) if (!ledger.touched.has(name)) expect(names, 'acknowledged').toContain(name);
  for (const name of ledger.deleted) expect(names, 'deleted').not.toContain(name);
  for (const item of items) {
    const states = [];
    for (const part of item.parts) states.push(stateOf(await download(rig, `/snapshots/${item.id}`, part.id)));
    if (item.machine !== null) expect(new Set(states).size, `both drives in ${item.name}`).toBe(1);
  }
  for (const id of [...ledger.clones, ...drives.map((drive) => drive.id)]) stateOf(await rig.read(id));
  const { items: failed } = await rig.native('GET', '/tasks?state=failed&limit=1000');
  for (const task of failed) expect(['internal', 'engine_failed', 'machine_failed']).not.toContain(task.error.code);
  const { findings } = await rig.native('POST', '/doctor', {});
  expect(findings.filter((finding: Loose) => finding.severity !== 'info')).toEqual([]);
});

/** Which of the two it is. */
function stateOf(bytes: Buffer): 'A' | 'B' {
  if (bytes.equals(stateA)) return 'A';
  if (bytes.equals(stateB)) return 'B';
  throw new Error(`a state that never was: ${[...new Set(bytes)].map((byte) => byte.toString(16)).join()}`);
}

async function download(rig: DialectRig, path: string, part: string): Promise<Buffer> {
  const url = `${rig.origin('native')}/v1${path}/download?format=raw&part=${part}`;
  const answer = await fetch(url, { headers: { authorization: `Bearer ${rig.admin.token}` } });
  if (!answer.ok) throw new Error(await answer.text());
  return Buffer.from(await answer.arrayBuffer());
}

/** Creates, lists, reverts, clones and deletes in turn; refusals are noted, and must be the dialect's own. */
async function runClient(face: Face, name: string, ledger: Ledger): Promise<void> {
  const note = (what: string): void => void ledger.counts.set(what, (ledger.counts.get(what) ?? 0) + 1);
  const attempt = async (what: string, work: () => Promise<void>): Promise<boolean> => {
    try {
      await work();
      note(what);
      return true;
    } catch (error) {
      if (error instanceof Refusal) {
        expect(error.status, error.message).toBeLessThan(500);
        note(`${what} refused with ${error.status}`);
      } else if (String(error).startsWith('Error: never seen')) throw error;
      else note(`${what} failed`);
      return false;
    }
  };
  for (let step = 0; step < stepsEach; step++) {
    const mine = `${name}-${step}`;
    if (await attempt('create', () => face.create(mine, step % 2))) ledger.kept.add(mine);
    const shown = await face.list();
    note('list');
    const any = shown[(step * 7 + name.length) % Math.max(1, shown.length)];
    if (any === undefined) continue;
    if (step % 3 === 1 && face.revert !== undefined) await attempt('revert', async () => face.revert?.(any.id));
    if (step % 3 === 2 && face.clone !== undefined) {
      await attempt('clone', async () => {
        ledger.clones.push((await face.clone?.(any.id, `clone ${mine}`)) ?? '');
      });
    }
    // Who makes one still waits for it.
    if (any.name.startsWith('origin') || !ledger.kept.has(any.name)) continue;
    ledger.touched.add(any.name);
    if (await attempt('remove', () => face.remove(any.id))) {
      // One part of a machine's snapshot leaves the rest.
      if (face.shows === 'snapshots') ledger.deleted.add(any.name);
    }
  }
}
