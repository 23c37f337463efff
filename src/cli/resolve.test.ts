import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { aDrive, aPart, aSnapshot, aTask, FakeApi, problem, runCli } from '../../test/fake-native-api.ts';

let api: FakeApi;
beforeEach(async () => {
  api = await FakeApi.start();
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

const one = aDrive({ name: 'data', id: '11111111-2222-4333-8444-555555555555' });
const two = aDrive({ name: 'data', id: '11111111-9999-4333-8444-555555555555' });
const hex = aDrive({ name: 'abcdef12', id: 'fedcba98-2222-4333-8444-555555555555' });

function serveDrives(...drives: (typeof one)[]): void {
  api.on('GET /drives', ({ query }: { query: URLSearchParams }) => {
    const name = query.get('name');
    return { items: drives.filter((drive) => name === null || drive.name === name), nextCursor: null };
  });
  for (const drive of drives) api.on(`GET /drives/${drive.id}`, drive);
}

const show = async (text: string) => {
  const outcome = await runCli(['drive', 'show', text, '--json'], { api });
  return outcome.code === 0 ? JSON.parse(outcome.stdout).id : `exit ${outcome.code}`;
};

describe('a drive', () => {
  it('is found by id with one request, in any case', async () => {
    serveDrives(one, two);
    expect(await show(one.id)).toBe(one.id);
    expect(await show(one.id.toUpperCase())).toBe(one.id);
    expect(api.requests).toHaveLength(2);
  });

  it('is found by name, and by the beginning of its id', async () => {
    serveDrives(one, hex);
    expect(await show('data')).toBe(one.id);
    expect(await show('111111')).toBe(one.id);
    expect(await show('11111111-22')).toBe(one.id);
    expect(await show('FEDCBA')).toBe(hex.id);
  });

  it('is not found by less than six characters of its id', async () => {
    serveDrives(one);
    expect(await show('11111')).toBe('exit 3');
  });

  it('is found by a name that looks like the beginning of an id before one of such an id', async () => {
    serveDrives(hex, aDrive({ id: 'abcdef12-0000-4000-8000-000000000000', name: 'other' }));
    expect(await show('abcdef12')).toBe(hex.id);
  });

  it('is asked for more exactly when the name is ambiguous, with the candidates', async () => {
    serveDrives(one, two);
    const outcome = await runCli(['drive', 'show', 'data'], { api });
    expect(outcome.code).toBe(4);
    expect(outcome.stderr).toContain(one.id);
    expect(outcome.stderr).toContain(two.id);
    expect(outcome.stderr).toMatch(/code: ambiguous/);
    expect(await show('111111')).toBe('exit 4');
    expect(await show('11111111-9')).toBe(two.id);
  });

  it('may have any characters in its name', async () => {
    const odd = aDrive({ name: 'a/b?c&d=é %' });
    serveDrives(odd);
    expect(await show('a/b?c&d=é %')).toBe(odd.id);
  });

  it('that is missing says where to look', async () => {
    serveDrives();
    expect(await runCli(['drive', 'show', 'nothing'], { api })).toMatchObject({
      code: 3,
      stderr: "error: There is no drive 'nothing'.\nremedy: See what there is: calotype drive list.\ncode: not_found\n",
    });
    expect((await runCli(['drive', 'show', ''], { api })).code).toBe(2);
  });

  it('is looked for on every page', async () => {
    api.on('GET /drives', ({ query }: { query: URLSearchParams }) => {
      if (query.has('name')) return { items: [], nextCursor: null };
      return query.get('cursor') === 'next' ? { items: [one], nextCursor: null } : { items: [hex], nextCursor: 'next' };
    });
    expect(await show('111111')).toBe(one.id);
  });
});

describe('a snapshot', () => {
  const first = aSnapshot([aPart(one)], { name: 'before' });
  const second = aSnapshot([aPart(hex)], { name: 'before' });

  function serveSnapshots(...snapshots: (typeof first)[]): void {
    serveDrives(one, hex);
    api.on('GET /snapshots', ({ query }: { query: URLSearchParams }) => ({
      items: snapshots.filter(
        (snapshot) =>
          (!query.has('name') || snapshot.name === query.get('name')) &&
          (!query.has('driveId') || snapshot.parts.some((part) => part.driveId === query.get('driveId'))),
      ),
      nextCursor: null,
    }));
  }

  it('of a name that several drives have is told apart by --drive', async () => {
    serveSnapshots(first, second);
    const ambiguous = await runCli(['snapshot', 'show', 'before'], { api });
    expect(ambiguous.code).toBe(4);
    expect(ambiguous.stderr).toContain('of data');
    expect(ambiguous.stderr).toContain('--drive');
    const outcome = await runCli(['snapshot', 'show', 'before', '--drive', 'data', '--json'], { api });
    expect(JSON.parse(outcome.stdout).id).toBe(first.id);
  });

  it('stands for its drive snapshot where it has one part, and names them where it has several', async () => {
    const group = aSnapshot([aPart(one), aPart(hex)], { name: 'group' });
    serveSnapshots(first, group);
    api.on(`POST /snapshots/${first.id}/clone`, { task: aTask(), drive: aDrive({ name: 'copy' }) });
    api.on(`POST /snapshots/${group.id}/clone`, { task: aTask(), drive: aDrive({ name: 'copy' }) });
    expect((await runCli(['snapshot', 'clone', 'before', 'copy'], { api })).code).toBe(0);
    expect(api.sent(`POST /snapshots/${first.id}/clone`)).toEqual([{ part: first.parts[0]?.id, name: 'copy' }]);

    const unclear = await runCli(['snapshot', 'clone', 'group', 'copy'], { api });
    expect(unclear.code).toBe(2);
    expect(unclear.stderr).toContain('--part');
    for (const part of [hex.name, hex.id.slice(0, 8), group.parts[1]?.id ?? '']) {
      expect((await runCli(['snapshot', 'clone', 'group', 'copy', '--part', part], { api })).code).toBe(0);
    }
    expect((await runCli(['snapshot', 'clone', 'group', 'copy', '--drive', hex.name], { api })).code).toBe(0);
    const sent = api.sent(`POST /snapshots/${group.id}/clone`);
    expect(sent).toEqual(Array(4).fill({ part: group.parts[1]?.id, name: 'copy' }));
    expect((await runCli(['snapshot', 'clone', 'group', 'copy', '--part', 'none'], { api })).code).toBe(3);
  });

  it('is the point that a drive is reverted to; the id of a drive snapshot does as well', async () => {
    const group = aSnapshot([aPart(hex), aPart(one)], { name: 'group' });
    serveSnapshots(group, second);
    api.on(`POST /drives/${one.id}/revert`, { task: aTask() });
    expect((await runCli(['drive', 'revert', 'data', 'group'], { api })).code).toBe(0);
    expect((await runCli(['drive', 'revert', 'data', group.parts[1]?.id ?? '', '--no-safety'], { api })).code).toBe(0);
    expect(api.sent(`POST /drives/${one.id}/revert`)).toEqual([
      { driveSnapshotId: group.parts[1]?.id, keepSafety: true },
      { driveSnapshotId: group.parts[1]?.id, keepSafety: false },
    ]);
    // Of another drive only.
    expect((await runCli(['drive', 'revert', 'data', 'before'], { api })).code).toBe(3);
  });
});

describe('a user', () => {
  it('is found by name at once, or by the beginning of the id', async () => {
    const user = {
      id: 'cafebabe-2222-4333-8444-555555555555',
      name: 'ann',
      email: null,
      isOperator: false,
      disabled: false,
      hasPassword: true,
      createdAt: '2031-04-09T16:20:05Z',
      version: 1,
    };
    api.on('GET /users/ann', user).on('GET /users', { items: [user], nextCursor: null });
    expect((await runCli(['user', 'show', 'ann'], { api })).stdout).toContain(user.id);
    expect(api.requests).toHaveLength(1);
    expect((await runCli(['user', 'show', 'cafeba'], { api })).stdout).toContain('ann');
    expect((await runCli(['user', 'show', 'bob'], { api })).code).toBe(3);
  });
});

describe('an export', () => {
  const served = {
    id: 'deadbeef-2222-4333-8444-555555555555',
    driveId: one.id,
    driveSnapshotId: null,
    writable: true,
    transport: 'unix',
    exportName: 'x',
    uri: 'nbd+unix:///x?socket=/s',
    createdAt: '2031-04-09T16:20:05Z',
  };

  it('is found by the name of its drive or the beginning of its id', async () => {
    serveDrives(one);
    api.on('GET /exports', { items: [served] });
    api.on(
      `DELETE /exports/${served.id}`,
      (_request: unknown, response: { writeHead: (status: number) => { end: () => void } }) =>
        void response.writeHead(204).end(),
    );
    expect((await runCli(['export', 'close', 'data'], { api })).code).toBe(0);
    expect((await runCli(['export', 'close', 'deadbeef'], { api })).code).toBe(0);
    expect((await runCli(['export', 'close', 'other'], { api })).code).toBe(3);
  });
});

it('reports a refusal while looking as what it is', async () => {
  api.on('GET /drives', (_request: unknown, response: Parameters<typeof problem>[0]) =>
    problem(response, 401, 'token_revoked', 'The token was revoked.'),
  );
  expect(await runCli(['drive', 'show', 'data'], { api })).toMatchObject({
    code: 5,
    stderr: expect.stringContaining('calotype token create'),
  });
});
