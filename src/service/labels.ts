/** What people attach to an object, checked; and the change of it. */
import type { Db } from '../catalog/catalog.ts';
import { driveNameExists } from '../catalog/drives.ts';
import { imageNameExists } from '../catalog/images.ts';
import { machineNameExists } from '../catalog/machines.ts';
import { snapshotNameExists } from '../catalog/snapshots.ts';
import { CalotypeError } from '../core/errors.ts';
import type { ProjectId } from '../core/ids.ts';
import { checkDescription, checkMeta, checkName, checkTags, maxNameLength } from '../core/names.ts';
import type { CreateOptions, Labels, Update } from './interface.ts';

export interface CheckedLabels {
  readonly description: string;
  /** JSON text. */
  readonly meta: string;
  readonly tags: readonly string[];
}

/** @throws invalid_request, invalid_meta, invalid_tag */
export function checkLabels(input: Labels): CheckedLabels {
  return {
    description: checkDescription(input.description),
    meta: input.meta === undefined ? '{}' : JSON.stringify(checkMeta(input.meta)),
    tags: checkTags(input.tags),
  };
}

/** Only what is to be changed. */
export interface CheckedUpdate {
  name?: string;
  description?: string;
  meta_json?: string;
  tags?: readonly string[];
}

/** @throws invalid_name, invalid_request, invalid_meta, invalid_tag */
export function checkUpdate(update: Update): CheckedUpdate {
  const checked: CheckedUpdate = {};
  if (update.name !== undefined) checked.name = checkName(update.name);
  if (update.description !== undefined) checked.description = checkDescription(update.description);
  if (update.meta !== undefined) checked.meta_json = JSON.stringify(checkMeta(update.meta));
  if (update.tags !== undefined) checked.tags = checkTags(update.tags);
  return checked;
}

/** @throws precondition_failed */
export function assertVersion(object: { version: number }, ifVersion: number | undefined): void {
  if (ifVersion === undefined || ifVersion === object.version) return;
  throw new CalotypeError('precondition_failed', undefined, { version: object.version, wanted: ifVersion });
}

const nameExists = {
  drive: driveNameExists,
  image: imageNameExists,
  machine: machineNameExists,
  snapshot: snapshotNameExists,
};

/** Where names that exist are to be refused. @throws name_taken */
export async function assertNameFree(
  db: Db,
  options: CreateOptions | undefined,
  kind: keyof typeof nameExists,
  projectId: ProjectId,
  name: string,
): Promise<void> {
  if (options?.refuseExistingName !== true || !(await nameExists[kind](db, projectId, name))) return;
  throw new CalotypeError('name_taken', `There is ${kind === 'image' ? 'an' : 'a'} ${kind} named ${name}.`, { name });
}

/** A made-up name, shortened from its start part so that the end stays. */
export function fitName(start: string, end: string): string {
  const room = maxNameLength - [...end].length;
  const letters = [...start];
  return (letters.length > room ? letters.slice(0, room).join('') : start) + end;
}

/** `20310409T162005Z` */
export function compactTime(us: number): string {
  return `${new Date(us / 1000).toISOString().slice(0, 19).replace(/[-:]/g, '')}Z`;
}
