/**
 * Everybody against everything: people of all roles, with grants that are drawn anew in each run, call every operation of
 * every dialect on objects of their own project, of another, and on none. What an oracle expects is what must come: nothing
 * foreign is seen, counted, told from what is not there by status or words, or changed.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Answer, DialectRig } from './support/dialect-rig.ts';
import { cloudmc } from './support/rights/cloudmc.ts';
import { cloudsigma } from './support/rights/cloudsigma.ts';
import { deltacloud } from './support/rights/deltacloud.ts';
import { manageiq } from './support/rights/manageiq.ts';
import { keysOf, type Operation, type Table } from './support/rights/operation.ts';
import { type Access, accessTo, expected, type Somebody, visibleOf } from './support/rights/oracle.ts';
import { syminet } from './support/rights/syminet.ts';
import { type Key, makeWorld, nothing, type Things, type World } from './support/rights/world.ts';

const tables: readonly Table[] = [manageiq, cloudsigma, syminet, cloudmc, deltacloud];
const guests = 7;
const seed = Number(process.env.CALOTYPE_RIGHTS_SEED ?? Math.floor(Math.random() * 2 ** 31));

/** What guests are granted things on; a grant is as likely as none. */
const grantable = [
  'machine',
  'drive1',
  'drive2',
  'free',
  'snapshot',
  'freeSnapshot',
  'image',
  'freeImage',
  'instance',
] as const;
const kindsOfGrant = { machine: 'machineId', drive: 'driveId', snapshot: 'snapshotId', image: 'imageId' } as const;

let rig: DialectRig;
let here: World;
let elsewhere: World;
const people: Somebody[] = [];
let before: Record<string, unknown>;

beforeAll(async () => {
  console.log(`dialect-rights: CALOTYPE_RIGHTS_SEED=${seed}`);
  rig = await DialectRig.start();
  await rig.native('POST', '/projects', { name: 'elsewhere' });
  const stranger = await rig.person('stranger', 'admin', 'elsewhere');
  const member = await rig.person('mia', 'member');
  const admin = await rig.person('ada', 'admin');
  here = await makeWorld(rig, 'default', member.token);
  elsewhere = await makeWorld(rig, 'elsewhere', stranger.token);
  people.push(
    { person: rig.admin, role: 'operator', world: here, grants: {} },
    { person: admin, role: 'admin', world: here, grants: {} },
    { person: member, role: 'member', world: here, grants: {} },
    { person: stranger, role: 'admin', world: elsewhere, grants: {} },
  );
  for (const [at, grants] of drawGrants().entries()) people.push(await guestWith(`guest-${at}`, grants));
  await rig.settled();
  before = await state();
});
afterAll(() => rig[Symbol.asyncDispose]());

type Grants = Readonly<Record<(typeof grantable)[number], Access>>;

/** The first has nothing. */
function drawGrants(): Grants[] {
  const access = fc.constantFrom<Access>('none', 'none', 'ro', 'rw');
  const one = fc.record(Object.fromEntries(grantable.map((key) => [key, access]))) as fc.Arbitrary<Grants>;
  const none = Object.fromEntries(grantable.map((key) => [key, 'none'])) as unknown as Grants;
  return [none, ...fc.sample(one, { seed, numRuns: guests - 1 })];
}

async function guestWith(name: string, grants: Grants): Promise<Somebody> {
  const person = await rig.person(name, 'guest');
  for (const [key, access] of Object.entries(grants) as [Key, Access][]) {
    const { id, kind } = here.things[key];
    if (access === 'none') continue;
    const field = kindsOfGrant[kind as keyof typeof kindsOfGrant];
    await rig.native('POST', '/grants', { user: name, access, [field]: id });
  }
  return { person, role: 'guest', world: here, grants };
}

/** All that the native API shows of both projects, and what is kept for dialects alone. */
async function state(): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = {};
  const look = async (path: string, token?: string): Promise<unknown> =>
    rig.native('GET', `/${path}?limit=1000`, undefined, token);
  for (const { project, token } of [here, elsewhere]) {
    for (const path of ['machines', 'drives', 'snapshots', 'images', 'tasks', 'grants']) {
      found[`${project}: ${path}`] = await look(path, token);
    }
  }
  for (const path of ['users', 'projects', 'projects/default/members', 'projects/elsewhere/members']) {
    found[path] = await look(path);
  }
  for (const table of ['project_tags', 'tags', 'traits', 'preferences'] as const) {
    found[table] = await rig.catalog.db.selectFrom(table).selectAll().execute();
  }
  return found;
}

function ask(table: Table, { person }: Somebody, { route, call }: Operation, things: Things): Promise<Answer> {
  const { body, path } = call(things);
  const form: Record<string, string> =
    typeof body === 'string' ? { 'content-type': 'application/x-www-form-urlencoded' } : {};
  return rig.send(table.door, {
    method: route.slice(0, route.indexOf(' ')),
    path,
    headers: { ...table.credentials(person), ...form },
    ...(body === undefined ? {} : { body }),
  });
}

const briefly = ({ role, person, grants }: Somebody): string => {
  const granted = Object.entries(grants).filter(([, access]) => access !== 'none');
  return `${role} ${person.name} (${granted.map(([key, access]) => `${access} ${key}`).join(', ')})`;
};
const shown = ({ status, text }: Answer): string => `${status} ${text.slice(0, 200)}`;

/** In parallel over people, each of whom does one thing after the other. */
async function byEverybody(work: (somebody: Somebody) => Promise<void>): Promise<void> {
  await Promise.all(people.map(work));
}

/** Without effect to whoever may, so that it is tried. */
const isHarmless = ({ route, isHarmless }: Operation): boolean =>
  isHarmless === true || (route.startsWith('GET ') && !/able$/.test(route));

describe.each(tables)('$door', (table) => {
  const { door, operations } = table;

  test('no route is forgotten', () => {
    const known = new Set([
      ...operations.map(({ route }) => route),
      ...table.listsOf('default').map(({ route }) => route),
      ...Object.keys(table.exempt),
    ]);
    const routes = rig
      .routesOf(door)
      .filter(({ method }) => method !== 'HEAD' && method !== 'OPTIONS')
      .map(({ method, url }) => `${method} ${url}`);
    expect(routes.filter((route) => !known.has(route))).toEqual([]);
    expect([...known].filter((route) => !routes.includes(route))).toEqual([]);
  });

  test('everybody may do what the rights say, and nothing else', async () => {
    const wrong: string[] = [];
    const tried = { allowed: 0, forbidden: 0, missing: 0, skipped: 0 };
    await byEverybody(async (somebody) => {
      for (const operation of operations) {
        const right = expected(somebody, operation.needs);
        if (right === 'allowed' && !isHarmless(operation)) {
          tried.skipped += 1;
          continue;
        }
        tried[right] += 1;
        const answer = await ask(table, somebody, operation, somebody.world.things);
        const got = table.classOf(answer);
        const isRight = operation.blurs ? (got === 'allowed') === (right === 'allowed') : got === right;
        if (!isRight || answer.status >= 500) {
          wrong.push(
            `${operation.route} [${operation.needs.join(', ')}] by ${briefly(somebody)}: ${right} expected, got ${shown(answer)}`,
          );
        }
      }
    });
    console.log(`dialect-rights: ${door} ${JSON.stringify(tried)}`);
    expect(wrong).toEqual([]);
  });

  test("lists and counts have what is the caller's, and no more", async () => {
    const wrong: string[] = [];
    await byEverybody(async (somebody) => {
      const { world, person } = somebody;
      for (const list of table.listsOf(world.project)) {
        const answer = await rig.send(door, { path: list.path, headers: table.credentials(person) });
        const all = visibleOf(somebody, list.kind);
        const kept = list.only?.map((key) => world.things[key].id);
        const right = kept === undefined ? all : all.filter((id) => kept.includes(id));
        const names = namesIn(table, somebody, right);
        const ids = answer.status === 200 ? [...list.ids(answer)] : [];
        const same = ids.every((id) => id === '') ? ids.length === right.length : sorted(ids) === sorted(names);
        const counts = answer.status === 200 ? list.counts(answer) : [NaN];
        if (!same || counts.some((count) => count !== right.length)) {
          wrong.push(
            `${list.path} by ${briefly(somebody)}: ${names.length} ${sorted(names)} expected, got ${counts} ${sorted(ids)} ${shown(answer)}`,
          );
        }
      }
    });
    expect(wrong).toEqual([]);
  });

  test('what is foreign or hidden answers like what does not exist', async () => {
    const wrong: string[] = [];
    let compared = 0;
    await byEverybody(async (somebody) => {
      const own = somebody.world.things;
      const foreign = (somebody.world === here ? elsewhere : here).things;
      for (const operation of operations) {
        if (operation.reachesAll && somebody.role === 'operator') continue;
        for (const key of keysOf(operation, own)) {
          if (key === 'project' && somebody.role === 'operator') continue;
          const hidden = accessTo(somebody, key) === 'none' ? [own[key]] : [];
          const absent = await ask(table, somebody, operation, { ...own, [key]: nothing[key] });
          for (const thing of [foreign[key], ...hidden]) {
            const things = { ...own, [key]: thing };
            const answer = await ask(table, somebody, operation, things);
            compared += 1;
            const names = [thing, nothing[key]].flatMap((each) => [table.idOf({ ...own, [key]: each }, key), each.id]);
            if (trace(answer, names) !== trace(absent, names)) {
              wrong.push(
                `${operation.route} with another ${key} by ${briefly(somebody)}: ${shown(answer)} but ${shown(absent)}`,
              );
            }
          }
        }
      }
    });
    console.log(`dialect-rights: ${door} compared ${compared} answers with those of nothing`);
    expect(wrong).toEqual([]);
  });

  test('nothing has changed', async () => {
    await rig.settled();
    expect(await state()).toEqual(before);
  });
});

const sorted = (texts: readonly string[]): string => [...texts].sort().join(' ');

/** What objects are called by a dialect; tasks are not of the world's own. */
function namesIn(table: Table, { world }: Somebody, ids: readonly string[]): string[] {
  const things = Object.entries(world.things) as [Key, Things[Key]][];
  return ids.map((id) => {
    const task = world.tasks.find((known) => known.id === id);
    if (task !== undefined) {
      const thing = { ...world.things.freeTask, id, number: task.number };
      return table.idOf({ ...world.things, freeTask: thing }, 'freeTask');
    }
    const found = things.find(([, thing]) => thing.id === id);
    return found === undefined ? id : table.idOf(world.things, found[0]);
  });
}

/** All that tells one answer from another, but for the names that were asked for. */
function trace({ status, reason, headers, text }: Answer, names: readonly string[]): string {
  const plain = names.reduce((said, name) => said.replace(new RegExp(`\\b${name}\\b`, 'g'), 'NAME'), text);
  return JSON.stringify([status, reason, Object.keys(headers).sort(), plain]);
}
