/** What is the same for everybody: the entry point, realms, hardware profiles, drivers, instance states, the reference, OPTIONS. */
import { CalotypeError } from '../../core/errors.ts';
import type { DialectContext } from '../dialect.ts';
import { type Call, identify } from './calls.ts';
import { collectionDocs, docsPage, operationDocs } from './docs-pages.ts';
import { type Answer, listDocument, memberDocument, type Resource } from './documents.ts';
import { Refusal } from './errors.ts';
import type { Page } from './html.ts';
import { notThere } from './lookup.ts';
import { entryPage, statesPage } from './pages.ts';
import { findProfile, listedProfiles, optional } from './parse.ts';
import { drivers, realm } from './present.ts';
import { entryJson, statesJson } from './present-json.ts';
import { entryXml, statesXml } from './present-xml.ts';
import { allowOf, collectionClasses, findCollection, findOperation } from './reference.ts';
import * as resources from './resources.ts';
import type { Routes } from './routing.ts';
import { bareXmlDocument } from './xml.ts';

interface Named {
  readonly id: string;
}

/** List and members of a kind of which there are always the same. */
function fixedRoutes<T extends Named>(
  resource: Resource<T>,
  all: readonly T[],
  options: { isOpen: boolean; find?: (id: string) => T | undefined; keeps?: (value: T, call: Call) => boolean },
): Routes {
  const { plural } = resource;
  const find = options.find ?? ((id: string) => all.find((value) => value.id === id));
  const list = (call: Call): Answer => {
    const id = call.parameters.get('id') ?? undefined;
    const named = id === undefined ? all : [find(id)].filter((value) => value !== undefined);
    const shown = named.filter((value) => options.keeps?.(value, call) ?? true);
    return { is: 'document', status: 200, document: listDocument(resource, shown, call) };
  };
  const show = (call: Call): Answer => {
    const value = find(call.id);
    if (value === undefined) throw notThere();
    const document = memberDocument(resource, value, call.links.member(plural, value.id), call.links);
    return { is: 'document', status: 200, document };
  };
  const isOpen = options.isOpen ? ({ isOpen: true } as const) : {};
  return {
    [`/api/${plural}`]: { GET: { ...isOpen, run: list } },
    [`/api/${plural}/:id`]: { GET: { ...isOpen, run: show } },
  };
}

/** Realms that are none, by which test suites see how a client takes each kind of failure. */
const failingRealms: Readonly<Record<string, { status: 500 | 501 | 502 | 504; message: string }>> = {
  '500': { status: 500, message: 'DeltacloudErrorMessage' },
  '501': { status: 501, message: 'NotImplementedMessage' },
  '502': { status: 502, message: 'ProviderErrorMessage' },
  '504': { status: 504, message: 'ProviderTimeoutMessage' },
};

function findRealm(id: string) {
  const failure = Object.hasOwn(failingRealms, id) ? failingRealms[id] : undefined;
  // Not a failure of this server, whatever its status says: it is not to be in the log as one.
  if (failure !== undefined) throw new Refusal('invalid_request', failure);
  return id === realm.id ? realm : undefined;
}

const isInState = ({ state }: { state: string }, { parameters }: Call): boolean =>
  (parameters.get('state') ?? state) === state;

export function fixedResourceRoutes(context: DialectContext): Routes {
  return {
    '/api': { GET: { isOpen: true, run: (call) => entryPoint(context, call) }, POST: { isOpen: true, run: select } },
    '/api/': { GET: { isOpen: true, run: (call) => entryPoint(context, call) }, POST: { isOpen: true, run: select } },
    ...fixedRoutes(resources.realms, [realm], { isOpen: false, find: findRealm, keeps: isInState }),
    ...fixedRoutes(resources.hardwareProfiles, listedProfiles, { isOpen: true, find: findProfile }),
    ...fixedRoutes(resources.driverNames, drivers, { isOpen: true }),
    '/api/instance_states': { GET: { isOpen: true, run: instanceStates } },
    '/api/docs': {
      GET: { isOpen: true, run: ({ links }) => docsAnswer({ ...docsPage(links), self: links.collection('docs') }) },
    },
    '/api/docs/:id': { GET: { isOpen: true, run: collectionReference } },
    '/api/docs/:id/:operation': { GET: { isOpen: true, run: operationReference } },
  };
}

/** With `force_auth` it is how clients find out whether their credentials are good. */
async function entryPoint(context: DialectContext, call: Call): Promise<Answer> {
  const { links, request, reading, parameters } = call;
  if (parameters.has('force_auth')) await checkCredentials(context, call);
  const { driver, provider } = reading;
  const document = {
    xml: () => bareXmlDocument(entryXml(driver, provider, links)),
    json: () => entryJson(driver, provider, links),
    page: () => ({ ...entryPage(driver, links), self: `${request.base}${request.url}` }),
  };
  return { is: 'document', status: 200, document };
}

async function checkCredentials(context: DialectContext, { request }: Call): Promise<void> {
  const { authorization } = request.headers;
  try {
    await identify(context, request);
  } catch (error) {
    const areWrong = error instanceof CalotypeError && error.code === 'unauthenticated';
    if (!areWrong || authorization === undefined || !/^basic /i.test(authorization)) throw error;
    throw new Refusal('unauthenticated', { status: 401, message: 'Authentication failed', plain: true });
  }
}

/** The form by which a driver or provider is chosen leads to where it is chosen. */
function select({ parameters, links }: Call): Answer {
  const driver = optional(parameters, 'driver');
  const provider = optional(parameters, 'provider');
  const chosen =
    driver !== undefined
      ? `;driver=${encodeURIComponent(driver.toWellFormed())}`
      : provider !== undefined && provider !== 'default'
        ? `;provider=${encodeURIComponent(provider.toWellFormed())}`
        : '';
  return { is: 'moved', location: `${links.base}${chosen}` };
}

function instanceStates({ links }: Call): Answer {
  const self = links.collection('instance_states');
  const document = {
    xml: () => bareXmlDocument(statesXml()),
    json: statesJson,
    page: () => ({ ...statesPage(), collection: 'instance_states', self }),
  };
  return { is: 'document', status: 200, document };
}

function docsAnswer(page: Page): Answer {
  return { is: 'page', page };
}

function noRoute(): CalotypeError {
  return new CalotypeError('route_not_found');
}

function collectionReference({ id, links }: Call): Answer {
  const collection = findCollection(id);
  if (collection === undefined) throw noRoute();
  const self = links.member('docs', id);
  return docsAnswer({ ...collectionDocs(collection, links), self });
}

function operationReference({ id, operation: name, links }: Call): Answer {
  const collection = findCollection(id);
  const operation = collection === undefined ? undefined : findOperation(collection, name);
  if (collection === undefined || operation === undefined) throw noRoute();
  const self = `${links.member('docs', id)}/${name}`;
  return docsAnswer({ ...operationDocs(collection, operation), self });
}

/** What OPTIONS says, by address. Members are no operation: there is nothing about them. */
export function allowedAt(path: string): string {
  const [, api, name = '', first, second, ...rest] = path.split('/');
  if (api !== 'api' || rest.length > 0) throw noRoute();
  if (name === '' && first === undefined) return collectionClasses;
  const collection = findCollection(name);
  if (collection === undefined) throw noRoute();
  if (first === undefined) return 'OPTIONS,GET,POST,DELETE';
  const operation = findOperation(collection, second ?? first);
  const isAction = operation?.path.startsWith('/:id/') ?? false;
  if (operation === undefined || isAction !== (second !== undefined)) throw noRoute();
  return allowOf(operation);
}
