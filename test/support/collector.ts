// A collector of traces as an operator would run one: takes OTLP over HTTP in JSON, and shows the spans that came.

import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

type Teardown = { teardown(work: () => unknown): void };

export type SeenSpan = {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  traceState?: string;
  name: string;
  kind: number;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  /** By name; numbers as the text they travel as. */
  attributes: Record<string, string>;
  status: { code?: number };
};

export type Collector = {
  url: string;
  spans: SeenSpan[];
  /** The bodies as they came. */
  bodies: string[];
  /** Paths that were asked, one a request. */
  paths: string[];
  /** What it answers from now on; undefined: nothing at all. */
  answers: number | undefined;
};

type Sent = {
  resourceSpans: {
    resource: { attributes: unknown[] };
    scopeSpans: {
      scope: { name: string };
      spans: (Omit<SeenSpan, 'attributes'> & {
        attributes: { key: string; value: { stringValue?: string; intValue?: string } }[];
      })[];
    }[];
  }[];
};

export const startCollector = async (t: Teardown): Promise<Collector> => {
  const collector: Collector = { url: '', spans: [], bodies: [], paths: [], answers: 200 };
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      collector.paths.push(`${request.method} ${request.url}`);
      if (collector.answers === undefined) return;
      if (collector.answers === 200) {
        const body = Buffer.concat(chunks).toString('utf8');
        collector.bodies.push(body);
        // Our own exporter wrote it; a test fails by the missing members if it wrote something else.
        const sent = JSON.parse(body) as Sent;
        for (const { scopeSpans } of sent.resourceSpans)
          for (const { spans } of scopeSpans)
            for (const span of spans)
              collector.spans.push({
                ...span,
                attributes: Object.fromEntries(
                  span.attributes.map(({ key, value }) => [key, value.stringValue ?? value.intValue ?? '']),
                ),
              });
      }
      response.writeHead(collector.answers, { 'content-type': 'application/json' }).end('{}');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  // `listen` on a port was awaited, so the address is one of TCP.
  collector.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return collector;
};
