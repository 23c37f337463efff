/**
 * Builds a tiny Linux guest for tests, the demo and benchmarks: Debian's cloud kernel and an initrd with busybox, Perl
 * and qemu-ga. What it does is chosen on the kernel command line. Built once per recipe and user, then copied.
 *
 *     ~/.cache/calotype/guest-<hash of the recipe>/guest-vmlinuz, guest-initrd.img
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import {
  access,
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type CpioEntry, writeCpio } from './cpio.ts';
import { dependenciesOf, unpackPackages } from './debian-packages.ts';
import { findKernelModules } from './kernel-modules.ts';
import { fetchLibraries, firstExisting } from './shared-libraries.ts';

export interface GuestFiles {
  readonly kernel: string;
  readonly initrd: string;
}

/**
 * What the guest does; all of it is in guest.pl. Of those with a number N, a line `<mode> <N>` is printed on the serial
 * port about 5 times a second.
 *
 *     count    N is in memory only, one up about every 10 ms
 *     disk     as count, and N is also on /dev/vda (512 bytes at 0, flushed) before the next one. `report` is answered with
 *              `disk-report RAM=<N>`: the disk then has N or N - 1. In memory it is `calotype-counter:<20 digits>;`
 *     pair     N goes to /dev/vda, then to /dev/vdb (512 bytes at 1 MiB, flushed), then comes the next one
 *     ext4     N small files were written, flushed and renamed, at /mnt, on an ext4 file system that the host made
 *     agent    qemu-ga, without hooks, on org.qemu.guest_agent.0
 *     demo     once a second, `counter <N>: in memory, on vda, on vdb`: N is also on every drive that is there, as a line of
 *              text at 0, flushed; a drive that holds anything else is left alone. Goes on from what the drives hold at boot.
 *     dirty    writes to every page of some memory, over and over; prints nothing
 *     gap      `gap?` is answered with `gap <ms>`, the longest time between two steps of 1 ms since the last answer, by
 *              the guest's own clock. QEMU stops that clock with the guest: a stop does not show in it.
 *     chatter  prints `chatter <N>` and 200 characters more, as often as goes
 *
 * A mode that lacks its device prints `<mode> none`; one whose drive fails, `<mode>-error <N>: ...`, and tries again.
 * In every mode: `CALOTYPE READY` once all have begun; `drive vdX` and `gone vdX` for drives, those at boot included;
 * input lines `poweroff` and `panic`; the power button powers off.
 */
export type GuestMode = 'count' | 'demo' | 'disk' | 'pair' | 'ext4' | 'agent' | 'dirty' | 'gap' | 'chatter';

export interface GuestOptions {
  /** The drive that mode ext4 mounts; /dev/vdb unless told. */
  readonly ext4Device?: string;
  /** How much memory mode dirty writes to; 64 MiB unless told. */
  readonly dirtyMib?: number;
  /** Mode disk goes as fast as it can, and takes a processor for that. */
  readonly busy?: boolean;
}

const kernelPackage = 'linux-image-cloud-amd64';
const programPackages = ['perl-base', 'qemu-guest-agent'];
const busyboxPackage = 'busybox-static';
const modules = {
  // In the order in which the guest wants them; what they depend on comes before.
  required: ['virtio_pci', 'virtio_blk', 'virtio_console', 'virtio_rng', 'virtio_net', 'ext4', 'evdev', 'button'],
  // What ext4's checksums need is built in, or has other names, depending on the kernel. pvpanic tells QEMU of a panic.
  optional: ['crc32c_generic', 'pvpanic_mmio'],
};
const applets = ['sh', 'mount', 'stty', 'cat', 'mkdir', 'ln', 'insmod'];
const perlModules = ['strict.pm', 'warnings.pm'];
const perlDirectory = 'usr/lib/x86_64-linux-gnu/perl-base';
const ownFiles = ['init', 'guest.pl', 'shutdown'] as const;
type OwnFile = (typeof ownFiles)[number];
const kernelName = 'guest-vmlinuz';
const initrdName = 'guest-initrd.img';
const workPrefix = '.building-';
const leftoverAgeMs = 3_600_000;
const signatureMark = '~Module signature appended~\n';

/**
 * The kernel command line for a guest that does all of `modes`. Only `console` is a must; the others save time under
 * emulation: 0.35 s of self-tests of ciphers, and 0.35 s of changes to the kernel's code for a single processor. Without
 * ACPI's routing of interrupts it would be faster still, but a drive that is plugged in would get none. `no_timer_check`
 * is for busy hosts: there the kernel's test of its timer fails, if its emulated processor has to wait meanwhile.
 */
export function guestKernelArguments(modes: readonly GuestMode[], options: GuestOptions = {}): string {
  const words = ['console=ttyS0', 'quiet', 'no_timer_check', 'cryptomgr.notests', 'noreplace-smp'];
  words.push(`calotype.mode=${modes.join(',')}`);
  if (options.ext4Device !== undefined) words.push(`calotype.ext4=${options.ext4Device}`);
  if (options.dirtyMib !== undefined) words.push(`calotype.dirty_mib=${options.dirtyMib}`);
  if (options.busy) words.push('calotype.busy=1');
  return words.join(' ');
}

/**
 * Puts `guest-vmlinuz` and `guest-initrd.img` into `directory`, readable by all. Any number of calls may run at the same
 * time, in any number of processes.
 * @throws Error that says what the user can do, when packages cannot be had
 */
export async function buildGuest(directory: string): Promise<GuestFiles> {
  const cached = await cachedGuest();
  await mkdir(directory, { recursive: true });
  const files = guestFilesIn(directory);
  for (const [from, to] of [
    [cached.kernel, files.kernel],
    [cached.initrd, files.initrd],
  ] as const) {
    const temporary = join(directory, `.${basename(to)}.${process.pid}.${Math.random().toString(36).slice(2)}`);
    await copyFile(from, temporary, constants.COPYFILE_FICLONE);
    await chmod(temporary, 0o644);
    await rename(temporary, to);
  }
  return files;
}

/**
 * The user's own copy, made by the first call, which downloads some 35 MB of Debian packages; it is kept in
 * CALOTYPE_GUEST_CACHE (~/.cache/calotype unless set).
 * @param onBuild called when it must be made first
 * @throws Error as buildGuest
 */
export async function cachedGuest(onBuild: () => void = () => undefined): Promise<GuestFiles> {
  const recipe = await readRecipe();
  const cached = join(process.env.CALOTYPE_GUEST_CACHE ?? join(homedir(), '.cache/calotype'), recipe.name);
  if (!(await isThere(cached))) {
    onBuild();
    await buildOnce(cached, recipe);
  }
  return guestFilesIn(cached);
}

/** Where the files are in a directory that has them. */
export const guestFilesIn = (directory: string): GuestFiles => ({
  kernel: join(directory, kernelName),
  initrd: join(directory, initrdName),
});

interface Recipe {
  readonly name: string;
  /** What goes into the guest is what the name was made from, even when somebody edits meanwhile. */
  readonly content: (ownFile: OwnFile) => Buffer;
}

/** The name stands for all that decides what comes out, except for the versions of the packages. */
async function readRecipe(): Promise<Recipe> {
  const hash = createHash('sha256');
  const sources = ['build', 'cpio', 'debian-packages', 'kernel-modules', 'shared-libraries'];
  const extension = import.meta.url.slice(import.meta.url.lastIndexOf('.'));
  const contents = new Map<string, Buffer>();
  for (const name of [...sources.map((source) => source + extension), ...ownFiles]) {
    const content = await readFile(join(dirname(fileURLToPath(import.meta.url)), name));
    contents.set(name, content);
    hash.update(`${name} ${content.length}\n`).update(content);
  }
  const content = (ownFile: OwnFile): Buffer => contents.get(ownFile) ?? Buffer.alloc(0);
  return { name: `guest-${hash.digest('hex').slice(0, 16)}`, content };
}

const underWay = new Map<string, Promise<void>>();

/** Callers of one process share a build; processes may each do their own. */
function buildOnce(cached: string, recipe: Recipe): Promise<void> {
  const shared = underWay.get(cached) ?? buildInto(cached, recipe).finally(() => underWay.delete(cached));
  underWay.set(cached, shared);
  return shared;
}

/** Whole or not at all: the directory gets its name when both files are in it. */
async function buildInto(cached: string, recipe: Recipe): Promise<void> {
  if (process.arch !== 'x64') throw new Error('The test guest cannot be built: it is for x86-64 only.');
  const cache = dirname(cached);
  await mkdir(cache, { recursive: true });
  await removeLeftovers(cache);
  const work = await mkdtemp(join(cache, workPrefix));
  try {
    const { kernel, initrd } = await build(work, recipe);
    const made = join(work, 'made');
    await mkdir(made);
    await copyFile(kernel, join(made, kernelName));
    await writeFile(join(made, initrdName), initrd);
    await rename(made, cached).catch(async (error: unknown) => {
      // Another process was quicker.
      if (!(await isThere(cached))) throw error;
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Of builders that were killed. */
async function removeLeftovers(cache: string): Promise<void> {
  for (const name of (await readdir(cache)).filter((one) => one.startsWith(workPrefix))) {
    const { mtimeMs } = await stat(join(cache, name)).catch(() => ({ mtimeMs: Date.now() }));
    if (Date.now() - mtimeMs > leftoverAgeMs) await rm(join(cache, name), { recursive: true, force: true });
  }
}

async function build(work: string, recipe: Recipe): Promise<{ kernel: string; initrd: Buffer }> {
  const root = join(work, 'root');
  const kernels = (await dependenciesOf([kernelPackage])).filter((name) => name.startsWith('linux-image-'));
  await unpackPackages([...kernels, ...programPackages, busyboxPackage], root);
  const at = (...paths: string[]): Promise<string> => firstExisting(paths.map((path) => join(root, path)));
  const busybox = await at('bin/busybox', 'usr/bin/busybox');
  const programs = [await at('usr/bin/perl'), await at('usr/sbin/qemu-ga', 'usr/bin/qemu-ga')];
  const { loader, libraries } = await fetchLibraries(root, programs, programPackages);

  const modulesRoot = await at('lib/modules', 'usr/lib/modules');
  const [version = ''] = await readdir(modulesRoot);
  const kernelModules = await findKernelModules(join(modulesRoot, version), modules, busybox);

  const directories = ['dev', 'proc', 'sys', 'mnt', 'run', 'tmp', 'bin', 'sbin', 'modules', 'lib', 'lib64'];
  const libraryDirectory = 'lib/x86_64-linux-gnu';
  const nested = [libraryDirectory, 'usr', 'usr/lib', 'usr/lib/x86_64-linux-gnu', perlDirectory];
  const entries: CpioEntry[] = [...directories, ...nested].map(directory);
  entries.push({ kind: 'characterDevice', path: 'dev/console', major: 5, minor: 1 });
  entries.push(file('init', recipe.content('init'), true), file('guest.pl', recipe.content('guest.pl')));
  entries.push(file('sbin/shutdown', recipe.content('shutdown'), true));
  for (const path of [busybox, ...programs]) entries.push(file(`bin/${basename(path)}`, await readFile(path), true));
  for (const applet of applets) entries.push({ kind: 'symlink', path: `bin/${applet}`, target: 'busybox' });
  entries.push(file('lib64/ld-linux-x86-64.so.2', await readFile(loader), true));
  for (const [name, path] of libraries) entries.push(file(`${libraryDirectory}/${name}`, await readFile(path)));
  for (const name of perlModules) {
    entries.push(file(`${perlDirectory}/${name}`, await readFile(join(root, perlDirectory, name))));
  }
  for (const { name, content } of kernelModules) entries.push(file(`modules/${name}.ko`, withoutSignature(content)));
  entries.push(file('modules/order', Buffer.from(kernelModules.map(({ name }) => `${name}.ko\n`).join(''))));
  return { kernel: await at(`boot/vmlinuz-${version}`), initrd: writeCpio(entries) };
}

const directory = (path: string): CpioEntry => ({ kind: 'directory', path });
const file = (path: string, content: Buffer, executable = false): CpioEntry => ({
  kind: 'file',
  path,
  content,
  executable,
});

/** Checking signatures takes long under emulation, and this kernel does not insist. */
function withoutSignature(content: Buffer): Buffer {
  if (!content.subarray(-signatureMark.length).equals(Buffer.from(signatureMark))) return content;
  const lengthAt = content.length - signatureMark.length - 4;
  const descriptionBytes = 12;
  return content.subarray(0, lengthAt + 4 - descriptionBytes - content.readUInt32BE(lengthAt));
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
