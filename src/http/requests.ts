/** Parts that requests are made of: query parameters, body fields, and strict objects that refuse what they do not know. */

import Type, { type TProperties } from 'typebox';
import { oneOf } from './schemas.ts';

export const strict = <P extends TProperties>(properties: P) =>
  Type.Object(properties, { additionalProperties: false });

/** A body that may be left out and must hold nothing. */
export const emptyBody = Type.Object({}, { additionalProperties: false });

export const nameField = Type.String({ minLength: 1, maxLength: 255, description: 'no control characters' });
export const sizeField = Type.Integer({
  minimum: 1,
  maximum: Number.MAX_SAFE_INTEGER,
  description: 'bytes; rounded up to whole sectors',
});
const metaField = Type.Unsafe<Record<string, string>>({ type: 'object', additionalProperties: { type: 'string' } });
const tagsField = Type.Array(Type.String({ minLength: 1, maxLength: 64 }), { maxItems: 64 });

export const labelFields = {
  description: Type.Optional(Type.String({ maxLength: 4096 })),
  meta: Type.Optional(metaField),
  tags: Type.Optional(tagsField),
};

export const pageFields = {
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, description: 'default 100' })),
  cursor: Type.Optional(Type.String({ minLength: 1, maxLength: 1024, description: '`nextCursor` of the page before' })),
  offset: Type.Optional(
    Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER, description: 'instead of a cursor' }),
  ),
  total: Type.Optional(Type.Boolean({ description: 'count all that match' })),
};

export const nameFilterFields = {
  name: Type.Optional(Type.String({ maxLength: 255, description: 'exact' })),
  nameContains: Type.Optional(Type.String({ maxLength: 255, description: 'part of the name, in any case' })),
  nameLike: Type.Optional(Type.String({ maxLength: 255, description: '`*` stands for any run of characters' })),
};

export const orderField = Type.Optional(oneOf(['asc', 'desc']));

export interface PageQuery {
  limit?: number;
  cursor?: string;
  offset?: number;
  total?: boolean;
}

/** The service's words for the page that a query asks for. */
export function pageRequest(query: PageQuery): {
  limit?: number;
  cursor?: string;
  offset?: number;
  withTotal?: boolean;
} {
  const { total, ...rest } = query;
  return { ...rest, ...(total === true ? { withTotal: true } : {}) };
}

export const timeField = Type.String({
  pattern: '^\\d{4}-\\d{2}-\\d{2}(T\\d{2}:\\d{2}(:\\d{2}(\\.\\d{1,6})?)?(Z|[+-]\\d{2}:\\d{2}))?$',
  description: 'ISO 8601 with a time zone',
});
