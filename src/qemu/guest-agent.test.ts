import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { copyFile, mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { CalotypeError } from '../core/errors.ts';
import { GuestMachine, guestFilesOrNull } from '../guest/testing/guest-machine.ts';
import { FreezeGuard, type FreezeGuardOptions, freezeStatus, pingAgent, shutdown, thaw } from './guest-agent.ts';

const run = promisify(execFile);
const MiB = 1024 * 1024;

const shared = await mkdtemp(join(tmpdir(), 'calotype-agent-test-'));
const files = await guestFilesOrNull(join(shared, 'files'));
afterAll(() => rm(shared, { recursive: true }));

let dir = '';
let socketPath = '';
let cleanup = new AsyncDisposableStack();
beforeEach(async () => {
  dir = await mkdtemp(join(shared, 'test-'));
  socketPath = join(dir, 'agent.sock');
  cleanup = new AsyncDisposableStack();
});
afterEach(async () => {
  await cleanup.disposeAsync();
});

interface Command {
  readonly execute: string;
  readonly arguments?: Readonly<Record<string, unknown>>;
}

/** What one line is answered with; null for nothing. */
type Answer = string | null;

/** An agent of our own making, in a guest with one file system. Unlike QEMU, it lets several clients through at a time. */
class FakeAgent implements AsyncDisposable {
  frozen = false;
  /** While true, what comes is not even read, as by an agent that hangs. */
  hangs = false;
  readonly seen: string[] = [];
  readonly #server: Server;
  readonly #clients: Socket[] = [];
  readonly #answer: (command: Command, agent: FakeAgent) => Answer | undefined | Promise<Answer | undefined>;

  private constructor(
    answer: (command: Command, agent: FakeAgent) => Answer | undefined | Promise<Answer | undefined>,
  ) {
    this.#answer = answer;
    this.#server = createServer((client) => {
      this.#clients.push(client);
      client.on('error', () => undefined);
      // It ends with its connection, however that ends.
      this.#serve(client).catch(() => undefined);
    });
  }

  /** `answer` may take commands over; `undefined` leaves them to the usual. */
  static async listen(
    answer: (command: Command, agent: FakeAgent) => Answer | undefined | Promise<Answer | undefined> = () => undefined,
  ): Promise<FakeAgent> {
    const agent = cleanup.use(new FakeAgent(answer));
    agent.#server.listen(socketPath);
    await once(agent.#server, 'listening');
    return agent;
  }

  count(command: string): number {
    return this.seen.filter((one) => one === command).length;
  }

  /** Ends all connections and stops listening, as a QEMU that dies. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.destroy();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, 'close');
  }

  async #serve(client: Socket): Promise<void> {
    let rest = '';
    client.setEncoding('latin1');
    for await (const text of client) {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        while (this.hangs) await delay(5);
        const command: Command = JSON.parse(line.replaceAll('\xff', ''));
        this.seen.push(command.execute);
        const special = await this.#answer(command, this);
        const answer = special === undefined ? this.#usual(command) : special;
        if (answer !== null && !client.destroyed) client.write(Buffer.from(answer, 'latin1'));
      }
    }
  }

  #usual(command: Command): Answer {
    const returned = (value: unknown): string => `${JSON.stringify({ return: value })}\n`;
    const before = Number(this.frozen);
    switch (command.execute) {
      case 'guest-sync-delimited':
        return `\xff${returned(command.arguments?.id)}`;
      case 'guest-fsfreeze-status':
        return returned(this.frozen ? 'frozen' : 'thawed');
      case 'guest-fsfreeze-freeze':
        if (this.frozen) return refusal('is frozen already');
        this.frozen = true;
        return returned(1);
      case 'guest-fsfreeze-thaw':
        this.frozen = false;
        return returned(before);
      default:
        return returned({});
    }
  }
}

const refusal = (desc: string): string => `${JSON.stringify({ error: { class: 'GenericError', desc } })}\n`;

async function failureOf(promise: Promise<unknown>): Promise<CalotypeError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof CalotypeError)) throw new Error(`expected a CalotypeError, got ${String(error)}`);
  expect(error.code).toBe('agent_unavailable');
  return error;
}

async function startGuard(change: Partial<FreezeGuardOptions> = {}): Promise<FreezeGuard> {
  const guard = await FreezeGuard.start({ socketPath, limitMs: 30_000, timeoutMs: 2_000, ...change });
  cleanup.defer(() => guard.close());
  return guard;
}

/** The helper processes of guards on our socket. */
function helpers(): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      try {
        const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        return args.includes(socketPath) && args.some((arg) => arg.includes('freeze-guard-process'));
      } catch {
        return false;
      }
    });
}

function theHelper(): number {
  const [pid, ...more] = helpers();
  expect(more).toEqual([]);
  if (pid === undefined) throw new Error('there is no helper');
  return pid;
}

async function until(isSo: () => boolean | Promise<boolean>, deadlineMs = 10_000): Promise<void> {
  for (const deadline = Date.now() + deadlineMs; !(await isSo()); ) {
    if (Date.now() > deadline) throw new Error(`it was not so within ${deadlineMs} ms: ${isSo}`);
    await delay(5);
  }
}

describe('an agent that cannot be used', () => {
  test('that is absent', async () => {
    for (const call of [pingAgent(socketPath, 5_000), freezeStatus(socketPath, 5_000), thaw(socketPath, 5_000)]) {
      expect((await failureOf(call)).details).toEqual({ reason: 'absent' });
    }
    expect((await failureOf(shutdown(socketPath, 'powerdown', 5_000))).details).toEqual({ reason: 'absent' });
    expect((await failureOf(startGuard())).details).toEqual({ reason: 'absent' });
    expect(helpers()).toEqual([]);
  });

  test('that takes connections and never answers', async () => {
    const agent = await FakeAgent.listen();
    agent.hangs = true;
    const start = performance.now();
    expect((await failureOf(pingAgent(socketPath, 300))).details).toEqual({ reason: 'silent' });
    expect(performance.now() - start).toBeGreaterThanOrEqual(295);
    expect((await failureOf(shutdown(socketPath, 'reboot', 300))).details).toEqual({ reason: 'silent' });
    expect((await failureOf(startGuard({ timeoutMs: 300 }))).details).toEqual({ reason: 'silent' });
    await until(() => helpers().length === 0);
  });

  test.for<[what: string, answer: (command: Command) => Answer | undefined, reason: string]>([
    ['garbage instead of anything', () => '{]\x01\n', 'silent'],
    [
      'garbage instead of an answer',
      ({ execute }) => (execute === 'guest-sync-delimited' ? undefined : '{]\n'),
      'garbled',
    ],
    ['JSON that is no answer', ({ execute }) => (execute === 'guest-sync-delimited' ? undefined : '[7]\n'), 'garbled'],
    [
      'an answer of the wrong kind',
      ({ execute }) => (execute === 'guest-sync-delimited' ? undefined : '{"return":"x"}\n'),
      'garbled',
    ],
    ['a line without end', () => 'x'.repeat(3 * MiB), 'garbled'],
    ['the number of another', () => '\xff{"return":12345678901}\n', 'silent'],
    ['no', ({ execute }) => (execute === 'guest-sync-delimited' ? undefined : refusal('it is forbidden')), 'refused'],
  ])('that answers with %s', async ([, answer, reason]) => {
    await FakeAgent.listen(answer);
    // Only silence is to be waited for; all else is noticed as it comes, however busy the machine.
    const timeoutMs = reason === 'silent' ? 300 : 20_000;
    expect((await failureOf(freezeStatus(socketPath, timeoutMs))).details).toEqual({ reason });
    expect((await failureOf(thaw(socketPath, timeoutMs))).details).toEqual({ reason });
    expect((await failureOf(startGuard({ timeoutMs }))).details).toEqual({ reason });
  });

  test('that is lost before it answers', async () => {
    const agent = await FakeAgent.listen(() => {
      void agent[Symbol.asyncDispose]();
      return null;
    });
    expect((await failureOf(pingAgent(socketPath, 5_000))).details).toEqual({ reason: 'lost' });
  });
});

describe('an agent that answers', () => {
  test('is not taken at what it had left for others', async () => {
    let calls = 0;
    await FakeAgent.listen(({ execute }) => {
      if (execute !== 'guest-sync-delimited' || calls++ > 0) return undefined;
      return '{"return": "half an ans\xff{"return":1}\n{"return":"frozen"}\n';
    });
    // The first synchronisation is answered with leftovers only, and only the second one for good.
    expect((await failureOf(freezeStatus(socketPath, 200))).details).toEqual({ reason: 'silent' });
    expect(await freezeStatus(socketPath, 5_000)).toBe('thawed');
  });

  test('shuts down without an answer, or says why not', async () => {
    const agent = await FakeAgent.listen(({ execute }) => (execute === 'guest-shutdown' ? null : undefined));
    await shutdown(socketPath, 'powerdown', 5_000);
    expect(agent.count('guest-shutdown')).toBe(1);
    await agent[Symbol.asyncDispose]();
    await FakeAgent.listen(({ execute }) => (execute === 'guest-shutdown' ? refusal('no such program') : undefined));
    expect((await failureOf(shutdown(socketPath, 'halt', 5_000))).message).toContain('no such program');
  });
});

describe('a freeze guard', () => {
  test('freezes and thaws, and leaves nothing behind', async () => {
    const agent = await FakeAgent.listen();
    const cycle = async (): Promise<void> => {
      const guard = await startGuard();
      expect(await guard.freeze()).toEqual({ fileSystems: 1, durationMs: expect.any(Number) });
      expect(agent.frozen).toBe(true);
      const thawed = await guard.thaw();
      expect(agent.frozen).toBe(false);
      expect(thawed).toEqual({ outcome: 'thawed', frozenMs: expect.any(Number) });
      expect(await guard.thaw()).toEqual(thawed);
      await guard.close();
    };
    await cycle();
    const descriptors = (): number => readdirSync('/proc/self/fd').length;
    await until(() => helpers().length === 0);
    const before = descriptors();
    for (let round = 0; round < 3; round++) await cycle();
    await until(() => helpers().length === 0 && descriptors() <= before);
  });

  test('has a helper in a session of its own, with none of our open files', async () => {
    await using file = await open(join(dir, 'ours'), 'w');
    await FakeAgent.listen();
    await startGuard();
    const pid = theHelper();
    // Field 6 of /proc/<pid>/stat, behind the name in parentheses.
    const session = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')[3];
    expect(session).toBe(String(pid));
    const targets = readdirSync(`/proc/${pid}/fd`).map((name) => readlinkSync(`/proc/${pid}/fd/${name}`));
    expect(targets).not.toContain(join(dir, 'ours'));
    expect(targets.filter((target) => target.startsWith('/') && !target.startsWith('/dev/'))).toEqual([]);
    expect(targets.filter((target) => target.startsWith('socket:')).length).toBeLessThanOrEqual(3);
    expect(readlinkSync(`/proc/${process.pid}/fd/${file.fd}`)).toBe(join(dir, 'ours'));
  });

  test('thaws when it is closed', async () => {
    const agent = await FakeAgent.listen();
    const guard = await startGuard();
    await guard.freeze();
    await guard.close();
    await until(() => !agent.frozen && helpers().length === 0);
  });

  test('thaws at the limit, and says so', async () => {
    const agent = await FakeAgent.listen();
    const guard = await startGuard({ limitMs: 100 });
    await guard.freeze();
    await until(() => !agent.frozen);
    const { outcome, frozenMs } = await guard.thaw();
    expect(outcome).toBe('expired');
    expect(frozenMs).toBeGreaterThanOrEqual(100);
    expect(agent.count('guest-fsfreeze-thaw')).toBe(1);
  });

  test('tells when somebody else thawed', async () => {
    const agent = await FakeAgent.listen();
    const guard = await startGuard();
    await guard.freeze();
    agent.frozen = false;
    expect((await guard.thaw()).outcome).toBe('expired');
  });

  test('leaves alone what somebody else froze', async () => {
    const agent = await FakeAgent.listen();
    agent.frozen = true;
    expect((await failureOf(startGuard())).details).toEqual({ reason: 'already_frozen' });
    expect(agent.frozen).toBe(true);
  });

  test('is quiet about a guest without file systems', async () => {
    await FakeAgent.listen(({ execute }) => (execute === 'guest-fsfreeze-freeze' ? '{"return":0}\n' : undefined));
    const guard = await startGuard();
    expect((await guard.freeze()).fileSystems).toBe(0);
    expect((await guard.thaw()).outcome).toBe('thawed');
  });

  test('fails when the agent refuses, and thaws what may be frozen', async () => {
    const agent = await FakeAgent.listen(({ execute }, self) => {
      if (execute !== 'guest-fsfreeze-freeze') return undefined;
      self.frozen = true;
      return refusal('failed on the second file system');
    });
    const guard = await startGuard();
    const error = await failureOf(guard.freeze());
    expect(error.message).toContain('failed on the second file system');
    expect(error.details).toEqual({ reason: 'refused' });
    await until(() => !agent.frozen && helpers().length === 0);
  });

  test('fails when the freeze takes too long, and thaws after it', async () => {
    const agent = await FakeAgent.listen(async ({ execute }) => {
      if (execute === 'guest-fsfreeze-freeze') await delay(600);
      return undefined;
    });
    const guard = await startGuard({ timeoutMs: 300 });
    expect((await failureOf(guard.freeze())).details).toEqual({ reason: 'silent' });
    expect((await guard.thaw()).outcome).not.toBe('unknown');
    expect(agent.frozen).toBe(false);
    expect(agent.count('guest-fsfreeze-freeze')).toBe(1);
  });

  test('does not know when the agent dies while frozen, and thaws when it is back', async () => {
    const agent = await FakeAgent.listen();
    const guard = await startGuard({ timeoutMs: 200 });
    await guard.freeze();
    agent.hangs = true;
    expect((await guard.thaw()).outcome).toBe('unknown');
    expect(agent.frozen).toBe(true);
    await guard.close();
    agent.hangs = false;
    await until(() => !agent.frozen && helpers().length === 0);
  });

  test('does not know when QEMU dies while frozen, and gives up', async () => {
    const agent = await FakeAgent.listen();
    const guard = await startGuard();
    await guard.freeze();
    await agent[Symbol.asyncDispose]();
    expect((await guard.thaw()).outcome).toBe('unknown');
    await until(() => helpers().length === 0);
  });

  test('thaws by itself when its helper was killed', async () => {
    const agent = await FakeAgent.listen();
    const guard = await startGuard();
    await guard.freeze();
    process.kill(theHelper(), 'SIGKILL');
    expect((await guard.thaw()).outcome).toBe('thawed');
    expect(agent.frozen).toBe(false);
  });

  test('fails to freeze when its helper was killed', async () => {
    const agent = await FakeAgent.listen();
    const guard = await startGuard();
    process.kill(theHelper(), 'SIGKILL');
    expect((await failureOf(guard.freeze())).details).toEqual({ reason: 'helper' });
    expect(agent.frozen).toBe(false);
  });

  test('has a helper that thaws when it is told to end', async () => {
    const agent = await FakeAgent.listen();
    const guard = await startGuard();
    await guard.freeze();
    process.kill(theHelper(), 'SIGTERM');
    await until(() => !agent.frozen);
    await until(() => helpers().length === 0);
  });
});

/** A process that holds a guard, frozen. */
async function holdInOtherProcess(): Promise<{ kill: () => void }> {
  const script = `
    import { FreezeGuard } from ${JSON.stringify(join(import.meta.dirname, 'guest-agent.ts'))};
    const guard = await FreezeGuard.start({ socketPath: ${JSON.stringify(socketPath)}, limitMs: 60_000, timeoutMs: 20_000 });
    await guard.freeze();
    console.log('frozen');
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  cleanup.defer(() => void child.kill('SIGKILL'));
  const [word] = await once(child.stdout, 'data');
  expect(String(word)).toBe('frozen\n');
  return { kill: () => child.kill('SIGKILL') };
}

test('a server that is killed leaves a guest that thaws', async () => {
  const agent = await FakeAgent.listen();
  const holder = await holdInOtherProcess();
  expect(agent.frozen).toBe(true);
  holder.kill();
  await until(() => !agent.frozen, 2_000);
  await until(() => helpers().length === 0);
});

describe.skipIf(files === null)('a real guest', () => {
  const timeoutMs = 20_000;
  let machine: GuestMachine;
  let drive = '';
  let place = '';

  beforeAll(async () => {
    if (files === null) throw new Error('there are no files of a guest');
    place = await mkdtemp(join(shared, 'guest-'));
    drive = join(place, 'drive.raw');
    await writeFile(drive, '');
    await truncate(drive, 32 * MiB);
    await run('mkfs.ext4', ['-q', '-F', drive]);
    const modes = ['ext4', 'agent'] as const;
    machine = await GuestMachine.boot(place, files, { modes, drives: [drive], ext4Device: '/dev/vda' });
    await machine.line(/^CALOTYPE READY$/);
    await machine.line(/^ext4 \d+$/);
  });
  beforeEach(() => {
    socketPath = machine.agentSocketPath;
  });
  afterAll(async () => {
    await machine[Symbol.asyncDispose]();
  });

  test('has a file system without need of recovery while it is frozen, and goes on afterwards', async () => {
    await pingAgent(socketPath, timeoutMs);
    const guard = await startGuard({ timeoutMs });
    const { fileSystems } = await guard.freeze();
    expect(fileSystems).toBe(1);
    const copy = join(dir, 'copy.raw');
    await copyFile(drive, copy);
    expect((await guard.thaw()).outcome).toBe('thawed');
    await guard.close();
    expect((await run('dumpe2fs', ['-h', copy])).stdout).not.toContain('needs_recovery');
    await run('e2fsck', ['-f', '-n', copy]);
    await machine.nextLine(/^ext4 \d+$/);
    expect(await freezeStatus(socketPath, timeoutMs)).toBe('thawed');
  });

  test('is thawed at the limit', async () => {
    const guard = await startGuard({ timeoutMs, limitMs: 300 });
    await guard.freeze();
    await machine.nextLine(/^ext4 \d+$/);
    expect((await guard.thaw()).outcome).toBe('expired');
  });

  test('is thawed within two seconds of the death of the process that had it frozen', async () => {
    const holder = await holdInOtherProcess();
    const written = machine.nextLine(/^ext4 \d+$/);
    const start = performance.now();
    holder.kill();
    // Answered only once the helper is done with the agent.
    expect(await freezeStatus(socketPath, timeoutMs)).toBe('thawed');
    expect(performance.now() - start).toBeLessThan(2_000);
    await written;
  });

  test('shuts down', async () => {
    await shutdown(socketPath, 'powerdown', timeoutMs);
    await machine.ended;
    await run('e2fsck', ['-f', '-n', drive]);
  });
});
