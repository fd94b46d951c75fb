// Package access decides who may ask for which profile: it makes the tokens
// that clients show, recognises them, and implements [broker.Authorizer].
//
// A token is derived from a secret and the token's id. So it can be printed
// again and survives a restart, and yet its value rests nowhere: the state
// folder has the secret (sealed in a vault, or without one in the file
// "token-secret") and the list of tokens with their rights ("tokens.json"), and
// memory has the value's hash.
//
// # Reading order
//
//   - token.go: what a token looks like and how it is derived
//   - tokens.go: making, listing and revoking them
//   - files.go: tokens that are in files, and the ones that change there by the hour
//   - authorize.go: recognising one, and deciding; the way of every request
//   - rules.go: what the configuration lets other users and certain tokens have
//   - state.go: the secret and the list on disk
package access
