/** Where a process is to die: agreed between the campaign and the server it runs. */
import { readFileSync, readlinkSync, realpathSync } from 'node:fs';

/**
 * `both`: server and storage daemon. Of machines: all their QEMU processes, what writes a guest's memory to its file, what
 * sees to it that a frozen guest thaws.
 */
export type Victim = 'server' | 'daemon' | 'both' | 'qemu' | 'writer' | 'guard';

export const killsServer = (victim: Victim): boolean => victim === 'server' || victim === 'both';
export const killsDaemon = (victim: Victim): boolean => victim === 'daemon' || victim === 'both';

/** Death at the n-th time that the server passes a named step from now on. */
export interface Arm {
  readonly step: string;
  readonly nth: number;
  readonly victim: Victim;
  /** So much later, so that deaths between steps happen too; 0 dies in the step. */
  readonly delayMs: number;
}

export const armVariable = 'CALOTYPE_CAMPAIGN_ARM';
export const traceVariable = 'CALOTYPE_CAMPAIGN_TRACE';

/** The process number of the storage daemon of a data directory; 0 when none runs. Never that of another process. */
export function daemonPidOf(data: string): number {
  try {
    const pid = Number.parseInt(readFileSync(`${data}/run/storage-daemon.pid`, 'utf8'), 10);
    return readlinkSync(`/proc/${pid}/cwd`) === realpathSync(`${data}/images`) && !isDead(pid) ? pid : 0;
  } catch {
    return 0;
  }
}

/** A process that was killed stays listed until its parent looks; what counts is whether it can still do anything. */
export function isDead(pid: number): boolean {
  if (pid === 0) return true;
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return /^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2));
  } catch {
    return true;
  }
}
