import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  aDrive,
  aPart,
  aSnapshot,
  aTask,
  FakeApi,
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
const drive = aDrive({ name: 'data' });
const cli = (...argv: string[]) => runCli(argv, { api, now });
const serveDrive = () =>
  api.on('GET /drives', { items: [drive], nextCursor: null }).on(`GET /drives/${drive.id}`, drive);

describe('help', () => {
  it('lists nouns, serve and exit codes', async () => {
    const { code, stdout } = await cli('--help');
    expect(code).toBe(0);
    for (const word of ['drive', 'snapshot', 'export', 'task', 'doctor', 'serve', 'completion', '130', '--url'])
      expect(stdout).toContain(word);
  });

  it('of a noun lists its verbs, of a verb its options and the global ones', async () => {
    expect((await cli('help', 'drive')).stdout).toMatch(/revert .*flatten|flatten[\s\S]*revert/);
    const { code, stdout } = await cli('drive', 'create', '--help');
    expect(code).toBe(0);
    expect(stdout).toContain('--idempotency-key');
    expect(stdout).toContain('--json');
  });

  it('is shown on stderr with exit code 2 when there is nothing to do', async () => {
    expect(await cli()).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('Usage:') });
    expect(await cli('drive')).toMatchObject({ code: 2, stdout: '' });
  });

  it('knows its version without a server', async () => {
    expect(await runCli(['--version'])).toMatchObject({ code: 0, stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) });
  });
});

describe('usage errors exit with 2 and reach no server', () => {
  it.each([
    [['nonsense']],
    [['drive', 'lst']],
    [['drive', 'create', 'x']],
    [['drive', 'create', 'x', '10Q']],
    [['drive', 'create', 'x', '1G', '--meta', 'novalue']],
    [['drive', 'create', 'x', '1G', '--idempotency-key', 'with space']],
    [['drive', 'list', '--limit', '0']],
    [['drive', 'list', '--state', 'odd']],
    [['drive', 'delete', 'x', '--snapshots', 'maybe']],
    [['drive', 'import', 'disk.xyz', 'x']],
    [['export', 'create']],
    [['export', 'create', 'x', '--port', '5']],
    [['task', 'limit', 'abcdef', 'fast']],
    [['completion', 'tcsh']],
    [['grant', 'create', 'ann', 'rwx', '--drive', 'x']],
  ])('%j', async (argv) => {
    const outcome = await cli(...argv);
    expect(outcome.code).toBe(2);
    expect(outcome.stderr).toMatch(/^(error: |Usage: )/);
    expect(api.requests).toEqual([]);
  });
});

describe('errors', () => {
  it.each([
    [400, 'invalid_name', 2],
    [401, 'unauthenticated', 5],
    [403, 'forbidden', 5],
    [404, 'not_found', 3],
    [409, 'drive_busy', 4],
    [412, 'name_taken', 4],
    [500, 'engine_failed', 1],
    [507, 'space_low', 7],
  ])('%i %s exits with another code: %i', async (status, code, exitCode) => {
    api.on('POST /drives', (_request: Recorded, response: Parameters<typeof problem>[0]) =>
      problem(response, status, code, 'So it is.'),
    );
    const outcome = await cli('drive', 'create', 'x', '1G');
    expect(outcome.code).toBe(exitCode);
    expect(outcome.stdout).toBe('');
    expect(outcome.stderr).toMatch(new RegExp(`^error: So it is\\.\n(.*\n)*code: ${code}\n$`));
  });

  it('say what blocks, which task, and the remedy', async () => {
    api.on('POST /drives', (_request: Recorded, response: Parameters<typeof problem>[0]) =>
      problem(response, 409, 'snapshot_in_use', 'Busy.', {
        blocking: ['a', 'b'],
        taskId: 't1',
        remedy: 'Wait.',
        changed: 'rolledBack',
      }),
    );
    expect((await cli('drive', 'create', 'x', '1G')).stderr).toBe(
      'error: Busy.\nblocking: a, b\ntask: t1\nchanged: no (rolled back)\nremedy: Wait.\ncode: snapshot_in_use\n',
    );
  });

  it('are the problem body on stderr with --json', async () => {
    api.on('POST /drives', (_request: Recorded, response: Parameters<typeof problem>[0]) =>
      problem(response, 412, 'name_taken', 'Taken.', { field: 'name', extra: [1] }),
    );
    const outcome = await cli('drive', 'create', 'x', '1G', '--json');
    expect(outcome.stdout).toBe('');
    expect(JSON.parse(outcome.stderr)).toEqual({
      type: 'urn:calotype:error:name_taken',
      title: 'name_taken',
      status: 412,
      detail: 'Taken.',
      code: 'name_taken',
      field: 'name',
      extra: [1],
    });
    expect(JSON.parse((await cli('drive', 'show', '', '--json')).stderr)).toMatchObject({
      code: 'usage',
      detail: 'The drive is empty.',
    });
  });
});

describe('lists', () => {
  const drives = Array.from({ length: 2500 }, (_, i) => aDrive({ name: `d${i}` }));
  beforeEach(() => {
    api.on('GET /drives', ({ query }: Recorded) => {
      const start = Number(query.get('cursor') ?? 0);
      const end = start + Number(query.get('limit') ?? 100);
      return {
        items: drives.slice(start, end),
        nextCursor: end < drives.length ? String(end) : null,
        total: drives.length,
      };
    });
  });

  it('follow all pages, as one JSON array of what the API sent', async () => {
    const { code, stdout } = await cli('drive', 'list', '--json');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual(drives);
    expect(api.requests).toHaveLength(3);
  });

  it('that fail print no beginning of a document', async () => {
    api.on('GET /drives', (_request: Recorded, response: Parameters<typeof problem>[0]) =>
      problem(response, 500, 'internal', 'No.'),
    );
    expect(await cli('drive', 'list', '--json')).toMatchObject({ code: 1, stdout: '' });
  });

  it('end at --limit', async () => {
    expect(JSON.parse((await cli('drive', 'list', '--json', '--limit', '1200')).stdout)).toEqual(drives.slice(0, 1200));
    expect(api.requests.map((request) => request.query.get('limit'))).toEqual(['1000', '200']);
    expect((await cli('drive', 'list', '--limit', '3')).stdout.trimEnd().split('\n')).toHaveLength(4);
  });

  it('count exactly', async () => {
    expect((await cli('drive', 'list', '--count')).stdout).toBe('2500\n');
    expect(api.requests[0]?.query.get('total')).toBe('true');
    expect(JSON.parse((await cli('drive', 'list', '--count', '--json')).stdout)).toEqual({ total: 2500 });
  });

  it('pass filters and sorting on', async () => {
    await cli(
      'drive',
      'list',
      '--contains',
      'a',
      '--like',
      'd*',
      '--name',
      'n',
      '--state',
      'error',
      '--tag',
      't',
      '--sort',
      'name',
      '--order',
      'desc',
    );
    expect(Object.fromEntries(api.requests[0]?.query ?? [])).toMatchObject({
      nameContains: 'a',
      nameLike: 'd*',
      name: 'n',
      state: 'error',
      tag: 't',
      sort: 'name',
      order: 'desc',
    });
  });

  it('that are empty print nothing but a remark, and an empty array as JSON', async () => {
    api.on('GET /drives', { items: [], nextCursor: null });
    expect(await cli('drive', 'list')).toEqual({ code: 0, stdout: '', stderr: 'No drives.\n' });
    expect(await cli('drive', 'list', '-q')).toEqual({ code: 0, stdout: '', stderr: '' });
    expect((await cli('drive', 'list', '--json')).stdout).toBe('[]\n');
  });

  it('show people a table with sizes they can read, and exact ones with --bytes', async () => {
    api.on('GET /drives', {
      items: [
        aDrive({ id: '12345678-0000-4000-8000-000000000000', snapshotCount: 3, exported: true, tags: ['a', 'b'] }),
      ],
      nextCursor: null,
    });
    expect((await cli('drive', 'list')).stdout).toBe(
      'ID        NAME    SIZE  STATE      SNAPSHOTS  EXPORTED  MACHINE:SLOT  AGE  TAGS\n' +
        '12345678  data  10 GiB  available          3  yes                      3d  a,b\n',
    );
    expect((await cli('drive', 'list', '--bytes')).stdout).toContain('10737418240');
  });

  it('of snapshots narrow by drive and time', async () => {
    serveDrive().on('GET /snapshots', { items: [], nextCursor: null });
    await cli('snapshot', 'list', '--drive', 'data', '--since', '12h', '--before', '2031-04-12');
    expect(Object.fromEntries(api.asked('GET /snapshots')[0]?.query ?? [])).toMatchObject({
      driveId: drive.id,
      createdFrom: '2031-04-12T04:21:05.000Z',
      createdBefore: '2031-04-12T00:00:00.000Z',
    });
  });
});

describe('what is shown', () => {
  it('of usage is four numbers and the depth', async () => {
    serveDrive().on(`GET /drives/${drive.id}/usage`, {
      virtualBytes: 2 ** 30,
      liveBytes: 2 ** 20,
      snapshotBytes: 0,
      onDiskBytes: 3 * 2 ** 20,
      depth: 4,
    });
    expect((await cli('drive', 'usage', 'data')).stdout).toBe(
      'virtual:            1 GiB\nlive:               1 MiB\nheld by snapshots:  0 B\non disk:            3 MiB\nread depth:         4 layers\n',
    );
  });

  it('of changes is every extent and the sum', async () => {
    const snapshot = aSnapshot([aPart(drive)], { name: 'before' });
    serveDrive().on('GET /snapshots', { items: [snapshot], nextCursor: null });
    api.on(`GET /drives/${drive.id}/changes`, { extents: [{ start: 0, length: 4096 }], totalBytes: 4096 });
    expect(await cli('drive', 'changes', 'data', '--from', 'before')).toMatchObject({
      stdout: 'START  LENGTH\n    0    4096\n',
      stderr: '1 extents, 4 KiB in total.\n',
    });
    expect(api.asked(`GET /drives/${drive.id}/changes`)[0]?.query.get('from')).toBe(snapshot.parts[0]?.id);
  });

  it('of a new export is its URI alone on stdout, with examples beside it', async () => {
    const uri = 'nbd+unix:///x?socket=/run/x.sock';
    serveDrive().on('POST /exports', { id: 'e', uri, writable: true });
    const outcome = await cli('drive', 'export', 'data', '--writable');
    expect(outcome.stdout).toBe(`${uri}\n`);
    expect(outcome.stderr).toContain(`qemu-img info '${uri}'`);
    expect(outcome.stderr).toContain(`nbdinfo '${uri}'`);
    expect(api.sent('POST /exports')).toEqual([{ driveId: drive.id, writable: true, transport: { kind: 'unix' } }]);
    await cli('export', 'create', 'data', '--tcp', '--host', '0.0.0.0', '--port', '10809', '--tls');
    expect(api.sent('POST /exports')[1]).toEqual({
      driveId: drive.id,
      transport: { kind: 'tcp', host: '0.0.0.0', port: 10809, tls: true },
    });
  });

  it('of a doctor with errors exits with 1, and with 0 once repaired', async () => {
    const finding = {
      code: 'orphan_file',
      severity: 'error',
      subject: 'l1.qcow2',
      explanation: 'nothing refers to it',
      repairable: true,
    };
    api.on('POST /doctor', ({ body }: Recorded) => ({
      findings: [{ ...finding, ...(body.includes('true') ? { repaired: true } : {}) }],
      checkedFiles: 3,
    }));
    const sick = await cli('doctor');
    expect(sick.code).toBe(1);
    expect(sick.stdout).toContain('error    l1.qcow2: nothing refers to it (orphan_file, repairable)');
    expect(await cli('doctor', '--repair')).toMatchObject({ code: 0, stdout: expect.stringContaining('repaired') });
  });

  it('of a token is its secret alone on stdout', async () => {
    api.on('POST /tokens', { token: { id: 't', name: 'ci' }, secret: 'cal_x' });
    expect((await cli('token', 'create', 'ci', '--expires', '30d')).stdout).toBe('cal_x\n');
    expect(api.sent('POST /tokens')).toEqual([{ name: 'ci', expiresAt: '2031-05-12T16:21:05.000Z' }]);
  });

  it('of the version is this program when no server answers', async () => {
    const outcome = await runCli(['version', '--json', '--url', 'http://127.0.0.1:1', '--token', 't']);
    expect(outcome.code).toBe(0);
    expect(JSON.parse(outcome.stdout)).toMatchObject({ cli: expect.any(String), server: null });
  });

  it('of the tree is drawn from what the API sent', async () => {
    const part = aPart(drive, { sizeBytes: 4096 });
    const snapshot = aSnapshot([part], { id: '12345678-0000-4000-8000-000000000000', name: 'before' });
    serveDrive().on(`GET /drives/${drive.id}/tree`, {
      current: part.id,
      nodes: [{ depth: 0, part, snapshot, children: [] }],
    });
    expect((await cli('snapshot', 'tree', 'data')).stdout).toBe('data\n└─● before  12345678  4 KiB  3d  ← current\n');
  });
});

describe('passwords', () => {
  const user = {
    id: 'u1',
    name: 'ann',
    email: null,
    isOperator: false,
    disabled: false,
    hasPassword: true,
    createdAt: '2031-04-09T16:20:05Z',
    version: 1,
  };

  it('come from standard input, never from the command line', async () => {
    const { Readable } = await import('node:stream');
    api.on('POST /users', user);
    await runCli(['user', 'create', 'ann', '--password-stdin'], { api, stdin: Readable.from(['correct horse\n']) });
    expect(api.sent('POST /users')).toEqual([{ name: 'ann', password: 'correct horse' }]);
    expect((await cli('user', 'create', 'ann')).code).toBe(2);
    expect((await cli('user', 'create', 'ann', '--no-password')).code).toBe(0);
  });

  it('of oneself need the old one', async () => {
    const { Readable } = await import('node:stream');
    api.on('GET /', { name: 'Calotype', version: '1', engine: {}, caller: { userId: 'u1' } });
    api.on(
      'PUT /users/u1/password',
      (_request: Recorded, response: Parameters<typeof problem>[0]) => void response.writeHead(204).end(),
    );
    expect(
      (await runCli(['user', 'set-password', '--password-stdin'], { api, stdin: Readable.from(['old\n', 'new\n']) }))
        .code,
    ).toBe(0);
    expect(api.sent('PUT /users/u1/password')).toEqual([{ oldPassword: 'old', password: 'new' }]);
  });

  it('are made up for a reset and shown once', async () => {
    api.on('GET /users/ann', user);
    api.on(
      'PUT /users/u1/password',
      (_request: Recorded, response: Parameters<typeof problem>[0]) => void response.writeHead(204).end(),
    );
    const { stdout } = await cli('user', 'reset-password', 'ann');
    expect(stdout).toMatch(/^[A-Za-z2-9]{24}\n$/);
    expect(api.sent('PUT /users/u1/password')).toEqual([{ password: stdout.trim() }]);
  });
});

describe('tasks', () => {
  const task = aTask({ state: 'running', id: 'aaaaaaaa-0000-4000-8000-000000000000' });

  it('are steered', async () => {
    api.on('GET /tasks', { items: [task], nextCursor: null });
    for (const verb of ['cancel', 'pause', 'resume']) {
      api.on(`POST /tasks/${task.id}/${verb}`, task);
      expect((await cli('task', verb, 'aaaaaaaa')).code).toBe(0);
    }
    api.on(`PATCH /tasks/${task.id}`, task);
    await cli('task', 'limit', 'aaaaaaaa', '50M');
    await cli('task', 'limit', 'aaaaaaaa', 'none');
    expect(api.sent(`PATCH /tasks/${task.id}`)).toEqual([
      { speedLimitBytesPerSecond: 50 * 2 ** 20 },
      { speedLimitBytesPerSecond: 0 },
    ]);
  });

  it('are waited for, to the end or to a limit', async () => {
    api.on(`GET /tasks/${task.id}`, task);
    expect(await cli('task', 'wait', task.id, '--timeout', '1s')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('wait_timeout'),
    });
    api.on(`GET /tasks/${task.id}`, { ...task, state: 'cancelled' });
    expect((await cli('task', 'wait', task.id)).code).toBe(1);
    api.on(`GET /tasks/${task.id}`, { ...task, state: 'done' });
    expect((await cli('task', 'wait', task.id)).code).toBe(0);
  });
});
