/**
 * Checks of what people name and describe things with: names, descriptions, metadata, tags, sizes. Every front door
 * comes through here, so that what one dialect accepts the others can show. Lengths count code points.
 */
import { CalotypeError, type ErrorCode } from './errors.ts';

export const maxNameLength = 255;
export const maxDescriptionLength = 4096;
export const maxMetaKeys = 64;
export const maxMetaKeyLength = 32;
export const maxMetaValueLength = 4096;
export const maxTags = 64;
export const maxTagLength = 64;
/** Sizes are whole sectors. */
export const sectorBytes = 512;

const control = /\p{Cc}/u;

/** Code points, but no more work than `limit` needs. */
function isLongerThan(text: string, limit: number): boolean {
  if (text.length <= limit) return false;
  if (text.length > limit * 2) return true;
  return [...text].length > limit;
}

/** Text that every database and wire format of ours can hold: no NUL, no half of a surrogate pair. */
function isStorable(text: string): boolean {
  return text.isWellFormed() && !text.includes('\0');
}

function refuse(code: ErrorCode, message: string, field: string, details: Record<string, unknown> = {}): never {
  throw new CalotypeError(code, message, { field, ...details });
}

/** A name of 1 to 255 characters without control characters. @throws `invalid_name` */
export function checkName(value: unknown, field = 'name'): string {
  if (typeof value !== 'string') return refuse('invalid_name', `The ${field} must be text.`, field);
  if (value === '' || isLongerThan(value, maxNameLength)) {
    refuse('invalid_name', `The ${field} must have 1 to ${maxNameLength} characters.`, field, {
      maxLength: maxNameLength,
    });
  }
  if (control.test(value) || !isStorable(value)) {
    refuse('invalid_name', `The ${field} must not hold control characters.`, field);
  }
  return value;
}

/** A description of up to 4096 characters, line breaks allowed; nothing given is the empty text. @throws `invalid_request` */
export function checkDescription(value: unknown, field = 'description'): string {
  if (value === undefined || value === null) return '';
  if (typeof value !== 'string') return refuse('invalid_request', `The ${field} must be text.`, field);
  if (isLongerThan(value, maxDescriptionLength)) {
    refuse('invalid_request', `The ${field} must have at most ${maxDescriptionLength} characters.`, field, {
      maxLength: maxDescriptionLength,
    });
  }
  if (!isStorable(value)) refuse('invalid_request', `The ${field} must not hold NUL characters.`, field);
  return value;
}

/** Up to 64 keys of 1 to 32 characters, each with a text of up to 4096. @throws `invalid_meta` */
export function checkMeta(value: unknown, field = 'meta'): Record<string, string> {
  if (value === undefined || value === null) return {};
  if (typeof value !== 'object' || Array.isArray(value)) {
    return refuse('invalid_meta', 'Metadata must be an object of texts.', field);
  }
  const entries: [string, string][] = [];
  for (const [key, text] of Object.entries(value)) {
    if (entries.length === maxMetaKeys) {
      refuse('invalid_meta', `Metadata must have at most ${maxMetaKeys} keys.`, field, { maxKeys: maxMetaKeys });
    }
    if (key === '' || isLongerThan(key, maxMetaKeyLength) || control.test(key) || !isStorable(key)) {
      refuse('invalid_meta', `A metadata key must have 1 to ${maxMetaKeyLength} characters, none of control.`, field, {
        maxKeyLength: maxMetaKeyLength,
      });
    }
    if (typeof text !== 'string') return refuse('invalid_meta', `The metadata of ${key} must be text.`, field, { key });
    if (isLongerThan(text, maxMetaValueLength) || !isStorable(text)) {
      refuse(
        'invalid_meta',
        `The metadata of ${key} must have at most ${maxMetaValueLength} characters, no NUL.`,
        field,
        {
          key,
          maxLength: maxMetaValueLength,
        },
      );
    }
    entries.push([key, text]);
  }
  // fromEntries defines own properties, so that a key such as __proto__ stays a key.
  return Object.fromEntries(entries);
}

/** Up to 64 different tags of 1 to 64 characters, sorted. @throws `invalid_tag` */
export function checkTags(value: unknown, field = 'tags'): string[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) return refuse('invalid_tag', 'Tags must be a list of texts.', field);
  const list: readonly unknown[] = value;
  const tags = new Set<string>();
  for (const tag of list) {
    if (typeof tag !== 'string') return refuse('invalid_tag', 'A tag must be text.', field);
    if (tag === '' || isLongerThan(tag, maxTagLength)) {
      refuse('invalid_tag', `A tag must have 1 to ${maxTagLength} characters.`, field, { maxLength: maxTagLength });
    }
    if (tag.includes(',') || control.test(tag) || !isStorable(tag)) {
      refuse('invalid_tag', 'A tag must not hold commas or control characters.', field, { tag });
    }
    tags.add(tag);
    if (tags.size > maxTags) {
      refuse('invalid_tag', `There may be at most ${maxTags} tags.`, field, { maxTags });
    }
  }
  return [...tags].sort();
}

/** The next whole sector at or above a size in bytes. */
export function roundSize(sizeBytes: number): number {
  return Math.ceil(sizeBytes / sectorBytes) * sectorBytes;
}

/** A size in bytes above zero, rounded up to whole sectors, at most `max`. @throws `invalid_size` */
export function checkSize(value: unknown, limits: { max: number }, field = 'size'): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value <= 0) {
    return refuse('invalid_size', `The ${field} must be a whole number of bytes above zero.`, field);
  }
  const size = roundSize(value);
  if (size > limits.max) {
    refuse('invalid_size', `The ${field} must be at most ${limits.max} bytes.`, field, { max: limits.max });
  }
  return size;
}
