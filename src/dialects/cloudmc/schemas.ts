/** What CloudMC answers, exactly: the types that are presented, and what tests hold every answer to. No key is ever null. */
import Type, { type Static, type TProperties } from 'typebox';

const exact = <P extends TProperties>(properties: P) => Type.Object(properties, { additionalProperties: false });
const optional = Type.Optional;
const text = Type.String();
const integer = Type.Integer();
const flag = Type.Boolean();
const uuid = Type.String({ pattern: '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' });

/** `2031-04-09T16:20:05.004210+00:00` */
const zonedTime = Type.String({
  pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d{1,6})?[+-]\\d\\d:\\d\\d$',
});
/** `2031-04-09T16:20:05+0000`: volumes and templates have their offset without a colon. */
const compactZonedTime = Type.String({ pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d[+-]\\d{4}$' });

export const snapshotSchema = exact({
  id: uuid,
  name: text,
  state: Type.Enum(['Creating', 'BackingUp', 'BackedUp', 'Destroying', 'Error']),
  intervalType: Type.Enum(['MANUAL']),
  volumeId: uuid,
  volume: text,
  volumeType: Type.Enum(['ROOT', 'DATADISK']),
});
export type SnapshotBody = Static<typeof snapshotSchema>;

export const volumeSchema = exact({
  id: uuid,
  name: text,
  type: Type.Enum(['os', 'data']),
  creationDate: compactZonedTime,
  state: Type.Enum([
    'Allocated',
    'Creating',
    'Ready',
    'Snapshotting',
    'RevertSnapshotting',
    'Resizing',
    'Attaching',
    'Destroying',
  ]),
  sizeInGb: Type.Integer({ minimum: 1 }),
  /** Both or none. */
  instanceId: optional(uuid),
  instanceName: optional(text),
  zoneId: uuid,
  zoneName: text,
  diskOfferingId: uuid,
  diskOfferingName: text,
});
export type VolumeBody = Static<typeof volumeSchema>;

const instanceFields = {
  id: uuid,
  name: text,
  state: Type.Enum(['Starting', 'Running', 'Stopping', 'Stopped', 'Destroyed', 'Error']),
  hostname: text,
  imageId: optional(uuid),
  imageName: optional(text),
  templateId: optional(uuid),
  templateName: optional(text),
  cpuCount: integer,
  memoryInMB: integer,
  computeOfferingId: uuid,
  computeOfferingName: text,
  macAddress: text,
  networkId: uuid,
  networkName: text,
  zoneId: uuid,
  zoneName: text,
  isPasswordEnabled: flag,
  isSshKeyEnabled: flag,
  affinityGroupIds: Type.Array(uuid),
};
export const instanceSchema = exact(instanceFields);
export type InstanceBody = Static<typeof instanceSchema>;

const networkInterface = exact({ macAddress: text, networkId: uuid, networkName: text, isDefault: flag });
const singleInstanceFields = {
  ...instanceFields,
  userData: text,
  publicIps: Type.Array(Type.Never()),
  nics: Type.Array(networkInterface),
};
export const singleInstanceSchema = exact(singleInstanceFields);
export type SingleInstanceBody = Static<typeof singleInstanceSchema>;

/** What the task of `createRecoveryPoint` results in. */
export const recoveryPointSchema = exact({
  ...singleInstanceFields,
  recoveryPoint: exact({ id: uuid, name: text, description: text }),
});
export type RecoveryPointBody = Static<typeof recoveryPointSchema>;

export const templateSchema = exact({
  id: uuid,
  name: text,
  description: text,
  /** Bytes. */
  size: integer,
  ready: flag,
  availablePublicly: flag,
  created: compactZonedTime,
  osTypeId: optional(text),
  osTypeName: optional(text),
  zoneId: uuid,
  zoneName: text,
  availableInZones: Type.Array(uuid),
  hypervisor: Type.Enum(['KVM']),
  format: Type.Enum(['QCOW2']),
  dynamicallyScalable: flag,
  extractable: flag,
  sshKeyEnabled: flag,
  defaultUsername: optional(text),
});
export type TemplateBody = Static<typeof templateSchema>;

export const zoneSchema = exact({ id: uuid, name: text });
export const diskOfferingSchema = exact({ id: uuid, name: text, gbSize: integer, customSize: flag, customIops: flag });
export const computeOfferingSchema = exact({ id: uuid, name: text, custom: flag });
export const networkSchema = exact({ id: uuid, name: text, zoneId: uuid, zoneName: text });

const userSchema = exact({ id: uuid, username: text, email: optional(text) });
const roleSchema = exact({
  id: uuid,
  name: Type.Enum(['Environment Admin', 'User', 'Read-only']),
  isDefault: flag,
  users: Type.Array(userSchema),
});
const organizationReference = exact({ id: uuid, name: text, entryPoint: text });
const connectionReference = exact({ id: uuid, name: text, serviceCode: text });
const environmentFields = {
  id: uuid,
  name: text,
  description: text,
  membership: Type.Enum(['ALL_ORG_USERS', 'MANY_USERS']),
  creationDate: zonedTime,
  organization: organizationReference,
  serviceConnection: connectionReference,
  roles: Type.Array(roleSchema),
};
export const environmentSchema = exact(environmentFields);
export const singleEnvironmentSchema = exact({ ...environmentFields, users: Type.Array(userSchema) });
export type UserBody = Static<typeof userSchema>;
export type RoleBody = Static<typeof roleSchema>;
export type EnvironmentBody = Static<typeof environmentSchema>;
export type SingleEnvironmentBody = Static<typeof singleEnvironmentSchema>;

export const connectionSchema = exact({
  id: uuid,
  serviceCode: text,
  name: text,
  type: text,
  status: exact({ lastUpdated: zonedTime, reachable: flag }),
});
export type ConnectionBody = Static<typeof connectionSchema>;

export const organizationSchema = exact({
  id: uuid,
  name: text,
  entryPoint: text,
  isBillable: flag,
  billingMode: Type.Enum(['MANUAL']),
  billingDay: integer,
  environments: Type.Array(exact({ id: uuid, name: text })),
  roles: Type.Array(Type.Never()),
  serviceConnections: Type.Array(exact({ id: uuid, serviceCode: text })),
  users: Type.Array(userSchema),
});
export type OrganizationBody = Static<typeof organizationSchema>;

const contextSchema = Type.Object({}, { additionalProperties: Type.Union([text, integer, flag, Type.Array(text)]) });
const errorSchema = exact({
  code: integer,
  errorCode: Type.String({ pattern: '^\\d+$' }),
  message: text,
  context: optional(contextSchema),
});
export type ErrorBody = Static<typeof errorSchema>;
export const errorsSchema = exact({ errors: Type.Array(errorSchema, { minItems: 1, maxItems: 1 }) });
export type ErrorsBody = Static<typeof errorsSchema>;

/** What is left of an object that is gone. */
const goneSchema = exact({ id: optional(uuid) });
export const resultSchema = Type.Union([
  snapshotSchema,
  volumeSchema,
  singleInstanceSchema,
  recoveryPointSchema,
  templateSchema,
  goneSchema,
  errorsSchema,
]);
export const taskStatusSchema = Type.Enum(['PENDING', 'SUCCESS', 'FAILED']);
export type TaskStatus = Static<typeof taskStatusSchema>;
export const taskSchema = exact({
  id: uuid,
  status: taskStatusSchema,
  created: zonedTime,
  result: optional(resultSchema),
});
/** What a change answers. */
export const taskReferenceSchema = exact({ taskId: uuid, taskStatus: taskStatusSchema, data: optional(resultSchema) });

const metadataSchema = exact({
  recordCount: integer,
  pageSize: optional(integer),
  pageCurrent: optional(integer),
  sortField: optional(text),
  sortOrder: optional(Type.Enum(['ASC', 'DESC'])),
});
export type Metadata = Static<typeof metadataSchema>;

/** Every list and every single read, by its object. */
export const listOf = <T extends Parameters<typeof Type.Array>[0]>(item: T) =>
  exact({ data: Type.Array(item), metadata: metadataSchema });
export const oneOf = <T extends Parameters<typeof Type.Array>[0]>(item: T) => exact({ data: item });
