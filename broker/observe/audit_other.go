//go:build !unix

package observe

// openNoLink is nothing: who may make links in the folder may do anything else to it.
const openNoLink = 0
