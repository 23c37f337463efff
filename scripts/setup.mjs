/**
 * What `npm start`, `npm test` and `npm run tour` need before they can run: Debian's programs and the npm packages,
 * Node 24 among them. Plain JavaScript for any Node >= 20 with `node:` modules only: at the first run nothing else is there.
 * With everything in place it costs a few stats and one hash, so that a second `npm start` is ready at once.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modulesDir = join(root, 'node_modules');
const stampFile = join(modulesDir, '.calotype-setup');
const lockFile = join(root, '.setup.lock');

/** Programs, or files of other packages, and the Debian package each comes from. `start` is what the server runs; `test` is needed besides by tests and tour. */
const programs = {
  start: [
    { name: 'qemu-img', debianPackage: 'qemu-utils' },
    { name: 'qemu-storage-daemon', debianPackage: 'qemu-system-common' },
    { name: 'qemu-system-x86_64', debianPackage: 'qemu-system-x86' },
  ],
  test: [
    { name: 'qemu-io', debianPackage: 'qemu-utils' },
    { name: 'nbdinfo', debianPackage: 'libnbd-bin' },
    { name: 'nbdcopy', debianPackage: 'libnbd-bin' },
    { name: 'nbdkit', debianPackage: 'nbdkit' },
    { name: 'mkfs.ext4', debianPackage: 'e2fsprogs' },
    { name: 'debugfs', debianPackage: 'e2fsprogs' },
    { name: 'libcloud', file: '/usr/lib/python3/dist-packages/libcloud', debianPackage: 'python3-libcloud' },
  ],
};

/** A failure the user can act on: printed without a stack. */
class SetupError extends Error {}

/**
 * The environment for everything started from here: the bundled Node first on PATH, and the sbin directories, which
 * Debian leaves out of an ordinary user's PATH, last.
 */
export function childEnvironment() {
  const path = (process.env.PATH ?? '').split(delimiter).filter((dir) => dir !== '');
  const ours = join(modulesDir, '.bin');
  return { ...process.env, PATH: [ours, ...path.filter((dir) => dir !== ours), '/usr/sbin', '/sbin'].join(delimiter) };
}

/** Path of a Node that runs Calotype: the one installed as the npm package `node`. */
export const nodePath = join(modulesDir, '.bin', 'node');

/**
 * Makes everything ready, or prints what is missing and exits with code 1.
 * @param {{ forTests?: boolean }} options forTests: also what the tests and the tour need
 */
export function setup({ forTests = false } = {}) {
  try {
    const needed = forTests ? [...programs.start, ...programs.test] : programs.start;
    if (missingOf(needed).length === 0 && packagesAreCurrent()) return;
    withLock(() => {
      ensurePrograms(needed);
      if (!packagesAreCurrent()) installPackages();
    });
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    console.error(`\n${error.message}\n`);
    process.exit(1);
  }
}

// ---- Debian packages

function missingOf(needed) {
  const dirs = childEnvironment().PATH.split(delimiter);
  return needed.filter(({ name, file }) =>
    file === undefined ? !dirs.some((dir) => isExecutable(join(dir, name))) : !existsSync(file),
  );
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function ensurePrograms(needed) {
  const missing = missingOf(needed);
  if (missing.length === 0) return;
  const names = missing.map(({ name }) => name).join(', ');
  const packages = [...new Set(missing.map(({ debianPackage }) => debianPackage))];
  const byHand = `apt-get update && apt-get install --no-install-recommends ${packages.join(' ')}`;

  if (missingOf([{ name: 'apt-get' }]).length > 0) {
    throw new SetupError(
      `Missing: ${names}.\nThis is not a Debian system, so install them yourself: QEMU 7.2 or newer and what else is named ` +
        `(Debian calls the packages ${packages.join(', ')}). Then run the command again.`,
    );
  }
  const prefix = rootPrefix();
  if (prefix === undefined) {
    throw new SetupError(
      `Missing: ${names}.\nInstalling them needs root, and sudo would ask for a password. Run\n\n` +
        `    sudo sh -c '${byHand}'\n\nand then the command again.`,
    );
  }

  announce(`Installing Debian packages: ${packages.join(' ')}`);
  const apt = (...args) =>
    run([
      ...prefix,
      'env',
      'DEBIAN_FRONTEND=noninteractive',
      'apt-get',
      '-q',
      '-y',
      '-o',
      'DPkg::Lock::Timeout=300',
      ...args,
    ]);
  const install = () => apt('install', '--no-install-recommends', ...packages);
  const update = () => apt('update');

  // An update may fail for a source that has nothing to do with us; whether it mattered, the install tells.
  const listsPresent = aptListsPresent();
  if (!listsPresent) update();
  let result = install();
  if (result.status !== 0 && listsPresent) {
    update();
    result = install();
  }
  const stillMissing = missingOf(needed);
  if (result.status !== 0 || stillMissing.length > 0) {
    throw new SetupError(
      `${excerpt(result.output)}\n\nCould not install ${packages.join(' ')}` +
        `${stillMissing.length > 0 ? ` (still missing: ${stillMissing.map(({ name }) => name).join(', ')})` : ''}. As root, try\n\n    ${byHand}`,
    );
  }
}

/** What goes before a command to run it as root: nothing, `sudo -n`, or undefined when neither works. */
function rootPrefix() {
  if (process.getuid?.() === 0) return [];
  return run(['sudo', '-n', 'true']).status === 0 ? ['sudo', '-n'] : undefined;
}

function aptListsPresent() {
  try {
    return readdirSync('/var/lib/apt/lists').some((name) => name.includes('_Packages'));
  } catch {
    return false;
  }
}

// ---- npm packages

/**
 * True when node_modules is what the lock file asks for. The stamp holds the hash of the last lock file known to be
 * installed; another hash is compared entry by entry, so that after somebody's own `npm install` nothing is thrown away.
 */
function packagesAreCurrent() {
  if (!existsSync(nodePath)) return false;
  const hash = wantedHash();
  if (readOrNothing(stampFile) === hash) return true;
  const lock = readOrNothing(join(root, 'package-lock.json'));
  const installed = readOrNothing(join(modulesDir, '.package-lock.json'));
  if (lock === undefined || installed === undefined || !holdsAll(JSON.parse(installed), JSON.parse(lock))) return false;
  writeStamp(hash);
  return true;
}

/** Names one wish for packages: the lock file, or package.json where there is none. */
function wantedHash() {
  const text = readOrNothing(join(root, 'package-lock.json')) ?? readFileSync(join(root, 'package.json'));
  return createHash('sha256').update(text).digest('hex');
}

/** Optional packages (other platforms' binaries) may be absent. */
function holdsAll(installed, wanted) {
  return Object.entries(wanted.packages).every(([path, entry]) => {
    const present = installed.packages[path];
    return path === '' || (present === undefined ? entry.optional === true : present.version === entry.version);
  });
}

function installPackages() {
  announce('Installing npm packages');
  // npm must not run on the Node it is about to replace: take the one npm itself was started with, else PATH without ours.
  const { npm_execpath: npmCli, npm_node_execpath: npmNode } = process.env;
  const isNpm = npmCli !== undefined && /\bnpm-cli\.js$/.test(npmCli) && npmNode !== undefined;
  const command = isNpm && !npmNode.startsWith(modulesDir) ? [npmNode, npmCli] : ['npm'];
  const path = (process.env.PATH ?? '').split(delimiter).filter((dir) => !dir.startsWith(modulesDir));
  const env = { ...process.env, PATH: path.join(delimiter) };
  // Development packages too, whatever NODE_ENV says: one set-up serves start and test.
  const npm = (...args) =>
    run([...command, ...args, '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'], env);

  let result = existsSync(join(root, 'package-lock.json')) ? npm('ci') : npm('install', '--no-package-lock');
  // A lock file that does not match package.json (a merge, an edit by hand) must not keep anybody from starting.
  if (result.status !== 0 && /can only install packages when/.test(result.output)) result = npm('install', '--no-save');
  if (result.status !== 0) throw new SetupError(`${excerpt(result.output)}\n\nnpm could not install the packages.`);
  if (run([nodePath, '--version']).status !== 0) {
    throw new SetupError(
      'The npm package "node" is installed but its install script did not run, so there is no Node 24 (is ignore-scripts set?). Run\n\n' +
        '    npm rebuild node --ignore-scripts=false\n\nand then the command again.',
    );
  }
  // For the start-up time only: without its result everything works, so whether it worked is not looked at.
  run([nodePath, '--disable-warning=ExperimentalWarning', join(root, 'scripts/bundle-libraries.ts')]);
  writeStamp(wantedHash());
}

function writeStamp(hash) {
  try {
    writeFileSync(stampFile, hash);
  } catch {
    // A tree of somebody else's, read only: the comparison is made again next time.
  }
}

// ---- helpers

/** Two set-ups of one tree (a start and a test at the same moment) wait for each other. A lock whose owner is gone is taken over. */
function withLock(action) {
  let announced = false;
  for (;;) {
    try {
      writeFileSync(lockFile, `${process.pid}`, { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code === 'EACCES' || error.code === 'EROFS') return action(); // not our tree; programs may still be installed
      if (error.code !== 'EEXIST') throw error;
    }
    const owner = Number(readOrNothing(lockFile));
    if (owner > 0 && !isRunning(owner)) {
      rmSync(lockFile, { force: true });
      continue;
    }
    if (!announced) announce(`Waiting for another set-up of this directory to end (${lockFile})`);
    announced = true;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
  }
  try {
    return action();
  } finally {
    rmSync(lockFile, { force: true });
  }
}

function isRunning(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

function run([command, ...args], env = process.env) {
  const result = spawnSync(command, args, {
    cwd: root,
    env,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  // Ctrl-C reached the child and not us when only the child's handler ran: stop as the user asked.
  if (result.signal === 'SIGINT') process.kill(process.pid, 'SIGINT');
  return {
    status: result.status,
    output: `${result.stdout ?? ''}${result.stderr ?? ''}${result.error?.message ?? ''}`,
  };
}

function readOrNothing(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** npm says what went wrong first, apt last. */
function excerpt(text) {
  const lines = text.trimEnd().split('\n');
  return lines.length <= 60 ? lines.join('\n') : [...lines.slice(0, 30), '[…]', ...lines.slice(-30)].join('\n');
}

const announce = (text) => console.error(`${text} …`);
