# Anteroom in a container: every role from one image; ANTEROOM_ROLES chooses. The base has glibc 2.41, because the
# uWebSockets.js binary for Node 24 needs 2.38 or later (so never alpine). redis-server is inside for the embedded
# default, when no ANTEROOM_REDIS_URL is given.

FROM node:24-trixie-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Binaries of other systems are half of the weight, and 137 is the module version of Node 24. Loading what is left
# shows at build time that it fits this base.
RUN npm ci --omit=dev \
  && find node_modules/uWebSockets.js -name '*.node' ! -name 'uws_linux_*_137.node' -delete \
  && node -e "require('uWebSockets.js')"

FROM node:24-trixie-slim
RUN apt-get update \
  && apt-get install --yes --no-install-recommends redis-server \
  && rm -rf /var/lib/apt/lists/* \
  && mkdir /data && chown node:node /data
WORKDIR /app
COPY --from=packages /app/node_modules ./node_modules
COPY . .
# Listening on all addresses of the container: what is reachable from outside is decided by the published ports.
ENV NODE_ENV=production ANTEROOM_HOST=0.0.0.0 ANTEROOM_DATA=/data
USER node
VOLUME /data
EXPOSE 8080 8081 8082 8083 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + (process.env.ANTEROOM_METRICS_PORT || 9090) + '/live').then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
STOPSIGNAL SIGTERM
CMD ["node", "--import", "tsx/esm", "main.ts"]
