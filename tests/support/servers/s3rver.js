/*
 * s3rver, with the verification of signatures that it lacks, and TLS if there is a certificate.
 *
 * The verification follows AWS's documentation and shares no code with our client:
 * https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
 */
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const https = require('https');
const path = require('path');
const S3rver = require('s3rver');

const [directory, certificate] = process.argv.slice(2);
const SECRET = 'S3RVER';

const hmac = (key, text) => crypto.createHmac('sha256', key).update(text).digest();
const sha256 = text => crypto.createHash('sha256').update(text).digest('hex');

function isSigned(request) {
  const match = /^AWS4-HMAC-SHA256 Credential=S3RVER\/(\d{8})\/([^/]+)\/s3\/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/.exec(
    request.headers.authorization || '',
  );
  if (!match) return false;
  const [, day, region, signedHeaders, signature] = match;
  const names = signedHeaders.split(';');
  for (const name of Object.keys(request.headers)) {
    const needed = name === 'host' || name === 'content-type' || name.startsWith('x-amz-');
    if (needed && !names.includes(name)) return false;
  }
  const [target, query = ''] = request.url.split('?');
  const canonicalQuery = query
    .split('&')
    .filter(Boolean)
    .map(pair => (pair.includes('=') ? pair : pair + '='))
    .sort()
    .join('&');
  const canonical = [
    request.method,
    target,
    canonicalQuery,
    ...names.map(name => `${name}:${request.headers[name].trim().replace(/ +/g, ' ')}`),
    '',
    signedHeaders,
    request.headers['x-amz-content-sha256'],
  ].join('\n');
  const scope = `${day}/${region}/s3/aws4_request`;
  const text = ['AWS4-HMAC-SHA256', request.headers['x-amz-date'], scope, sha256(canonical)].join('\n');
  const key = ['aws4_request', 's3', region, day].reduceRight(hmac, 'AWS4' + SECRET);
  return hmac(key, text).toString('hex') === signature;
}

const handle = new S3rver({
  directory,
  silent: true,
  configureBuckets: [{ name: 'bucket', configs: [] }],
});
// Its own answers before the object is in its file.
handle.store.putObject = async object => {
  const pieces = [];
  if (Buffer.isBuffer(object.content)) pieces.push(object.content);
  else for await (const piece of object.content) pieces.push(piece);
  const content = Buffer.concat(pieces);
  const md5 = crypto.createHash('md5').update(content).digest('hex');
  const file = handle.store.getResourcePath(object.bucket, object.key, 'object');
  await fs.promises.mkdir(path.dirname(file), { recursive: true });
  await fs.promises.writeFile(file, content);
  await handle.store.putMetadata(object.bucket, object.key, object.metadata, md5);
  return { size: content.length, md5 };
};
const serve = handle.callback();
const pem = certificate && fs.readFileSync(certificate);
const { createServer } = certificate ? https : http;
const server = createServer(pem ? { key: pem, cert: pem } : {}, (request, response) => {
  if (isSigned(request)) {
    serve(request, response);
    return;
  }
  response.writeHead(403, { 'Content-Type': 'application/xml', Connection: 'close' });
  response.end('<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>');
});

handle.configureBuckets().then(() => {
  server.listen(0, '127.0.0.1', () => {
    console.log(JSON.stringify({ url: `http${pem ? 's' : ''}://localhost:${server.address().port}` }));
  });
});
process.stdin.on('end', () => process.exit(0)).resume();
