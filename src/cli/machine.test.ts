import { PassThrough, Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  aDrive,
  aMachine,
  aPart,
  aSnapshot,
  aTask,
  FakeApi,
  ofMachine,
  problem,
  type Recorded,
  runCli,
} from '../../test/fake-native-api.ts';

let api: FakeApi;
beforeEach(async () => {
  api = await FakeApi.start();
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

const now = () => Date.parse('2031-04-12T16:21:05Z');
const root = aDrive({ name: 'root' });
const data = aDrive({ name: 'data' });
const web = aMachine({
  id: '12345678-0000-4000-8000-000000000000',
  name: 'web',
  power: 'running',
  drives: [
    { slot: 0, driveId: root.id },
    { slot: 3, driveId: data.id },
  ],
  tags: ['a', 'b'],
});
const other = aMachine({ name: 'other' });
const cli = (...argv: string[]) => runCli(argv, { api, now });
const named =
  <T extends { name: string }>(items: readonly T[]) =>
  ({ query }: Recorded) => {
    const name = query.get('name');
    return { items: items.filter((item) => name === null || item.name === name), nextCursor: null };
  };
beforeEach(() => {
  api.on('GET /machines', named([web, other])).on('GET /drives', named([root, data]));
  for (const machine of [web, other]) api.on(`GET /machines/${machine.id}`, machine);
  for (const drive of [root, data]) api.on(`GET /drives/${drive.id}`, drive);
});

const task = aTask({ kind: 'machine.start', objectKind: 'machine', objectId: web.id, machineId: web.id });

describe('usage errors exit with 2 and change nothing', () => {
  it.each([
    [['machine', 'create', 'x']],
    [['machine', 'create', 'x', '--memory', '1Q']],
    [['machine', 'create', 'x', '--memory', '1G', '--cpus', '0']],
    [['machine', 'create', 'x', '--memory', '1G', '--kind', 'pod']],
    [['machine', 'create', 'x', '--memory', '1G', '--initrd', 'i']],
    [['machine', 'create', 'x', '--memory', '1G', '--append', 'quiet']],
    [['machine', 'list', '--power', 'on']],
    [['machine', 'set', 'web']],
    [['machine', 'stop', 'web', '--mode', 'kill']],
    [['machine', 'stop', 'web', '--timeout', '0']],
    [['machine', 'delete', 'web', '--drives', 'maybe']],
    [['snapshot', 'create']],
    [['snapshot', 'create', 'data', '--machine', 'web']],
    [['snapshot', 'create', 'data', '--memory']],
    [['snapshot', 'create', 'data', '--quiesce', 'prefer']],
    [['snapshot', 'create', '--machine', 'web', '--quiesce', 'always']],
    [['grant', 'create', 'ann', 'ro']],
    [['grant', 'create', 'ann', 'ro', '--machine', 'web', '--drive', 'data']],
  ])('%j', async (argv) => {
    const outcome = await cli(...argv);
    expect(outcome.code).toBe(2);
    expect(outcome.stderr).toMatch(/^error: /);
    expect(api.requests.filter((request) => request.method !== 'GET')).toEqual([]);
  });
});

describe('a machine', () => {
  it('is found by name, id and the beginning of its id', async () => {
    for (const text of ['web', web.id, '123456'])
      expect(JSON.parse((await cli('machine', 'show', text, '--json')).stdout).id).toBe(web.id);
    expect(await cli('machine', 'show', 'nothing')).toMatchObject({
      code: 3,
      stderr: expect.stringContaining('calotype machine list'),
    });
  });

  it('is created with drives in slots and a kernel, and shown as it is after its task', async () => {
    api.on('POST /machines', { task: { ...task, state: 'running' }, machine: { ...web, state: 'creating' } });
    api.on(`GET /tasks/${task.id}`, task);
    const argv = ['machine', 'create', 'web', '--memory', '256MiB', '--cpus', '2', '--kind', 'instance'];
    const boot = ['--kernel', 'vmlinuz', '--initrd', 'initrd.img', '--append', 'console=ttyS0 quiet'];
    const { stdout } = await cli(...argv, '--drive', 'root', '--drive', 'data:3', ...boot, '--tag', 'a', '--json');
    expect(JSON.parse(stdout)).toEqual({ task, machine: web });
    expect(api.sent('POST /machines')).toEqual([
      {
        name: 'web',
        memoryBytes: 256 * 2 ** 20,
        cpus: 2,
        kind: 'instance',
        drives: [{ driveId: root.id }, { driveId: data.id, slot: 3 }],
        boot: { from: 'kernel', kernel: 'vmlinuz', initrd: 'initrd.img', append: 'console=ttyS0 quiet' },
        tags: ['a'],
      },
    ]);
    api.on('POST /machines', { task, machine: web });
    expect((await cli('machine', 'create', 'web', '--memory', '1G')).stdout).toBe(`Created machine web (${web.id}).\n`);
    expect(api.sent('POST /machines')[1]).toEqual({ name: 'web', memoryBytes: 2 ** 30 });
  });

  it('is listed with what it does and has; filters are passed on', async () => {
    api.on('GET /machines', { items: [web], nextCursor: null });
    const filters = ['--power', 'running', '--kind', 'vm', '--state', 'available', '--tag', 'a', '--sort', 'power'];
    expect((await cli('machine', 'list', '--name', 'web', ...filters)).stdout).toBe(
      'ID        NAME  POWER    STATE      CPUS   MEMORY  DRIVES  SNAPSHOTS  AGE  TAGS\n' +
        '12345678  web   running  available     1  256 MiB       2          0   3d  a,b\n',
    );
    expect(Object.fromEntries(api.requests[0]?.query ?? [])).toMatchObject({
      name: 'web',
      power: 'running',
      kind: 'vm',
      state: 'available',
      tag: 'a',
      sort: 'power',
    });
  });

  it('is shown with its drives, also with those that the caller may not see', async () => {
    api.on(`GET /drives/${data.id}`, (_request: Recorded, response: Parameters<typeof problem>[0]) =>
      problem(response, 404, 'not_found', 'No.'),
    );
    const { code, stdout } = await cli('machine', 'show', 'web');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^power: +running$/m);
    expect(stdout).toMatch(/^memory: +256 MiB$/m);
    expect(stdout).toContain(`   0  ${root.id}  root  10 GiB\n   3  ${data.id}             -\n`);
  });

  it('gets other labels, processors and memory in one change', async () => {
    api.on(`PATCH /machines/${web.id}`, web);
    await cli('machine', 'set', 'web', 'owner=ann', '--cpus', '4', '--memory-size', '1G', '--untag', 'a');
    await cli('machine', 'set', 'web', '--cpus', '4');
    expect(api.sent(`PATCH /machines/${web.id}`)).toEqual([
      { cpus: 4, memoryBytes: 2 ** 30, meta: { owner: 'ann' }, tags: ['b'] },
      { cpus: 4 },
    ]);
    expect(api.asked(`PATCH /machines/${web.id}`)[0]?.headers['if-match']).toBe('"1"');
  });

  it('is deleted with what is said of its drives and snapshots', async () => {
    api.on(`DELETE /machines/${web.id}`, { task });
    await cli('machine', 'delete', 'web');
    await cli('machine', 'delete', 'web', '--drives', 'delete', '--snapshots', 'keep');
    expect(api.asked(`DELETE /machines/${web.id}`).map(({ query }) => Object.fromEntries(query))).toEqual([
      { drives: 'keep', snapshots: 'refuse' },
      { drives: 'delete', snapshots: 'keep' },
    ]);
  });

  it.each([
    [['start'], 'start', {}, 'Machine web runs.\n'],
    [['start', '--paused'], 'start', { paused: true }, 'Machine web is started; its guest stands still.\n'],
    [['stop'], 'stop', {}, 'Machine web is off.\n'],
    [
      ['stop', '--mode', 'guest', '--timeout', '5'],
      'stop',
      { mode: 'guest', timeoutSeconds: 5 },
      'Machine web is off.\n',
    ],
    [['pause'], 'pause', {}, 'Machine web stands still.\n'],
    [['resume'], 'resume', {}, 'Machine web runs.\n'],
    [['reset'], 'reset', {}, 'Machine web was reset.\n'],
  ])('%j', async ([verb = '', ...flags], path, body, sentence) => {
    api.on(`POST /machines/${web.id}/${path}`, { task });
    expect(await cli('machine', verb, 'web', ...flags)).toMatchObject({ code: 0, stdout: sentence });
    expect(api.sent(`POST /machines/${web.id}/${path}`)).toEqual([body]);
  });

  it('that runs already is not said to stand still', async () => {
    api.on(`POST /machines/${web.id}/start`, { task: { ...task, result: { power: 'running' } } });
    expect((await cli('machine', 'start', 'web', '--paused')).stdout).toBe('Machine web runs already.\n');
  });

  it('whose guest keeps a drive says what to do there, in the words of the server', async () => {
    const error = { code: 'drive_busy', message: 'Kept.', details: { remedy: 'Unmount it in the guest.' } };
    api.on(`DELETE /machines/${web.id}/drives/${data.id}`, { task: { ...task, state: 'failed', error } });
    const { code, stderr } = await cli('machine', 'detach', 'web', 'data');
    expect({ code, stderr }).toMatchObject({
      code: 4,
      stderr: expect.stringContaining('remedy: Unmount it in the guest.'),
    });
  });

  it('that the guest does not stop says how to stop it all the same', async () => {
    api.on(`POST /machines/${web.id}/stop`, { task: { ...task, state: 'running' } });
    const error = { code: 'guest_did_not_stop', message: 'It did not stop.', details: {} };
    api.on(`GET /tasks/${task.id}`, { ...task, state: 'failed', error });
    const outcome = await cli('machine', 'stop', 'web', '--mode', 'guest');
    expect(outcome.code).toBe(4);
    expect(outcome.stderr).toContain('--mode power');
  });

  it('gets and loses drives', async () => {
    api.on(`POST /machines/${web.id}/drives`, { task: { ...task, result: { driveId: data.id, slot: 1 } } });
    api.on(`DELETE /machines/${web.id}/drives/${data.id}`, { task });
    expect((await cli('machine', 'attach', 'web', 'data')).stdout).toBe('Drive data is attached to web, slot 1.\n');
    await cli('machine', 'attach', 'web', 'data', '--slot', '7');
    expect(api.sent(`POST /machines/${web.id}/drives`)).toEqual([{ driveId: data.id }, { driveId: data.id, slot: 7 }]);
    expect((await cli('machine', 'detach', 'web', 'data')).stdout).toBe('Drive data is detached from web.\n');
  });

  it('is named by its drives', async () => {
    const attached = aDrive({ name: 'root', attachedTo: { machineId: web.id, slot: 3 } });
    api.on('GET /drives', { items: [attached], nextCursor: null });
    expect((await cli('drive', 'list')).stdout).toMatch(/12345678:3/);
    expect((await cli('drive', 'show', 'root')).stdout).toMatch(/^attached to: +web, slot 3$/m);
  });

  it('can be granted', async () => {
    api.on('GET /users/ann', { id: 'u1', name: 'ann' });
    api.on('POST /grants', { id: 'g1', objectKind: 'machine', objectId: web.id });
    expect((await cli('grant', 'create', 'ann', 'ro', '--machine', 'web')).code).toBe(0);
    expect(api.sent('POST /grants')).toEqual([{ user: 'u1', machineId: web.id, access: 'ro' }]);
  });
});

describe('the serial log', () => {
  /** Serves the log that `text` gives at the time. */
  const serveLog = (text: () => string) =>
    api.on(`GET /machines/${web.id}/serial`, ({ query }: Recorded, response: Parameters<typeof problem>[0]) => {
      const bytes = Buffer.from(text());
      const asked = Number(query.get('from') ?? -65_536);
      const from = asked < 0 ? Math.max(0, bytes.length + asked) : Math.min(asked, bytes.length);
      response.setHeader('content-range', `bytes ${from}-${Math.max(from, bytes.length) - 1}/${bytes.length}`);
      response.end(bytes.subarray(from));
    });
  const asked = () => api.asked(`GET /machines/${web.id}/serial`).map(({ query }) => query.get('from'));

  it('is printed as it is: its end, so much of it, or all', async () => {
    serveLog(() => 'one\r\ntwo\x1b[1m\r\n');
    expect((await cli('machine', 'log', 'web')).stdout).toBe('one\r\ntwo\x1b[1m\r\n');
    expect((await cli('machine', 'log', 'web', '--last', '4')).stdout).toBe('1m\r\n');
    expect((await cli('machine', 'log', 'web', '--last', '0')).stdout).toBe('');
    await cli('machine', 'log', 'web', '--all');
    expect(asked()).toEqual([null, '-4', String(Number.MAX_SAFE_INTEGER), '0']);
  });

  it('obeys no escape sequence of a guest on a terminal', async () => {
    serveLog(() => 'a\tb\r\n\x1b[2J');
    const { stdout } = await runCli(['machine', 'log', 'web'], { api, columns: 80 });
    expect(stdout).toBe('a\tb\r\n\\x1b[2J');
  });

  it('is cut to its last lines, one that is not ended among them', async () => {
    serveLog(() => 'one\r\ntwo\n\nfour');
    const tail = async (count: string) => (await cli('machine', 'log', 'web', '--tail', count)).stdout;
    expect(await tail('1')).toBe('four');
    expect(await tail('3')).toBe('two\n\nfour');
    expect(await tail('9')).toBe('one\r\ntwo\n\nfour');
    expect(await tail('0')).toBe('');
    serveLog(() => 'one\ntwo\n');
    expect(await tail('1')).toBe('two\n');
    expect((await cli('machine', 'log', 'web', '--tail', 'x')).code).toBe(2);
    expect((await cli('machine', 'log', 'web', '--tail', '1', '--all')).code).toBe(2);
  });

  it('is followed over broken connections and restarts, every byte once, until Ctrl-C', async () => {
    const log = 'first second third';
    const stop = new AbortController();
    const follows: string[] = [];
    api.on(`GET /machines/${web.id}/serial`, ({ query }: Recorded, response: Parameters<typeof problem>[0]) => {
      const from = Number(query.get('from') ?? 0);
      response.setHeader('content-range', `bytes ${from}-${from}/${log.length}`);
      if (query.get('follow') !== 'true') return void response.end('first ');
      follows.push(String(from));
      if (follows.length === 1) response.write(log.slice(from, 9), () => response.destroy());
      else if (follows.length === 2) response.end(log.slice(from, 13));
      else if (follows.length === 3) response.end(log.slice(from));
      else stop.abort('SIGINT');
      return undefined;
    });
    const outcome = await runCli(['machine', 'log', 'web', '-f'], { api, signal: stop.signal });
    expect(outcome).toMatchObject({ code: 130, stdout: log });
    expect(follows).toEqual(['6', '9', '13', '18']);
  });

  it('of a machine that is gone ends', async () => {
    let count = 0;
    api.on(`GET /machines/${web.id}/serial`, (_request: Recorded, response: Parameters<typeof problem>[0]) => {
      if (count++ > 0) return problem(response, 404, 'not_found', 'Gone.');
      response.setHeader('content-range', 'bytes 0--1/0');
      response.end();
      return undefined;
    });
    expect(await cli('machine', 'log', 'web', '--follow')).toMatchObject({ code: 3, stdout: '' });
  });
});

describe('the console', () => {
  /** A guest that answers what is typed with the same in capitals. */
  const serveConsole = (refusals = 0): { typed: string[]; closed: Promise<void> } => {
    const typed: string[] = [];
    const closed = Promise.withResolvers<void>();
    let output: Parameters<typeof problem>[0] | undefined;
    let left = refusals;
    api.on(`GET /machines/${web.id}/serial`, (_request: Recorded, response: Parameters<typeof problem>[0]) => {
      output = response;
      response.writeHead(200, { 'content-range': 'bytes 0--1/0' });
      response.flushHeaders();
      response.once('close', closed.resolve);
      return undefined;
    });
    api.on(`POST /machines/${web.id}/console`, ({ body }: Recorded, response: Parameters<typeof problem>[0]) => {
      if (left-- > 0) return problem(response, 409, 'console_full', 'It does not read.');
      typed.push(body);
      output?.write(body.toUpperCase());
      response.writeHead(204).end();
      return undefined;
    });
    return { typed, closed: closed.promise };
  };

  it('takes a pipe, and leaves a while after its end', async () => {
    const { typed, closed } = serveConsole(1);
    const stdin = Readable.from([Buffer.from('ls\n\x1d'), Buffer.from('exit\n')]);
    const outcome = await runCli(['machine', 'console', 'web', '--linger', '0s'], { api, stdin });
    await closed;
    expect(outcome.code).toBe(0);
    expect(typed).toEqual(['ls\n\x1d', 'exit\n']);
    const [asked] = api.asked(`GET /machines/${web.id}/serial`);
    expect(asked?.query.get('from')).toBe(String(Number.MAX_SAFE_INTEGER));
    const more = await runCli(['machine', 'console', 'web'], { api, stdin: Readable.from(['ok']) });
    expect(more).toMatchObject({ code: 0, stdout: 'OK' });
  });

  it('hands every key of a terminal over, until Ctrl-]', async () => {
    const { typed } = serveConsole();
    const raw: boolean[] = [];
    const stdin = Object.assign(new PassThrough(), { isTTY: true, setRawMode: (on: boolean) => raw.push(on) });
    const running = runCli(['machine', 'console', 'web', '--last', '1KiB'], { api, stdin, columns: 80 });
    stdin.write('\x03');
    await expect.poll(() => typed).toEqual(['\x03']);
    stdin.write('q\x1dnever');
    const outcome = await running;
    expect(outcome.code).toBe(0);
    expect(outcome.stderr).toContain('Ctrl-]');
    expect(typed).toEqual(['\x03', 'q']);
    expect(raw).toEqual([true, false]);
    expect(api.asked(`GET /machines/${web.id}/serial`)[0]?.query.get('from')).toBe('-1024');
  });

  it('gives the terminal back when the machine is off, or the server ends it', async () => {
    const raw: boolean[] = [];
    const terminal = () => Object.assign(new PassThrough(), { isTTY: true, setRawMode: (on: boolean) => raw.push(on) });
    serveConsole();
    api.on(`POST /machines/${web.id}/console`, (_request: Recorded, response: Parameters<typeof problem>[0]) =>
      problem(response, 409, 'machine_off', 'The machine is off.'),
    );
    const stdin = terminal();
    stdin.write('x');
    const off = await runCli(['machine', 'console', 'web'], { api, stdin });
    expect(off.code).toBe(4);
    expect(off.stderr).toContain('is off');
    api.on(`GET /machines/${web.id}/serial`, (_request: Recorded, response: Parameters<typeof problem>[0]) => {
      response.end('bye');
      return undefined;
    });
    const ended = await runCli(['machine', 'console', 'web'], { api, stdin: terminal() });
    expect(ended).toMatchObject({ code: 6, stdout: 'bye' });
    expect(raw).toEqual([true, false, true, false]);
  });
});

describe('snapshots of machines', () => {
  const base = aSnapshot([aPart(root)], { name: 'base', machine: ofMachine(web) });
  const memory = { method: 'background', streamBytes: 2 ** 27, storedBytes: 2 ** 25 };
  const taken = aSnapshot([aPart(root), aPart(data)], {
    id: 'cccccccc-0000-4000-8000-000000000000',
    name: 'taken',
    consistency: 'memory',
    machine: ofMachine(web, { parentId: base.id, current: true, pauseMilliseconds: 12.5, reason: 'So it is.', memory }),
  });
  const branch = aSnapshot([aPart(root)], { name: 'branch', machine: ofMachine(web, { parentId: base.id }) });
  const orphan = aSnapshot([aPart(root)], { name: 'orphan', machine: ofMachine(web, { parentId: 'gone' }) });
  const all = [base, taken, branch, orphan];
  beforeEach(() => {
    api.on('GET /snapshots', named(all));
  });

  it('are taken', async () => {
    api.on('POST /snapshots', { task, snapshot: taken });
    expect((await cli('snapshot', 'create', '--machine', 'web')).stdout).toBe(
      `Created snapshot taken (${taken.id}), memory: So it is.\n`,
    );
    const more = ['--memory', '--quiesce', 'require', '--exclude', 'data', '--name', 'n', '--tag', 't'];
    await cli('snapshot', 'create', '--machine', 'web', ...more);
    await cli('snapshot', 'create', 'root', 'data');
    expect(api.sent('POST /snapshots')).toEqual([
      { machineId: web.id },
      { machineId: web.id, memory: true, quiesce: 'require', exclude: [data.id], name: 'n', tags: ['t'] },
      { driveIds: [root.id, data.id] },
    ]);
  });

  it('are listed and told apart by their machine', async () => {
    expect((await cli('snapshot', 'list', '--machine', 'web')).stdout).toMatch(/MACHINE.*\n.*web/);
    await cli('snapshot', 'show', 'taken', '--machine', 'web');
    expect(api.asked('GET /snapshots').map(({ query }) => query.get('machineId'))).toEqual([web.id, web.id]);
  });

  it('are shown with what was taken, and how', async () => {
    const { stdout } = await cli('snapshot', 'show', 'taken');
    expect(stdout).toMatch(/^consistency: +memory: So it is$/m);
    expect(stdout).toMatch(/^machine: +web \(12345678-/m);
    expect(stdout).toMatch(/^power: +running$/m);
    expect(stdout).toMatch(/^guest stood still: +12\.5 ms$/m);
    expect(stdout).toMatch(/^memory: +32 MiB stored of 128 MiB saved$/m);
    expect(stdout).not.toMatch(/frozen/);
  });

  it('are drawn as a tree, those without a parent at its root', async () => {
    const { stdout } = await cli('machine', 'tree', 'web');
    expect(stdout.replaceAll(/ {2}[0-9a-f]{8} {2}1 MiB {2}3d/g, '')).toBe(
      ['web', '├─○ base', '│ ├─● taken  memory  ← current', '│ └─○ branch', '└─○ orphan', ''].join('\n'),
    );
    expect(api.asked('GET /snapshots')[0]?.query.get('machineId')).toBe(web.id);
    expect(JSON.parse((await cli('machine', 'tree', 'web', '--json')).stdout)).toHaveLength(4);
    api.on('GET /snapshots', { items: [], nextCursor: null });
    expect((await cli('machine', 'tree', 'web')).stdout).toBe('web\n└─ (no snapshots)\n');
  });

  it('are reverted to, with what was asked for', async () => {
    const path = `POST /snapshots/${taken.id}/revert`;
    const result = { power: 'running', memory: true, untouchedDriveIds: [] };
    api.on(path, { task: { ...task, result } });
    expect((await cli('snapshot', 'revert', 'taken')).stdout).toBe(
      'Back at taken: web, running, with its memory; the state before is kept as a snapshot.\n',
    );
    api.on(path, { task: { ...task, result: { power: 'paused', memory: false, untouchedDriveIds: ['x'] } } });
    const more = ['--onto', 'other', '--without-memory', '--paused', '--no-safety'];
    expect((await cli('snapshot', 'revert', 'taken', ...more)).stdout).toBe(
      'Back at taken: other, paused; 1 drive that the snapshot does not cover stayed as it is.\n',
    );
    expect(api.sent(path)).toEqual([
      { keepSafety: true },
      { keepSafety: false, machineId: other.id, memory: false, paused: true },
    ]);
  });

  it('are cloned to machines', async () => {
    const path = `POST /snapshots/${taken.id}/clone-machine`;
    api.on(path, { task, machine: other });
    expect((await cli('machine', 'clone', 'taken', 'other')).stdout).toBe(
      `Created machine other (${other.id}) from taken; it is off.\n`,
    );
    await cli('machine', 'clone', 'taken', 'other', '--memory', '--description', 'd');
    expect(api.sent(path)).toEqual([{ name: 'other' }, { name: 'other', memory: true, description: 'd' }]);
  });
});
