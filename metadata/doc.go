// Package metadata is the front doors over HTTP: it answers AWS SDKs in the
// dialects that they already speak. It reads leases through [Source] and knows
// nothing of how credentials come about.
//
// A request passes three rooms:
//
//   - guard.go: [Guard] turns away what no SDK sends: other hosts' names,
//     browsers, proxies, bodies. Every door is behind it, and so should
//     everything else be that is served over TCP.
//   - container.go: [NewContainer], the container (ECS/EKS) door: token, second
//     factor, profile, credentials.
//   - imds.go: [NewIMDS], an instance metadata service with one role: user,
//     session token, leaf or listing. imds_token.go has the tokens.
//   - render.go, errors.go: the bytes that leave, for a set and for an error.
//
// server.go has the limits on time and size, [NewServer]. Who is at the other
// end of a connection is the business of package listen.
//
// What clients expect is noted where it is kept. It was read in the SDKs' own
// sources; "the CRT" is aws-c-auth, under the C++, Python and Java CRT clients.
package metadata
