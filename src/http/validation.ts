/**
 * Checks requests against their TypeBox schemas and names the field that is wrong. Bodies are taken strictly as they are; only path and
 * query values, which are all text, are read as what the schema wants. Validators are compiled at first use, so that start-up does not pay for them.
 */
import type { TSchema } from 'typebox';
import type { TLocalizedValidationError } from 'typebox/error';
import { Compile, type Validator } from 'typebox/schema';
import { CalotypeError, type ErrorCode, notFound } from '../core/errors.ts';

export type HttpPart = 'body' | 'querystring' | 'params' | 'headers';

/** Fields that have a code of their own when they are wrong. */
const codeOfField: ReadonlyMap<string, ErrorCode> = new Map([
  ['name', 'invalid_name'],
  ['nameContains', 'invalid_name'],
  ['nameLike', 'invalid_name'],
  ['sizeBytes', 'invalid_size'],
  ['meta', 'invalid_meta'],
  ['tags', 'invalid_tag'],
  ['tag', 'invalid_tag'],
  ['sort', 'invalid_sort'],
  ['cursor', 'invalid_cursor'],
  ['format', 'image_format_unknown'],
]);

/** Fastify's validator compiler: gives back a value to use or a CalotypeError. */
export function compileValidator({
  schema,
  httpPart,
}: {
  schema: TSchema;
  httpPart?: string | undefined;
}): (value: unknown) => { value: unknown } | { error: Error } {
  let validator: Validator | undefined;
  return (given) => {
    validator ??= Compile(schema);
    // Fastify says null when there was no body at all: the same as {} where nothing is required.
    const isMissingBody = httpPart === 'body' && given === null;
    const value = isMissingBody ? {} : httpPart === 'body' ? given : readTexts(schema, given);
    if (validator.Check(value)) return { value };
    if (httpPart === 'params') return { error: missingObject(given) };
    return { error: explain(validator.Errors(value)[1], { isMissingBody, isQuery: httpPart === 'querystring' }) };
  };
}

/** An id that cannot be one names no object. */
function missingObject(params: unknown): CalotypeError {
  const [key = 'id', value] = Object.entries(typeof params === 'object' && params !== null ? params : {}).at(-1) ?? [];
  return notFound(key.replace(/Id$/, ''), String(value));
}

export function explain(
  all: readonly TLocalizedValidationError[],
  { isMissingBody = false, isQuery = false } = {},
): CalotypeError {
  const errors = ofMeantBranch(all);
  const unknown = errors.find((e) => e.keyword === 'additionalProperties');
  const error = unknown ?? errors.find((e) => e.keyword !== 'boolean') ?? errors[0];
  if (error === undefined) return new CalotypeError('invalid_request');
  const path = error.instancePath.split('/').slice(1).map(unescapePointer);
  if (error.keyword === 'additionalProperties') {
    const names = error.params.additionalProperties;
    const field = [...path, names[0] ?? ''].join('.');
    // In metadata the name is the caller's own and its value is at fault.
    if (path[0] === 'meta') return wrong('meta', field, `${field} is not allowed: values must be strings.`);
    const shown = names.map((name) => JSON.stringify(name)).join(', ');
    return new CalotypeError('invalid_request', `Unknown ${names.length === 1 ? 'field' : 'fields'}: ${shown}.`, {
      field,
      unknown: names,
    });
  }
  if (error.keyword === 'required') {
    const names = error.params.requiredProperties;
    const field = [...path, names[0] ?? ''].join('.');
    const message = isMissingBody
      ? `A JSON body with ${names.join(', ')} is needed.`
      : `${names.join(', ')} ${names.length === 1 ? 'is' : 'are'} missing.`;
    return new CalotypeError('invalid_request', message, { field });
  }
  // A query has no depth: `state=a&state=b` are values of one field.
  const field = isQuery ? (path[0] ?? '') : path.join('.');
  if (field === '') return new CalotypeError('invalid_request', `The request ${error.message}.`);
  const allowed = error.keyword === 'enum' ? error.params.allowedValues : undefined;
  const message =
    allowed === undefined ? `${field} ${error.message}.` : `${field} must be one of: ${allowed.join(', ')}.`;
  return wrong(path[0] ?? '', field, message, allowed === undefined ? {} : { allowed });
}

/**
 * Of a union whose members differ by a constant (`from: 'drive' | 'kernel'`), only what is wrong with the one that was
 * meant; if none was, that the constant is none of those.
 */
function ofMeantBranch(errors: readonly TLocalizedValidationError[]): readonly TLocalizedValidationError[] {
  const constants = errors.filter((e) => e.keyword === 'const');
  const [first] = constants;
  if (first === undefined) return errors;
  const others = constants.map((e) => /^.*\/anyOf\/\d+(?=\/)/.exec(e.schemaPath)?.[0] ?? e.schemaPath);
  const meant = errors.filter(({ schemaPath }) => !others.some((other) => `${schemaPath}/`.startsWith(`${other}/`)));
  if (meant.some((e) => e.keyword !== 'anyOf')) return meant;
  return [{ ...first, keyword: 'enum', params: { allowedValues: constants.map((e) => e.params.allowedValue) } }];
}

function wrong(top: string, field: string, message: string, more: Record<string, unknown> = {}): CalotypeError {
  return new CalotypeError(codeOfField.get(top) ?? 'invalid_request', message, { field, ...more });
}

const unescapePointer = (text: string): string => text.replaceAll('~1', '/').replaceAll('~0', '~');

/** Reads texts of a path or query by the schema's types; what cannot be read stays text and fails the check. */
function readTexts(schema: TSchema, given: unknown): Record<string, unknown> {
  const properties: Readonly<Record<string, unknown>> =
    'properties' in schema && isRecord(schema.properties) ? schema.properties : {};
  if (!isRecord(given)) return {};
  // Own fields, whatever they are called.
  return Object.fromEntries(Object.entries(given).map(([key, value]) => [key, readText(properties[key], value)]));
}

function readText(schema: unknown, value: unknown): unknown {
  const type = isRecord(schema) ? schema.type : undefined;
  if (type === 'array') {
    const items = Array.isArray(value) ? value : [value];
    return items.flatMap((item) => (typeof item === 'string' ? item.split(',') : [item]));
  }
  if (typeof value !== 'string') return value;
  if (type === 'integer') return /^-?\d{1,16}$/.test(value) ? Number(value) : value;
  if (type === 'boolean')
    return value === 'true' || value === '1' ? true : value === 'false' || value === '0' ? false : value;
  return value;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
