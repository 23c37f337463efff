/** Tokens: API keys. */
import Type from 'typebox';
import { CalotypeError } from '../../core/errors.ts';
import { isoFromUs, usFromIso } from '../../core/time.ts';
import type { Token } from '../../service/tokens.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { isoOrNull, presentPage } from '../presenters.ts';
import { nameField, pageFields, pageRequest, strict, timeField } from '../requests.ts';
import { noContent, pageOf, type TokenBody, tokenRef } from '../schemas.ts';

const params = Type.Object({ tokenId: Type.String() });
const userField = Type.Optional(
  Type.String({ minLength: 1, maxLength: 255, description: 'id, name or e-mail address; operators only' }),
);

const presentToken = (token: Token): TokenBody => ({
  id: token.id,
  number: token.number,
  userId: token.userId,
  name: token.name,
  prefix: token.prefix,
  createdAt: isoFromUs(token.createdAt),
  expiresAt: isoOrNull(token.expiresAt),
  revokedAt: isoOrNull(token.revokedAt),
});

export function tokenRoutes(app: App, context: AppContext): void {
  const { tokens } = context.accounts;

  app.get(
    '/v1/tokens',
    {
      schema: {
        ...describe('listTokens', 'tokens', 'List your tokens, revoked and expired ones too'),
        querystring: strict({ user: userField, ...pageFields }),
        response: { 200: pageOf<TokenBody>('Token') },
      },
      config: { notes: { errors: ['not_found', 'invalid_cursor'] } },
    },
    async (request) => {
      const { user, ...page } = request.query;
      return presentPage(await tokens.list(callerOf(request), { user }, pageRequest(page)), presentToken);
    },
  );

  app.post(
    '/v1/tokens',
    {
      schema: {
        ...describe('createToken', 'tokens', 'Create a token; its secret is in this answer only'),
        body: strict({ name: nameField, expiresAt: Type.Optional(timeField), user: userField }),
        response: { 201: Type.Object({ token: tokenRef, secret: Type.String() }) },
      },
      config: { notes: { errors: ['not_found', 'forbidden', 'invalid_name'] } },
    },
    async (request, reply) => {
      const { expiresAt, ...input } = request.body;
      const us = expiresAt === undefined ? null : usFromIso(expiresAt);
      if (us === null && expiresAt !== undefined) {
        throw new CalotypeError('invalid_request', 'expiresAt is not an ISO 8601 time.', { field: 'expiresAt' });
      }
      const { token, secret } = await tokens.create(callerOf(request), { ...input, expiresAt: us });
      reply.code(201).header('location', `/v1/tokens/${token.id}`);
      return { token: presentToken(token), secret };
    },
  );

  app.get(
    '/v1/tokens/:tokenId',
    {
      schema: {
        ...describe('getToken', 'tokens', 'Get a token, without its secret'),
        params,
        response: { 200: tokenRef },
      },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request) => presentToken(await tokens.get(callerOf(request), request.params.tokenId)),
  );

  app.delete(
    '/v1/tokens/:tokenId',
    {
      schema: { ...describe('revokeToken', 'tokens', 'Revoke a token, at once'), params, response: { 204: noContent } },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request, reply) => {
      await tokens.revoke(callerOf(request), request.params.tokenId);
      return reply.code(204).send(null);
    },
  );
}
