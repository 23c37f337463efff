/** Holds docs/states.md to the table in states.ts, both ways, and the table to its own rules. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  activeTaskStates,
  driveTransitions,
  imageTransitions,
  isActiveTask,
  machinePowers,
  machineTransitions,
  snapshotTransitions,
  taskTransitions,
} from './states.ts';

const page = readFileSync(join(import.meta.dirname, '../../docs/states.md'), 'utf8');

const tables = {
  Machines: machineTransitions,
  Drives: driveTransitions,
  Snapshots: snapshotTransitions,
  Images: imageTransitions,
  Tasks: taskTransitions,
};

function sectionOf(heading: string): string {
  return page.split(/^## /m).find((part) => part.startsWith(`${heading}\n`)) ?? '';
}

/** The table of states under a heading: state to the states it may become, in the order written. */
function documented(heading: string): Record<string, string[]> {
  const section = sectionOf(heading);
  const rows = section.split('\n').filter((line) => line.startsWith('| `'));
  return Object.fromEntries(
    rows.map((row) => {
      const [, state = '', , becomes = ''] = row.split('|').map((cell) => cell.trim());
      return [state.replaceAll('`', ''), [...becomes.matchAll(/`(\w+)`/g)].map(([, name]) => name ?? '')];
    }),
  );
}

describe.each(Object.entries(tables))('%s', (heading, transitions) => {
  it('are documented as they are', () => {
    expect(documented(heading)).toEqual(transitions);
  });

  it('know every state they may become', () => {
    const states = Object.keys(transitions);
    for (const next of Object.values(transitions).flat()) expect(states).toContain(next);
  });
});

it('a machine has the powers that are documented', () => {
  const [, table = ''] = sectionOf('Machines').split('| Power | Means |');
  expect([...table.matchAll(/^\| (\w+) \|/gm)].map(([, power]) => power)).toEqual(machinePowers);
});

it('every object can be deleted from every state that is not already going', () => {
  for (const transitions of [machineTransitions, driveTransitions, snapshotTransitions, imageTransitions]) {
    for (const [state, next] of Object.entries(transitions)) {
      if (state !== 'deleting' && state !== 'deleted') expect(next, state).toContain('deleting');
    }
  }
});

it('a task is active as long as it may still become something', () => {
  for (const [state, next] of Object.entries(taskTransitions)) {
    const known = Object.keys(taskTransitions).find((name): name is keyof typeof taskTransitions => name === state);
    expect(known !== undefined && isActiveTask(known), state).toBe(next.length > 0);
  }
  expect(activeTaskStates.every((state) => taskTransitions[state].length > 0)).toBe(true);
});
