/**
 * Runs qemu-img and cp for the qcow2 engine: versions, checks, imports, exports, rebase, copies. No shell, no format
 * probing, and no file name that QEMU could take for an option or a protocol: names go as `json:` or as `file:` plus
 * an absolute path. Only for files that no running QEMU has open for writing; what a child says on stderr ends in the error.
 */
import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { open, stat, unlink } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { CalotypeError } from '../core/errors.ts';
import { type Extents, normalizeExtents } from '../core/extents.ts';
import { asSpaceError } from '../core/space-error.ts';
import { type ImportLimits, inspectBytes, parseImportFormat, tooLarge } from './import-formats.ts';
import { type Qcow2Header, readHeader } from './qcow2.ts';

export type { ImportLimits } from './import-formats.ts';

/** Called with bytes done and to do; the total is the virtual size, the share is of the work. Ends with done = total. */
export type ProgressListener = (doneBytes: number, totalBytes: number) => void;

export interface RunOptions {
  readonly onProgress?: ProgressListener | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told how to signal the child, so that it can be stopped and continued. */
  readonly onStart?: ((signal: (name: NodeJS.Signals) => void) => void) | undefined;
}

const oldestQemu = [7, 2] as const;
const packages = 'qemu-utils qemu-system-common';
const remedy = `sudo apt-get install --no-install-recommends ${packages}`;
const maxOutputBytes = 64 * 1024 * 1024;
const maxErrorBytes = 16 * 1024;

/** Address space for looking at untrusted images, and for converting them: enough for any real table. */
const inspectBudget = ['prlimit', '--as=1073741824', '--cpu=60', '--fsize=0', '--'] as const;
const convertBudget = ['prlimit', '--as=4294967296', '--'] as const;
/**
 * A long-running writer must not outlive this process: recovery would meet a file that still changes, or that it has
 * just removed. A death before the signal was asked for sends none, so the parent is looked at after it. And what
 * serves clients comes first.
 */
const ifParentLives = ['sh', '-c', '[ "$PPID" = "$0" ] && exec "$@"', String(process.pid)] as const;
const asHelper = ['nice', '-n', '15', 'setpriv', '--pdeathsig', 'KILL', '--', ...ifParentLives] as const;

interface Outcome {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs one program to its end and returns whatever exit code it has. On abort the child is killed, and `cancelled`
 * raised only once it is gone: nothing writes any more. Raises `qemu_missing` or `engine_failed` when it cannot start.
 */
async function run(
  command: readonly string[],
  options: Pick<RunOptions, 'signal' | 'onStart'> & { cwd?: string; onOutput?: (text: string) => void } = {},
): Promise<Outcome> {
  const { signal, onOutput } = options;
  const [program = '', ...args] = command;
  if (signal?.aborted) throw new CalotypeError('cancelled');
  return new Promise((done, fail) => {
    const child = spawn(program, args, {
      cwd: options.cwd ?? '/',
      env: { PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    let overflow = false;
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (onOutput !== undefined) onOutput(text);
      else if (stdout.length + text.length <= maxOutputBytes) stdout += text;
      else {
        overflow = true;
        child.kill('SIGKILL');
      }
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-maxErrorBytes);
    });
    const kill = (): void => {
      child.kill('SIGKILL');
    };
    signal?.addEventListener('abort', kill, { once: true });
    options.onStart?.((name) => {
      child.kill(name);
    });
    child.once('error', (cause: NodeJS.ErrnoException) => {
      signal?.removeEventListener('abort', kill);
      const missing = cause.code === 'ENOENT' && program.startsWith('qemu-');
      fail(
        missing
          ? new CalotypeError('qemu_missing', `${program} is not installed.`, { program, remedy }, { cause })
          : new CalotypeError(
              'engine_failed',
              `${program} cannot be started: ${cause.message}.`,
              { program },
              { cause },
            ),
      );
    });
    child.once('close', (code, killedBy) => {
      signal?.removeEventListener('abort', kill);
      if (signal?.aborted && killedBy !== null) fail(new CalotypeError('cancelled'));
      else if (overflow) fail(new CalotypeError('engine_failed', `${program} wrote too much.`, { program }));
      else if (code === 127 && /failed to execute qemu-/.test(stderr)) {
        fail(new CalotypeError('qemu_missing', undefined, { remedy, stderr: stderr.trim() }));
      } else if (code !== null) done({ exitCode: code, stdout, stderr });
      else
        fail(new CalotypeError('engine_failed', `${program} was ended by ${killedBy}.`, { program, killedBy, stderr }));
    });
  });
}

function failure(what: string, { exitCode, stderr }: Outcome): CalotypeError {
  const text = stderr.trim();
  if (/No space left on device|Disk quota exceeded/i.test(text)) {
    return new CalotypeError('space_exhausted', undefined, { stderr: text });
  }
  return new CalotypeError('engine_failed', `${what} failed: ${text.split('\n').at(-1) ?? ''}`, {
    exitCode,
    stderr: text,
  });
}

/** Where a number or text stands in a tool's JSON; anything else reads as absent. */
function fieldOf(value: unknown, key: string): unknown {
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return undefined;
  return Object.getOwnPropertyDescriptor(value, key)?.value;
}

function numberOf(value: unknown, key: string): number | undefined {
  const found = fieldOf(value, key);
  return typeof found === 'number' ? found : undefined;
}

function stringOf(value: unknown, key: string): string | undefined {
  const found = fieldOf(value, key);
  return typeof found === 'string' ? found : undefined;
}

function parseJson(outcome: Outcome, what: string): unknown {
  try {
    return JSON.parse(outcome.stdout);
  } catch {
    throw failure(what, outcome);
  }
}

/** A file as QEMU option tree: format given, and no backing file opened unless `withBacking`. */
function fileNode(path: string, format: string, withBacking: boolean): string {
  return `json:${JSON.stringify({
    driver: format,
    ...(withBacking ? {} : { backing: null }),
    file: { driver: 'file', filename: resolve(path) },
  })}`;
}

const fileName = (path: string): string => `file:${resolve(path)}`;

/**
 * Versions of the tools, as text. Raises `qemu_missing` with the command that installs them as `remedy`, or
 * `qemu_too_old`.
 */
export async function toolVersions(): Promise<{ qemuImg: string; qemuStorageDaemon: string }> {
  const versionOf = async (program: string): Promise<string> => {
    const outcome = await run([program, '--version']);
    const found = /version (\d+)\.(\d+)[.\d]*/.exec(outcome.stdout);
    if (found === null) throw failure(`${program} --version`, outcome);
    const [major, minor] = [Number(found[1]), Number(found[2])];
    const version = found[0].slice('version '.length);
    if (major < oldestQemu[0] || (major === oldestQemu[0] && minor < oldestQemu[1])) {
      throw new CalotypeError('qemu_too_old', `${program} is version ${version}; ${oldestQemu.join('.')} is needed.`, {
        program,
        version,
        needed: oldestQemu.join('.'),
        remedy,
      });
    }
    return version;
  };
  return { qemuImg: await versionOf('qemu-img'), qemuStorageDaemon: await versionOf('qemu-storage-daemon') };
}

export interface CheckResult {
  /** What the check itself could not read. */
  readonly errors: number;
  /** Clusters that nothing refers to: lost space, no lost data. */
  readonly leaks: number;
  /** References that are wrong: data is, or will be, lost. */
  readonly corruptions: number;
  /** No errors and no corruptions. */
  readonly ok: boolean;
}

/**
 * `qemu-img check` of one qcow2 file; repairs nothing. Exit codes: 0 sound, 2 corruptions, 3 leaks only; 1 raises
 * `engine_failed` unless a result came with it. Fails on a file that another process has open for writing.
 */
export async function checkImage(path: string, options: { signal?: AbortSignal } = {}): Promise<CheckResult> {
  const outcome = await run(['qemu-img', 'check', '--output=json', fileNode(path, 'qcow2', false)], options);
  return parseCheck(outcome);
}

function parseCheck(outcome: Outcome): CheckResult {
  const answer = parseJson(outcome, 'qemu-img check');
  const errors = numberOf(answer, 'check-errors') ?? (outcome.exitCode === 1 ? 1 : 0);
  const corruptions = numberOf(answer, 'corruptions') ?? 0;
  return { errors, leaks: numberOf(answer, 'leaks') ?? 0, corruptions, ok: errors === 0 && corruptions === 0 };
}

export interface ImageInfo {
  readonly format: string;
  readonly virtualBytes: number;
  /** Bytes on disk, at the time. */
  readonly allocatedBytes: number;
  readonly clusterBytes: number | null;
  /** As written in the image. */
  readonly backing: string | null;
  readonly backingFormat: string | null;
  readonly corrupt: boolean;
  readonly dirty: boolean;
}

/** `qemu-img info` of one file, qcow2 unless said. Takes no lock: of a file in use it tells what is on disk. */
export async function imageInfo(path: string, format = 'qcow2'): Promise<ImageInfo> {
  const outcome = await run(['qemu-img', 'info', '-U', '--output=json', '-f', format, '--', fileName(path)]);
  if (outcome.exitCode !== 0) throw failure('qemu-img info', outcome);
  const answer = parseJson(outcome, 'qemu-img info');
  const virtualBytes = numberOf(answer, 'virtual-size');
  if (virtualBytes === undefined) throw failure('qemu-img info', outcome);
  return {
    format: stringOf(answer, 'format') ?? format,
    virtualBytes,
    allocatedBytes: numberOf(answer, 'actual-size') ?? 0,
    clusterBytes: numberOf(answer, 'cluster-size') ?? null,
    backing: stringOf(answer, 'backing-filename') ?? null,
    backingFormat: stringOf(answer, 'backing-filename-format') ?? null,
    corrupt: fieldOf(fieldOf(fieldOf(answer, 'format-specific'), 'data'), 'corrupt') === true,
    dirty: fieldOf(answer, 'dirty-flag') === true,
  };
}

/** Where a raw file holds data, as the file system tells. Takes no lock. */
export async function mapRawFile(path: string): Promise<Extents> {
  const outcome = await run(['qemu-img', 'map', '-U', '--output=json', '-f', 'raw', '--', fileName(path)]);
  if (outcome.exitCode !== 0) throw failure('qemu-img map', outcome);
  const ranges = JSON.parse(outcome.stdout) as { start: number; length: number; data: boolean; zero: boolean }[];
  return normalizeExtents(
    ranges.filter((range) => range.data && !range.zero).map(({ start, length }) => ({ start, length })),
  );
}

const maxChain = 10_000;

/**
 * The files below a qcow2 image, itself first, by their headers: no process, no lock, some 0.1 ms each. Ends at a file
 * without backing. Raises `layer_damaged` for a missing or damaged one, with its path, and for a circle.
 */
export async function backingChain(path: string): Promise<{ path: string; header: Qcow2Header }[]> {
  const chain: { path: string; header: Qcow2Header }[] = [];
  const seen = new Set<string>();
  let next: string | null = resolve(path);
  while (next !== null) {
    const at: string = next;
    if (seen.has(at) || chain.length >= maxChain) {
      throw new CalotypeError('layer_damaged', 'The backing files form a circle.', { path: at });
    }
    seen.add(at);
    const header = await readHeader(at).catch((cause: NodeJS.ErrnoException | CalotypeError) => {
      if (cause.code !== 'ENOENT') throw cause;
      throw new CalotypeError('layer_damaged', 'A layer file is missing.', { path: at }, { cause });
    });
    chain.push({ path: at, header });
    next = header.backing === null ? null : resolve(dirname(at), header.backing);
  }
  return chain;
}

/**
 * Decides whether a file may be imported as `format` (qcow2, raw, vmdk, vpc or vhd, vhdx, vdi). Its own bytes are
 * judged first (see import-formats.ts), so that no tool can follow a reference to another file; then qemu-img, with
 * bounded memory and time, must agree. Changes nothing. Errors: those of `inspectBytes`; `image_truncated` also for
 * what qemu-img cannot open or finds corrupt. The file must not change between this and the import.
 */
export async function inspectImport(
  path: string,
  format: string,
  limits: ImportLimits,
  options: { signal?: AbortSignal } = {},
): Promise<{ virtualBytes: number }> {
  const kind = parseImportFormat(format);
  await inspectBytes(path, kind, limits);

  const node = fileName(path);
  const look = (verb: string): Promise<Outcome> =>
    run([...inspectBudget, 'qemu-img', verb, '--output=json', '-f', kind, '--', node], options).catch(
      (error: unknown) => {
        // Out of its time or memory: the image's doing, not ours.
        if (error instanceof CalotypeError && typeof error.details.killedBy === 'string')
          throw unreadable(error.message);
        throw error;
      },
    );
  const info = await look('info');
  if (info.exitCode !== 0) throw unreadable(info.stderr);
  const answer = parseJson(info, 'qemu-img info');
  const virtualBytes = numberOf(answer, 'virtual-size');
  if (virtualBytes === undefined || stringOf(answer, 'format') !== kind) throw unreadable(info.stderr);
  const data = fieldOf(fieldOf(answer, 'format-specific'), 'data');
  for (const key of ['backing-filename', 'full-backing-filename']) {
    if (fieldOf(answer, key) !== undefined) throw new CalotypeError('image_has_backing_file');
  }
  if (fieldOf(data, 'data-file') !== undefined) throw new CalotypeError('image_has_data_file');
  const extents = fieldOf(data, 'extents');
  for (const extent of Array.isArray(extents) ? extents : []) {
    const name = stringOf(extent, 'filename');
    if (name !== node && name !== resolve(path)) throw new CalotypeError('image_has_data_file');
  }
  if (virtualBytes > limits.maxVirtualBytes) throw tooLarge('virtualBytes', virtualBytes, limits.maxVirtualBytes);
  if (virtualBytes === 0) throw unreadable('The disk has no whole sector.');

  if (kind !== 'raw') {
    const check = await look('check');
    const unsupported = 63;
    if (check.exitCode !== unsupported) {
      if (check.exitCode === 1 && check.stdout.trim() === '') throw unreadable(check.stderr);
      const { ok, errors, corruptions } = parseCheck(check);
      if (!ok) throw unreadable(`qemu-img check: ${errors} errors, ${corruptions} corruptions`);
    }
  }
  return { virtualBytes };
}

function unreadable(reason: string): CalotypeError {
  return new CalotypeError('image_truncated', undefined, { reason: reason.trim().slice(-1000) });
}

/** Turns the output of `qemu-img -p`, which ends lines with carriage returns, into calls of the listener. */
function progressReader(totalBytes: number, onProgress: ProgressListener | undefined): (text: string) => void {
  let rest = '';
  let shown = -1;
  return (text) => {
    rest = (rest + text).slice(-256);
    const percent = [...rest.matchAll(/\((\d+\.\d+)\/100%\)/g)].at(-1)?.[1];
    if (percent === undefined) return;
    rest = rest.slice(rest.lastIndexOf(')') + 1);
    const done = Math.min(totalBytes, Math.round((Number(percent) / 100) * totalBytes));
    if (done > shown) {
      shown = done;
      onProgress?.(done, totalBytes);
    }
  };
}

/**
 * Creates `target`, which must not exist, lets `fill` write it, and makes its content durable (its directory entry
 * is the caller's). Where that fails or is cancelled the target is removed: it is ours.
 */
async function writeNewFile(target: string, fill: () => Promise<void>): Promise<void> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
  const file = await open(target, flags, 0o600).catch((cause: unknown) => {
    throw asSpaceError(cause);
  });
  await file.close();
  try {
    await fill();
    await syncFile(target);
  } catch (cause) {
    await unlink(target).catch(() => undefined);
    throw asSpaceError(cause);
  }
}

async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Below this, scattered writes are gathered in the page cache, which is several times faster, and flushed once. */
const smallBytes = 256 * 1024 * 1024;

/** Past the page cache where the file system can: gigabytes of dirty pages would hold up every guest's flush. */
async function targetCache(path: string, expectedBytes = Number.POSITIVE_INFINITY): Promise<'none' | 'writeback'> {
  if (expectedBytes < smallBytes) return 'writeback';
  try {
    await (await open(path, constants.O_RDONLY | constants.O_DIRECT)).close();
    return 'none';
  } catch {
    return 'writeback';
  }
}

async function convert(
  source: string,
  target: string,
  createOptions: string,
  totalBytes: number,
  options: RunOptions & { compress?: boolean },
): Promise<void> {
  await writeNewFile(target, async () => {
    const cache = await targetCache(target);
    const command = ['qemu-img', 'convert', '-p', '-O', 'qcow2', '-o', createOptions, '-t', cache];
    if (options.compress === true) command.push('-c');
    const outcome = await run([...asHelper, ...convertBudget, ...command, '--', source, fileName(target)], {
      signal: options.signal,
      onStart: options.onStart,
      onOutput: progressReader(totalBytes, options.onProgress),
    });
    if (outcome.exitCode !== 0) throw failure('qemu-img convert', outcome);
  });
  options.onProgress?.(totalBytes, totalBytes);
}

/**
 * Copies an image that `inspectImport` has admitted into a new layer file `target` (128 KiB clusters, extended L2),
 * without following any reference. The target is new and durable, or absent; its directory is the caller's to fsync.
 * Errors: `cancelled`, `space_exhausted`, `image_truncated` when the source cannot be read through, `engine_failed`.
 */
export async function convertImport(
  path: string,
  format: string,
  target: string,
  options: RunOptions = {},
): Promise<void> {
  const kind = parseImportFormat(format);
  const { virtualBytes } = await imageInfo(path, kind);
  const node = fileNode(path, kind, false);
  await convert(node, target, 'cluster_size=128k,extended_l2=on', virtualBytes, options).catch((error: unknown) => {
    const stderr = error instanceof CalotypeError ? error.details.stderr : undefined;
    throw typeof stderr === 'string' && stderr.includes('error while reading') ? unreadable(stderr) : error;
  });
}

export type ExportSource =
  | { readonly kind: 'nbd'; readonly socketPath: string; readonly exportName: string }
  /** A qcow2 file that nobody writes, read together with its backing files. */
  | { readonly kind: 'file'; readonly path: string };

/**
 * Writes the content of an NBD export or of a file chain into one new plain qcow2 that any QEMU since 1.1 opens.
 * As with `convertImport`, the target is complete and durable, or absent.
 */
export async function convertToQcow2(
  source: ExportSource,
  target: string,
  options: RunOptions & { compress?: boolean } = {},
): Promise<void> {
  const node =
    source.kind === 'file'
      ? fileNode(source.path, 'qcow2', true)
      : `json:${JSON.stringify({
          driver: 'raw',
          file: { driver: 'nbd', server: { type: 'unix', path: source.socketPath }, export: source.exportName },
        })}`;
  const info = await run(['qemu-img', 'info', '--output=json', '--', node], { signal: options.signal });
  if (info.exitCode !== 0) throw failure('qemu-img info', info);
  const totalBytes = numberOf(parseJson(info, 'qemu-img info'), 'virtual-size') ?? 0;
  await convert(node, target, 'compat=1.1', totalBytes, options);
}

/**
 * Puts a qcow2 file onto another backing, copying in what would otherwise read differently; with `null` the file holds
 * everything itself. Only for a private copy that no process has open. Runs in `cwd`, the image directory (default:
 * that of the file), where both names are looked up; the new name is stored as given. Not atomic: a crash or an abort
 * leaves a copy that reads right but is half done, to be thrown away.
 */
export async function rebase(
  path: string,
  newBacking: string | null,
  options: RunOptions & { cwd?: string; backingFormat?: string } = {},
): Promise<void> {
  const cwd = options.cwd ?? dirname(resolve(path));
  const file = resolve(cwd, path);
  if (newBacking !== null && (newBacking === '' || newBacking.includes(':') || newBacking.includes('\0'))) {
    throw new CalotypeError('engine_failed', 'A backing name cannot hold a colon.', { newBacking });
  }
  const { sizeBytes } = await readHeader(file);
  const backing = newBacking === null ? ['-b', ''] : ['-F', options.backingFormat ?? 'qcow2', '-b', newBacking];
  const name = dirname(file) === resolve(cwd) ? `./${basename(file)}` : fileName(file);
  const outcome = await run(
    [
      ...asHelper,
      'qemu-img',
      'rebase',
      '-p',
      '-f',
      'qcow2',
      '-t',
      await targetCache(file, (await stat(file)).blocks * 512),
      ...backing,
      '--',
      name,
    ],
    {
      cwd,
      signal: options.signal,
      onStart: options.onStart,
      onOutput: progressReader(sizeBytes, options.onProgress),
    },
  );
  if (outcome.exitCode !== 0) throw failure('qemu-img rebase', outcome);
  await syncFile(file);
  options.onProgress?.(sizeBytes, sizeBytes);
}

/**
 * Copies a file that nobody writes to a new one: by reflink where the file system can, else sparse. The copy is
 * complete and durable, or absent; EEXIST, as Node raises it, when the name is taken.
 */
export async function copyFile(from: string, to: string, signal?: AbortSignal): Promise<void> {
  await writeNewFile(to, async () => {
    const command = ['cp', '--reflink=auto', '--sparse=always', '--', resolve(from), resolve(to)];
    const outcome = await run([...asHelper, ...command], { signal });
    if (outcome.exitCode !== 0) throw failure('cp', outcome);
  });
}

/**
 * Copies what a file of ours reads as, its backing files included, into one new layer file without backing. Nobody may
 * write the chain meanwhile. As with `convertImport`, the target is complete and durable, or absent.
 */
export async function copyChain(path: string, target: string, options: RunOptions = {}): Promise<void> {
  const { sizeBytes } = await readHeader(path);
  await convert(fileNode(path, 'qcow2', true), target, 'cluster_size=128k,extended_l2=on', sizeBytes, options);
}
