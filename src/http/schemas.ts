/**
 * The objects of API v1 as TypeBox schemas: what leaves is serialised by them, what OpenAPI says is made from them, and the
 * presenters are typed by them. Nullable fields are type lists rather than unions, which serialise without a validator.
 */
import Type, { type Static, type TSchema } from 'typebox';
import { type ErrorCode, errorCatalogue } from '../core/errors.ts';
import { accelerators, imageKinds, machineKinds, taskKinds } from '../core/model.ts';
import {
  driveTransitions,
  imageTransitions,
  machinePowers,
  machineTransitions,
  snapshotTransitions,
  taskTransitions,
} from '../core/states.ts';

/** One of several words. The type beside the list spares the serialiser a look. */
export const oneOf = <const T extends string>(values: readonly T[], options: Record<string, unknown> = {}) =>
  Type.Unsafe<T>({ type: 'string', enum: [...values], ...options });

const text = Type.String();
const integer = Type.Integer();
const nullable = <T>(type: string, more: Record<string, unknown> = {}) =>
  Type.Unsafe<T | null>({ type: [type, 'null'], ...more });

export const uuid = <Id extends string>() =>
  Type.Unsafe<Id>({ type: 'string', pattern: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' });
const id = Type.String({ description: 'UUID' });
const nullableId = nullable<string>('string', { description: 'UUID' });
const time = Type.String({
  description: 'ISO 8601, UTC, six fraction digits',
  examples: ['2031-04-09T16:20:05.004210Z'],
});
const nullableTime = nullable<string>('string', { description: 'ISO 8601, UTC' });
const bytes = Type.Integer({ minimum: 0, description: 'bytes' });
const nullableBytes = nullable<number>('integer', { description: 'bytes; null when not known yet' });
const meta = Type.Unsafe<Readonly<Record<string, string>>>({
  type: 'object',
  additionalProperties: { type: 'string' },
});
const anyObject = { type: 'object', additionalProperties: true };
const object = Type.Unsafe<Readonly<Record<string, unknown>>>(anyObject);
const tags = Type.Unsafe<readonly string[]>({ type: 'array', items: { type: 'string' } });
const list = <T>(items: object, more: Record<string, unknown> = {}) =>
  Type.Unsafe<readonly T[]>({ type: 'array', items, ...more });

const keysOf = <T extends object>(table: T): (keyof T & string)[] =>
  Object.keys(table).filter((key): key is keyof T & string => key in table);
export const driveStates = keysOf(driveTransitions);
export const machineStates = keysOf(machineTransitions);
export const snapshotStates = keysOf(snapshotTransitions);
export const imageStates = keysOf(imageTransitions);
export const taskStates = keysOf(taskTransitions);
export const errorCodes: readonly ErrorCode[] = keysOf(errorCatalogue);

export interface TaskErrorBody {
  readonly code: string;
  readonly message: string;
  readonly details: Readonly<Record<string, unknown>>;
}
const taskError = nullable<TaskErrorBody>('object', {
  description: 'What went wrong; null otherwise',
  properties: { code: { type: 'string' }, message: { type: 'string' }, details: anyObject },
  required: ['code', 'message', 'details'],
});

export const driveSchema = Type.Object(
  {
    id,
    number: Type.Integer({ description: 'never reused' }),
    projectId: id,
    name: text,
    description: text,
    sizeBytes: Type.Integer({ description: 'what a client of the drive sees' }),
    state: oneOf(driveStates),
    meta,
    tags,
    error: taskError,
    basedOn: nullable<string>('string', { description: 'the drive snapshot its present state descends from' }),
    sourceId: nullable<string>('string', { description: 'the drive snapshot it was cloned from' }),
    imageId: nullable<string>('string', { description: 'the image it was made from, until it is flattened' }),
    snapshotCount: integer,
    exported: Type.Boolean({ description: 'served over NBD on request' }),
    attachedTo: nullable<{ readonly machineId: string; readonly slot: number }>('object', {
      description: 'the machine it is attached to, and where',
      properties: { machineId: { type: 'string' }, slot: { type: 'integer' } },
      required: ['machineId', 'slot'],
    }),
    createdAt: time,
    updatedAt: time,
    version: Type.Integer({ description: 'the ETag' }),
  },
  { $id: 'Drive', description: 'A block volume' },
);
export type DriveBody = Static<typeof driveSchema>;

const slots = list<{ readonly slot: number; readonly driveId: string }>({
  type: 'object',
  required: ['slot', 'driveId'],
  properties: { slot: { type: 'integer' }, driveId: { type: 'string' } },
});

const hardware = Type.Object({
  machineType: Type.String({ description: 'the versioned name that QEMU knows it by' }),
  cpus: integer,
  memoryBytes: integer,
  macAddress: text,
});

export interface MachineBootBody {
  readonly from: 'drive' | 'kernel';
  readonly kernel?: string;
  readonly initrd?: string | null;
  readonly append?: string;
}

const boot = {
  type: 'object',
  required: ['from'],
  properties: {
    from: { type: 'string', enum: ['drive', 'kernel'] },
    kernel: { type: 'string' },
    initrd: { type: ['string', 'null'] },
    append: { type: 'string' },
  },
};

export interface MachineRuntimeBody {
  readonly pid: number;
  readonly accelerator: 'kvm' | 'tcg';
  readonly qemuVersion: string;
  readonly startedAt: string;
  readonly uptimeSeconds: number;
}

export const machineSchema = Type.Object(
  {
    id,
    number: Type.Integer({ description: 'never reused' }),
    projectId: id,
    name: text,
    description: text,
    kind: oneOf(machineKinds),
    managed: Type.Boolean({ description: "its QEMU process is this server's" }),
    state: oneOf(machineStates),
    power: oneOf(machinePowers),
    hardware,
    boot: Type.Unsafe<MachineBootBody>(boot),
    drives: slots,
    meta,
    tags,
    error: taskError,
    basedOn: nullable<string>('string', { description: 'the machine snapshot its present state descends from' }),
    sourceId: nullable<string>('string', { description: 'the machine snapshot it was cloned from' }),
    imageId: nullable<string>('string', { description: 'the image it was made from, which may be gone' }),
    snapshotCount: integer,
    runtime: nullable<MachineRuntimeBody>('object', {
      description: 'its QEMU process; null while it is off',
      properties: {
        pid: { type: 'integer' },
        accelerator: { type: 'string', enum: [...accelerators] },
        qemuVersion: { type: 'string' },
        startedAt: { type: 'string' },
        uptimeSeconds: { type: 'integer' },
      },
      required: ['pid', 'accelerator', 'qemuVersion', 'startedAt', 'uptimeSeconds'],
    }),
    createdAt: time,
    updatedAt: time,
    version: Type.Integer({ description: 'the ETag' }),
  },
  { $id: 'Machine', description: 'A virtual machine' },
);
export type MachineBody = Static<typeof machineSchema>;

export interface MachineSnapshotBody {
  readonly machineId: string;
  readonly machineName: string;
  readonly parentId: string | null;
  readonly current: boolean;
  readonly power: string;
  readonly hardware: Static<typeof hardware>;
  readonly slots: readonly { readonly slot: number; readonly driveId: string }[];
  readonly excluded: readonly string[];
  readonly reason: string;
  readonly frozenMilliseconds: number | null;
  readonly pauseMilliseconds: number | null;
  readonly memory: { method: string; streamBytes: number | null; storedBytes: number | null } | null;
}

export const machineSnapshotSchema = Type.Object(
  {
    machineId: id,
    machineName: text,
    parentId: nullable<string>('string', { description: 'the machine snapshot it was taken after' }),
    current: Type.Boolean({ description: 'the machine descends directly from it' }),
    power: oneOf(machinePowers, { description: 'what the machine did at that instant' }),
    hardware,
    slots,
    excluded: list<string>({ type: 'string' }, { description: 'attached drives that were left out' }),
    reason: Type.String({ description: 'why the consistency is what it is' }),
    frozenMilliseconds: nullable<number>('number', { description: 'how long file systems were frozen' }),
    pauseMilliseconds: nullable<number>('number', { description: 'how long the guest stood still' }),
    memory: nullable<NonNullable<MachineSnapshotBody['memory']>>('object', {
      properties: {
        method: { type: 'string', enum: ['background', 'stopped'] },
        streamBytes: { type: ['integer', 'null'] },
        storedBytes: { type: ['integer', 'null'] },
      },
      required: ['method', 'streamBytes', 'storedBytes'],
    }),
  },
  { $id: 'MachineSnapshot', description: 'What a snapshot of a machine says beyond its parts' },
);

export const driveSnapshotSchema = Type.Object(
  {
    id,
    number: integer,
    snapshotId: id,
    driveId: id,
    driveName: text,
    parentId: nullableId,
    virtualBytes: bytes,
    sizeBytes: nullableBytes,
    current: Type.Boolean({ description: 'the drive descends directly from it' }),
  },
  { $id: 'DriveSnapshot', description: 'The part of a snapshot that covers one drive' },
);
export type DriveSnapshotBody = Static<typeof driveSnapshotSchema>;

export const snapshotSchema = Type.Object(
  {
    id,
    number: integer,
    projectId: id,
    name: text,
    description: text,
    state: oneOf(snapshotStates),
    meta,
    tags,
    error: taskError,
    origin: oneOf(['manual', 'safety']),
    consistency: oneOf(['memory', 'filesystem', 'crash']),
    complete: Type.Boolean({ description: 'false once a part was deleted on its own' }),
    parts: list<DriveSnapshotBody>({ $ref: 'DriveSnapshot#' }),
    machine: Type.Unsafe<MachineSnapshotBody | null>({
      description: 'for a snapshot of a machine',
      anyOf: [{ $ref: 'MachineSnapshot#' }, { type: 'null' }],
    }),
    sizeBytes: nullableBytes,
    createdBy: nullableId,
    createdAt: time,
    availableAt: nullable<string>('string', { description: 'when it was finished, ISO 8601; null until then' }),
    updatedAt: time,
    version: Type.Integer({ description: 'the ETag' }),
  },
  { $id: 'Snapshot', description: 'One point in time of one or several drives' },
);
export type SnapshotBody = Static<typeof snapshotSchema>;

export const snapshotNodeSchema = Type.Object(
  {
    depth: Type.Integer({ description: 'levels below a root' }),
    part: Type.Unsafe<DriveSnapshotBody>({ $ref: 'DriveSnapshot#' }),
    snapshot: Type.Unsafe<SnapshotBody>({ $ref: 'Snapshot#' }),
    children: list<string>({ type: 'string' }, { description: 'ids of drive snapshots' }),
  },
  { $id: 'SnapshotNode', description: 'A node of the snapshot tree of one drive' },
);
export type SnapshotNodeBody = Static<typeof snapshotNodeSchema>;

export interface ImageMachineBody {
  readonly name: string;
  readonly kind: string;
  readonly hardware: { readonly machineType: string; readonly cpus: number; readonly memoryBytes: number };
  readonly boot: MachineBootBody;
}

export const imageSchema = Type.Object(
  {
    id,
    number: Type.Integer({ description: 'never reused' }),
    projectId: id,
    name: text,
    description: text,
    kind: oneOf(imageKinds, { description: 'of one drive, or of a machine with its drives' }),
    state: oneOf(imageStates),
    meta,
    tags,
    error: taskError,
    sizeBytes: Type.Integer({ description: 'what a client of its drives sees, all together' }),
    consistency: oneOf(['filesystem', 'crash']),
    drives: list<{ readonly slot: number; readonly name: string; readonly sizeBytes: number }>(
      {
        type: 'object',
        required: ['slot', 'name', 'sizeBytes'],
        properties: { slot: { type: 'integer' }, name: { type: 'string' }, sizeBytes: { type: 'integer' } },
      },
      { description: 'what it holds' },
    ),
    machine: nullable<ImageMachineBody>('object', {
      description: 'what a machine made from it starts with; null for an image of a drive',
      required: ['name', 'kind', 'hardware', 'boot'],
      properties: {
        name: { type: 'string' },
        kind: { type: 'string', enum: [...machineKinds] },
        hardware: {
          type: 'object',
          required: ['machineType', 'cpus', 'memoryBytes'],
          properties: {
            machineType: { type: 'string' },
            cpus: { type: 'integer' },
            memoryBytes: { type: 'integer' },
          },
        },
        boot,
      },
    }),
    sourceId: Type.String({ description: 'the snapshot it was made from, which may be gone' }),
    cloneCount: Type.Integer({
      description: 'drives made from it and not flattened since; while there are any, it is in use',
    }),
    createdBy: nullableId,
    createdAt: time,
    updatedAt: time,
    version: Type.Integer({ description: 'the ETag' }),
  },
  { $id: 'Image', description: 'A template: one instant that never changes, for any number of drives and machines' },
);
export type ImageBody = Static<typeof imageSchema>;

export const taskSchema = Type.Object(
  {
    id,
    number: integer,
    projectId: nullableId,
    userId: nullableId,
    via: Type.String({ description: 'the front door it came through' }),
    kind: oneOf(taskKinds),
    state: oneOf(taskStates),
    objectKind: nullable<string>('string'),
    objectId: nullable<string>('string'),
    driveIds: list<string>({ type: 'string' }),
    machineId: nullableId,
    progress: Type.Object({
      done: integer,
      total: integer,
      unit: oneOf(['bytes', 'steps']),
      ratePerSecond: nullable<number>('number'),
      estimateSeconds: nullable<number>('number'),
    }),
    result: nullable<Readonly<Record<string, unknown>>>('object', { additionalProperties: true }),
    error: taskError,
    cancellable: Type.Boolean(),
    pausable: Type.Boolean(),
    speedLimitBytesPerSecond: Type.Integer({ description: '0: no limit' }),
    createdAt: time,
    startedAt: nullableTime,
    finishedAt: nullableTime,
  },
  { $id: 'Task', description: 'One durable piece of work' },
);
export type TaskBody = Static<typeof taskSchema>;

export const exportSchema = Type.Object(
  {
    id,
    projectId: id,
    driveId: nullableId,
    driveSnapshotId: nullableId,
    writable: Type.Boolean(),
    transport: oneOf(['unix', 'tcp']),
    exportName: text,
    uri: Type.String({ description: 'nbd+unix:///NAME?socket=PATH, nbd://HOST:PORT/NAME or nbds://…' }),
    tlsPsk: Type.Optional(
      Type.Object({ identity: text, keyHex: text }, { description: 'shown once, in the answer that made the export' }),
    ),
    createdAt: time,
  },
  { $id: 'Export', description: 'A drive or drive snapshot served over NBD' },
);
export type ExportBody = Static<typeof exportSchema>;

export const eventSchema = Type.Object(
  {
    seq: integer,
    at: time,
    projectId: nullableId,
    userId: nullableId,
    via: text,
    kind: text,
    objectKind: text,
    objectId: text,
    detail: object,
  },
  { $id: 'Event', description: 'Who did what to which object when' },
);
export type EventBody = Static<typeof eventSchema>;

export const extentsSchema = Type.Object(
  {
    extents: list<{ start: number; length: number }>({
      type: 'object',
      required: ['start', 'length'],
      properties: { start: { type: 'integer' }, length: { type: 'integer' } },
    }),
    totalBytes: bytes,
  },
  { $id: 'Changes', description: 'Byte ranges, sorted and disjoint' },
);

export const driveUsageSchema = Type.Object(
  {
    virtualBytes: bytes,
    liveBytes: Type.Integer({ description: 'data the present state refers to, shared or not' }),
    snapshotBytes: Type.Integer({ description: 'data kept only because snapshots refer to it' }),
    onDiskBytes: Type.Integer({ description: 'what its files take, metadata included' }),
    depth: Type.Integer({ description: 'layers a read may have to walk' }),
  },
  { $id: 'DriveUsage' },
);

export const projectSchema = Type.Object(
  { id, number: integer, name: text, createdAt: time, version: integer },
  { $id: 'Project', description: 'A tenant' },
);
export type ProjectBody = Static<typeof projectSchema>;

export const userSchema = Type.Object(
  {
    id,
    number: integer,
    name: text,
    email: nullable<string>('string'),
    isOperator: Type.Boolean(),
    disabled: Type.Boolean(),
    hasPassword: Type.Boolean(),
    createdAt: time,
    version: integer,
  },
  { $id: 'User' },
);
export type UserBody = Static<typeof userSchema>;

export const memberSchema = Type.Object(
  {
    projectId: id,
    userId: id,
    userName: text,
    email: nullable<string>('string'),
    role: oneOf(['admin', 'member', 'guest']),
  },
  { $id: 'Member', description: 'A user in a project' },
);
export type MemberBody = Static<typeof memberSchema>;

export const tokenSchema = Type.Object(
  {
    id,
    number: integer,
    userId: id,
    name: text,
    prefix: Type.String({ description: 'the first characters of the secret' }),
    createdAt: time,
    expiresAt: nullableTime,
    revokedAt: nullableTime,
  },
  { $id: 'Token', description: 'An API key of a user' },
);
export type TokenBody = Static<typeof tokenSchema>;

export const grantSchema = Type.Object(
  {
    id,
    projectId: id,
    userId: id,
    objectKind: oneOf(['machine', 'drive', 'snapshot', 'image']),
    objectId: id,
    access: oneOf(['ro', 'rw']),
    createdAt: time,
  },
  { $id: 'Grant', description: 'Access of one user to one object' },
);
export type GrantBody = Static<typeof grantSchema>;

export const problemSchema = Type.Object(
  {
    type: text,
    title: text,
    status: integer,
    detail: text,
    code: oneOf(errorCodes),
    retryable: Type.Boolean(),
    changed: oneOf(['no', 'rolledBack', 'partly']),
    requestId: text,
  },
  {
    $id: 'Problem',
    description: 'RFC 9457; more members say what is needed to act: field, blocking, taskId, remedy',
    additionalProperties: true,
  },
);

/** Everything that is referred to by name. */
export const sharedSchemas: readonly TSchema[] = [
  machineSchema,
  machineSnapshotSchema,
  driveSchema,
  driveSnapshotSchema,
  snapshotSchema,
  snapshotNodeSchema,
  imageSchema,
  taskSchema,
  exportSchema,
  eventSchema,
  extentsSchema,
  driveUsageSchema,
  projectSchema,
  userSchema,
  memberSchema,
  tokenSchema,
  grantSchema,
  problemSchema,
];

const ref = <T>(name: string) => Type.Unsafe<T>({ $ref: `${name}#` });
export const machineRef = ref<MachineBody>('Machine');
export const driveRef = ref<DriveBody>('Drive');
export const snapshotRef = ref<SnapshotBody>('Snapshot');
export const imageRef = ref<ImageBody>('Image');
export const taskRef = ref<TaskBody>('Task');
export const exportRef = ref<ExportBody>('Export');
export const extentsRef = ref<Static<typeof extentsSchema>>('Changes');
export const driveUsageRef = ref<Static<typeof driveUsageSchema>>('DriveUsage');
export const projectRef = ref<ProjectBody>('Project');
export const userRef = ref<UserBody>('User');
export const memberRef = ref<MemberBody>('Member');
export const tokenRef = ref<TokenBody>('Token');
export const grantRef = ref<GrantBody>('Grant');

export const taskAnswer = Type.Object({ task: taskRef });
export const machineTaskAnswer = Type.Object({ task: taskRef, machine: machineRef });
export const driveTaskAnswer = Type.Object({ task: taskRef, drive: driveRef });
export const snapshotTaskAnswer = Type.Object({ task: taskRef, snapshot: snapshotRef });
export const imageTaskAnswer = Type.Object({ task: taskRef, image: imageRef });
export const noContent = Type.Null({ description: 'Done' });

export interface PageBody<T> {
  readonly items: readonly T[];
  readonly nextCursor: string | null;
  readonly total?: number;
}
export const pageOf = <T>(name: string) =>
  Type.Unsafe<PageBody<T>>({
    type: 'object',
    required: ['items', 'nextCursor'],
    properties: {
      items: { type: 'array', items: { $ref: `${name}#` } },
      nextCursor: { type: ['string', 'null'], description: 'give it as `cursor` for the next page; null on the last' },
      total: { type: 'integer', description: 'exact count, with total=true' },
    },
  });
