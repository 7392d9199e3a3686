// A certificate for localhost that signs itself. node:crypto makes none, so the openssl of the system does.

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

/** Writes `name.pem` and `name.key` into the folder. */
export const makeCertificate = (folder: string, name: string) => {
  const files = { certFile: join(folder, `${name}.pem`), keyFile: join(folder, `${name}.key`) };
  execFileSync(
    'openssl',
    [
      ...[
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '2',
      ],
      ...['-subj', `/CN=${name}`, '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'],
      ...['-keyout', files.keyFile, '-out', files.certFile],
    ],
    { stdio: 'ignore' },
  );
  return files;
};
