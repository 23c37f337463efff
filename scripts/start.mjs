/** `npm start`: set-up, then the server on ./data. Flags are handed on: `npm start -- --port-base 7500 --data /srv/calotype`. */
import { join } from 'node:path';
import { runInForeground } from './child.mjs';
import { childEnvironment, nodePath, root, setup } from './setup.mjs';

setup();

const flags = process.argv.slice(2);
// A flag beats the environment and the configuration file, so our default must not stand in their way.
const dataIsChosen =
  flags.some((flag) => /^--(data|config)(=|$)/.test(flag)) || process.env.CALOTYPE_DATA || process.env.CALOTYPE_CONFIG;
const data = dataIsChosen ? [] : ['--data', './data'];

process.exitCode = await runInForeground(nodePath, [join(root, 'bin/calotype'), 'serve', ...data, ...flags], {
  env: childEnvironment(),
});
