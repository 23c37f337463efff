/** The dialects that there are. */
import { cloudmc } from './cloudmc/routes.ts';
import { cloudsigma } from './cloudsigma/routes.ts';
import { deltacloud } from './deltacloud/routes.ts';
import type { Dialect } from './dialect.ts';
import { manageiq } from './manageiq/routes.ts';
import { syminet } from './syminet/routes.ts';

export const dialects: readonly Dialect[] = [manageiq, cloudsigma, syminet, cloudmc, deltacloud];
