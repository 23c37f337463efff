import fc from 'fast-check';
import { sql } from 'kysely';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { insertMachine } from '../catalog/machines.ts';
import type { Access, GrantedKind } from '../catalog/schema.ts';
import { type DriveId, type GrantId, type MachineId, newId, type SnapshotId } from '../core/ids.ts';
import type { Caller } from './caller.ts';
import {
  assertMayCreate,
  assertOperator,
  assertProjectAdmin,
  assertReadable,
  assertWritable,
  can,
  type ProtectedKind,
  type ProtectedObject,
  visibleFilter,
} from './rights.ts';
import { errorOf, expectError, IdentityFixture } from './testing/identity.ts';

let fixture: IdentityFixture;
let member: Caller;
let guest: Caller;
let foreign: Caller;

beforeEach(async () => {
  fixture = await IdentityFixture.open();
  member = await fixture.person('mia', 'member');
  guest = await fixture.person('gus', 'guest');
  foreign = await fixture.person('fay', 'admin', { project: 'other' });
});
afterEach(() => fixture[Symbol.asyncDispose]());

const object = (kind: ProtectedKind, id: string): ProtectedObject => ({ projectId: member.projectId, kind, id });

async function grant(kind: 'drive' | 'snapshot', id: string, access: Access): Promise<void> {
  await fixture.grants.create(fixture.operator, { user: 'gus', objectKind: kind, objectId: id, access });
}

async function insertGrant(kind: GrantedKind, id: string, access: Access): Promise<void> {
  await fixture.catalog.db
    .insertInto('grants')
    .values({
      id: newId<GrantId>(),
      project_id: guest.projectId,
      user_id: guest.userId,
      object_kind: kind,
      object_id: id,
      access,
      created_at: 0,
    })
    .execute();
}

/** A machine of the project with these drives. */
async function addMachine(driveIds: readonly DriveId[]): Promise<MachineId> {
  const id = newId<MachineId>();
  await insertMachine(fixture.catalog.db, {
    id,
    projectId: member.projectId,
    name: 'machine',
    description: '',
    meta: '{}',
    tags: [],
    kind: 'vm',
    managed: true,
    hardware: { machineType: 'pc', cpus: 1, memoryBytes: 1 << 28, macAddress: '52:54:00:00:00:01' },
    boot: { from: 'drive' },
    sourceId: null,
    slots: driveIds.map((driveId, slot) => ({ slot, driveId })),
    at: 0,
  });
  return id;
}

async function addMachineSnapshot(machineId: MachineId, driveIds: readonly DriveId[]) {
  const snapshot = await fixture.addSnapshot(member, driveIds);
  await setMachine(snapshot.id, machineId);
  return snapshot;
}

async function setMachine(id: SnapshotId, machineId: MachineId): Promise<void> {
  await fixture.catalog.db.updateTable('snapshots').set({ machine_id: machineId }).where('id', '=', id).execute();
}

/** What a caller may do with an object: nothing, read, or write. */
async function rightsOf(caller: Caller, of: ProtectedObject): Promise<'none' | 'ro' | 'rw'> {
  const read = await can(caller, 'read', of, fixture.catalog.db);
  const write = await can(caller, 'write', of, fixture.catalog.db);
  expect(read || !write).toBe(true);
  return write ? 'rw' : read ? 'ro' : 'none';
}

/** The ids that lists show. */
async function visible(caller: Caller): Promise<Record<ProtectedKind, string[]>> {
  const { db } = fixture.catalog;
  const machines = await db.selectFrom('machines').select('id').where(visibleFilter(caller, 'machine')).execute();
  const drives = await db.selectFrom('drives').select('id').where(visibleFilter(caller, 'drive')).execute();
  const snapshots = await db
    .selectFrom('snapshots as s')
    .select('s.id')
    .where(visibleFilter(caller, 'snapshot', { table: 's' }))
    .execute();
  const parts = await db
    .selectFrom('drive_snapshots')
    .innerJoin('snapshots', 'snapshots.id', 'drive_snapshots.snapshot_id')
    .select('drive_snapshots.id')
    .where(visibleFilter(caller, 'driveSnapshot'))
    .execute();
  const images = await db.selectFrom('images').select('id').where(visibleFilter(caller, 'image')).execute();
  return {
    machine: machines.map((row) => row.id),
    drive: drives.map((row) => row.id),
    snapshot: snapshots.map((row) => row.id),
    driveSnapshot: parts.map((row) => row.id),
    image: images.map((row) => row.id),
  };
}

describe('members', () => {
  test('do everything in their project and nothing elsewhere, without a query', async () => {
    const drive = await fixture.addDrive(member.projectId);
    const snapshot = await fixture.addSnapshot(member, [drive]);
    const foreignDrive = await fixture.addDrive(foreign.projectId);
    const roles: readonly Caller[] = [member, { ...member, role: 'admin' }, fixture.operator];
    for (const caller of roles) {
      expect(await visible(caller)).toEqual({
        machine: [],
        drive: [drive],
        snapshot: [snapshot.id],
        driveSnapshot: snapshot.parts,
        image: [],
      });
    }
    await fixture.catalog.close();
    for (const caller of roles) {
      expect(await rightsOf(caller, object('drive', drive))).toBe('rw');
      expect(await rightsOf(caller, { projectId: foreign.projectId, kind: 'drive', id: foreignDrive })).toBe('none');
    }
  });

  test('pay nothing for the filter', () => {
    const query = fixture.catalog.db.selectFrom('drives').select('id').where(visibleFilter(member, 'drive')).compile();
    expect(query.sql).toBe('select "id" from "drives" where "drives"."project_id" = ?');
  });
});

describe('guests', () => {
  test('see nothing ungranted', async () => {
    const drive = await fixture.addDrive(member.projectId);
    const snapshot = await fixture.addSnapshot(member, [drive]);
    await fixture.addSnapshot(member, []);
    expect(await visible(guest)).toEqual({ machine: [], drive: [], snapshot: [], driveSnapshot: [], image: [] });
    expect(await rightsOf(guest, object('drive', drive))).toBe('none');
    expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe('none');
    expect(await rightsOf(guest, object('driveSnapshot', snapshot.parts[0] ?? ''))).toBe('none');
  });

  test('with a grant on a drive have its snapshots too', async () => {
    const drive = await fixture.addDrive(member.projectId);
    const other = await fixture.addDrive(member.projectId);
    const snapshot = await fixture.addSnapshot(member, [drive]);
    await fixture.addSnapshot(member, [other]);
    for (const access of ['ro', 'rw'] as const) {
      await grant('drive', drive, access);
      expect(await rightsOf(guest, object('drive', drive))).toBe(access);
      expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe(access);
      expect(await rightsOf(guest, object('driveSnapshot', snapshot.parts[0] ?? ''))).toBe(access);
      expect(await rightsOf(guest, object('drive', other))).toBe('none');
    }
    expect(await visible(guest)).toEqual({
      machine: [],
      drive: [drive],
      snapshot: [snapshot.id],
      driveSnapshot: snapshot.parts,
      image: [],
    });
  });

  test('with a grant on a snapshot have only it', async () => {
    const drive = await fixture.addDrive(member.projectId);
    const snapshot = await fixture.addSnapshot(member, [drive]);
    await fixture.addSnapshot(member, [drive]);
    await grant('snapshot', snapshot.id, 'rw');
    expect(await visible(guest)).toEqual({
      machine: [],
      drive: [],
      snapshot: [snapshot.id],
      driveSnapshot: snapshot.parts,
      image: [],
    });
    expect(await rightsOf(guest, object('drive', drive))).toBe('none');
    expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe('rw');
  });

  test('with a grant on a machine have its snapshots, but not its drives', async () => {
    const one = await fixture.addDrive(member.projectId);
    const two = await fixture.addDrive(member.projectId);
    const machine = await addMachine([one, two]);
    const other = await addMachine([]);
    const snapshot = await addMachineSnapshot(machine, [one, two]);
    const ofDrive = await fixture.addSnapshot(member, [one]);
    const ofOther = await addMachineSnapshot(other, [one]);
    expect(await rightsOf(guest, object('machine', machine))).toBe('none');
    expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe('none');
    for (const access of ['ro', 'rw'] as const) {
      await fixture.catalog.db.deleteFrom('grants').execute();
      await insertGrant('machine', machine, access);
      expect(await rightsOf(guest, object('machine', machine))).toBe(access);
      expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe(access);
      for (const drive of [one, two]) expect(await rightsOf(guest, object('drive', drive))).toBe('none');
      expect(await rightsOf(guest, object('machine', other))).toBe('none');
      expect(await rightsOf(guest, object('snapshot', ofDrive.id))).toBe('none');
      expect(await rightsOf(guest, object('snapshot', ofOther.id))).toBe('none');
    }
    expect(await visible(guest)).toMatchObject({ machine: [machine], drive: [], snapshot: [snapshot.id] });
  });

  test('with a grant on a drive of a machine have its snapshots, but not the machine', async () => {
    const one = await fixture.addDrive(member.projectId);
    const two = await fixture.addDrive(member.projectId);
    const machine = await addMachine([one, two]);
    const snapshot = await addMachineSnapshot(machine, [one, two]);
    await insertGrant('drive', one, 'rw');
    expect(await rightsOf(guest, object('machine', machine))).toBe('none');
    expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe('ro');
    expect((await visible(guest)).machine).toEqual([]);
  });

  test('see a snapshot of several drives by one of them, and change it by all', async () => {
    const one = await fixture.addDrive(member.projectId);
    const two = await fixture.addDrive(member.projectId);
    const snapshot = await fixture.addSnapshot(member, [one, two]);
    const [partOne = '', partTwo = ''] = snapshot.parts;
    await grant('drive', one, 'rw');
    expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe('ro');
    expect(await rightsOf(guest, object('driveSnapshot', partOne))).toBe('rw');
    expect(await rightsOf(guest, object('driveSnapshot', partTwo))).toBe('none');
    expect((await visible(guest)).driveSnapshot).toEqual([partOne]);
    await grant('drive', two, 'ro');
    expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe('ro');
    await grant('drive', two, 'rw');
    expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe('rw');
  });

  test('have the snapshot they are taking before it has parts', async () => {
    const drive = await fixture.addDrive(member.projectId);
    await grant('drive', drive, 'rw');
    const snapshot = await fixture.addSnapshot(guest, []);
    expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe('rw');
    expect((await visible(guest)).snapshot).toEqual([snapshot.id]);
  });

  test('of one project are nobody in another', async () => {
    const drive = await fixture.addDrive(foreign.projectId);
    await fixture.projects.setMember(fixture.operator, 'other', { user: 'gus', role: 'guest' });
    const inOther: Caller = { ...guest, projectId: foreign.projectId, projectName: 'other' };
    await fixture.grants.create(foreign, { user: 'gus', objectKind: 'drive', objectId: drive, access: 'rw' });
    const snapshot = await fixture.addSnapshot(foreign, [drive]);
    const there: ProtectedObject = { projectId: foreign.projectId, kind: 'drive', id: drive };
    expect(await rightsOf(inOther, there)).toBe('rw');
    expect(await rightsOf(guest, there)).toBe('none');
    // Not even when the object is said to be here.
    expect(await rightsOf(guest, object('drive', drive))).toBe('none');
    expect(await rightsOf(guest, object('snapshot', snapshot.id))).toBe('none');
    expect(await rightsOf(guest, object('driveSnapshot', snapshot.parts[0] ?? ''))).toBe('none');
    expect(await rightsOf(inOther, { ...there, kind: 'snapshot', id: snapshot.id })).toBe('rw');
    expect((await visible(guest)).drive).toEqual([]);
    expect((await visible(inOther)).drive).toEqual([drive]);
  });

  test('see in lists exactly what they may read, whatever is granted', async () => {
    const drives: DriveId[] = [];
    for (let i = 0; i < 4; i++) drives.push(await fixture.addDrive(member.projectId));
    const at = (i: number): DriveId => drives[i] ?? newId<DriveId>();
    const snapshots = [
      await fixture.addSnapshot(member, [at(0)]),
      await fixture.addSnapshot(member, [at(0), at(1)]),
      await fixture.addSnapshot(guest, [at(1), at(2), at(3)]),
      await fixture.addSnapshot(guest, []),
      await fixture.addSnapshot(member, []),
    ];
    const machines = [await addMachine([at(0), at(1)]), await addMachine([])];
    for (const [i, machine] of machines.entries()) {
      const snapshot = snapshots[i + 1];
      if (snapshot !== undefined) await setMachine(snapshot.id, machine);
    }
    const all: { kind: ProtectedKind; id: string }[] = [
      ...machines.map((id) => ({ kind: 'machine' as const, id })),
      ...drives.map((id) => ({ kind: 'drive' as const, id })),
      ...snapshots.map(({ id }) => ({ kind: 'snapshot' as const, id })),
      ...snapshots.flatMap(({ parts }) => parts.map((id) => ({ kind: 'driveSnapshot' as const, id }))),
    ];
    const grantable = all.filter(({ kind }) => kind !== 'driveSnapshot');
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom<Access | null>('ro', 'rw', null), {
          minLength: grantable.length,
          maxLength: grantable.length,
        }),
        async (accesses) => {
          await fixture.catalog.write(async (tx) => {
            await tx.deleteFrom('grants').execute();
          });
          for (const [i, { kind, id }] of grantable.entries()) {
            const access = accesses[i] ?? null;
            if (access !== null && kind !== 'driveSnapshot') await insertGrant(kind, id, access);
          }
          const listed = await visible(guest);
          for (const { kind, id } of all) {
            const rights = await rightsOf(guest, object(kind, id));
            expect(rights !== 'none').toBe(listed[kind].includes(id));
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  test('are listed by what is granted, not by what is there', async () => {
    const compiled = fixture.catalog.db
      .selectFrom('snapshots')
      .select('id')
      .where(visibleFilter(guest, 'snapshot'))
      .compile();
    const plan = await sql<{ detail: string }>`explain query plan ${sql.raw(
      compiled.sql.replaceAll('?', "'x'"),
    )}`.execute(fixture.catalog.db);
    const steps = plan.rows.map((row) => row.detail).join('\n');
    expect(steps).toContain('LIST SUBQUERY');
    expect(steps).not.toContain('CORRELATED LIST');
    expect(steps).not.toMatch(/^SCAN (snapshots|s|g|p|grants|drive_snapshots)\b/m);
  });
});

describe('the answer', () => {
  test('to a foreign or hidden object is that to a missing one', async () => {
    const hidden = object('drive', await fixture.addDrive(member.projectId));
    const foreignDrive: ProtectedObject = {
      projectId: foreign.projectId,
      kind: 'drive',
      id: await fixture.addDrive(foreign.projectId),
    };
    const asked = { kind: 'drive', id: '17' };
    for (const check of [assertReadable, assertWritable]) {
      const answers = [];
      for (const [caller, of] of [
        [guest, undefined],
        [guest, hidden],
        [guest, foreignDrive],
        [member, undefined],
        [member, foreignDrive],
        [fixture.operator, foreignDrive],
      ] as const) {
        const error = await errorOf(check(caller, of, fixture.catalog.db, asked));
        answers.push(JSON.stringify([error.code, error.message, error.details]));
      }
      expect(new Set(answers)).toEqual(
        new Set([JSON.stringify(['not_found', 'There is no drive 17.', { kind: 'drive', id: '17' }])]),
      );
    }
  });

  test('to a change of what one may only read is forbidden', async () => {
    const drive = await fixture.addDrive(member.projectId);
    const asked = { kind: 'drive', id: drive };
    await grant('drive', drive, 'ro');
    const of = object('drive', drive);
    expect(await assertReadable(guest, of, fixture.catalog.db, asked)).toBe(of);
    await expectError(assertWritable(guest, of, fixture.catalog.db, asked), 'forbidden', { needs: 'rw' });
    await grant('drive', drive, 'rw');
    expect(await assertWritable(guest, of, fixture.catalog.db, asked)).toBe(of);
  });

  test('to roles', async () => {
    assertMayCreate(member);
    await expectError(() => assertMayCreate(guest), 'forbidden');
    assertOperator(fixture.operator);
    await expectError(() => assertOperator(foreign), 'forbidden');
    assertProjectAdmin(foreign, foreign.projectId);
    assertProjectAdmin(fixture.operator, foreign.projectId);
    await expectError(() => assertProjectAdmin(foreign, member.projectId), 'not_found');
    await expectError(() => assertProjectAdmin(member, member.projectId), 'forbidden');
  });
});
