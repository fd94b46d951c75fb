//go:build unix

package ambient

import (
	"net/http"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stsbroker/stsbroker/broker"
)

// A pipe in a token file's place is refused; opening it would wait for a writer for good.
func TestTokenFileThatIsAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	m := container(t, serve(t, func(http.ResponseWriter, *http.Request) { t.Error("asked") }), "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path)
	_, err := m.Mint(t.Context(), broker.MintInput{})
	expectError(t, "a pipe", err, broker.KindConfig, path)
}
