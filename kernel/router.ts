// Patterns to routes. A pattern is literal segments and `:name`; a literal wins over a name at every segment. The
// tree is walked by segment, so an address of no pattern (everything that is proxied) is known after one look.

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];

type Node<R> = {
  literals: Map<string, Node<R>>;
  /** The `:name` child; siblings may name it differently, so the names are kept with the routes. */
  named: Node<R> | undefined;
  routes: Map<string, { route: R; names: readonly string[] }>;
};

export type Found<R> =
  | { outcome: 'found'; route: R; params: Readonly<Record<string, string>> }
  | { outcome: 'wrong-method'; allow: string }
  | { outcome: 'none' };

const newNode = <R>(): Node<R> => ({ literals: new Map(), named: undefined, routes: new Map() });
const NONE = { outcome: 'none' } as const;
const NO_PARAMS = Object.freeze({});

export type Router<R> = {
  /** Throws when the method and pattern are taken: two owners of one address are a bug. */
  add(method: string, pattern: string, route: R): void;
  /** `method` is one of the registered words; HEAD is served by GET. */
  find(method: string, path: string): Found<R>;
};

export const createRouter = <R>(): Router<R> => {
  const root = newNode<R>();

  const walk = (node: Node<R>, path: string, at: number, values: string[]): Node<R> | undefined => {
    if (at > path.length) return node.routes.size > 0 ? node : undefined;
    let end = path.indexOf('/', at);
    if (end < 0) end = path.length;
    const segment = path.slice(at, end);
    const literal = node.literals.get(segment);
    if (literal !== undefined) {
      const found = walk(literal, path, end + 1, values);
      if (found !== undefined) return found;
    }
    if (node.named === undefined || segment === '') return undefined;
    values.push(segment);
    const found = walk(node.named, path, end + 1, values);
    if (found === undefined) values.pop();
    return found;
  };

  return {
    add(method, pattern, route) {
      if (!pattern.startsWith('/')) throw new Error(`pattern '${pattern}' does not begin with /`);
      const names: string[] = [];
      let node = root;
      for (const segment of pattern.slice(1).split('/')) {
        if (segment.startsWith(':')) {
          names.push(segment.slice(1));
          node.named ??= newNode();
          node = node.named;
        } else {
          const next = node.literals.get(segment) ?? newNode<R>();
          node.literals.set(segment, next);
          node = next;
        }
      }
      if (node.routes.has(method)) throw new Error(`${method} ${pattern} is registered twice`);
      node.routes.set(method, { route, names });
    },
    find(method, path) {
      const values: string[] = [];
      const node = walk(root, path, 1, values);
      if (node === undefined) return NONE;
      const entry = node.routes.get(method) ?? (method === 'HEAD' ? node.routes.get('GET') : undefined);
      if (entry === undefined) {
        const allowed = METHODS.filter(
          (known) => node.routes.has(known) || (known === 'HEAD' && node.routes.has('GET')),
        );
        return { outcome: 'wrong-method', allow: allowed.join(', ') };
      }
      if (values.length === 0) return { outcome: 'found', route: entry.route, params: NO_PARAMS };
      const params: Record<string, string> = {};
      for (const [index, name] of entry.names.entries()) params[name] = values[index]!;
      return { outcome: 'found', route: entry.route, params };
    },
  };
};
