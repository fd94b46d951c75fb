// Package repotest holds the tests that guard the repository itself: that each
// package tells a newcomer what it is for, that imports run along the arrows of
// docs/architecture.md, that dependencies are accounted for, and that what is
// in deploy/ is accepted by the programs it is for. It has no other code.
//
// The rules are pure functions over what the go command prints, in
// rules_test.go, each with a test that shows it can fail.
package repotest
