// Package ownnet runs tests in a network of their own (Linux): what they bind,
// route and send there touches nothing of the host's.
package ownnet
