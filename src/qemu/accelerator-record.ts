/**
 * That KVM did not run a guest, kept from one server to the next: to find it out takes three seconds, to find out that it
 * does a tenth of one. Holds for a day at most, as the host may have been too busy, and as long as nothing changed that
 * the answer hangs on.
 *
 *     {"format": "calotype-accelerator-1", "circumstances": "<boot id> <QEMU's version> <state of /dev/kvm>", "at": <ms>}
 */
import { execFile } from 'node:child_process';
import { readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const format = 'calotype-accelerator-1';
const holdsMs = 24 * 3600 * 1000;

/** What the proof hangs on; a `/dev/kvm` is made anew when its modules are loaded. @throws Error when it cannot be told */
export async function circumstances(): Promise<string> {
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const { stdout } = await promisify(execFile)('qemu-system-x86_64', ['--version']);
  const { ino, rdev, mode, uid, gid, ctimeMs } = await stat('/dev/kvm');
  return [bootId, stdout.split('\n', 1)[0], ino, rdev, mode, uid, gid, ctimeMs].join(' ');
}

/** Whether KVM was found not to work under these circumstances. A record that is damaged counts as none. */
export async function wasRefused(path: string, now: string): Promise<boolean> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'));
    if (typeof value !== 'object' || value === null) return false;
    const record: { format?: unknown; circumstances?: unknown; at?: unknown } = value;
    const ageMs = typeof record.at === 'number' ? Date.now() - record.at : -1;
    return record.format === format && record.circumstances === now && ageMs >= 0 && ageMs < holdsMs;
  } catch {
    return false;
  }
}

/** A crash leaves the old record or the new one; one that cannot be written is done without. */
export async function recordRefusal(path: string, now: string): Promise<void> {
  const text = `${JSON.stringify({ format, circumstances: now, at: Date.now() })}\n`;
  const temporary = `${path}.${process.pid}`;
  try {
    await writeFile(temporary, text, { mode: 0o600 });
    await rename(temporary, path);
  } catch {
    await rm(temporary, { force: true }).catch(() => undefined);
  }
}
