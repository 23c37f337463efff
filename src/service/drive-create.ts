/** Makes empty drives: one, or several in one commit. */
import type { Tx } from '../catalog/catalog.ts';
import { type DriveRecord, insertDrive } from '../catalog/drives.ts';
import { putTraits, type Traits } from '../catalog/traits.ts';
import { type DriveId, type MachineId, newId } from '../core/ids.ts';
import type { Drive } from '../core/model.ts';
import { checkName, checkSize } from '../core/names.ts';
import { nowUs } from '../core/time.ts';
import { ownerOf } from './access.ts';
import type { ActiveTask } from './active-task.ts';
import { addAttachment } from './attach-new.ts';
import { checkBatch } from './batches.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { once, remember } from './idempotency.ts';
import type { CreateOptions, Labels, WithTask, WithTraits } from './interface.ts';
import { assertNameFree, type CheckedLabels, checkLabels } from './labels.ts';
import { toDrive } from './objects.ts';
import { replayDrive } from './replay.ts';
import { assertMayCreate } from './rights.ts';
import { assertRoom } from './room.ts';
import type { AddTask } from './runner.ts';

export type NewDrive = Labels & WithTraits & { name: string; sizeBytes: number };
/** Once made, it goes into the next free slot of that machine. */
interface Attachable {
  attachTo?: MachineId;
}

export function createDrive(
  context: Context,
  caller: Caller,
  input: NewDrive & Attachable,
  options?: CreateOptions,
): Promise<WithTask<'drive', Drive>> {
  const first = async () => {
    assertMayCreate(caller);
    const checked = check(context, input);
    const space = await context.engine.space();
    const { task, record } = await context.runner.change(async (tx, add) => {
      await assertNameFree(tx, options, 'drive', caller.projectId, checked.name);
      assertRoom(space);
      const made = await begin(tx, add, caller, checked);
      const { attachTo: machineId } = input;
      const { id: driveId } = made.record;
      const task =
        machineId === undefined ? made.task : await addAttachment(context, tx, add, caller, { machineId, driveId });
      await remember(tx, caller, options, { taskId: task.row.id, objectKind: 'drive', objectId: driveId });
      return { ...made, task };
    });
    return { task: context.runner.view(task), drive: toDrive(record) };
  };
  return once(context, caller, options, first, (attempt) => replayDrive(context, attempt));
}

/** All of them are begun, or none. */
export async function createDrives(
  context: Context,
  caller: Caller,
  inputs: readonly NewDrive[],
): Promise<readonly WithTask<'drive', Drive>[]> {
  assertMayCreate(caller);
  checkBatch(inputs);
  const checked = inputs.map((input) => check(context, input));
  const space = await context.engine.space();
  const all = await context.runner.change(async (tx, add) => {
    assertRoom(space);
    const made = [];
    for (const one of checked) made.push(await begin(tx, add, caller, one));
    return made;
  });
  return all.map(({ task, record }) => ({ task: context.runner.view(task), drive: toDrive(record) }));
}

interface Checked {
  readonly id: DriveId;
  readonly name: string;
  readonly sizeBytes: number;
  readonly labels: CheckedLabels;
  readonly traits: Traits;
}

/** @throws invalid_name, invalid_size, invalid_request, invalid_meta, invalid_tag */
function check({ config }: Context, input: NewDrive): Checked {
  const name = checkName(input.name);
  const sizeBytes = checkSize(input.sizeBytes, { max: config.maxDriveBytes }, 'sizeBytes');
  return { id: newId<DriveId>(), name, sizeBytes, labels: checkLabels(input), traits: input.traits ?? {} };
}

/** Writes the drive as `creating`, with its task. */
async function begin(
  tx: Tx,
  add: AddTask,
  caller: Caller,
  { id, name, sizeBytes, labels, traits }: Checked,
): Promise<{ task: ActiveTask; record: DriveRecord }> {
  const { projectId } = caller;
  const record = await insertDrive(tx, { id, projectId, name, ...labels, sizeBytes, sourceId: null, at: nowUs() });
  await putTraits(tx, id, traits);
  const task = await add({
    kind: 'drive.create',
    input: { sizeBytes },
    driveIds: [id],
    objectKind: 'drive',
    objectId: id,
    owner: ownerOf(caller, projectId),
    event: { detail: { name, sizeBytes } },
  });
  return { task, record };
}
