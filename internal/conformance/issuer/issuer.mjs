// issuer.mjs PORT CLIENT JWKS
//
// An OpenID Connect issuer on loopback, which signs with the private key in the
// file JWKS. Its token endpoint gives tokens for the audience CLIENT that live as
// long as the resource asked for says: http://127.0.0.1:PORT/life/SECONDS.

import { readFileSync } from "node:fs";
import { Provider } from "oidc-provider";

const [port, client, jwks] = process.argv.slice(2);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: JSON.parse(readFileSync(jwks, "utf8")),
  clients: [
    {
      client_id: client,
      client_secret: "loopback-only",
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
      token_endpoint_auth_method: "client_secret_post",
    },
  ],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: "sts",
        audience: client,
        accessTokenFormat: "jwt",
        accessTokenTTL: Number(resource.split("/").pop()),
      }),
    },
  },
});
provider.listen(Number(port), "127.0.0.1");
