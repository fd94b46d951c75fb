package custody

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSystemd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "credentials")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := Set{"work": Systemd(dir, "work")}
	missing := "there is no credential work: give the service one, with LoadCredentialEncrypted=work:FILE in its unit"
	wantError(t, s["work"], missing)
	path := filepath.Join(dir, "work")
	write(t, path, idA+"\n"+secretA+"\n", 0o600)
	wantKey(t, s, "work", idA, secretA)
	write(t, path, `{"AccessKey": {"AccessKeyId": "`+idB+`", "SecretAccessKey": "`+secretB+`"}}`, 0o600)
	wantKey(t, s, "work", idB, secretB) // it is read again
	write(t, path, secretA+"\n"+idA, 0o600)
	wantError(t, s["work"], "the access key id in "+path+" is not an access key id: copy it again")
	wantError(t, Systemd("", "work"), "there is no $CREDENTIALS_DIRECTORY to read the key work from: run stsbroker as a systemd service with LoadCredentialEncrypted=work:FILE")
	wantError(t, Systemd(dir, "../work"), `"../work" cannot be the name of a key`)
	write(t, path, strings.Repeat("x", recordLimit+1), 0o600)
	wantError(t, s["work"], "the credential work is not read for a key: "+path+" is larger than 16384 bytes")
}
