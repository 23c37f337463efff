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

describe('changes', () => {
  const running = aTask({
    state: 'running',
    progress: { done: 1, total: 2, unit: 'steps', ratePerSecond: null, estimateSeconds: null },
  });

  it('that the server finished at once take one request', async () => {
    api.on('POST /drives', { task: aTask(), drive });
    const outcome = await cli(
      'drive',
      'create',
      'data',
      '10G',
      '--description',
      'd',
      '--meta',
      'a=b=c',
      '--meta',
      'e=',
      '--tag',
      'x',
      '--tag',
      'y',
      '--refuse-existing-name',
    );
    expect(outcome).toEqual({ code: 0, stdout: `Created drive data (${drive.id}), 10 GiB.\n`, stderr: '' });
    expect(api.sent('POST /drives')).toEqual([
      { name: 'data', sizeBytes: 10 * 2 ** 30, description: 'd', meta: { a: 'b=c', e: '' }, tags: ['x', 'y'] },
    ]);
    expect(api.requests[0]?.headers).toMatchObject({ prefer: 'wait=1', 'if-none-match': '*' });
    expect(api.requests).toHaveLength(1);
  });

  it('wait for their task and print the object as it is then', async () => {
    serveDrive().on('POST /drives', { task: running, drive: { ...drive, state: 'creating' } });
    api.on(`GET /tasks/${running.id}`, () =>
      api.asked(`GET /tasks/${running.id}`).length < 3 ? running : { ...running, state: 'done' },
    );
    const outcome = await cli('drive', 'create', 'data', '10G', '--json');
    expect(outcome.code).toBe(0);
    expect(JSON.parse(outcome.stdout)).toEqual({ task: { ...running, state: 'done' }, drive });
    expect(api.asked(`GET /tasks/${running.id}`)).toHaveLength(3);
  });

  it('print the id of the task with --no-wait', async () => {
    api.on('POST /drives', { task: running, drive });
    expect(await cli('drive', 'create', 'data', '10G', '--no-wait')).toEqual({
      code: 0,
      stdout: `${running.id}\n`,
      stderr: '',
    });
    expect(api.requests[0]?.headers.prefer).toBe(undefined);
    expect(JSON.parse((await cli('drive', 'create', 'data', '10G', '--no-wait', '--json')).stdout)).toEqual({
      task: running,
      drive,
    });
  });

  it.each([
    ['engine_failed', 1],
    ['space_exhausted', 7],
    ['drive_not_ready', 4],
  ])('fail when their task fails: %s exits with %i', async (code, exitCode) => {
    const failed = {
      ...running,
      state: 'failed',
      error: { code, message: 'It broke.', details: { remedy: 'Mend it.' } },
    };
    api.on('POST /drives', { task: running, drive }).on(`GET /tasks/${running.id}`, failed);
    expect(await cli('drive', 'create', 'data', '10G')).toEqual({
      code: exitCode,
      stdout: '',
      stderr: `error: It broke.\ntask: ${running.id}\nremedy: Mend it.\ncode: ${code}\n`,
    });
  });

  it('leave the task running on Ctrl-C, and say how to follow it', async () => {
    const controller = new AbortController();
    api.on('POST /drives', { task: running, drive }).on(`GET /tasks/${running.id}`, () => {
      controller.abort('SIGINT');
      return undefined;
    });
    const outcome = await runCli(['drive', 'create', 'data', '10G'], { api, signal: controller.signal });
    expect(outcome.code).toBe(130);
    expect(outcome.stderr).toContain(`calotype task wait ${running.id}`);
    expect(api.asked(`POST /tasks/${running.id}/cancel`)).toEqual([]);
  });

  it('go on waiting over a restart of the server', async () => {
    serveDrive().on('POST /drives', { task: running, drive });
    api.on(`GET /tasks/${running.id}`, (_request: Recorded, response: Parameters<typeof problem>[0]) => {
      if (api.asked(`GET /tasks/${running.id}`).length < 3)
        return problem(response, 503, 'shutting_down', 'Going down.');
      return { ...running, state: 'done' };
    });
    expect((await cli('drive', 'create', 'data', '10G')).code).toBe(0);
  });

  it('draw a progress bar on a terminal', async () => {
    serveDrive().on('POST /drives', { task: running, drive });
    api.on(`GET /tasks/${running.id}`, { ...running, state: 'done' });
    const outcome = await runCli(['drive', 'create', 'data', '10G'], { api, columns: 80 });
    expect(outcome.stderr).toMatch(/drive\.create \[█+░+\] {2}50% 1\/2/);
    expect(outcome.stderr.endsWith('\r\x1b[K')).toBe(true);
    expect((await runCli(['drive', 'create', 'data', '10G', '-q'], { api, columns: 80 })).stderr).toBe('');
  });

  it('of every kind go to their address', async () => {
    const part = aPart(drive);
    const snapshot = aSnapshot([part], { name: 'before' });
    serveDrive().on('GET /snapshots', { items: [snapshot], nextCursor: null });
    const done = {
      task: aTask({ result: { freedBytes: 2 ** 20, keptBytes: 4096, ok: true, files: 2 } }),
      drive,
      snapshot,
    };
    const routes = [
      [`POST /drives/${drive.id}/resize`, ['drive', 'resize', 'data', '20G']],
      [`POST /drives/${drive.id}/check`, ['drive', 'check', 'data']],
      [`POST /drives/${drive.id}/flatten`, ['drive', 'flatten', 'data']],
      [`POST /drives/${drive.id}/revert`, ['drive', 'revert', 'data', 'before']],
      [`DELETE /drives/${drive.id}`, ['drive', 'delete', 'data', '--snapshots', 'keep', '--if-version', '3']],
      ['POST /snapshots', ['snapshot', 'create', 'data', 'data', '--name', 'before']],
      [`POST /snapshots/${snapshot.id}/revert`, ['snapshot', 'revert', 'before', '--no-safety']],
      [`POST /snapshots/${snapshot.id}/clone`, ['snapshot', 'clone', 'before', 'copy', '--size', '30G']],
      [`DELETE /snapshots/${snapshot.id}`, ['snapshot', 'delete', 'before', '--part', 'data']],
    ] as const;
    for (const [route, argv] of routes) {
      api.on(route, done);
      expect(await cli(...argv), argv.join(' ')).toMatchObject({
        code: 0,
        stderr: '',
        stdout: expect.stringMatching(/\.\n$/),
      });
      expect(api.asked(route), route).toHaveLength(1);
    }
    const [removal] = api.asked(`DELETE /drives/${drive.id}`);
    expect(removal?.query.get('snapshots')).toBe('keep');
    expect(removal?.headers['if-match']).toBe('"3"');
    expect(api.asked(`DELETE /snapshots/${snapshot.id}`)[0]?.query.getAll('part')).toEqual([part.id]);
    expect(api.sent(`POST /snapshots/${snapshot.id}/revert`)).toEqual([{ keepSafety: false }]);
    expect(api.sent('POST /snapshots')).toEqual([{ driveIds: [drive.id, drive.id], name: 'before' }]);
    expect((await cli('drive', 'delete', 'data')).stdout).toBe(
      'Deleted drive data (1 MiB freed, 4 KiB still held by others).\n',
    );
  });

  it('report a damaged drive by exit code 1', async () => {
    serveDrive().on(`POST /drives/${drive.id}/check`, {
      task: aTask({ result: { ok: false, files: 3, corruptions: 1 } }),
    });
    expect(await cli('drive', 'check', 'data')).toMatchObject({
      code: 1,
      stdout: 'Drive data is DAMAGED (files 3, corruptions 1).\n',
    });
  });
});

describe('set', () => {
  it('adds to metadata and tags of the version it read', async () => {
    const old = { ...drive, meta: { keep: '1', drop: '2', change: '3' }, tags: ['a', 'b'], version: 7 };
    api.on('GET /drives', { items: [old], nextCursor: null }).on(`PATCH /drives/${drive.id}`, old);
    expect(
      (await cli('drive', 'set', 'data', 'change=x', 'new=y=z', '--unset', 'drop', '--tag', 'c', '--untag', 'a')).code,
    ).toBe(0);
    expect(api.sent(`PATCH /drives/${drive.id}`)).toEqual([
      { meta: { keep: '1', change: 'x', new: 'y=z' }, tags: ['b', 'c'] },
    ]);
    expect(api.asked(`PATCH /drives/${drive.id}`)[0]?.headers['if-match']).toBe('"7"');
  });

  it('begins again when somebody was faster, unless a version was asked for', async () => {
    serveDrive().on(`PATCH /drives/${drive.id}`, (request: Recorded, response: Parameters<typeof problem>[0]) =>
      request.headers['if-match'] === '"2"' ? drive : problem(response, 412, 'precondition_failed', 'Changed.'),
    );
    api.on(`GET /drives/${drive.id}`, { ...drive, version: 2, meta: { theirs: '1' } });
    expect((await cli('drive', 'set', 'data', 'mine=2')).code).toBe(0);
    expect(api.sent(`PATCH /drives/${drive.id}`).at(-1)).toEqual({ meta: { theirs: '1', mine: '2' } });
    expect((await cli('drive', 'set', 'data', 'mine=2', '--if-version', '1')).code).toBe(4);
  });

  it('changes only what it is told, and something', async () => {
    serveDrive().on(`PATCH /drives/${drive.id}`, drive);
    await cli('drive', 'set', 'data', '--description', '');
    expect(api.sent(`PATCH /drives/${drive.id}`)).toEqual([{ description: '' }]);
    expect((await cli('drive', 'set', 'data')).code).toBe(2);
  });
});
