/** The use cases of machines; what is longer lives beside this file: snapshots, reverts, clones, deletion. */
import { addEvent, type Tx } from '../catalog/catalog.ts';
import { findDeparted } from '../catalog/departed-machines.ts';
import { liveExportsOf } from '../catalog/exports.ts';
import { countMachines, findMachinePlaces, type MachineQuery } from '../catalog/machine-list.ts';
import {
  attachmentOf,
  findMachine,
  insertMachine,
  type MachineRecord,
  machinesByNumber,
  slotsOf,
  updateMachine,
} from '../catalog/machines.ts';
import type { MachineRow } from '../catalog/schema.ts';
import { replaceTags } from '../catalog/tags.ts';
import { CalotypeError, notFound } from '../core/errors.ts';
import { type DriveId, type MachineId, newId } from '../core/ids.ts';
import type { Machine, MachineBoot, MachineHardware, Task, TaskKind } from '../core/model.ts';
import { checkName } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { maxSlots } from '../qemu/machine-process.ts';
import {
  assertDriveReady,
  assertMachineReady,
  assertNotBusy,
  driveRow,
  machineRow,
  ownerOf,
  readableMachine,
} from './access.ts';
import { assertManaged, firstFreeSlot, takenSlots } from './attach-new.ts';
import { BoundedMap } from './bounded-map.ts';
import type { Caller } from './caller.ts';
import { type Context, runtimeOf } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, MachineUseCases } from './interface.ts';
import { assertNameFree, assertVersion, checkLabels, checkUpdate } from './labels.ts';
import { adoptMachine, disownMachine } from './machine-adoption.ts';
import { deleteMachine } from './machine-delete.ts';
import { checkCpus, checkMemory, newMacAddress } from './machine-hardware.ts';
import { kernelOf } from './machine-power.ts';
import { toDepartedMachine, toMachine } from './objects.ts';
import { cursorOf, pageOf, readCursor } from './paging.ts';
import { replayMachine, replayTask } from './replay.ts';
import { assertMayCreate, assertOperator, visibleFilter } from './rights.ts';
import type { TaskInputs } from './task-inputs.ts';

/** What can be asked of a process that somebody else runs. */
const forAdopted: readonly TaskKind[] = ['machine.stop', 'machine.pause', 'machine.resume', 'machine.reset'];
const defaultStopMs = 60_000;
const maxStopMs = 3600_000;
const maxAppendLength = 2048;
const rememberedMachines = 2000;
/** One event stands for what somebody types for so long. */
const typingUs = 600 * 1_000_000;

export function machineUseCases(context: Context): MachineUseCases {
  const { catalog, engine, machines, runner } = context;
  /** What polling clients ask again and again, valid as long as no row changes; what its process does is always asked. */
  const remembered = new BoundedMap<MachineId, { generation: number; record: MachineRecord; stored: Machine }>(
    rememberedMachines,
  );
  const show = (record: MachineRecord): Machine => toMachine(record, runtimeOf(context, record));

  type Simple =
    | 'machine.start'
    | 'machine.stop'
    | 'machine.pause'
    | 'machine.resume'
    | 'machine.reset'
    | 'machine.attach'
    | 'machine.detach';

  /** A task over one ready machine, all its drives, and those that `check` names besides. */
  function change<K extends Simple>(
    caller: Caller,
    id: MachineId,
    options: CreateOptions | undefined,
    kind: K,
    input: TaskInputs[K] | ((tx: Tx, machine: MachineRow) => Promise<TaskInputs[K]>),
    check: (tx: Tx, machine: MachineRow) => Promise<readonly DriveId[]> = async () => [],
  ): Promise<Task> {
    const first = async (): Promise<Task> => {
      const task = await runner.change(async (tx, add) => {
        const machine = await machineRow(tx, caller, id);
        assertMachineReady(context, machine);
        assertNotBusy(context, machine, options);
        if (!forAdopted.includes(kind)) assertManaged(machine);
        const more = await check(tx, machine);
        const given: TaskInputs[K] = typeof input === 'function' ? await input(tx, machine) : input;
        const own = (await slotsOf(tx, id)).map((slot) => slot.driveId);
        const added = await add({
          kind,
          input: given,
          driveIds: [...new Set([...own, ...more])],
          machineId: id,
          objectKind: 'machine',
          objectId: id,
          owner: ownerOf(caller, machine.project_id),
          event: { detail: { name: machine.name, ...given } },
        });
        await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'machine', objectId: id });
        return added;
      });
      return runner.view(task);
    };
    return once(context, caller, options, first, (attempt) => replayTask(context, attempt));
  }

  const nothing: Record<string, never> = {};
  const typists = new BoundedMap<string, number>(1000);

  /** Who types is in the audit log, but not every key. */
  async function noteTyping(caller: Caller, machine: MachineRow): Promise<void> {
    const key = `${caller.userId} ${machine.id}`;
    const now = nowUs();
    if (now - (typists.get(key) ?? 0) < typingUs) return;
    typists.set(key, now);
    await catalog.write((tx) =>
      addEvent(tx, {
        projectId: machine.project_id,
        userId: caller.userId,
        via: caller.via,
        kind: 'machine.console_used',
        objectKind: 'machine',
        objectId: machine.id,
        detail: { name: machine.name },
      }),
    );
    context.feed.wake();
  }

  /** @throws machine_off; tasks that wait may change that, and look again */
  async function mustRun(_tx: Tx, machine: MachineRow): Promise<readonly DriveId[]> {
    if (machine.power === 'off' && runner.queueOf(machine.id).length === 0) {
      throw new CalotypeError('machine_off', undefined, { machineId: machine.id });
    }
    return [];
  }

  /** @throws drive_attached, drive_exported, drive_not_ready */
  async function assertPluggable(tx: Tx, caller: Caller, driveId: DriveId): Promise<void> {
    const drive = await driveRow(tx, caller, 'write', driveId);
    assertDriveReady(context, drive);
    const attached = await attachmentOf(tx, driveId);
    if (attached !== undefined) {
      throw new CalotypeError('drive_attached', `The drive ${drive.name} is attached to ${attached.machine.name}.`, {
        driveId,
        machineId: attached.machine.id,
        slot: attached.slot,
      });
    }
    const exports = await liveExportsOf(tx, driveId);
    if (exports.length > 0) {
      throw new CalotypeError('drive_exported', undefined, { blocking: exports.map((row) => row.id) });
    }
  }

  return {
    async create(caller, input, options) {
      const first = async () => {
        assertMayCreate(caller);
        const name = checkName(input.name);
        const labels = checkLabels(input);
        const boot = checkBoot(input.boot);
        await kernelOf(context, boot);
        const { standard } = await machines.machineTypes();
        const hardware: MachineHardware = {
          machineType: standard,
          cpus: checkCpus(input.cpus ?? 1),
          memoryBytes: checkMemory(input.memoryBytes),
          macAddress: newMacAddress(),
        };
        const slots = checkSlots(input.drives ?? []);
        const id = newId<MachineId>();
        const { task, record } = await runner.change(async (tx, add) => {
          await assertNameFree(tx, options, 'machine', caller.projectId, name);
          for (const { driveId } of slots) await assertPluggable(tx, caller, driveId);
          const made = await insertMachine(tx, {
            id,
            projectId: caller.projectId,
            name,
            ...labels,
            kind: input.kind ?? 'vm',
            managed: true,
            hardware,
            boot,
            sourceId: null,
            slots,
            at: nowUs(),
          });
          const added = await add({
            kind: 'machine.create',
            input: nothing,
            driveIds: slots.map((slot) => slot.driveId),
            machineId: id,
            objectKind: 'machine',
            objectId: id,
            owner: ownerOf(caller, caller.projectId),
            event: { detail: { name, kind: made.kind, drives: slots } },
          });
          await remember(tx, caller, options, { taskId: added.row.id, objectKind: 'machine', objectId: id });
          return { task: added, record: made };
        });
        machines.prepare();
        return { task: runner.view(task), machine: show(record) };
      };
      return once(context, caller, options, first, (attempt) => replayMachine(context, attempt));
    },

    async list(caller, filter, sort, page) {
      const { db } = catalog;
      const { limit, offset } = pageOf(page);
      const user = caller.role === 'guest' ? caller.userId : '';
      const shape = { of: 'machines', filter, project: caller.projectId, user };
      const after = readCursor(page, shape, sort.by, sort.order);
      const query: MachineQuery = { ...filter, visible: visibleFilter(caller, 'machine', { table: 'm' }) };
      const window = { order: sort.order, after, limit: limit + 1, offset };
      const places = await findMachinePlaces(db, query, sort.by, window);
      const shown = places.slice(0, limit);
      const records = await machinesByNumber(
        db,
        shown.map((place) => place.number),
      );
      const last = shown.at(-1);
      return {
        items: records.map(show),
        nextCursor: places.length > limit && last !== undefined ? cursorOf(shape, sort.by, sort.order, last) : null,
        total: page.withTotal === true ? await countMachines(db, query) : null,
      };
    },

    async get(caller, id) {
      const { generation } = catalog;
      const known = remembered.get(id);
      const holds = known?.generation === generation && known.record.project_id === caller.projectId;
      if (known !== undefined && holds && caller.role !== 'guest') {
        const runtime = runtimeOf(context, known.record);
        return runtime === null ? known.stored : { ...known.stored, power: runtime.power, runtime };
      }
      const record = await readableMachine(catalog.db, caller, id);
      remembered.set(id, { generation, record, stored: toMachine(record, null) });
      return show(record);
    },

    async departed(caller, ids) {
      const rows = await findDeparted(catalog.db, ids, visibleFilter(caller, 'machine', { table: 'm' }));
      return new Map(rows.map((row) => [row.id, toDepartedMachine(row)]));
    },

    async update(caller, id, update) {
      const { tags, ...columns } = checkUpdate(update);
      const record = await catalog.write(async (tx) => {
        const machine = await machineRow(tx, caller, id);
        assertVersion(machine, update.ifVersion);
        const hardware: MachineHardware = JSON.parse(machine.hardware_json);
        const wanted = {
          ...hardware,
          ...(update.cpus === undefined ? {} : { cpus: checkCpus(update.cpus) }),
          ...(update.memoryBytes === undefined ? {} : { memoryBytes: checkMemory(update.memoryBytes) }),
        };
        const other = wanted.cpus !== hardware.cpus || wanted.memoryBytes !== hardware.memoryBytes;
        if (other && machine.power !== 'off') {
          throw new CalotypeError('machine_running', 'Processors and memory are changed while the machine is off.', {
            machineId: id,
            remedy: 'Stop it first.',
          });
        }
        const change = { ...columns, hardware_json: JSON.stringify(wanted), updated_at: nowUs() };
        await updateMachine(tx, id, change);
        if (tags !== undefined) await replaceTags(tx, id, tags);
        await addEvent(tx, {
          projectId: machine.project_id,
          userId: caller.userId,
          via: caller.via,
          kind: 'machine.updated',
          objectKind: 'machine',
          objectId: id,
          detail: {
            name: columns.name ?? machine.name,
            fields: Object.keys(update).filter((key) => key !== 'ifVersion'),
          },
        });
        return findMachine(tx, id);
      });
      if (record === undefined) throw notFound('machine', id);
      context.feed.wake();
      return show(record);
    },

    delete: (caller, id, options) => deleteMachine(context, caller, id, options),
    adopt: (caller, input, options) => adoptMachine(context, caller, input, options),
    async files(caller, id) {
      assertOperator(caller);
      const machine = await readableMachine(catalog.db, caller, id);
      if (machine.managed === 1) {
        throw new CalotypeError('not_supported', 'The drives of this machine are layers of this server.', {
          machineId: id,
        });
      }
      return engine.filesOf(machine.slots.map((slot) => slot.driveId));
    },

    disown: (caller, id, input, options) => disownMachine(context, caller, id, input, options),

    start: (caller, id, input, options) =>
      change(caller, id, options, 'machine.start', { paused: input.paused ?? false }),

    stop(caller, id, input, options) {
      const timeoutMs = Math.round((input.timeoutSeconds ?? defaultStopMs / 1000) * 1000);
      if (!(timeoutMs > 0 && timeoutMs <= maxStopMs)) {
        throw new CalotypeError('invalid_request', 'The time limit is above 0 and up to 3600 seconds.', {
          field: 'timeoutSeconds',
        });
      }
      return change(caller, id, options, 'machine.stop', { mode: input.mode ?? 'graceful', timeoutMs, settle: false });
    },

    pause: (caller, id, options) => change(caller, id, options, 'machine.pause', nothing, mustRun),
    resume: (caller, id, options) => change(caller, id, options, 'machine.resume', nothing, mustRun),
    reset: (caller, id, options) => change(caller, id, options, 'machine.reset', nothing, mustRun),

    attach(caller, id, input, options) {
      const { driveId } = input;
      return change(
        caller,
        id,
        options,
        'machine.attach',
        async (tx, machine) => {
          const taken = await takenSlots(context, tx, machine.id);
          const slot = checkSlot(input.slot ?? firstFreeSlot(taken));
          if (taken.has(slot)) throw new CalotypeError('slot_taken', undefined, { slot });
          return { driveId, slot };
        },
        async (tx) => {
          await assertPluggable(tx, caller, driveId);
          return [driveId];
        },
      );
    },

    detach: (caller, id, driveId, options) =>
      change(caller, id, options, 'machine.detach', { driveId, late: false }, async (tx, machine) => {
        await driveRow(tx, caller, 'write', driveId);
        const attached = await attachmentOf(tx, driveId);
        if (attached?.machine.id !== machine.id) throw new CalotypeError('drive_not_attached', undefined, { driveId });
        return [driveId];
      }),

    async serialLog(caller, id, { fromByte, ...options }) {
      const machine = await readableMachine(catalog.db, caller, id);
      assertOwnSerial(machine);
      return machines.serialLogOf(machine).read(fromByte, options);
    },

    async typeOnConsole(caller, id, bytes) {
      const machine = await machineRow(catalog.db, caller, id);
      assertOwnSerial(machine);
      const { serialInput } = machines.get(machine.id);
      if (bytes.length === 0) return;
      await noteTyping(caller, machine);
      await serialInput.write(bytes);
    },
  };
}

/** The serial port of an adopted machine leads where its owner has it. @throws machine_adopted */
function assertOwnSerial(machine: MachineRow): void {
  if (machine.managed === 0) throw new CalotypeError('machine_adopted', undefined, { machineId: machine.id });
}

/** @throws invalid_request */
function checkBoot(boot: MachineBoot = { from: 'drive' }): MachineBoot {
  if (boot.from === 'drive') return { from: 'drive' };
  if (boot.append.length > maxAppendLength || /\p{Cc}/u.test(boot.append)) {
    throw new CalotypeError(
      'invalid_request',
      `Kernel arguments have up to ${maxAppendLength} characters, none of control.`,
      {
        field: 'boot.append',
      },
    );
  }
  return { from: 'kernel', kernel: boot.kernel, initrd: boot.initrd, append: boot.append };
}

function checkSlot(slot: number): number {
  if (Number.isInteger(slot) && slot >= 0 && slot < maxSlots) return slot;
  throw new CalotypeError('invalid_request', `Slots are numbered from 0 to ${maxSlots - 1}.`, {
    field: 'slot',
    max: maxSlots - 1,
  });
}

/** Drives without a slot get the next free one. @throws invalid_request, slot_taken */
function checkSlots(wanted: readonly { driveId: DriveId; slot?: number }[]): { slot: number; driveId: DriveId }[] {
  if (new Set(wanted.map((drive) => drive.driveId)).size !== wanted.length) {
    throw new CalotypeError('invalid_request', 'A drive is named twice.', { field: 'drives' });
  }
  const taken = new Set<number>();
  for (const { slot } of wanted) {
    if (slot === undefined) continue;
    if (taken.has(checkSlot(slot))) throw new CalotypeError('slot_taken', undefined, { slot });
    taken.add(slot);
  }
  let next = 0;
  return wanted.map(({ driveId, slot }) => {
    if (slot !== undefined) return { driveId, slot };
    while (taken.has(next)) next++;
    taken.add(checkSlot(next));
    return { driveId, slot: next };
  });
}
