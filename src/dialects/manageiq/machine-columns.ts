/**
 * The columns of machines: those of the real service's table; what this one does not know is null.
 * (config/openapi.json, schema Vm, of ManageIQ/manageiq-api)
 */
import type { Machine } from '../../core/model.ts';
import type { Condition } from '../../core/query.ts';
import type { MachinePower } from '../../core/states.ts';
import { type Attribute, constant, type SortField, unknownTime } from './attributes.ts';
import { unknownOfMachine, unknownTimesOfMachine } from './machine-names.ts';
import { textOrNull, timeOf, timeOrNull } from './present.ts';

type Field = SortField<'machine'>;
export const vmClass = 'ManageIQ::Providers::InfraManager::Vm';
export const instanceClass = 'ManageIQ::Providers::CloudManager::Vm';

/** A machine that stands still has its memory, so that it is not off. */
const powers: Readonly<Record<MachinePower, string>> = { running: 'on', off: 'off', paused: 'paused' };

export const isVm: Condition<Field> = { field: 'kind', op: 'eq', value: 'vm' };
export const isInstance: Condition<Field> = { field: 'kind', op: 'eq', value: 'instance' };

export function typeOf(machine: Machine): string {
  return machine.kind === 'instance' ? instanceClass : vmClass;
}

export const machineColumns: readonly Attribute<Machine, Field>[] = [
  { name: 'id', present: ({ number }) => String(number), search: { type: 'integer', field: 'number' } },
  constant('vendor', 'unknown'),
  { name: 'name', present: ({ name }) => name, search: { type: 'text', field: 'name' } },
  {
    name: 'description',
    present: ({ description }) => textOrNull(description),
    search: { type: 'text', field: 'description', emptyIsNull: true },
  },
  constant('location', null),
  { name: 'guid', present: ({ id }) => id, search: { type: 'text', field: 'id' } },
  { name: 'uid_ems', present: ({ id }) => id, search: { type: 'text', field: 'id' } },
  { name: 'ems_ref', present: ({ id }) => id, search: { type: 'text', field: 'id' } },
  {
    name: 'power_state',
    present: ({ power }) => powers[power],
    search: {
      type: 'words',
      words: Object.entries(powers).map(([value, word]) => ({ word, when: { field: 'power', op: 'eq', value } })),
      sort: { field: 'power', values: ['off', 'running', 'paused'] },
    },
  },
  { name: 'raw_power_state', present: ({ power }) => power, search: { type: 'text', field: 'power' } },
  constant('previous_state', null),
  constant('connection_state', 'connected'),
  constant('template', false),
  {
    name: 'cloud',
    present: ({ kind }) => kind === 'instance',
    search: {
      type: 'words',
      words: [
        { word: false, when: isVm },
        { word: true, when: isInstance },
      ],
      sort: { field: 'kind', values: ['vm', 'instance'] },
    },
  },
  constant('ems_id', null),
  constant('host_id', null),
  constant('storage_id', null),
  constant('tools_status', null),
  {
    name: 'type',
    present: typeOf,
    search: {
      type: 'words',
      words: [
        { word: vmClass, when: isVm },
        { word: instanceClass, when: isInstance },
      ],
      sort: { field: 'kind', values: ['instance', 'vm'] },
    },
  },
  { name: 'created_on', present: ({ createdAt }) => timeOf(createdAt), search: { type: 'time', field: 'createdAt' } },
  { name: 'updated_on', present: ({ updatedAt }) => timeOf(updatedAt), search: { type: 'time', field: 'updatedAt' } },
  unknownTime('state_changed_on'),
  constant('retired', null),
  unknownTime('retires_on'),
  {
    name: 'boot_time',
    present: ({ runtime }) => timeOrNull(runtime?.startedAt ?? null),
    search: { type: 'time', field: 'startedAt' },
  },
  {
    name: 'ems_created_on',
    present: ({ createdAt }) => timeOf(createdAt),
    search: { type: 'time', field: 'createdAt' },
  },
  ...unknownOfMachine.map((name) =>
    unknownTimesOfMachine.includes(name) ? unknownTime<Machine>(name) : constant<Machine>(name, null),
  ),
];
