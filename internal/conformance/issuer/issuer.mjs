// issuer.mjs PORT
//
// An OpenID Connect issuer on loopback. Its token endpoint gives signed tokens
// for the audience "minio" that live as long as the resource asked for says:
// http://127.0.0.1:PORT/life/SECONDS.

import { Provider } from "oidc-provider";

const port = Number(process.argv[2]);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "minio",
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
        audience: "minio",
        accessTokenFormat: "jwt",
        accessTokenTTL: Number(resource.split("/").pop()),
      }),
    },
  },
});
provider.listen(port, "127.0.0.1");
