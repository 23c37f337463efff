/** The version of this program, from its package.json (beside both src/ and dist/). */
import { readFileSync } from 'node:fs';

let version: string | undefined;

export function cliVersion(): string {
  if (version === undefined) {
    const manifest: { version?: string } = JSON.parse(
      readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
    );
    version = manifest.version ?? '0';
  }
  return version;
}
