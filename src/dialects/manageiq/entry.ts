/** The entry point: clients build their collections from it. (api_controller.rb of ManageIQ/manageiq-api) */
import type { Identity } from '../../service/authenticate.ts';
import type { Env } from './attributes.ts';
import { apiVersion, type Params } from './parse.ts';
import { timeOf } from './present.ts';

/** Every collection that there is, by name. */
export const collections: readonly { readonly name: string; readonly description: string }[] = [
  { name: 'cloud_volume_snapshots', description: 'Cloud Volume Snapshots' },
  { name: 'cloud_volumes', description: 'Cloud Volumes' },
  { name: 'instances', description: 'Instances' },
  { name: 'tasks', description: 'Tasks' },
  { name: 'vms', description: 'Virtual Machines' },
];

/** Roles are numbered here: the service has them as words. */
const roles = {
  operator: { id: 1, name: 'Super administrator' },
  admin: { id: 2, name: 'Administrator' },
  member: { id: 3, name: 'Operator' },
  guest: { id: 4, name: 'Limited user' },
} as const;

const features = [
  { key: 'vm_snapshot_view', name: 'List', description: 'Display snapshots' },
  { key: 'vm_snapshot_add', name: 'Create', description: 'Create snapshots' },
  { key: 'vm_snapshot_revert', name: 'Revert', description: 'Revert to snapshots' },
  { key: 'vm_snapshot_delete', name: 'Remove', description: 'Remove snapshots' },
] as const;

export function productInfo(): unknown {
  return {
    name: 'Calotype',
    name_full: 'Calotype',
    copyright: 'Calotype is distributed under the Apache License 2.0',
    support_website: 'https://www.manageiq.org/docs',
    support_website_text: 'Documentation of the API',
    branding_info: {},
    authentication: { mode: 'database', oidc_enabled: false, saml_enabled: false, sso_enabled: false },
  };
}

export async function entryPoint(env: Env, identity: Identity, base: string, params: Params): Promise<unknown> {
  const { api, caller, context } = env;
  const groups = identity.memberships.map(({ projectId: id, projectName: name }) => ({ id, name }));
  if (!groups.some(({ id }) => id === caller.projectId))
    groups.unshift({ id: caller.projectId, name: caller.projectName });
  const { numbers } = context.service;
  const ids = groups.map(({ id }) => id);
  const projects = await numbers.numbersOf('project', ids);
  const user = (await numbers.numbersOf('user', [caller.userId])).get(caller.userId) ?? 0;
  const role = roles[caller.role];
  const groupHref = (id: (typeof ids)[number]): string => `${api}/groups/${projects.get(id) ?? 0}`;
  const now = Date.now();
  return {
    name: 'API',
    description: 'REST API',
    version: apiVersion,
    versions: [{ name: apiVersion, href: `${base}/api/v${apiVersion}` }],
    settings: { locale: 'en', asynchronous_notifications: false },
    identity: {
      userid: caller.userName,
      name: caller.userName,
      user_href: `${api}/users/${user}`,
      group: caller.projectName,
      group_href: groupHref(caller.projectId),
      role: role.name,
      role_href: `${api}/roles/${role.id}`,
      tenant: caller.projectName,
      groups: groups.map(({ name }) => name),
      miq_groups: groups.map(({ id, name }) => ({
        href: groupHref(id),
        id: String(projects.get(id) ?? 0),
        description: name,
      })),
    },
    server_info: {
      version: context.version,
      build: context.version,
      release: context.version,
      appliance: 'Calotype',
      time: timeOf(now * 1000),
      server_href: `${api}/servers/1`,
      zone_href: `${api}/zones/1`,
      region_href: `${api}/regions/1`,
      enterprise_href: `${api}/enterprises/1`,
      plugins: {},
    },
    timezones: [{ name: 'UTC', description: '(GMT+00:00) UTC' }],
    product_info: productInfo(),
    collections: collections.map(({ name, description }) => ({ name, href: `${api}/${name}`, description })),
    ...(params.attributes.includes('authorization') ? { authorization: { product_features: featuresOf(api) } } : {}),
  };
}

function featuresOf(api: string): unknown {
  return Object.fromEntries(
    features.map(({ key, name, description }) => [key, { name, description, href: `${api}/features/${key}` }]),
  );
}
