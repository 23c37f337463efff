/** The server's log: JSON lines on standard error, without anything secret in them. */
import { destination, type Logger, pino } from 'pino';

const secretKeys = [
  'authorization',
  'cookie',
  'set-cookie',
  'password',
  'oldPassword',
  'newPassword',
  'token',
  'secret',
  'psk',
  'keyHex',
  'tlsPsk',
];

export function createLogger(
  level: string,
  stream: { write(line: string): void } = destination({ dest: 2, sync: true }),
): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: secretKeys.flatMap((key) =>
          ['', '*.', '*.*.', '*.*.*.'].map((prefix) => `${prefix}["${key}"]`.replace('.[', '[')),
        ),
        censor: '[secret]',
      },
    },
    stream,
  );
}
