import { describe, expect, it } from 'vitest';
import { CalotypeError, type ErrorCode, errorCatalogue } from '../../core/errors.ts';
import { presentError } from './errors.ts';
import { namedId } from './fixed.ts';
import { compactZonedTime, nameTime, snapshotState, volumeState, zonedTime } from './present.ts';
import { hasExpired, statusOf } from './tasks.ts';

/** 2031-04-09T16:20:05.004210Z */
const instant = 1_933_518_005_004_210;

describe('times', () => {
  it('have an offset, with or without a colon', () => {
    expect(zonedTime(instant)).toBe('2031-04-09T16:20:05.004210+00:00');
    expect(compactZonedTime(instant)).toBe('2031-04-09T16:20:05+0000');
    expect(nameTime(instant)).toBe('20310409162005');
  });
});

describe('states', () => {
  const work = (kind: 'snapshot.create' | 'drive.compact' | 'machine.attach', unit: 'bytes' | 'steps' = 'steps') => [
    { kind, objectId: 's', progress: { done: 0, total: 1, unit, ratePerSecond: null, estimateSeconds: null } },
  ];
  const drive = (state: 'creating' | 'available' | 'error' | 'deleting' | 'deleted') => {
    const value: unknown = { state, attachedTo: null };
    return value as Parameters<typeof volumeState>[0];
  };
  const found = (state: 'creating' | 'available' | 'error' | 'deleting') => {
    const value: unknown = { part: {}, snapshot: { id: 's', state } };
    return value as Parameters<typeof snapshotState>[0];
  };

  it('of volumes are CloudStack words', () => {
    const all = (['creating', 'available', 'error', 'deleting', 'deleted'] as const).map((s) => volumeState(drive(s)));
    expect(all).toEqual(['Creating', 'Ready', 'Allocated', 'Destroying', 'Destroying']);
    expect(volumeState(drive('available'), work('snapshot.create'))).toBe('Snapshotting');
    expect(volumeState(drive('available'), work('machine.attach'))).toBe('Attaching');
    expect(volumeState(drive('available'), work('drive.compact'))).toBe('Ready');
  });

  it('of snapshots go from Creating over BackingUp, while memory is written, to BackedUp', () => {
    expect(snapshotState(found('creating'), work('snapshot.create'))).toBe('Creating');
    expect(snapshotState(found('creating'), work('snapshot.create', 'bytes'))).toBe('BackingUp');
    expect((['available', 'error', 'deleting'] as const).map((state) => snapshotState(found(state)))).toEqual([
      'BackedUp',
      'Error',
      'Destroying',
    ]);
  });

  it('of tasks are three', () => {
    const status = (state: Parameters<typeof statusOf>[0]['state'], settled = false) =>
      statusOf({ state, settled, kind: 'drive.create' });
    expect([status('queued'), status('running'), status('paused')]).toEqual(['PENDING', 'PENDING', 'PENDING']);
    expect([status('done', true), status('running', true)]).toEqual(['SUCCESS', 'SUCCESS']);
    expect([status('failed'), status('cancelled')]).toEqual(['FAILED', 'FAILED']);
    expect([
      hasExpired(null, instant),
      hasExpired(instant, instant + 18e8),
      hasExpired(instant, instant + 18e8 + 1),
    ]).toEqual([false, false, true]);
  });
});

describe('errors', () => {
  it('have a number and the same as text, and tell nothing of what broke inside', () => {
    for (const code of Object.keys(errorCatalogue) as ErrorCode[]) {
      const secret = new CalotypeError(code, 'SECRET', { path: '/secret', nothing: null });
      const { errors } = presentError(secret);
      const [error] = errors;
      expect(error?.errorCode).toBe(String(error?.code));
      expect(JSON.stringify(errors)).not.toMatch(/null|\/secret/);
      if (errorCatalogue[code].status >= 500 && ![501, 507].includes(errorCatalogue[code].status)) {
        expect(JSON.stringify(errors)).not.toContain('SECRET');
      }
    }
  });

  it('of one number are those of a wrong state only', () => {
    const byNumber = Map.groupBy(Object.keys(errorCatalogue) as ErrorCode[], (code) => {
      return presentError(new CalotypeError(code)).errors[0]?.code;
    });
    const shared = [...byNumber].filter(([, codes]) => codes.length > 1).map(([number]) => number);
    expect(shared).toEqual([2012]);
  });
});

describe('a wrong state', () => {
  const contextOf = (code: ErrorCode, details: object) =>
    presentError(new CalotypeError(code, undefined, { ...details })).errors[0]?.context;

  it('is named as a read of the object names it', () => {
    const machineId = '0d5b5c1e-3a0f-4a51-a7c0-2f6f6a3bb001';
    for (const [state, currentState] of Object.entries({
      creating: 'Starting',
      deleting: 'Destroyed',
      error: 'Error',
    })) {
      const context = { id: machineId, type: 'instances', currentState, expectedStates: ['Running', 'Stopped'] };
      expect(contextOf('machine_not_ready', { machineId, state })).toEqual(context);
    }
    expect(contextOf('drive_not_ready', { driveId: machineId, state: 'deleting' })).toEqual({
      id: machineId,
      type: 'volumes',
      currentState: 'Destroying',
      expectedStates: ['Ready'],
    });
  });

  it('never names a whole snapshot, whose id is none here', () => {
    expect(contextOf('snapshot_not_ready', { snapshotId: 's', state: 'creating' })).toEqual({
      type: 'snapshots',
      currentState: 'Creating',
      expectedStates: ['BackedUp'],
    });
  });
});

describe('made-up ids', () => {
  it('are lower-case UUIDs, the same for the same name', () => {
    expect(namedId('a')).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(namedId('a')).toBe(namedId('a'));
    expect(namedId('a')).not.toBe(namedId('b'));
  });
});
