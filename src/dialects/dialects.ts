/** The dialects that there are. */
import type { Dialect } from './dialect.ts';

export const dialects: readonly Dialect[] = [];
