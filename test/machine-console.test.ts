/** The serial port of a machine with a real guest: what it writes is followed and bounded, and it can be typed on. */
import { once } from 'node:events';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { MachineId } from '../src/core/ids.ts';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import { MachineRig } from './support/machine-rig.ts';

const timeoutMs = 400_000;
const hasGuest = (await guestFilesOrNull('/tmp')) !== null;
const failure = (code: string) => expect.objectContaining({ code });

/** One who follows the log, and what came so far. */
class Follower {
  text = '';
  readonly ended: Promise<unknown>;
  readonly #stream: NodeJS.ReadableStream;

  constructor(stream: NodeJS.ReadableStream) {
    this.#stream = stream.setEncoding('utf8').on('data', (piece: string) => {
      this.text += piece.replaceAll('\r', '');
    });
    this.ended = once(stream, 'end');
  }

  static async start(rig: MachineRig, id: MachineId, fromByte: number): Promise<Follower> {
    return new Follower((await rig.service.machines.serialLog(rig.caller, id, { fromByte, follow: true })).stream);
  }

  async sees(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.text)) await once(this.#stream, 'data');
  }
}

describe.skipIf(!hasGuest)('the serial port of a machine', () => {
  test(
    'is followed over resets and restarts, every byte once, and typed on',
    async () => {
      await using rig = await MachineRig.start();
      const { machines } = rig.service;
      const id = await rig.createMachine('talks', ['count'], [await rig.createDrive('a')]);
      const type = (text: string) => rig.service.machines.typeOnConsole(rig.caller, id, Buffer.from(text));
      await expect(type('x\n')).rejects.toEqual(failure('machine_off'));

      const [first, second] = [await Follower.start(rig, id, 0), await Follower.start(rig, id, 0)];
      await rig.boot(id);
      await first.sees(/^CALOTYPE READY$/m);
      await type('good ');
      await type('morning\n');
      await first.sees(/^unknown: good morning$/m);
      await rig.done(machines.reset(rig.caller, id));
      await first.sees(/^CALOTYPE READY$[\s\S]*^CALOTYPE READY$/m);

      // What is typed while the guest stands still waits for it.
      await rig.done(machines.pause(rig.caller, id));
      await type('later\n');
      await rig.done(machines.resume(rig.caller, id));
      await second.sees(/^unknown: later$/m);

      await rig.restart();
      await Promise.all([first.ended, second.ended]);
      const whole = await rig.serial(id);
      expect(whole.startsWith(first.text)).toBe(true);
      expect(whole.startsWith(second.text)).toBe(true);
      const { length } = await readFile(join(await rig.directoryOf(id), 'serial.log'));
      const third = await Follower.start(rig, id, length);
      await type('again\n');
      await third.sees(/^unknown: again$/m);
      expect(third.text).not.toMatch(/READY/);
      const seen = await rig.service.events.list(rig.caller, { objectId: id, limit: 1000 });
      expect(seen.filter(({ kind }) => kind === 'machine.console_used')).toHaveLength(2);

      await rig.done(rig.service.machines.stop(rig.caller, id, { mode: 'power' }));
      await expect(type('x\n')).rejects.toEqual(failure('machine_off'));
      await rig.done(rig.service.machines.delete(rig.caller, id, {}));
      await third.ended;
    },
    timeoutMs,
  );

  test(
    'refuses input beyond what a guest that stands still can be handed',
    async () => {
      await using rig = await MachineRig.start();
      const { machines } = rig.service;
      const id = await rig.createMachine('still', ['count'], [await rig.createDrive('a')]);
      await rig.done(machines.start(rig.caller, id, { paused: true }));
      const sent: Promise<unknown>[] = [];
      const refused = Promise.withResolvers<unknown>();
      for (let piece = 0; piece < 32; piece++) {
        const done = machines.typeOnConsole(rig.caller, id, Buffer.alloc(64 * 1024, 'x'));
        done.catch(refused.resolve);
        sent.push(done.catch(() => undefined));
      }
      expect(await refused.promise).toEqual(failure('console_full'));
      await rig.done(machines.stop(rig.caller, id, { mode: 'power' }));
      await Promise.all(sent);
    },
    timeoutMs,
  );

  test(
    'never fills the disk, with a server or without, and the guest runs on',
    async () => {
      const keptSerialBytes = 16 * 1024;
      await using rig = await MachineRig.start({ keptSerialBytes });
      const id = await rig.createMachine('chatty', ['chatter'], [await rig.createDrive('a')]);
      const path = join(await rig.directoryOf(id), 'serial.log');
      await rig.done(rig.service.machines.start(rig.caller, id, {}));
      const pid = (await rig.machine(id)).runtime?.pid;
      const limit = async () =>
        Number(/^Max file size\s+(\d+)/m.exec(await readFile(`/proc/${pid}/limits`, 'utf8'))?.[1]);
      const until = async (reached: (size: number) => Promise<boolean>): Promise<number> => {
        for (;;) {
          const { size } = await stat(path);
          if (await reached(size)) return size;
          await delay(20);
        }
      };
      const atStart = await limit();
      // Further than the limit it began with.
      await until(async (size) => size > atStart && (await limit()) > size);

      let stuckAt = 0;
      await rig.restart(async () => {
        stuckAt = await until(async (size) => size === (await limit()));
      });
      await until(async (size) => size > stuckAt);
      expect((await rig.machine(id)).power).toBe('running');
      await expect.poll(async () => (await stat(path)).blocks * 512).toBeLessThanOrEqual(9 * keptSerialBytes);
      const follower = await Follower.start(rig, id, 0);
      await follower.sees(/^chatter \d+ x{200}$/m);
      expect(follower.text).not.toContain('\0');
    },
    timeoutMs,
  );
});
