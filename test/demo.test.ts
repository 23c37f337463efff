/** `calotype demo` on a real server with real guests, and the walk-through of docs/machines.md, command by command as it is printed. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { guestFilesOrNull } from '../src/guest/testing/guest-machine.ts';
import { serialOf } from './campaign/machine-eyes.ts';
import { type LocalServer, startLocalServer } from './support/local-server.ts';

const root = join(import.meta.dirname, '..');
const hasGuest = (await guestFilesOrNull('/tmp')) !== null;
const countMs = 60_000;
const timeoutMs = 600_000;

let directory = '';
let server: LocalServer;

interface Outcome {
  readonly code: number;
  readonly output: string;
}

/** As a shell runs it in the directory of the server's `./data`. */
async function sh(command: string, env: Readonly<Record<string, string>> = {}): Promise<Outcome> {
  const { CALOTYPE_URL: _, CALOTYPE_TOKEN: __, CALOTYPE_DATA: ___, ...inherited } = process.env;
  const PATH = [join(root, 'bin'), join(root, 'node_modules/.bin'), inherited.PATH].join(delimiter);
  return promisify(execFile)('bash', ['-c', `{ ${command}; } 2>&1`], {
    cwd: directory,
    env: { ...inherited, PATH, ...env },
  }).then(
    ({ stdout }) => ({ code: 0, output: stdout }),
    (error: { code: number; stdout: string }) => ({ code: error.code, output: error.stdout }),
  );
}

async function ok(command: string): Promise<string> {
  const { code, output } = await sh(command);
  expect(code, `${command}\n${output}`).toBe(0);
  return output;
}

const json = async <T>(command: string): Promise<T> => JSON.parse(await ok(`${command} --json`));
const numbersIn = (text: string): number[] =>
  [...text.matchAll(/^counter (\d+): in memory, on vda/gm)].map(([, number]) => Number(number));

/**
 * Waits until the guest has said one more number, and what else is asked for: in the file itself, as a command each time
 * would take the processor from the guest. @returns its whole log
 */
async function countsOn(machine: string, pattern = /^/): Promise<string> {
  const { number } = await json<{ number: number }>(`calotype machine show ${machine}`);
  const said = (): string => serialOf(join(directory, 'data'), number);
  const before = numbersIn(said()).length;
  for (const until = Date.now() + countMs; Date.now() < until; await delay(100)) {
    if (numbersIn(said()).length > before && pattern.test(said())) return ok(`calotype machine log ${machine} --all`);
  }
  throw new Error(`${machine} does not count: ${said().slice(-500)}`);
}

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'calodemo-'));
  server = await startLocalServer(join(directory, 'data'), join(directory, 'server.log'));
});
afterEach(async () => {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
    if (isOurs(pid)) process.kill(Number(pid));
  await server.destroy();
  rmSync(directory, { recursive: true, force: true });
});

/** A QEMU process that a failed test left behind. */
function isOurs(pid: string): boolean {
  try {
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    return command.startsWith('qemu-system') && command.includes(directory);
  } catch {
    return false;
  }
}

interface Listed {
  readonly name: string;
  readonly kind: string;
  readonly power: string;
  readonly drives: readonly unknown[];
}
const machines = async (): Promise<string[]> =>
  (await json<Listed[]>('calotype machine list --sort name')).map(
    ({ name, kind, power, drives }) => `${name} ${kind} ${power} ${drives.length}`,
  );
const bothRun = ['demo-instance instance running 1', 'demo-vm vm running 2'];

/** What the README shows for each of the other APIs, as it is printed, on the machines of the demo; and the dialect's own page shows the same. */
async function takesFirstSnapshots(): Promise<void> {
  const section = (readFileSync(join(root, 'README.md'), 'utf8').split(/^## /m) ?? []).find((part) =>
    part.startsWith('First snapshot through the other APIs\n'),
  );
  const blocks = [...(section ?? '').matchAll(/^### (\w+)\n\n```sh\n([\s\S]*?)^```/gm)];
  expect(blocks.map(([, name]) => name)).toEqual(['ManageIQ', 'CloudSigma', 'Syminet', 'CloudMC', 'Deltacloud']);
  for (const [, name = '', block = ''] of blocks) {
    const page = readFileSync(join(root, 'src/dialects', name.toLowerCase(), 'README.md'), 'utf8');
    expect(page).toContain(block);
    const { code, output } = await sh(`set -euo pipefail; ${block.trim()}`);
    expect(code, `${name}\n${output}`).toBe(0);
  }
  const taken = await json<Listed[]>('calotype snapshot list --sort name');
  const names = taken.map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(['before-restore', 'before-upgrade', 'by-cloudmc', 'first']));
}

describe.skipIf(!hasGuest)('calotype demo', () => {
  it('makes what is missing, starts what is off, and takes it all away, also many at once', {
    timeout: timeoutMs,
  }, async () => {
    const atOnce = await Promise.all([1, 2, 3].map(() => sh('calotype demo')));
    expect(
      atOnce.map(({ code }) => code),
      JSON.stringify(atOnce),
    ).toEqual([0, 0, 0]);
    expect(await machines()).toEqual(bothRun);
    expect(await ok('calotype demo --quiet')).toBe('demo-vm is there, and runs.\ndemo-instance is there, and runs.\n');

    await ok('calotype machine stop demo-vm --mode power; calotype machine detach demo-vm demo-disk2');
    await ok('calotype drive delete demo-disk2; calotype machine pause demo-instance');
    const said = await ok('calotype demo --quiet');
    expect(said).toContain('Created drive demo-disk2.\nAttached demo-disk2 to demo-vm.\nStarted demo-vm.\n');
    expect(said).toContain('calotype machine resume demo-instance');
    expect(await machines()).toEqual(['demo-instance instance paused 1', 'demo-vm vm running 2']);

    await ok('calotype drive create mine 1MiB --tag calotype-demo; calotype snapshot create demo-disk3 --name one');
    await ok('calotype snapshot create --machine demo-vm --name point; calotype machine clone point copy');
    await ok('calotype machine attach demo-vm mine');
    expect(await ok('calotype demo --remove')).toContain("The guest's files stay in the boot directory for copy.");
    expect(await machines()).toEqual(['copy vm off 2']);
    expect(readdirSync(join(directory, 'data/boot'))).toEqual(['demo']);
    await ok('calotype machine delete copy --drives delete');
    const removals = await Promise.all([1, 2].map(() => sh('calotype demo --remove')));
    expect(removals.map(({ output }) => output)).toEqual(['There is no demo.\n', 'There is no demo.\n']);
    expect(readdirSync(join(directory, 'data/boot'))).toEqual([]);
    expect(await json<unknown[]>('calotype snapshot list')).toEqual([]);
    expect((await json<Listed[]>('calotype drive list')).map(({ name }) => name)).toEqual(['mine']);
  });

  it('tells a member what only an operator can do, once', { timeout: timeoutMs }, async () => {
    await ok('calotype user create ann --no-password --quiet; calotype member set default ann member');
    const token = (await ok('calotype token create t --user ann --quiet')).trim();
    const env = { CALOTYPE_URL: server.access.url, CALOTYPE_TOKEN: token };
    const refused = await sh('calotype demo', env);
    expect(refused.code).toBe(3);
    expect(refused.output).toContain('Ask an operator');
    expect(await machines()).toEqual([]);
    await ok('calotype demo --quiet && calotype machine delete demo-vm --drives delete');
    expect((await sh('calotype demo', env)).code).toBe(0);
    expect(await machines()).toEqual(bothRun);
    await takesFirstSnapshots();
  });

  it('is what docs/machines.md shows', { timeout: timeoutMs }, async () => {
    const page = readFileSync(join(root, 'docs/machines.md'), 'utf8');
    const section = page.split(/^## /m).find((part) => part.startsWith('Try it\n')) ?? '';
    const blocks = [...section.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map(([, block]) => block ?? '');
    const commands = blocks.flatMap((block) => block.trim().split('\n'));
    expect(commands.length).toBeGreaterThan(12);

    let atSnapshot = 0;
    const steps: string[] = [];
    for (const line of commands) {
      const command = line.replace(/\s+#\s.*$/, '');
      steps.push(command);
      if (command.endsWith('--follow')) {
        await countsOn('demo-vm');
        expect((await sh(`timeout 3 ${command}`)).output).toMatch(/^counter \d+: in memory, on vda, on vdb$/m);
        continue;
      }
      const output = await ok(command);
      if (command.includes(' download ')) {
        atSnapshot = Number(/^calotype demo: counter (\d+)\n$/.exec(output)?.[1]);
        await countsOn('demo-vm');
        await countsOn('demo-vm');
      }
      if (command === 'calotype snapshot revert live') {
        const numbers = numbersIn(await countsOn('demo-vm'));
        const back = numbers.findIndex((number, at) => number < (numbers[at - 1] ?? 0));
        expect(numbers[back - 1]).toBeGreaterThan(atSnapshot + 1);
        expect(numbers[back]).toBe(atSnapshot + 1);
      }
      if (command.startsWith('calotype machine clone')) {
        expect(numbersIn(await countsOn('demo-copy'))[0]).toBe(atSnapshot + 1);
      }
      if (command.endsWith('--without-memory')) {
        const log = await countsOn('demo-vm', /holds counter/);
        expect(log).toContain(`\nvda holds counter ${atSnapshot}\n`);
        expect(numbersIn(log).at(-1)).toBeGreaterThan(atSnapshot);
      }
    }
    expect(steps.at(-1)).toBe('calotype demo --remove');
    expect(await machines()).toEqual([]);
    expect(await json<unknown[]>('calotype drive list')).toEqual([]);
  });
});
