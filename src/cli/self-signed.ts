/** Makes a self-signed server certificate. node:crypto reads X.509 but does not write it, so @peculiar/x509 does. */

import { randomBytes, webcrypto, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
// Wanted by the next one, and to be loaded before it.
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';

export interface SelfSigned {
  readonly certificatePem: string;
  /** PKCS #8. */
  readonly keyPem: string;
  /** SHA-256, as `AA:BB:…`. */
  readonly fingerprint: string;
}

/** ECDSA P-256; valid from an hour ago, for clocks that differ. */
export async function makeSelfSigned(hosts: readonly string[], days: number, now: number): Promise<SelfSigned> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  // Positive and of full length.
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x3f) | 0x40;
  const certificate = await x509.X509CertificateGenerator.createSelfSigned(
    {
      serialNumber: serial.toString('hex'),
      name: [{ CN: [hosts[0] ?? 'calotype'] }],
      notBefore: new Date(now - 3600_000),
      notAfter: new Date(now + days * 86_400_000),
      signingAlgorithm: algorithm,
      keys,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
        new x509.SubjectAlternativeNameExtension(
          hosts.map((value) => ({ type: isIP(value) === 0 ? 'dns' : 'ip', value })),
        ),
      ],
    },
    webcrypto,
  );
  const certificatePem = `${certificate.toString('pem')}\n`;
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  const keyPem = `-----BEGIN PRIVATE KEY-----\n${pkcs8.replace(/.{1,64}/g, '$&\n')}-----END PRIVATE KEY-----\n`;
  return { certificatePem, keyPem, fingerprint: new X509Certificate(certificatePem).fingerprint256 };
}
