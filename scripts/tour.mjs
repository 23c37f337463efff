/** `npm run tour`: set-up, then the guided tour (scripts/tour.ts) on Node 24. */
import { join } from 'node:path';
import { runInForeground } from './child.mjs';
import { childEnvironment, nodePath, root, setup } from './setup.mjs';

setup({ forTests: true });

const tour = ['--disable-warning=ExperimentalWarning', join(root, 'scripts/tour.ts')];
process.exitCode = await runInForeground(nodePath, [...tour, ...process.argv.slice(2)], { env: childEnvironment() });
