/** Every answer of this API as a schema, with exactly the keys that are published. The tests hold all answers to them. */
import Type, { type TProperties, type TSchema } from 'typebox';

const exactly = <T extends TProperties>(properties: T) => Type.Object(properties, { additionalProperties: false });
const oneOf = (values: readonly (string | boolean | null)[]) => Type.Unsafe({ enum: values });
const orNull = (type: string, more: Record<string, unknown> = {}) => Type.Unsafe({ type: [type, 'null'], ...more });

const text = Type.String();
const number = Type.Integer({ minimum: 1 });
const nothing = Type.Null();
const gb = Type.Integer({ minimum: 0 });
const perms = oneOf(['ro', 'rw']);
const permsOrNull = oneOf(['ro', 'rw', null]);

const datePattern = '^\\d{4}-\\d{2}-\\d{2} \\d{2}:\\d{2}:\\d{2}\\.\\d{6}$';
const date = Type.String({ pattern: datePattern });
const dateOrNull = orNull('string', { pattern: datePattern });
const httpDate = Type.String({
  pattern: '^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \\d{2} [A-Z][a-z]{2} \\d{4} \\d{2}:\\d{2}:\\d{2} GMT$',
});
const duration = orNull('string', { pattern: '^(\\d{2}s|[1-9]\\d?m\\d{2}s|[1-9]\\d*h\\d{2}m\\d{2}s)$' });

/** Both are null at rest. */
const work = {
  in_progress: oneOf([true, null]),
  progress: orNull('integer', { minimum: 0, maximum: 100 }),
};

export const image = exactly({
  id: number,
  name: text,
  created: date,
  datacenter_id: number,
  region: text,
  duration,
  snapshot_size: orNull('integer', { minimum: 1 }),
  ...work,
  legacy: nothing,
  perms,
  vm_id: number,
  vmname: text,
  vm_user_id: number,
  vm_datacenter_id: number,
  vm_perms: permsOrNull,
  vm_deleted: dateOrNull,
});

export const imageOfSlice = exactly({ backup_full_size: gb, created: date, duration, id: number, name: text });

export const backup = exactly({
  backup_id: number,
  name: Type.Literal('automatic'),
  backup_full_size: gb,
  created: date,
  duration,
});

export const slice = exactly({
  id: number,
  vmname: text,
  perms: permsOrNull,
  region: text,
  datacenter_id: number,
  user_id: number,
  status: text,
  created: date,
  deleted: dateOrNull,
  ...work,
});

export const volume = exactly({
  id: number,
  volname: text,
  volsize: gb,
  status: text,
  vm_id: orNull('integer'),
  user_id: number,
  host_id: nothing,
  datacenter_id: number,
  vol_uuid: text,
  vol_allocated: nothing,
  snapshot_uuid: orNull('string'),
  created: httpDate,
  deleted: nothing,
  ...work,
  queued: oneOf([true, null]),
  queued_user_id: orNull('integer'),
});

export const user = exactly({
  admin: Type.Boolean(),
  email: orNull('string'),
  id: number,
  last_login: nothing,
  last_login_ip: nothing,
  username: text,
});

const none = Type.Array(Type.Never());

export const userPerms = exactly({
  id: number,
  username: text,
  email: orNull('string'),
  admin: Type.Boolean(),
  global: exactly({
    create_vm: Type.Boolean(),
    create_snapshot: Type.Boolean(),
    create_volume: Type.Boolean(),
    create_flexip: Type.Boolean(),
    create_fw: Type.Boolean(),
    create_domain: Type.Boolean(),
    use_api: Type.Boolean(),
  }),
  slices: Type.Array(exactly({ id: number, vmname: text, perms })),
  snapshots: Type.Array(exactly({ id: number, name: text, perms })),
  volumes: Type.Array(exactly({ id: number, volname: text, perms })),
  firewalls: none,
  domains: none,
  symscripts: none,
});

export const listOf = (entry: TSchema) => exactly({ data: Type.Array(entry) });

/** Nothing found is page 0 of 0. */
export const pageOf = (entry: TSchema) =>
  Type.Unsafe({
    anyOf: [
      exactly({ data: Type.Array(entry), page: number, pages: number, results: number }),
      exactly({ data: none, page: Type.Literal(0), pages: Type.Literal(0), results: Type.Literal(0) }),
    ],
  });

export const regionEntry = exactly({ description: text, region: text });
export const distEntry = exactly({ os_name: text, legacy: oneOf(['true', null]) });
export const sizeGroups = exactly({
  data: exactly({ standard: none, high_cpu: none, high_memory: none, high_disk: none }),
});

export const acceptedAnswer = exactly({ status: Type.Literal('OK') });
export const errorAnswer = exactly({ error: Type.String({ minLength: 1 }) });
