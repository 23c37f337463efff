/** Requests per second over HTTP: of a path, and of a bare Fastify route beside it. The load comes from a process of its own. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const fileOf = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

/** Over three seconds; NaN when an answer was not 200. */
export async function rateOf(
  port: number,
  path: string,
  headers: Readonly<Record<string, string>>,
  seconds = 3,
): Promise<number> {
  const options = [String(port), path, JSON.stringify(headers), String(seconds)];
  const load = spawn(process.execPath, [fileOf('http-load.ts'), ...options], { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  load.stdout.on('data', (part: Buffer) => {
    text += part.toString();
  });
  await new Promise((resolve) => load.once('exit', resolve));
  return Number(text);
}

/** One Fastify route that answers a constant JSON text of a given size. */
export async function startBare(port: number, sizeBytes: number): Promise<{ rate(): Promise<number>; stop(): void }> {
  const bare = spawn(process.execPath, [fileOf('bare-fastify.ts'), String(port), String(sizeBytes)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise((resolve) => bare.stdout.once('data', resolve));
  return { rate: () => rateOf(port, '/', {}), stop: () => void bare.kill() };
}
