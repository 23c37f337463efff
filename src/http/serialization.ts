/**
 * Compiles response serialisers at first use: all of them at once would take a quarter of the time that a start may take.
 * Routes that answer with the same schema share one.
 */
import fastJsonStringify, { type AnySchema, type ObjectSchema } from 'fast-json-stringify';
import { sharedSchemas } from './schemas.ts';

type Serialize = (value: unknown) => string;

const compiled = new WeakMap<object, Serialize>();
let named: Record<string, ObjectSchema> | undefined;

/** Fastify's serialiser compiler. */
export function compileSerializer({ schema }: { schema: AnySchema }): Serialize {
  let serialize: Serialize | undefined;
  return (value) => {
    if (serialize === undefined) {
      named ??= Object.fromEntries(sharedSchemas.filter(isObjectSchema).map((each) => [each.$id ?? '', each]));
      serialize = compiled.get(schema) ?? fastJsonStringify(schema, { schema: named });
      compiled.set(schema, serialize);
    }
    return serialize(value);
  };
}

const isObjectSchema = (schema: object): schema is ObjectSchema => 'type' in schema && schema.type === 'object';
