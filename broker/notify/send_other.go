//go:build !linux && !darwin

package notify

import "context"

// newSender shows nothing here.
func newSender(func(string) string) sender {
	return func(context.Context, note, uint32) (uint32, error) { return 0, nil }
}
