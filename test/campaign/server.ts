/**
 * The server under campaign: the real one, with a hook at every durable step that can kill it, its storage daemon, or
 * both. Told where by an environment variable at its start, or by a message of its parent while it runs.
 */
import { openSync, writeSync } from 'node:fs';
import module from 'node:module';
import { type Arm, armVariable, daemonPidOf, killsDaemon, killsServer, traceVariable } from './arm.ts';
import { killHelpers } from './machine-eyes.ts';

module.enableCompileCache(new URL('../../node_modules/.cache/calotype', import.meta.url).pathname);

const flags = process.argv.slice(2);
const data = flags[flags.indexOf('--data') + 1] ?? '';
const trace = openSync(process.env[traceVariable] ?? '/dev/null', 'a');

let arm: Arm | undefined;
let left = 0;

function load(next: Arm | null): void {
  arm = next ?? undefined;
  left = arm?.nth ?? 0;
}

function strike({ victim, step }: Arm): void {
  writeSync(trace, `${performance.now().toFixed(1)} kill ${victim} at ${step}\n`);
  if (killsDaemon(victim)) {
    const pid = daemonPidOf(data);
    if (pid !== 0) process.kill(pid, 'SIGKILL');
  }
  if (killsServer(victim)) process.kill(process.pid, 'SIGKILL');
  killHelpers(data, victim);
}

function onStep(name: string): void {
  writeSync(trace, `${performance.now().toFixed(1)} ${name}\n`);
  if (arm?.step !== name || --left > 0) return;
  const now = arm;
  arm = undefined;
  process.send?.({ hit: now.step });
  if (now.delayMs === 0) strike(now);
  else setTimeout(() => strike(now), now.delayMs);
}

const early = process.env[armVariable];
if (early !== undefined) load(JSON.parse(early));
process.on('message', (message: { arm: Arm | null }) => load(message.arm));
// Without its campaign it has no business.
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));

const { runServer } = await import('../../src/http/serve.ts');
await runServer(flags, { onStep });
process.disconnect?.();
