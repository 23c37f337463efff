import { afterEach, beforeEach, expect, it } from 'vitest';
import { aDrive, aMachine, aTask, FakeApi, problem, type Recorded, runCli } from '../../test/fake-native-api.ts';

let api: FakeApi;
beforeEach(async () => {
  api = await FakeApi.start();
  api.on('GET /', { name: 'Calotype', bootDirectory: null, caller: { projectName: 'default' } });
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

const tag = 'calotype-demo';
const names = { machines: ['demo-vm', 'demo-instance'], drives: ['demo-disk1', 'demo-disk2', 'demo-disk3'] };
const machines = names.machines.map((name) => aMachine({ name, power: 'running', tags: [tag] }));
const drives = names.drives.map((name, at) =>
  aDrive({ name, tags: [tag], attachedTo: { machineId: machines[at < 2 ? 0 : 1]?.id ?? '', slot: at % 2 } }),
);
const listed =
  <T extends { name: string; tags: readonly string[] }>(items: readonly T[]) =>
  ({ query }: Recorded) => {
    const [name, wanted] = [query.get('name'), query.get('tag')];
    const found = items.filter(
      (item) => (name === null || item.name === name) && (wanted === null || item.tags.includes(wanted)),
    );
    return { items: found, nextCursor: null };
  };
const changes = () =>
  api.requests.filter(({ method }) => method !== 'GET').map(({ method, path }) => `${method} ${path}`);

it('with everything there and running, changes nothing, and prints what there is as JSON', async () => {
  api.on('GET /machines', listed(machines)).on('GET /drives', listed(drives));
  for (const machine of machines) api.on(`GET /machines/${machine.id}`, machine);
  const { code, stdout } = await runCli(['demo', '--json'], { api });
  expect({ code, ...JSON.parse(stdout) }).toEqual({ code: 0, machines });
  expect(changes()).toEqual([]);
});

it('does not touch what only has the same name', async () => {
  api.on('GET /machines', listed([aMachine({ name: 'demo-vm' })])).on('GET /drives', listed([]));
  api.on('POST /machines', (_request: Recorded, response: Parameters<typeof problem>[0]) =>
    problem(response, 409, 'name_taken', 'Taken.'),
  );
  const made = await runCli(['demo'], { api });
  expect(made).toMatchObject({
    code: 4,
    stderr: expect.stringContaining('another machine named demo-vm in project default'),
  });
  expect(await runCli(['demo', '--remove'], { api })).toMatchObject({ code: 0, stdout: 'There is no demo.\n' });
  expect(changes()).toEqual(['POST /machines']);
});

it('says how to begin again when something could not be made', async () => {
  api.on('GET /machines', listed([aMachine({ name: 'demo-vm', state: 'error', tags: [tag] })]));
  expect(await runCli(['demo'], { api })).toMatchObject({
    code: 4,
    stderr: expect.stringContaining('calotype demo --remove'),
  });
});

it('sends those who are no operators to one when the files are missing', async () => {
  api.on('GET /machines', listed([])).on('GET /drives', listed([]));
  api.on('POST /machines', (_request: Recorded, response: Parameters<typeof problem>[0]) =>
    problem(response, 404, 'boot_file_not_found', 'No.'),
  );
  expect(await runCli(['demo'], { api })).toMatchObject({
    code: 3,
    stderr: expect.stringContaining('Ask an operator'),
  });
});

it('deletes its machines with their snapshots, but no drive that is not its own, and takes what is gone already for deleted', async () => {
  api.on('GET /machines', listed(machines)).on('GET /drives', listed(drives.slice(0, 1)));
  api.on(`DELETE /machines/${machines[0]?.id}`, { task: aTask({ kind: 'machine.delete' }) });
  const { code, stdout } = await runCli(['demo', '--remove', '--json'], { api });
  expect({ code, ...JSON.parse(stdout) }).toEqual({ code: 0, deleted: [...names.machines, 'demo-disk1'] });
  expect(
    api.requests.filter(({ method }) => method === 'DELETE').map(({ query }) => Object.fromEntries(query)),
  ).toEqual([
    { drives: 'keep', snapshots: 'delete' },
    { drives: 'keep', snapshots: 'delete' },
    { snapshots: 'delete' },
  ]);
});
