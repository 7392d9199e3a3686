// A certificate and its key as files: looked at before a server takes them, so that a fault is a sentence that names
// the file, and never a server that cannot shake hands. uWebSockets.js reads the files itself (kernel/http.ts).

import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import type { TlsFiles } from './server.ts';

const readPem = (file: string, what: string): Buffer => {
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new Error(`The ${what} ${file} cannot be read.`, { cause });
  }
};

/** Throws when a file cannot be read, is not PEM, or when the two do not belong together. Answers what it found. */
export const checkCertificate = (files: TlsFiles): { subject: string; validTo: string } => {
  const cert = readPem(files.certFile, 'certificate');
  const key = readPem(files.keyFile, 'key');
  try {
    // The whole chain, as a server would load it; it also notices a key that is not the certificate's.
    createSecureContext({ cert, key });
    const leaf = new X509Certificate(cert);
    if (!leaf.checkPrivateKey(createPrivateKey(key)))
      throw new Error('the key is not that of the certificate');
    return { subject: leaf.subject, validTo: leaf.validTo };
  } catch (cause) {
    throw new Error(
      `The certificate ${files.certFile} and the key ${files.keyFile} cannot be used together.`,
      {
        cause,
      },
    );
  }
};
