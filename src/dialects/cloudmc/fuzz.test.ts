/** Requests that nobody means, to every route: each is answered in CloudMC's form, none by a fault, and what is refused changes nothing. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CloudmcClient } from '../../../test/support/cloudmc-client.ts';
import { DialectRig } from '../../../test/support/dialect-rig.ts';

let rig: DialectRig;
let client: CloudmcClient;
let ids: string[];

beforeAll(async () => {
  rig = await DialectRig.start();
  client = new CloudmcClient(rig);
  const [root, free] = [await rig.drive('root', 1024 ** 2), await rig.drive('free', 1024 ** 2)];
  const machine = await rig.machine('vm', [root.id]);
  const snapshot = await rig.snapshot({ driveIds: [free.id] });
  const [offering] = await client.get('diskofferings');
  ids = [root.id, free.id, machine.id, snapshot.id, snapshot.parts[0]?.id ?? '', offering.id];
});
afterAll(async () => rig[Symbol.asyncDispose]());

const word = fc.oneof(
  fc.string({ maxLength: 20 }),
  fc.string({ unit: 'binary', maxLength: 8 }),
  fc.constantFrom('..', '%00', '%ff', '%', 'constructor', '__proto__', 'connections', 'x'.repeat(3000)),
);
const encoded = word.map((text) => {
  const clean = text.toWellFormed();
  return /^%(?:00|ff)?$/.test(clean) ? clean : encodeURIComponent(clean);
});

function requests() {
  const id = fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...ids) }, { weight: 1, arbitrary: encoded });
  const entity = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.constantFrom(
        'snapshots',
        'volumes',
        'instances',
        'templates',
        'zones',
        'diskofferings',
        'networks',
      ),
    },
    { weight: 1, arbitrary: encoded },
  );
  const inEnvironment = fc
    .tuple(
      fc.oneof({ weight: 9, arbitrary: fc.constant('compute') }, { weight: 1, arbitrary: encoded }),
      fc.oneof({ weight: 9, arbitrary: fc.constant('default') }, { weight: 1, arbitrary: encoded }),
      entity,
      fc.option(id, { nil: '' }),
    )
    .map((parts) => `services/${parts.join('/')}`);
  const aside = fc
    .tuple(fc.constantFrom('tasks', 'environments', 'services/connections', 'organizations', 'nothing'), id)
    .map((parts) => parts.join('/'));
  const path = fc.oneof({ weight: 4, arbitrary: inEnvironment }, { weight: 1, arbitrary: aside });
  const operation = fc.constantFrom(
    ...['create', 'attachToInstance', 'detachFromInstance', 'resize', 'createSnapshotFromVolume', 'revert'],
    ...['createVolume', 'createTemplate', 'stop', 'reboot', 'changeComputeOffering', 'createRecoveryPoint', 'toString'],
  );
  const query = fc.dictionary(
    fc.constantFrom(
      'operation',
      'type',
      'volume_id',
      'instance_id',
      'org_id',
      'page_size',
      'page_number',
      'sort_by',
      'sort_order',
    ),
    fc.oneof(encoded, operation, fc.constantFrom(...ids, '1', '0', '-1', 'name', 'ASC', 'os')),
    { maxKeys: 3 },
  );
  const value = fc.oneof(
    fc.constantFrom<unknown>(...ids, true, false, null, 0, 1, 1e300, -1, ''),
    fc.jsonValue({ maxDepth: 3 }),
  );
  const fields = fc.dictionary(
    fc.oneof(
      fc.constantFrom(
        'volumeId',
        'name',
        'rapid',
        'snapshot',
        'instanceId',
        'diskOfferingId',
        'sizeInGb',
        'templateId',
      ),
      fc.constantFrom('memoryInMB', 'cpuCount', 'recoveryPoint', 'deleteSnapshots', 'volumeIdsToDelete', 'description'),
      fc.string({ maxLength: 10 }),
    ),
    value,
  );
  const body = fc.oneof(
    { weight: 4, arbitrary: fields.map((object) => JSON.stringify(object)) },
    { weight: 1, arbitrary: fc.oneof(fc.string(), fc.constantFrom('', '{', 'null', '[]', `${'{"a":'.repeat(200)}`)) },
  );
  return fc.record({
    method: fc.constantFrom('GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'HEAD', 'OPTIONS'),
    path,
    query,
    body,
  });
}

/** What there is, apart from when it was looked at. */
async function inventory(): Promise<string> {
  const entities = ['volumes', 'snapshots', 'instances', 'templates'];
  return JSON.stringify(await Promise.all(entities.map((entity) => client.get(entity))));
}

test('any request', { timeout: 180_000 }, async () => {
  let before = await inventory();
  await fc.assert(
    fc.asyncProperty(requests(), async ({ method, path, query, body }) => {
      const search = Object.entries(query).map(([name, value]) => `${name}=${value}`);
      const answer = await client.send(
        method,
        `/api/v2/${path}?${search.join('&')}`,
        method === 'GET' ? undefined : body,
      );
      expect(answer.status).toBeLessThan(500);
      if (answer.status === 200) {
        await rig.settled();
        before = await inventory();
      } else expect(await inventory()).toBe(before);
    }),
    { numRuns: 500 },
  );
});
