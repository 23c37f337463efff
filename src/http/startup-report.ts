/** What `calotype serve` tells people: where everything is and what to try; or, in one sentence, why it did not start. */
import { CalotypeError, type ErrorCode } from '../core/errors.ts';
import type { BootstrapResult, Endpoints } from '../service/bootstrap.ts';

/** Exit codes, as in --help and docs/api.md. */
const exitCodes: Partial<Record<ErrorCode, number>> = {
  config_invalid: 2,
  qemu_missing: 3,
  qemu_too_old: 3,
  engine_unavailable: 3,
  space_exhausted: 3,
  space_low: 3,
  data_in_use: 4,
  catalog_too_new: 5,
  catalog_damaged: 5,
};

/** Errors of the system that say something about the place we run in. */
const environmentErrors: Readonly<Record<string, string>> = {
  EACCES: 'Give this user access to it, or choose another directory with --data.',
  EPERM: 'Give this user access to it, or choose another directory with --data.',
  EROFS: 'Choose a writable directory with --data.',
  ENOSPC: 'Free some space, or choose another disk with --data.',
  ENOTDIR: 'Choose a directory with --data.',
  EEXIST: 'Choose a directory with --data.',
};

export function explainFailure(error: unknown): { text: string; exitCode: number } {
  if (error instanceof CalotypeError) {
    const { remedy } = error.details;
    return {
      text: `calotype: ${error.message}${typeof remedy === 'string' ? ` ${remedy}` : ''}`,
      exitCode: exitCodes[error.code] ?? 1,
    };
  }
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') {
    const remedy = environmentErrors[error.code];
    if (remedy !== undefined) return { text: `calotype: ${error.message}. ${remedy}`, exitCode: 3 };
  }
  return { text: `calotype: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`, exitCode: 1 };
}

/** A port that cannot be had, as a configuration error; everything else as it is. */
export function explainListenError(error: unknown, host: string, port: number): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error;
  const flags = 'Choose other ones with --port-base and --host.';
  const reasons: Readonly<Record<string, string>> = {
    EADDRINUSE: `Port ${port} on ${host} is taken. Stop what listens there. ${flags}`,
    EADDRNOTAVAIL: `${host} is no address of this machine. ${flags}`,
    ENOTFOUND: `${host} is no known host name. ${flags}`,
    EACCES: `Port ${port} may not be opened by this user. ${flags}`,
  };
  const reason = reasons[String(error.code)];
  return reason === undefined ? error : new CalotypeError('config_invalid', reason, { host, port }, { cause: error });
}

export interface ReadyFacts {
  readonly endpoints: Endpoints;
  readonly bootstrap: BootstrapResult;
  readonly data: string;
  readonly version: string;
  readonly milliseconds: number;
  /** What recovery found and did. */
  readonly recovered: readonly string[];
  readonly isExposedWithoutTls: boolean;
}

const wayBackIn = 'a stopped server makes a new password: calotype serve --reset-password USER';

export function readyText(facts: ReadyFacts): string {
  const { endpoints, bootstrap, data } = facts;
  const rows: [string, string][] = Object.entries(endpoints).map(([name, url]) => [name, url]);
  const out: string[] = [];
  for (const line of facts.recovered) out.push(`recovered: ${line}`);
  out.push(`Calotype ${facts.version} is ready after ${(facts.milliseconds / 1000).toFixed(2)} s; data in ${data}`, '');
  const { access } = bootstrap;
  if (bootstrap.firstStart && access !== null) {
    rows.push(
      ['user', access.user],
      ['password', access.password],
      ['token', access.token],
      ['project', access.project],
    );
  }
  rows.push(['credentials', access === null ? `${bootstrap.path} (missing; ${wayBackIn})` : bootstrap.path]);
  out.push(...table(rows));
  if (facts.isExposedWithoutTls) {
    out.push(
      '',
      'Passwords and tokens travel in clear text: this address is not loopback and there is no TLS (--tls-cert, --tls-key).',
    );
  }
  if (bootstrap.firstStart) {
    out.push(
      '',
      'Try next, in another terminal (in a clone, `npm run calotype -- ` stands for `calotype `):',
      '',
      '  calotype demo                                 # machines that run; what to do with them is said then',
      '',
      '  calotype drive create disk1 1GiB',
      '  calotype drive export disk1 --writable',
      '  calotype snapshot create disk1 --name first',
      '  calotype snapshot tree disk1',
      '  calotype snapshot clone first disk2',
    );
  }
  return `${out.join('\n')}\n`;
}

function table(rows: readonly [string, string][]): string[] {
  const width = Math.max(...rows.map(([left]) => left.length)) + 2;
  return rows.map(([left, right]) => `  ${left.padEnd(width)}${right}`);
}
