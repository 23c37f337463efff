/** For unit tests of the routes: a service in which every use case refuses, but for those a test gives. */
import { pino } from 'pino';
import { CalotypeError, notFound } from '../../core/errors.ts';
import {
  type DriveId,
  type DriveSnapshotId,
  type ImageId,
  newId,
  type ProjectId,
  type SnapshotId,
  type TaskId,
  type UserId,
} from '../../core/ids.ts';
import type { Drive, Image, Snapshot, Task } from '../../core/model.ts';
import { nowUs } from '../../core/time.ts';
import type { Identity } from '../../service/authenticate.ts';
import type { Caller } from '../../service/caller.ts';
import type { Service } from '../../service/interface.ts';
import { type BuildHooks, type BuiltApp, buildApp } from '../app.ts';
import type { Accounts, AppOptions } from '../context.ts';
import { Metrics } from '../metrics.ts';

const refuse = (): never => {
  throw new Error('this test did not expect the call');
};

export interface FakeServices {
  queries?: Partial<Service['queries']>;
  numbers?: Partial<Service['numbers']>;
  sharing?: Partial<Service['sharing']>;
  machines?: Partial<Service['machines']>;
  drives?: Partial<Service['drives']>;
  snapshots?: Partial<Service['snapshots']>;
  images?: Partial<Service['images']>;
  exports?: Partial<Service['exports']>;
  tasks?: Partial<Service['tasks']>;
  events?: Partial<Service['events']>;
  users?: Partial<Accounts['users']>;
  projects?: Partial<Accounts['projects']>;
  tokens?: Partial<Accounts['tokens']>;
  grants?: Partial<Accounts['grants']>;
  doctor?: Service['doctor'];
  readiness?: Service['readiness'];
}

export const caller: Caller = {
  userId: newId<UserId>(),
  userName: 'ada',
  projectId: newId<ProjectId>(),
  projectName: 'default',
  role: 'operator',
  via: 'native',
};

export const bearer = { authorization: 'Bearer good' };

const crud = { create: refuse, list: refuse, get: refuse, update: refuse, delete: refuse };

export function fakeService(given: FakeServices): Service {
  return {
    queries: { list: refuse, ...given.queries },
    numbers: { idOf: refuse, numbersOf: refuse, ...given.numbers },
    sharing: { accessTo: refuse, accessToShown: refuse, grantees: refuse, ...given.sharing },
    machines: {
      ...crud,
      departed: refuse,
      adopt: refuse,
      disown: refuse,
      files: refuse,
      start: refuse,
      stop: refuse,
      pause: refuse,
      resume: refuse,
      reset: refuse,
      attach: refuse,
      detach: refuse,
      serialLog: refuse,
      typeOnConsole: refuse,
      ...given.machines,
    },
    drives: {
      ...crud,
      createEach: refuse,
      deleteEach: refuse,
      clone: refuse,
      import: refuse,
      resize: refuse,
      usage: refuse,
      check: refuse,
      flatten: refuse,
      revert: refuse,
      download: refuse,
      ...given.drives,
    },
    snapshots: {
      ...crud,
      getByPart: refuse,
      createEach: refuse,
      deleteParts: refuse,
      getJustTaken: (caller, id) => (given.snapshots?.get ?? refuse)(caller, id),
      createOfMachine: refuse,
      revert: refuse,
      revertMachine: refuse,
      clone: refuse,
      cloneMachine: refuse,
      tree: refuse,
      usage: refuse,
      changes: refuse,
      download: refuse,
      ...given.snapshots,
    },
    images: { ...crud, clone: refuse, cloneMachine: refuse, ...given.images },
    exports: { create: refuse, list: refuse, get: refuse, close: refuse, ...given.exports },
    tasks: {
      list: refuse,
      get: refuse,
      waitFor: refuse,
      cancel: refuse,
      pause: refuse,
      resume: refuse,
      remove: refuse,
      userNames: refuse,
      setSpeedLimit: refuse,
      underWay: refuse,
      ...given.tasks,
    },
    events: { list: refuse, subscribe: refuse, ...given.events },
    tags: { ...crud, idsOf: refuse },
    traits: { of: refuse, set: refuse },
    preferences: { get: refuse, set: refuse },
    limits: { maxDriveBytes: 2 ** 40 },
    doctor: given.doctor ?? refuse,
    space: async () => ({ freeBytes: 3, totalBytes: 10, reserveBytes: 1, low: false }),
    readiness: given.readiness ?? (async () => ({ ready: true, reasons: [] })),
    projectIdOf: refuse,
  };
}

const identity: Identity = {
  userId: caller.userId,
  userName: caller.userName,
  isOperator: true,
  memberships: [{ projectId: caller.projectId, projectName: caller.projectName, role: 'admin' }],
};

/** Takes the token `good` and the password `ada:secret`. */
export const fakeAuthenticator: AppOptions['authenticator'] = {
  bearer: async (secret) => {
    if (secret === 'expired') throw new CalotypeError('token_expired');
    if (secret === 'revoked') throw new CalotypeError('token_revoked');
    if (secret !== 'good') throw new CalotypeError('unauthenticated', 'The token is not known.');
    return identity;
  },
  basic: async (user, password) => {
    if (user === 'slow') throw new CalotypeError('too_many_logins', undefined, { retryAfterSeconds: 7 });
    if (user !== 'ada' || password !== 'secret') throw new CalotypeError('unauthenticated');
    return identity;
  },
  callerFor: async (_identity, { project, via }) => {
    if (project !== undefined && project !== 'default') throw notFound('project', project);
    return { ...caller, via };
  },
};

export async function fakeApp(
  given: FakeServices = {},
  options: Partial<AppOptions> = {},
  hooks: BuildHooks = {},
): Promise<BuiltApp> {
  return buildApp(
    {
      service: fakeService(given),
      accounts: {
        users: { ...crud, setPassword: refuse, changePassword: refuse, ...given.users },
        projects: { ...crud, listMembers: refuse, setMember: refuse, removeMember: refuse, ...given.projects },
        tokens: { create: refuse, list: refuse, get: refuse, revoke: refuse, ...given.tokens },
        grants: { ...crud, ...given.grants },
      },
      authenticator: fakeAuthenticator,
      facts: {
        version: '0.0.0',
        engine: {
          name: 'fake',
          capabilities: {
            atomicGroups: true,
            revertKeepsNewer: true,
            liveRevert: true,
            throttledReclaim: true,
            changeGrainBytes: 4096,
          },
        },
        tools: {},
      },
      bootDirectory: '/srv/boot',
      metrics: new Metrics({
        version: '0.0.0',
        inventory: {
          counts: async () => [{ kind: 'tasks', state: 'done', count: 5 }],
          powers: async () => [{ power: 'paused', count: 2 }],
          memoryBytes: async () => 7,
          space: async () => ({ freeBytes: 3, totalBytes: 10, reserveBytes: 1, low: false }),
        },
      }),
      maxImportBytes: 1000,
      metricsPublic: false,
      trustedProxies: [],
      ...options,
    },
    pino({ level: 'silent' }),
    hooks,
  );
}

export function aDrive(more: Partial<Drive> = {}): Drive {
  return {
    id: newId<DriveId>(),
    number: 1,
    projectId: caller.projectId,
    name: 'data',
    description: '',
    sizeBytes: 1024 ** 3,
    state: 'available',
    meta: { team: 'blue' },
    tags: ['nightly'],
    error: null,
    basedOn: null,
    sourceId: null,
    imageId: null,
    snapshotCount: 2,
    exported: false,
    attachedTo: null,
    createdAt: nowUs(),
    updatedAt: nowUs(),
    version: 3,
    ...more,
  };
}

export function aSnapshot(more: Partial<Snapshot> = {}): Snapshot {
  const id = newId<SnapshotId>();
  return {
    id,
    number: 7,
    projectId: caller.projectId,
    name: 'before the upgrade',
    description: '',
    state: 'available',
    meta: { ticket: 'OPS-1' },
    tags: ['keep'],
    error: null,
    origin: 'manual',
    consistency: 'crash',
    complete: true,
    parts: [
      {
        id: newId<DriveSnapshotId>(),
        number: 8,
        snapshotId: id,
        driveId: newId<DriveId>(),
        driveName: 'data',
        parentId: null,
        virtualBytes: 1024 ** 3,
        sizeBytes: 4096,
        current: true,
      },
    ],
    machine: null,
    sizeBytes: 4096,
    createdBy: caller.userId,
    createdAt: nowUs(),
    availableAt: nowUs(),
    updatedAt: nowUs(),
    version: 1,
    ...more,
  };
}

export function anImage(more: Partial<Image> = {}): Image {
  return {
    id: newId<ImageId>(),
    number: 5,
    projectId: caller.projectId,
    name: 'debian-12',
    description: '',
    kind: 'machine',
    state: 'available',
    meta: {},
    tags: [],
    error: null,
    sizeBytes: 1024 ** 3,
    consistency: 'filesystem',
    drives: [{ slot: 0, name: 'root', sizeBytes: 1024 ** 3 }],
    machine: {
      name: 'web',
      kind: 'vm',
      hardware: { machineType: 'pc-i440fx-7.2', cpus: 2, memoryBytes: 1024 ** 3 },
      boot: { from: 'kernel', kernel: 'vmlinuz', initrd: null, append: 'quiet' },
    },
    sourceId: newId<SnapshotId>(),
    cloneCount: 2,
    createdBy: caller.userId,
    createdAt: nowUs(),
    updatedAt: nowUs(),
    version: 3,
    ...more,
  };
}

export function aTask(more: Partial<Task> = {}): Task {
  return {
    id: newId<TaskId>(),
    number: 4,
    projectId: caller.projectId,
    userId: caller.userId,
    via: 'native',
    kind: 'drive.create',
    state: 'queued',
    objectKind: 'drive',
    objectId: null,
    driveIds: [],
    machineId: null,
    title: null,
    progress: { done: 0, total: 1, unit: 'steps', ratePerSecond: null, estimateSeconds: null },
    result: null,
    error: null,
    settled: false,
    cancellable: true,
    pausable: false,
    speedLimitBytesPerSecond: 0,
    createdAt: nowUs(),
    startedAt: null,
    finishedAt: null,
    ...more,
  };
}
