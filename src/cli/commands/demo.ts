/**
 * `calotype demo`: a machine of each kind that runs a tiny guest, made and taken away through the API as anybody could.
 * What exists is found by tag and name, so that a second run makes what is missing and starts what is off.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import { guestKernelArguments } from '../../guest/build.ts';
import type { Change, Drive, Machine, ServerInfo } from '../api-types.ts';
import type { Query } from '../client.ts';
import type { Context } from '../context.ts';
import { DemoGuest, demoKernel } from '../demo-guest.ts';
import { CliError, InterruptedError } from '../errors.ts';
import { exitCodes } from '../exit-codes.ts';
import { endOf, preferWait } from '../wait.ts';

const MiB = 1024 * 1024;
const tag = 'calotype-demo';
const memoryBytes = 128 * MiB;
const driveBytes = 64 * MiB;
const pollMs = 100;

interface Wanted {
  readonly name: string;
  readonly kind: 'vm' | 'instance';
  /** By slot. */
  readonly drives: readonly string[];
}

const wanted: readonly Wanted[] = [
  { name: 'demo-vm', kind: 'vm', drives: ['demo-disk1', 'demo-disk2'] },
  { name: 'demo-instance', kind: 'instance', drives: ['demo-disk3'] },
];

const hints = `
Their guests count once a second, in memory and on their drives. Try:

  calotype machine log demo-vm --follow                              # Ctrl-C ends it
  calotype snapshot create --machine demo-vm --name live --memory    # while it counts
  calotype snapshot revert live                                      # it counts on from there
  calotype machine clone live demo-copy --memory                     # and so does its clone
  calotype demo --remove                                             # all gone`;

export function register(noun: Command, ctx: Context): void {
  noun
    .option('--remove', 'delete them, with their drives and snapshots')
    .action((options: { remove?: boolean }) => new Demo(ctx).run(options.remove === true));
}

class Demo {
  readonly #ctx: Context;
  #project = '';

  constructor(ctx: Context) {
    this.#ctx = ctx;
  }

  async run(remove: boolean): Promise<void> {
    const info = await this.#ctx.client.get<ServerInfo>('');
    this.#project = info.caller?.projectName ?? '';
    const guest = new DemoGuest(this.#ctx, info.bootDirectory ?? null);
    if (remove) await this.#remove(guest);
    else await this.#make(guest);
  }

  async #make(guest: DemoGuest): Promise<void> {
    const before = await Promise.all(wanted.map(({ name }) => this.#find<Machine>('machines', name)));
    if (before.some((machine) => machine === undefined || machine.power === 'off')) await guest.place();
    const machines: Machine[] = [];
    try {
      for (const each of wanted) machines.push(await this.#makeOne(each));
    } catch (error) {
      throw error instanceof CliError && error.code === 'boot_file_not_found' ? await guest.missing() : error;
    }
    if (this.#ctx.json) await this.#ctx.printJson({ machines });
    else this.#ctx.note(hints);
  }

  async #makeOne(each: Wanted): Promise<Machine> {
    const machine = await this.#ensure<Machine>('machines', each.name, {
      kind: each.kind,
      memoryBytes,
      description: 'counts once a second; made by `calotype demo`',
      boot: { from: 'kernel', ...demoKernel, append: guestKernelArguments(['demo', 'agent']) },
    });
    for (const name of each.drives) await this.#attach(machine, name);
    if (machine.power === 'off') {
      await this.#change('POST', `/machines/${machine.id}/start`, { body: {} });
      await this.#say(`Started ${each.name}.`);
    } else if (machine.power === 'paused') {
      await this.#say(`${each.name} is paused; \`calotype machine resume ${each.name}\` lets it go on.`);
    } else await this.#say(`${each.name} is there, and runs.`);
    return this.#ctx.client.get<Machine>(`/machines/${machine.id}`);
  }

  async #attach(machine: Machine, name: string): Promise<void> {
    const drive = await this.#ensure<Drive>('drives', name, { sizeBytes: driveBytes });
    if (drive.attachedTo?.machineId === machine.id) return;
    try {
      await this.#change('POST', `/machines/${machine.id}/drives`, { body: { driveId: drive.id } });
      await this.#say(`Attached ${name} to ${machine.name}.`);
    } catch (error) {
      const now = await this.#find<Drive>('drives', name);
      if (now?.attachedTo?.machineId !== machine.id) throw error;
    }
  }

  /** The object as it is, or made. Somebody may make it at the same time. */
  async #ensure<T extends Machine | Drive>(noun: 'machines' | 'drives', name: string, body: object): Promise<T> {
    for (;;) {
      const found = await this.#find<T>(noun, name);
      if (found !== undefined) {
        if (found.state === 'available') return found;
        if (found.state === 'error')
          throw conflict(`${name} could not be made.`, 'calotype demo --remove; calotype demo');
        if (this.#ctx.io.interrupted.aborted) throw new InterruptedError();
        await delay(pollMs);
        continue;
      }
      try {
        await this.#change('POST', `/${noun}`, {
          body: { name, tags: [tag], ...body },
          headers: { 'if-none-match': '*' },
        });
        await this.#say(`Created ${noun === 'drives' ? 'drive' : 'machine'} ${name}.`);
      } catch (error) {
        if (!(error instanceof CliError) || error.code !== 'name_taken') throw error;
        if ((await this.#find<T>(noun, name)) === undefined) {
          throw conflict(
            `There is another ${noun === 'drives' ? 'drive' : 'machine'} named ${name} in project ${this.#project}.`,
            `Rename that one, or make the demo in another project: calotype --project NAME demo.`,
          );
        }
      }
    }
  }

  async #remove(guest: DemoGuest): Promise<void> {
    const deleted: string[] = [];
    for (const { name } of wanted) {
      const machine = await this.#find<Machine>('machines', name);
      if (machine === undefined) continue;
      // Drives of others may be attached to it.
      await this.#delete(`/machines/${machine.id}`, { drives: 'keep', snapshots: 'delete' });
      deleted.push(name);
    }
    for (const name of wanted.flatMap(({ drives }) => drives)) {
      const drive = await this.#find<Drive>('drives', name);
      if (drive === undefined) continue;
      await this.#delete(`/drives/${drive.id}`, { snapshots: 'delete' });
      deleted.push(name);
    }
    const users = await this.#usersOfGuest();
    if (users.length === 0) await guest.remove();
    else this.#ctx.note(`The guest's files stay in the boot directory for ${users.join(', ')}.`);
    if (this.#ctx.json) await this.#ctx.printJson({ deleted });
    else if (deleted.length === 0) await this.#say('There is no demo.');
    else await this.#say(`Deleted ${deleted.join(', ')}, and their snapshots.`);
  }

  /** Somebody may delete it at the same time. */
  async #delete(path: string, query: Query): Promise<void> {
    try {
      await this.#change('DELETE', path, { query });
    } catch (error) {
      if (!(error instanceof CliError) || error.exitCode !== exitCodes.notFound) throw error;
    }
  }

  /** Clones start from the same files. */
  async #usersOfGuest(): Promise<readonly string[]> {
    const names: string[] = [];
    for await (const items of this.#ctx.client.pages<Machine>('/machines', {}, Number.POSITIVE_INFINITY)) {
      names.push(...items.filter(({ boot }) => boot.kernel === demoKernel.kernel).map(({ name }) => name));
    }
    return names;
  }

  async #find<T>(noun: 'machines' | 'drives', name: string): Promise<T | undefined> {
    const page = await this.#ctx.client.get<{ items: readonly T[] }>(`/${noun}`, { name, tag, limit: 1 });
    return page.items[0];
  }

  async #change(
    method: 'POST' | 'DELETE',
    path: string,
    options: { body?: object; query?: Query; headers?: Readonly<Record<string, string>> },
  ): Promise<void> {
    const headers = { ...preferWait, ...options.headers };
    const answer = await this.#ctx.client.request<Change>(method, path, { ...options, headers });
    await endOf(this.#ctx, answer.body);
  }

  async #say(sentence: string): Promise<void> {
    if (!this.#ctx.json) await this.#ctx.print(`${sentence}\n`);
  }
}

const conflict = (detail: string, remedy: string): CliError =>
  new CliError(exitCodes.conflict, 'conflict', detail, { remedy });
