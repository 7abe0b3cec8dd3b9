// An OpenID provider for tests (npm oidc-provider), run by identitykit.py:
//
//     node oidcprovider.mjs FOLDER/settings.json
//
// The settings are read again with SIGHUP, which is how keys are rotated. Tokens that were issued stay:
// they are in the memory of this process. Tokens with a resource (an audience) are JWTs, except for resources
// with the ending that the settings name; others are opaque.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const file = process.argv[2];
const { module, port } = JSON.parse(readFileSync(file));
const { Provider } = await import(pathToFileURL(module));

function load() {
  const settings = JSON.parse(readFileSync(file));
  const scopes = settings.scopes;
  const server = (resource) => ({
    scope: scopes.join(' '),
    audience: resource,
    accessTokenTTL: settings.seconds,
    accessTokenFormat: resource.endsWith(settings.opaque) ? 'opaque' : 'jwt',
    jwt: { sign: { alg: 'RS256' } },
  });
  const provider = new Provider(settings.issuer, {
    jwks: { keys: settings.keys },
    scopes,
    clients: settings.clients.map(({ id, secret }) => ({
      client_id: id,
      client_secret: secret,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      scope: scopes.join(' '),
    })),
    ttl: { ClientCredentials: settings.seconds },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (ctx, resource) => server(resource),
        useGrantedResource: () => true,
      },
    },
  });
  return provider.callback();
}

let answer = load();
process.on('SIGHUP', () => { answer = load(); });
createServer((request, response) => answer(request, response)).listen(port, '127.0.0.1');
