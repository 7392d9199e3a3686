// Holds answers against the OpenAPI document: which operation was asked, whether it says that this status may come,
// and whether the body has the promised shape. Stricter than the document itself: a member that it does not name
// is a fault here, so that nobody adds one without writing it down.

import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { createOpenApi } from '../../line/openapi.ts';
import { Fan, type FanAnswer } from './fan.ts';

type Json = Record<string, unknown>;
type Content = Record<string, { schema: Json }>;
type Operation = {
  operationId: string;
  requestBody?: { content: Content };
  responses: Record<string, { content?: Content; headers?: Json }>;
};

// The document is made by our own table; what it is is tested against the schema of OpenAPI itself.
export const openApi = createOpenApi() as unknown as {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Json> };
};

/** The same schema with no member left open; parts that stand beside others under `allOf` stay as they are. */
const closed = (schema: unknown, isPart = false): unknown => {
  if (Array.isArray(schema)) return schema.map((one) => closed(one));
  if (typeof schema !== 'object' || schema === null) return schema;
  const out: Json = {};
  for (const [name, value] of Object.entries(schema))
    out[name] = name === 'const' || name === 'enum' ? value : closed(value, name === 'properties');
  const isObject = 'properties' in out && !isPart && !('allOf' in out);
  if (isObject && out.type === 'object' && !('additionalProperties' in out)) out.additionalProperties = false;
  return out;
};

const ajv = new Ajv2020({ strict: false, allErrors: true });
// The package exports its function as `default` of a CommonJS module.
(addFormats as unknown as { default: (on: Ajv2020) => void }).default(ajv);
ajv.addSchema({ $id: 'api', ...(closed({ components: openApi.components }) as Json) });

const compiled = new Map<string, ValidateFunction>();
const validatorOf = (key: string, schema: Json): ValidateFunction => {
  let validate = compiled.get(key);
  if (validate === undefined) {
    const text = JSON.stringify(closed(schema)).replaceAll('"#/components', '"api#/components');
    validate = ajv.compile(JSON.parse(text));
    compiled.set(key, validate);
  }
  return validate;
};

const matchers = Object.entries(openApi.paths)
  .map(([template, methods]) => ({
    methods,
    literals: template.split('/').filter((part) => !part.startsWith('{')).length,
    pattern: new RegExp(`^${template.replaceAll('.', '\\.').replace(/\{\w+\}/g, '[^/]+')}$`),
  }))
  .sort((a, b) => b.literals - a.literals);

/** What is wrong with an answer; empty when nothing is. `seen` is told `operation status code`. */
export const faultsOf = (
  asked: { method: string; path: string },
  answer: Pick<FanAnswer, 'status' | 'headers' | 'text'>,
  seen: (what: string) => void = () => undefined,
): string[] => {
  const where = `${asked.method} ${asked.path} → ${answer.status}`;
  const path = asked.path.split('?')[0]!;
  const operation = matchers.find(({ pattern }) => pattern.test(path))?.methods[asked.method.toLowerCase()];
  if (operation === undefined) return [`${where}: the document does not know this operation`];
  const reply = operation.responses[String(answer.status)];
  if (reply === undefined) return [`${where}: ${operation.operationId} has no such answer: ${answer.text}`];
  const type = String(answer.headers['content-type'] ?? '').split(';')[0]!;
  const faults: string[] = [];
  if (answer.headers['x-request-id'] === undefined) faults.push(`${where}: no x-request-id`);
  if (reply.content === undefined) {
    if (answer.text !== '') faults.push(`${where}: a body where none is promised`);
    seen(`${operation.operationId} ${answer.status}`);
    return faults;
  }
  const schema = reply.content[type]?.schema;
  if (schema === undefined) return [...faults, `${where}: ${type} is not promised`];
  const body: unknown = type.endsWith('json') ? JSON.parse(answer.text) : answer.text;
  const validate = validatorOf(`${operation.operationId} ${answer.status} ${type}`, schema);
  if (!validate(body)) faults.push(`${where}: ${ajv.errorsText(validate.errors)} in ${answer.text}`);
  const code = typeof body === 'object' && body !== null && 'code' in body ? ` ${body.code}` : '';
  if (code !== '' && reply.headers?.['Retry-After'] === undefined && 'retry-after' in answer.headers)
    faults.push(`${where}: Retry-After is not promised`);
  seen(`${operation.operationId} ${answer.status}${code}`);
  return faults;
};

/** A fan each of whose answers is held against the document. */
export class CheckedFan extends Fan {
  readonly faults: string[] = [];
  readonly seen = new Set<string>();

  override async ask(...asked: Parameters<Fan['ask']>): Promise<FanAnswer> {
    const [method, path] = asked;
    const answer = await super.ask(...asked);
    this.faults.push(...faultsOf({ method, path }, answer, (what) => this.seen.add(what)));
    return answer;
  }
}
