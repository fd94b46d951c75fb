// assert.mjs ORDER
//
// A SAML identity provider without its web pages: prints a response in base64
// whose assertion is signed as by XML-DSig. The file ORDER is JSON: the paths "key" and
// "cert" (PEM), "issuer", "audience", "recipient", "subject", "life" (seconds),
// "attributes".

import { readFileSync } from "node:fs";
import { randomUUID } from "node:crypto";
import saml from "saml";

const order = JSON.parse(readFileSync(process.argv[2], "utf8"));
const assertion = saml.Saml20.create({
  key: readFileSync(order.key),
  cert: readFileSync(order.cert),
  signatureAlgorithm: "rsa-sha256",
  digestAlgorithm: "sha256",
  issuer: order.issuer,
  audiences: order.audience,
  recipient: order.recipient,
  lifetimeInSeconds: order.life,
  nameIdentifier: order.subject,
  nameIdentifierFormat: "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
  authnContextClassRef: "urn:oasis:names:tc:SAML:2.0:ac:classes:Password",
  attributes: order.attributes,
});
const response =
  `<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" ID="_${randomUUID()}" Version="2.0" ` +
  `IssueInstant="${new Date().toISOString()}" Destination="${order.recipient}">` +
  `<saml:Issuer xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion">${order.issuer}</saml:Issuer>` +
  `<samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status>` +
  `${assertion}</samlp:Response>`;
process.stdout.write(Buffer.from(response).toString("base64"));
