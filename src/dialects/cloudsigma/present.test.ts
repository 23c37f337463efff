import { expect, test } from 'vitest';
import { newId } from '../../core/ids.ts';
import type { DriveSnapshot, Snapshot } from '../../core/model.ts';
import { presentSnapshot } from './present.ts';

test.each([
  ['creating', null, null],
  ['available', 4096, 4096],
  ['available', null, 0],
  ['deleting', null, 0],
  ['error', null, 0],
] as const)('a snapshot that is %s, measured at %s, has the allocated size %s', (state, sizeBytes, expected) => {
  const part: DriveSnapshot = {
    id: newId(),
    number: 1,
    snapshotId: newId(),
    driveId: newId(),
    driveName: 'd',
    parentId: null,
    virtualBytes: 1048576,
    sizeBytes,
    current: true,
  };
  const snapshot: Snapshot = {
    id: part.snapshotId,
    number: 1,
    projectId: newId(),
    name: 's',
    description: '',
    state,
    meta: {},
    tags: [],
    error: null,
    origin: 'manual',
    consistency: 'crash',
    complete: true,
    parts: [part],
    machine: null,
    sizeBytes,
    createdBy: null,
    createdAt: 0,
    availableAt: null,
    updatedAt: 0,
    version: 1,
  };
  const around = { mount: '', owner: newId(), tags: [], grantees: [], granted: null };
  expect(presentSnapshot(part, snapshot, around).allocated_size).toBe(expected);
});
