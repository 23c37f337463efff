/** Branded identifiers: UUID v4 in lower case, made here and nowhere else. Numbers are handed out by the catalog. */
import { randomUUID } from 'node:crypto';

declare const brand: unique symbol;
type Id<Kind extends string> = string & { readonly [brand]: Kind };

export type ProjectId = Id<'project'>;
export type UserId = Id<'user'>;
export type TokenId = Id<'token'>;
export type MachineId = Id<'machine'>;
export type DriveId = Id<'drive'>;
export type SnapshotId = Id<'snapshot'>;
export type DriveSnapshotId = Id<'driveSnapshot'>;
export type TaskId = Id<'task'>;
export type ImageId = Id<'image'>;
export type ExportId = Id<'export'>;
export type GrantId = Id<'grant'>;
export type TagId = Id<'tag'>;

export function newId<T extends Id<string>>(): T {
  return randomUUID() as string as T;
}

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export function isUuid(value: string): boolean {
  return uuidPattern.test(value);
}
