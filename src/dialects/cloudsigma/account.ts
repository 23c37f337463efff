/** `/accounts/`, `/profile/` and `/capabilities/`: the user, the session, and what this server can do. */
import { isoFromUs } from '../../core/time.ts';
import { maxCpus, maxMemoryBytes, minMemoryBytes } from '../../service/machine-hardware.ts';
import { bodyOf } from '../dialect.ts';
import { type Answer, type Call, ok } from './call.ts';
import { cloneNamings } from './clone-naming.ts';
import { cloneNamingOf, minSizeBytes, setCloneNaming } from './drives.ts';
import { invalidField, required } from './errors.ts';
import { type Fields, given, readFields } from './parse.ts';
import { storageType } from './present.ts';
import { mhzPerCpu } from './servers.ts';

/** There are no quotas: the largest number that every client can read. */
const noMaximum = 2_147_483_647;

/** What a server can have. */
const perServer = {
  cpu: { max: maxCpus * mhzPerCpu, min: mhzPerCpu },
  cpu_per_smp: { max: mhzPerCpu, min: mhzPerCpu },
  mem: { max: maxMemoryBytes, min: minMemoryBytes },
  smp: { max: maxCpus, min: 1 },
};

/** @throws invalid_request */
export function readLogin(fields: Fields): { username: string; password: string } {
  const username = given(fields, 'username');
  const password = given(fields, 'password');
  if (typeof username !== 'string') throw invalidField('username', required);
  if (typeof password !== 'string') throw invalidField('password', required);
  return { username, password };
}

export async function getProfile(call: Call): Promise<Answer> {
  return ok(await presentProfile(call));
}

/** Of all that clients send back, how clones are named is what can be changed here. */
export async function updateProfile(call: Call): Promise<Answer> {
  const wanted = given(readFields(bodyOf(call.request)), 'clone_naming');
  const naming = cloneNamings.find((known) => known === wanted);
  if (wanted !== undefined && naming === undefined) {
    throw invalidField('clone_naming', `It should be one of: ${cloneNamings.join(', ')}`);
  }
  if (naming !== undefined) await setCloneNaming(call, naming);
  return ok(await presentProfile(call));
}

async function presentProfile(call: Call) {
  const { caller, context } = call;
  const user = await context.users.get(caller, caller.userId);
  return {
    address: '',
    api_https_only: false,
    clone_naming: await cloneNamingOf(call),
    company: caller.projectName,
    country: '',
    email: user.email,
    first_name: '',
    key_auth: false,
    language: 'EN',
    last_name: '',
    mailing_list: false,
    meta: {},
    my_notes: '',
    nickname: user.name,
    phone: '',
    postcode: '',
    reseller: '',
    signup_time: `${isoFromUs(user.createdAt).slice(0, -1)}+00:00`,
    state: 'REGULAR',
    title: '',
    town: '',
    uuid: user.id,
    vat: '',
  };
}

export async function getCapabilities({ service, caller }: Call): Promise<Answer> {
  const { total } = await service.queries.list(caller, 'part', { limit: 0, withTotal: true });
  const { maxDriveBytes } = service.limits;
  return ok({
    default_storage_type: storageType,
    drives: {
      [storageType]: {
        max_size: maxDriveBytes,
        min_size: minSizeBytes,
        size: { max: maxDriveBytes, min: minSizeBytes },
      },
    },
    hosts: { host: perServer },
    hypervisors: { kvm: ['host'] },
    servers: perServer,
    snapshots: { current: total ?? 0, max: noMaximum, max_per_drive: noMaximum },
  });
}
