/**
 * What a list is asked for, in the model's terms: conditions over named fields, sort keys, a page by offset. The lists of
 * the dialects are translated to this; the catalog translates it to SQL. Plain data.
 */

/** Times are µs, sizes bytes, booleans true or false. */
export type FieldValue = string | number | boolean;

export type Comparison =
  | { readonly op: 'eq' | 'ne' | 'lt' | 'le' | 'gt' | 'ge'; readonly value: FieldValue }
  | { readonly op: 'in'; readonly values: readonly FieldValue[] }
  | { readonly op: 'isNull' | 'isNotNull' }
  /** `*` stands for any run of characters; anchored, case-sensitive. */
  | { readonly op: 'like'; readonly value: string }
  /** A part of the text, without regard to case. */
  | { readonly op: 'contains'; readonly value: string }
  /** A regular expression of RE2's kind, found anywhere in the text: linear in time, whatever it is. */
  | { readonly op: 'matches'; readonly value: string; readonly ignoreCase: boolean };

/** As SQL has it: a comparison with null is neither true nor false, and neither is its negation. */
export type Condition<Field extends string = string> =
  | { readonly all: readonly Condition<Field>[] }
  | { readonly any: readonly Condition<Field>[] }
  | { readonly not: Condition<Field> }
  | ({ readonly field: Field } & Comparison);

/** Holds for everything, for nothing. */
export const always: Condition<never> = { all: [] };
export const never: Condition<never> = { any: [] };

type Common = 'number' | 'id' | 'name' | 'description' | 'state' | 'createdAt' | 'updatedAt' | 'tag';

/** What each kind can be filtered and sorted by; `tag` only filtered: it holds when any tag meets it. */
export interface QueryFields {
  machine:
    | Common
    | 'kind'
    | 'power'
    | 'managed'
    | 'startedAt'
    | 'cpus'
    | 'memoryBytes'
    | 'snapshotCount'
    /** Of its snapshots; null without any. */
    | 'oldestSnapshotAt'
    | 'newestSnapshotAt';
  snapshot:
    | Common
    | 'origin'
    | 'consistency'
    | 'complete'
    | 'availableAt'
    | 'createdBy'
    | 'sizeBytes'
    | 'partCount'
    /** The machine is null in a snapshot of drives; its fields stay when it is deleted, but for its power and kind. */
    | 'machineId'
    | 'machineNumber'
    | 'machineName'
    | 'machinePower'
    | 'machineKind'
    | 'parentId'
    | 'parentNumber'
    | 'parentName'
    | 'current'
    | 'hasMemory';
  /** Drive snapshots; name, description, state, times and tags are those of the snapshot they are part of. */
  part:
    | Common
    | 'snapshotId'
    | 'snapshotNumber'
    | 'driveId'
    | 'driveNumber'
    | 'driveName'
    | 'availableAt'
    | 'createdBy'
    | 'sizeBytes'
    | 'virtualBytes'
    | 'parentNumber'
    | 'current'
    | 'machineId';
  drive:
    | Common
    | 'sizeBytes'
    | 'snapshotCount'
    | 'exported'
    | 'imageId'
    /** The part it was cloned from. */
    | 'sourceId'
    | 'sourceNumber'
    | 'machineId'
    | 'machineNumber'
    | 'machineName'
    /** In the machine that it is attached to. */
    | 'slot';
  image: Common | 'kind' | 'sizeBytes' | 'createdBy';
  /** `updatedAt`: when it ended, else began, else was asked for. */
  task:
    | Exclude<Common, 'name' | 'description' | 'tag'>
    | 'title'
    | 'kind'
    | 'via'
    | 'objectKind'
    | 'objectId'
    | 'machineId'
    | 'startedAt'
    | 'finishedAt'
    | 'userId'
    | 'userName';
}

export type QueryKind = keyof QueryFields;

export interface Query<K extends QueryKind = QueryKind> {
  readonly where?: Condition<QueryFields[K]>;
  /** Default by number; ties always go by number, in the direction of the last key. */
  readonly sort?: readonly {
    readonly by: Exclude<QueryFields[K], 'tag'>;
    readonly order?: 'asc' | 'desc';
    readonly ignoreCase?: boolean;
    /** The values in the order that counts instead of their own; those not named come last. */
    readonly ranks?: readonly FieldValue[];
  }[];
  /** Default 0. */
  readonly offset?: number;
  /** Default 100; null for all there are. 0 is taken: only the totals are wanted. */
  readonly limit?: number | null;
  /** Count what meets `where`. */
  readonly withTotal?: boolean;
  /** Count what the caller may see at all. */
  readonly withAll?: boolean;
}
