/** The views as JSON, with the keys of the original and in its order. */
import { type ErrorAnswer, exceptionNames } from './errors.ts';
import { hardwareLimits, type Profile } from './parse.ts';
import {
  architecture,
  type DriverView,
  deltacloudVersion,
  type ImageView,
  type InstanceView,
  type Links,
  type RealmView,
  realm,
  type SnapshotView,
  type VolumeView,
} from './present.ts';
import { actionHref, methodOf } from './present-xml.ts';
import { collections, stateMachine } from './reference.ts';

function reference(rel: string, collection: string, id: string, links: Links) {
  return { id, href: links.member(collection, id), rel };
}

export function snapshotJson(view: SnapshotView, links: Links) {
  const { id, name, description, state, created, volumeId } = view;
  return {
    id,
    href: links.member('storage_snapshots', id),
    name,
    ...(description === '' ? {} : { description }),
    state,
    storage_volume: reference('storage_volume', 'storage_volumes', volumeId, links),
    created,
  };
}

export function volumeJson(view: VolumeView, links: Links) {
  const { id, name, description, state, created, capacity, mount } = view;
  const href = links.member('storage_volumes', id);
  return {
    id,
    href,
    name,
    description: description === '' ? null : description,
    state,
    created,
    realm: reference('realm', 'realms', realm.id, links),
    device: mount?.device ?? null,
    kind: null,
    capacity: Number(capacity),
    actions: [
      { href: `${href}/attach`, rel: 'attach' },
      { href: `${href}/detach`, rel: 'detach' },
      { href, rel: 'destroy' },
    ],
    instance: mount === null ? {} : reference('instance', 'instances', mount.instanceId, links),
  };
}

export function instanceJson(view: InstanceView, links: Links) {
  const { id, name, state, owner, imageId, profile } = view;
  return {
    id,
    href: links.member('instances', id),
    name,
    state,
    owner,
    image: imageId === null ? {} : reference('image', 'images', imageId, links),
    realm: reference('realm', 'realms', realm.id, links),
    actions: view.actions.map((rel) => ({ href: actionHref(rel, id, links), rel, method: methodOf(rel) })),
    hardware_profile: { ...reference('hardware_profile', 'hardware_profiles', profile.id, links), properties: {} },
    public_addresses: [],
    private_addresses: [{ address: view.macAddress, type: 'mac' }],
    storage_volumes: view.volumes.map((volume) => reference('storage_volume', 'storage_volumes', volume.id, links)),
    authentication_type: 'key',
  };
}

export function imageJson(view: ImageView, links: Links) {
  const { id, name, description, owner, architecture: arch, state } = view;
  return {
    id,
    href: links.member('images', id),
    name,
    description,
    owner,
    architecture: arch,
    state,
    root_type: 'transient',
    actions: [
      { href: `${links.collection('instances')};image_id=${id}`, rel: 'create_instance', method: 'post' as const },
    ],
  };
}

export function realmJson({ id, name, state }: RealmView, links: Links) {
  return { id, href: links.member('realms', id), name, state, limit: null };
}

export function profileJson({ id, fixed }: Profile, links: Links) {
  return {
    id,
    href: links.member('hardware_profiles', id),
    name: id,
    properties: {
      cpu: String(fixed?.cpus ?? hardwareLimits.cpu.usual),
      memory: String(fixed?.memoryMiB ?? hardwareLimits.memory.usual),
      architecture,
    },
  };
}

export function driverJson({ id, name }: DriverView, links: Links) {
  return { id, href: links.member('drivers', id), name };
}

export function statesJson() {
  return stateMachine.map(({ name, transitions }) => ({
    name,
    transitions: transitions.map(({ to, action }) => (action === null ? { to, auto: true } : { to, action })),
  }));
}

export function entryJson(driver: string, provider: string | null, links: Links) {
  return {
    api: {
      version: deltacloudVersion,
      driver,
      provider: provider ?? 'default',
      links: collections.map(({ name: rel, features }) => ({
        rel,
        href: links.collection(rel),
        features: features.map(({ name, operation, parameters }) => [
          {
            name,
            rel: operation,
            params: parameters.map((parameter) => `${parameter}:string:optional`),
            constraints: {},
          },
        ]),
      })),
    },
  };
}

export function errorJson({ status, message }: ErrorAnswer) {
  return { code: status, message, error: `Deltacloud::Exceptions::${exceptionNames[status]}` };
}
