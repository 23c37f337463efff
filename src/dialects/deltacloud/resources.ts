/** The kinds of object that this dialect has, each with its three forms. */
import type { Resource } from './documents.ts';
import * as pages from './pages.ts';
import type { Profile } from './parse.ts';
import type { DriverView, ImageView, InstanceView, RealmView, SnapshotView, VolumeView } from './present.ts';
import * as json from './present-json.ts';
import * as xml from './present-xml.ts';

export const snapshots: Resource<SnapshotView> = {
  name: 'storage_snapshot',
  plural: 'storage_snapshots',
  isDeclared: true,
  xml: xml.snapshotXml,
  json: json.snapshotJson,
  page: pages.snapshotPage,
  listPage: pages.snapshotList,
};

export const volumes: Resource<VolumeView> = {
  name: 'storage_volume',
  plural: 'storage_volumes',
  isDeclared: true,
  xml: xml.volumeXml,
  json: json.volumeJson,
  page: pages.volumePage,
  listPage: pages.volumeList,
};

export const instances: Resource<InstanceView> = {
  name: 'instance',
  plural: 'instances',
  isDeclared: true,
  xml: xml.instanceXml,
  json: json.instanceJson,
  page: pages.instancePage,
  listPage: pages.instanceList,
};

export const images: Resource<ImageView> = {
  name: 'image',
  plural: 'images',
  isDeclared: true,
  xml: xml.imageXml,
  json: json.imageJson,
  page: pages.imagePage,
  listPage: pages.imageList,
};

export const realms: Resource<RealmView> = {
  name: 'realm',
  plural: 'realms',
  isDeclared: true,
  xml: xml.realmXml,
  json: json.realmJson,
  page: pages.realmPage,
  listPage: pages.realmList,
};

export const hardwareProfiles: Resource<Profile> = {
  name: 'hardware_profile',
  plural: 'hardware_profiles',
  isDeclared: true,
  xml: xml.profileXml,
  json: json.profileJson,
  page: pages.profilePage,
  listPage: pages.profileList,
};

export const driverNames: Resource<DriverView> = {
  name: 'driver',
  plural: 'drivers',
  isDeclared: false,
  xml: xml.driverXml,
  json: json.driverJson,
  page: pages.driverPage,
  listPage: pages.driverList,
  listJson: (values, links) => Object.fromEntries(values.map((value) => [value.id, json.driverJson(value, links)])),
};
