/** Projects and who belongs to them. */
import Type from 'typebox';
import { notFound } from '../../core/errors.ts';
import { isoFromUs } from '../../core/time.ts';
import type { Member, Project } from '../../service/projects.ts';
import { callerOf } from '../authentication.ts';
import { type App, type AppContext, describe } from '../context.ts';
import { ifVersion, setEtag } from '../preconditions.ts';
import { presentPage } from '../presenters.ts';
import { nameField, pageFields, pageRequest, strict } from '../requests.ts';
import { type MemberBody, memberRef, noContent, oneOf, type ProjectBody, pageOf, projectRef } from '../schemas.ts';

const params = Type.Object({ projectId: Type.String({ description: 'id or name' }) });
const memberParams = Type.Object({
  projectId: Type.String({ description: 'id or name' }),
  userId: Type.String({ description: 'id, name or e-mail address' }),
});

const presentProject = (project: Project): ProjectBody => ({
  id: project.id,
  number: project.number,
  name: project.name,
  createdAt: isoFromUs(project.createdAt),
  version: project.version,
});

const presentMember = (member: Member): MemberBody => ({
  projectId: member.projectId,
  userId: member.userId,
  userName: member.userName,
  email: member.email,
  role: member.role,
});

export function projectRoutes(app: App, context: AppContext): void {
  const { projects } = context.accounts;

  app.get(
    '/v1/projects',
    {
      schema: {
        ...describe('listProjects', 'projects', 'List the projects you belong to; all of them for operators'),
        querystring: strict(pageFields),
        response: { 200: pageOf<ProjectBody>('Project') },
      },
      config: { notes: { errors: ['invalid_cursor'] } },
    },
    async (request) => presentPage(await projects.list(callerOf(request), pageRequest(request.query)), presentProject),
  );

  app.post(
    '/v1/projects',
    {
      schema: {
        ...describe('createProject', 'projects', 'Create a project (operators)'),
        body: strict({ name: nameField }),
        response: { 201: projectRef },
      },
      config: { notes: { errors: ['forbidden', 'invalid_name', 'name_taken'] } },
    },
    async (request, reply) => {
      const made = await projects.create(callerOf(request), request.body);
      reply.code(201).header('location', `/v1/projects/${made.id}`);
      setEtag(reply, made);
      return presentProject(made);
    },
  );

  app.get(
    '/v1/projects/:projectId',
    {
      schema: { ...describe('getProject', 'projects', 'Get a project'), params, response: { 200: projectRef } },
      config: { notes: { errors: ['not_found'] } },
    },
    async (request, reply) => {
      const project = await projects.get(callerOf(request), request.params.projectId);
      setEtag(reply, project);
      return presentProject(project);
    },
  );

  app.patch(
    '/v1/projects/:projectId',
    {
      schema: {
        ...describe('updateProject', 'projects', 'Rename a project (operators)'),
        params,
        body: strict({ name: Type.Optional(nameField) }),
        response: { 200: projectRef },
      },
      config: { notes: { errors: ['not_found', 'forbidden', 'invalid_name', 'name_taken'], versioned: true } },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { projectId } = request.params;
      const version = await ifVersion(request, () => projects.get(caller, projectId));
      const project = await projects.update(caller, projectId, { ...request.body, ...version });
      setEtag(reply, project);
      return presentProject(project);
    },
  );

  app.delete(
    '/v1/projects/:projectId',
    {
      schema: {
        ...describe('deleteProject', 'projects', 'Delete an empty project (operators)'),
        params,
        response: { 204: noContent },
      },
      config: { notes: { errors: ['not_found', 'forbidden', 'project_not_empty'], versioned: true } },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { projectId } = request.params;
      await projects.delete(caller, projectId, await ifVersion(request, () => projects.get(caller, projectId)));
      return reply.code(204).send(null);
    },
  );

  app.get(
    '/v1/projects/:projectId/members',
    {
      schema: {
        ...describe('listMembers', 'projects', 'List the members of a project (its admins)'),
        params,
        response: {
          200: Type.Object({
            items: Type.Unsafe<readonly MemberBody[]>({ type: 'array', items: { $ref: 'Member#' } }),
          }),
        },
      },
      config: { notes: { errors: ['not_found', 'forbidden'] } },
    },
    async (request) => ({
      items: (await projects.listMembers(callerOf(request), request.params.projectId)).map(presentMember),
    }),
  );

  app.get(
    '/v1/projects/:projectId/members/:userId',
    {
      schema: {
        ...describe('getMember', 'projects', 'Get a member of a project'),
        params: memberParams,
        response: { 200: memberRef },
      },
      config: { notes: { errors: ['not_found', 'forbidden'] } },
    },
    async (request) => {
      const { projectId, userId } = request.params;
      const members = await projects.listMembers(callerOf(request), projectId);
      const member = members.find(
        (m) => m.userId === userId || m.userName === userId || m.email === userId.toLowerCase(),
      );
      if (member === undefined) throw notFound('user', userId);
      return presentMember(member);
    },
  );

  app.put(
    '/v1/projects/:projectId/members/:userId',
    {
      schema: {
        ...describe('setMember', 'projects', 'Make a user a member of a project, or change the role'),
        params: memberParams,
        body: strict({ role: oneOf(['admin', 'member', 'guest']) }),
        response: { 200: memberRef },
      },
      config: { notes: { errors: ['not_found', 'forbidden'] } },
    },
    async (request) => {
      const { projectId, userId } = request.params;
      return presentMember(
        await projects.setMember(callerOf(request), projectId, { user: userId, role: request.body.role }),
      );
    },
  );

  app.delete(
    '/v1/projects/:projectId/members/:userId',
    {
      schema: {
        ...describe('removeMember', 'projects', 'Remove a user and their grants from a project'),
        params: memberParams,
        response: { 204: noContent },
      },
      config: { notes: { errors: ['not_found', 'forbidden'] } },
    },
    async (request, reply) => {
      await projects.removeMember(callerOf(request), request.params.projectId, request.params.userId);
      return reply.code(204).send(null);
    },
  );
}
