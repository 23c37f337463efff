/** Vitest global set-up: without a usable QEMU every second test would fail for the same reason, so say it once. */
import { execFileSync } from 'node:child_process';

const oldestQemu = [7, 2] as const;

export default function requireQemu(): void {
  for (const program of ['qemu-img', 'qemu-storage-daemon', 'qemu-system-x86_64']) {
    const version = versionOf(program);
    if (version === undefined) {
      throw new Error(
        `${program} is missing. \`npm test\` installs what the tests need; \`vitest\` on its own does not.`,
      );
    }
    const [major, minor] = version;
    if (major < oldestQemu[0] || (major === oldestQemu[0] && minor < oldestQemu[1])) {
      throw new Error(`${program} is version ${major}.${minor}; Calotype needs ${oldestQemu.join('.')} or newer.`);
    }
  }
}

function versionOf(program: string): [major: number, minor: number] | undefined {
  try {
    const found = /version (\d+)\.(\d+)/.exec(execFileSync(program, ['--version'], { encoding: 'utf8' }));
    return found === null ? undefined : [Number(found[1]), Number(found[2])];
  } catch {
    return undefined;
  }
}
