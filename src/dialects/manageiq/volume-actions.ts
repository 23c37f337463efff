/**
 * Takes and deletes snapshots of volumes. What fails for a single one is an error here, and not an action's answer.
 * (cloud_volume_snapshots_controller.rb, subcollections/cloud_volume_snapshots.rb of ManageIQ/manageiq-api)
 */

import { CalotypeError } from '../../core/errors.ts';
import type { Drive } from '../../core/model.ts';
import type { PartOfSnapshot } from '../../service/interface.ts';
import {
  type Answer,
  answerAll,
  answerOne,
  assertSome,
  byMethod,
  forbiddenAction,
  inOrder,
  lookUp,
  noContent,
  textOf,
  titled,
  unsupported,
} from './actions.ts';
import type { Env } from './attributes.ts';
import { isRefusal, refuse } from './errors.ts';
import { actionOf, type Body, isBlank, isObject, type Params, referenceOf, resourcesOf } from './parse.ts';
import { type ActionResult, begun, refused } from './present.ts';
import { volumeOf, volumeResource, volumeSnapshotOf, volumeSnapshotResource } from './volumes.ts';

/** In bulk, a failure is told for the one it concerns. */
async function attempt(action: string, bulk: boolean, work: () => Promise<ActionResult>): Promise<ActionResult> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CalotypeError)) throw error;
    const told = error.code === 'forbidden' ? forbiddenAction(action) : error;
    const isRefused = isRefusal(told);
    if (bulk && (isRefused || told.status === 403 || told.status === 404)) return refused(told.message);
    throw isRefused ? refuse(told.message) : told;
  }
}

async function create(env: Env, drive: Drive, item: unknown): Promise<ActionResult> {
  const data = isObject(item) ? item : {};
  const name = textOf('name', data.name) ?? '';
  const description = textOf('description', data.description) ?? '';
  const message = `Creating cloud volume snapshot ${name} for Cloud Volume id: ${drive.number} name: '${drive.name}'`;
  const input = { driveIds: [drive.id], description, ...(name === '' ? {} : { name }) };
  const { task } = await env.context.service.snapshots.create(titled(env, message), input);
  return begun(env.api, message, task, `${env.api}/cloud_volume_snapshots/`);
}

async function remove(env: Env, { part, snapshot }: PartOfSnapshot): Promise<ActionResult> {
  const message = `Deleting Cloud Volume Snapshot id: ${part.number} name: '${snapshot.name}'`;
  const options = { parts: [part.id] };
  const task = await env.context.service.snapshots.delete(titled(env, message), snapshot.id, options);
  return begun(env.api, message, task, `${env.api}/cloud_volume_snapshots/${part.number}`);
}

/** Of all, or with `volume` of one. */
export async function postVolumeSnapshots(
  env: Env,
  volume: number | undefined,
  body: Body,
  params: Params,
): Promise<Answer> {
  const action = actionOf(body);
  const { name } = volumeSnapshotResource;
  const isKnown = action === 'delete' || action === (volume === undefined ? 'query' : 'create');
  if (!isKnown) throw unsupported(action, name, 'collection');
  const drive = volume === undefined ? undefined : await volumeOf(env, volume);
  const { items, bulk } = resourcesOf(body);
  assertSome({ items, bulk }, name, action);
  if (action === 'query') return lookUp(volumeSnapshotResource, env, items, params, (item) => named(env, item));
  if (action === 'create' && drive !== undefined) {
    for (const item of items) assertNew(item);
    return answerAll(await inOrder(items, (item) => attempt(action, bulk, () => create(env, drive, item))), bulk);
  }
  const results = await inOrder(items, (item) =>
    attempt(action, bulk, async () => remove(env, await named(env, item, drive))),
  );
  return answerAll(results, bulk);
}

function assertNew(item: unknown): void {
  if (isBlank(item)) return;
  if (!isObject(item)) throw refuse('Invalid cloud_volume_snapshots resource specified');
  if (Object.hasOwn(item, 'id') || Object.hasOwn(item, 'href')) {
    throw refuse('Resource id or href should not be specified for creating a new cloud_volume_snapshots');
  }
}

async function named(env: Env, item: unknown, drive?: Drive): Promise<PartOfSnapshot> {
  const { name, klass } = volumeSnapshotResource;
  const number = referenceOf(item, name, klass);
  if (number === null) throw refuse(`Invalid ${klass} id nil specified`);
  return volumeSnapshotOf(env, number, drive);
}

interface Numbers {
  readonly volume?: number;
  readonly snapshot: number;
}

async function found(env: Env, { volume, snapshot }: Numbers): Promise<PartOfSnapshot> {
  return volumeSnapshotOf(env, snapshot, volume === undefined ? undefined : await volumeOf(env, volume));
}

export async function postVolumeSnapshot(env: Env, numbers: Numbers, body: Body): Promise<Answer> {
  const action = actionOf(body);
  if (action !== 'delete') throw unsupported(action, volumeSnapshotResource.name, 'resource');
  const part = await found(env, numbers);
  return answerOne(await attempt(action, false, () => remove(env, part)));
}

export async function deleteVolumeSnapshot(env: Env, numbers: Numbers): Promise<Answer> {
  const part = await found(env, numbers);
  await byMethod(() => attempt('delete', false, () => remove(env, part)));
  return noContent;
}

export async function postVolumes(env: Env, body: Body, params: Params): Promise<Answer> {
  const action = actionOf(body);
  const { name, klass } = volumeResource;
  if (action !== 'query') throw unsupported(action, name, 'collection');
  const { items, bulk } = resourcesOf(body);
  assertSome({ items, bulk }, name, action);
  return lookUp(volumeResource, env, items, params, async (item) => {
    const number = referenceOf(item, name, klass);
    if (number === null) throw refuse(`Invalid ${klass} id nil specified`);
    return volumeOf(env, number);
  });
}
