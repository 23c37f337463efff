/**
 * Asks the agent inside a guest (qemu-ga) for one thing at a time: whether it is there, the state of the file systems, to
 * shut down. While a FreezeGuard has the agent, these wait for it, and fail when their time is over.
 */
import { type AgentCommand, AgentConnection, type FreezeStatus, readCount, readStatus } from './agent-connection.ts';

export type { AgentFailure, FreezeStatus } from './agent-connection.ts';
export { FreezeGuard, type FreezeGuardOptions, type Frozen, type Thawed, type ThawOutcome } from './freeze-guard.ts';

export type ShutdownMode = 'powerdown' | 'halt' | 'reboot';

/** Whether an agent answers. @throws agent_unavailable when none does within `timeoutMs` */
export async function pingAgent(socketPath: string, timeoutMs: number): Promise<void> {
  await runOnce(socketPath, [{ execute: 'guest-ping' }], timeoutMs);
}

/** @throws agent_unavailable */
export async function freezeStatus(socketPath: string, timeoutMs: number): Promise<FreezeStatus> {
  const [status] = await runOnce(socketPath, [{ execute: 'guest-fsfreeze-status' }], timeoutMs);
  return readStatus(status);
}

/** Thaws all file systems; does nothing to a guest that is not frozen. @returns how many were frozen @throws agent_unavailable */
export async function thaw(socketPath: string, timeoutMs: number): Promise<number> {
  const [count] = await runOnce(socketPath, [{ execute: 'guest-fsfreeze-thaw' }], timeoutMs);
  return readCount(count);
}

/** Has the guest begin to shut down. Whether it does shows in its process. @throws agent_unavailable */
export async function shutdown(socketPath: string, mode: ShutdownMode, timeoutMs: number): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  const connection = await AgentConnection.connect(socketPath, timeoutMs);
  try {
    const command = { execute: 'guest-shutdown', arguments: { mode } };
    await connection.runUnanswered(command, deadline - performance.now());
  } finally {
    connection.close();
  }
}

async function runOnce(socketPath: string, commands: readonly AgentCommand[], timeoutMs: number): Promise<unknown[]> {
  const deadline = performance.now() + timeoutMs;
  const connection = await AgentConnection.connect(socketPath, timeoutMs);
  try {
    return await connection.run(commands, deadline - performance.now());
  } finally {
    connection.close();
  }
}
