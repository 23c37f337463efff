import { DatabaseSync } from 'node:sqlite';
import { expect, test } from 'vitest';
import { CalotypeError } from './errors.ts';
import { asSpaceError } from './space-error.ts';

const systemError = (code: string): Error => Object.assign(new Error(code), { code });

test.each(['ENOSPC', 'EDQUOT'])('%s is space_exhausted, with its cause', (code) => {
  const cause = systemError(code);
  expect(asSpaceError(cause)).toMatchObject({ code: 'space_exhausted', status: 507, retryable: true, cause });
});

test('so is a database that may not grow', () => {
  const db = new DatabaseSync(':memory:');
  db.exec('create table t (x); pragma max_page_count = 2');
  try {
    db.exec('insert into t values (zeroblob(100000))');
    expect.unreachable('the database grew');
  } catch (error) {
    expect(asSpaceError(error)).toMatchObject({ code: 'space_exhausted', cause: error });
  } finally {
    db.close();
  }
});

test('anything else stays what it is', () => {
  for (const other of [
    systemError('EIO'),
    new Error('ENOSPC'),
    new CalotypeError('space_low'),
    { code: 'ENOSPC' },
    undefined,
  ])
    expect(asSpaceError(other)).toBe(other);
});
