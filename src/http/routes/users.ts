/** Users of the server. */
import Type from 'typebox';
import { CalotypeError } from '../../core/errors.ts';
import { isoFromUs } from '../../core/time.ts';
import type { Caller } from '../../service/caller.ts';
import type { User } from '../../service/users.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { ifVersion, setEtag } from '../preconditions.ts';
import { presentPage } from '../presenters.ts';
import { nameField, pageFields, pageRequest, strict } from '../requests.ts';
import { noContent, pageOf, type UserBody, userRef } from '../schemas.ts';

const params = Type.Object({ userId: Type.String({ description: 'id, name, e-mail address, or `me`' }) });
const passwordField = Type.String({ minLength: 1, maxLength: 1024 });
const emailField = Type.Optional(Type.Unsafe<string | null>({ type: ['string', 'null'], maxLength: 254 }));

const presentUser = (user: User): UserBody => ({
  id: user.id,
  number: user.number,
  name: user.name,
  email: user.email,
  isOperator: user.isOperator,
  disabled: user.disabled,
  hasPassword: user.hasPassword,
  createdAt: isoFromUs(user.createdAt),
  version: user.version,
});

const named = (caller: Caller, asked: string): string => (asked === 'me' ? caller.userId : asked);

export function userRoutes(app: App, context: AppContext): void {
  const { users } = context.accounts;

  app.get(
    '/v1/users',
    {
      schema: {
        ...describe(
          'listUsers',
          'users',
          'List users: all for operators, those of the project for its admins, else yourself',
        ),
        querystring: strict(pageFields),
        response: { 200: pageOf<UserBody>('User') },
      },
      config: { notes: { errors: ['invalid_cursor'] } },
    },
    async (request) => presentPage(await users.list(callerOf(request), pageRequest(request.query)), presentUser),
  );

  app.post(
    '/v1/users',
    {
      schema: {
        ...describe('createUser', 'users', 'Create a user (operators)'),
        body: strict({
          name: nameField,
          email: emailField,
          password: Type.Optional(Type.String({ ...passwordField, description: 'left out: tokens only' })),
          isOperator: Type.Optional(Type.Boolean()),
        }),
        response: { 201: userRef },
      },
      config: { notes: { errors: ['forbidden', 'invalid_name', 'name_taken'] } },
    },
    async (request, reply) => {
      const made = await users.create(callerOf(request), request.body);
      reply.code(201).header('location', `/v1/users/${made.id}`);
      setEtag(reply, made);
      return presentUser(made);
    },
  );

  app.get(
    '/v1/users/:userId',
    {
      schema: { ...describe('getUser', 'users', 'Get a user'), params, response: { 200: userRef } },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const user = await users.get(caller, named(caller, request.params.userId));
      setEtag(reply, user);
      return presentUser(user);
    },
  );

  app.patch(
    '/v1/users/:userId',
    {
      schema: {
        ...describe('updateUser', 'users', 'Change a user (operators)'),
        params,
        body: strict({
          name: Type.Optional(nameField),
          email: emailField,
          isOperator: Type.Optional(Type.Boolean()),
          disabled: Type.Optional(Type.Boolean({ description: 'stops the password and all tokens at once' })),
        }),
        response: { 200: userRef },
      },
      config: {
        notes: { errors: ['not_found', 'forbidden', 'invalid_name', 'name_taken', 'last_admin'], versioned: true },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const asked = named(caller, request.params.userId);
      const version = await ifVersion(request, () => users.get(caller, asked));
      const user = await users.update(caller, asked, { ...request.body, ...version });
      setEtag(reply, user);
      return presentUser(user);
    },
  );

  app.delete(
    '/v1/users/:userId',
    {
      schema: {
        ...describe('deleteUser', 'users', 'Delete a user with tokens, memberships and grants (operators)'),
        params,
        response: { 204: noContent },
      },
      config: { notes: { errors: ['not_found', 'forbidden', 'last_admin'], versioned: true } },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const asked = named(caller, request.params.userId);
      await users.delete(caller, asked, await ifVersion(request, () => users.get(caller, asked)));
      return reply.code(204).send(null);
    },
  );

  app.put(
    '/v1/users/:userId/password',
    {
      schema: {
        ...describe('setPassword', 'users', 'Set a password: your own with the old one, any as an operator'),
        params,
        body: strict({ password: passwordField, oldPassword: Type.Optional(passwordField) }),
        response: { 204: noContent },
      },
      config: { notes: { errors: ['not_found', 'forbidden', 'too_many_logins'] } },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const asked = named(caller, request.params.userId);
      const { password, oldPassword } = request.body;
      if (oldPassword === undefined) await users.setPassword(caller, asked, password);
      else {
        const user = await users.get(caller, asked);
        if (user.id !== caller.userId) {
          throw new CalotypeError('invalid_request', 'An old password goes only with your own.', {
            field: 'oldPassword',
          });
        }
        await users.changePassword(caller, { oldPassword, newPassword: password });
      }
      return reply.code(204).send(null);
    },
  );
}
