// Talks to the admin API with the cookie of the sign-in. A refusal becomes a Problem with the server's own words.

export class Problem extends Error {
  constructor(body, status) {
    super(body.code ?? 'network');
    this.title = body.title ?? 'The admin service did not answer. Check the connection, then try again.';
    this.detail = body.detail;
    this.code = body.code ?? 'network';
    this.status = status;
    this.body = body;
  }
}

let signedOut = () => undefined;
/** Called when the sign-in is no longer valid. */
export const onSignedOut = (listen) => {
  signedOut = listen;
};

const readBody = async (answer) => {
  try {
    return await answer.json();
  } catch {
    return {}; // An answer without JSON (a proxy's page): the status alone has to do.
  }
};

export const call = async (method, path, body) => {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      credentials: 'same-origin',
      signal: AbortSignal.timeout(10_000),
      ...(body === undefined
        ? {}
        : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
    });
  } catch (error) {
    throw new Problem({ detail: error.name === 'TimeoutError' ? 'No answer within 10 s.' : undefined }, 0);
  }
  if (answer.status === 204) return {};
  const read = await readBody(answer);
  if (answer.ok) return read;
  if (answer.status === 401 && path !== '/login') signedOut();
  throw new Problem(read, answer.status);
};

export const get = (path) => call('GET', path);
export const post = (path, body = {}) => call('POST', path, body);
export const patch = (path, body) => call('PATCH', path, body);
