import { expect, test } from 'vitest';
import { createLogger } from './logging.ts';

test('nothing secret reaches the log, however deep it lies', () => {
  const lines: string[] = [];
  const logger = createLogger('info', { write: (line) => lines.push(line) });
  logger.info({ password: 's3cret', headers: { authorization: 's3cret', cookie: 's3cret' } }, 'top');
  logger.info(
    { input: { user: { token: 's3cret', newPassword: 's3cret' } }, tlsPsk: { identity: 'x', keyHex: 's3cret' } },
    'deep',
  );
  logger.debug({ a: 1 }, 'not at this level');
  expect(lines).toHaveLength(2);
  expect(lines.join('')).not.toContain('s3cret');
  expect(lines[0]).toMatch(/^\{"level":"info","time":"20\d\d-/);
});
