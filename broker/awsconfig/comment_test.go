package awsconfig

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	secretKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	keyID     = "AKIAIOSFODNN7EXAMPLE"
	noteKept  = "in stsbroker's custody (AKIA…)"
	keptLines = "# aws_access_key_id: " + noteKept + "\n# aws_secret_access_key: " + noteKept + "\n"
)

// put writes a file and returns its path.
func put(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCommentOut(t *testing.T) {
	cleanEnv(t)
	for name, c := range map[string]struct{ in, want string }{
		"alone":            {"[p]\n" + keysA, "[p]\n" + keptLines},
		"others stay":      {"# mine\n[a]\n" + keysA + "\n[p]\nregion=r\n" + keysA + "mfa_serial = m # c\n\n[b]\n" + keysA, "# mine\n[a]\n" + keysA + "\n[p]\nregion=r\n" + keptLines + "mfa_serial = m # c\n\n[b]\n" + keysA},
		"CRLF":             {"[p]\r\naws_access_key_id=" + keyID + "\r\nregion = r\r\naws_secret_access_key=" + secretKey + "\r\n", "[p]\r\n# aws_access_key_id: " + noteKept + "\r\nregion = r\r\n# aws_secret_access_key: " + noteKept + "\r\n"},
		"no final newline": {"[p]\naws_access_key_id=" + keyID + "\naws_secret_access_key=" + secretKey, strings.TrimSuffix("[p]\n"+keptLines, "\n")},
		"odd letters":      {"[p]\nAWS_Access_Key_ID : \"" + keyID + "\" # c\n\taws_secret_access_key=" + secretKey + " ; c\noutput = json\n", "[p]\n" + keptLines + "output = json\n"},
		"twice":            {"[p]\n" + keysA + "[a]\n[p]\nregion=r\n" + keysA, "[p]\n" + keptLines + "[a]\n[p]\nregion=r\n" + keptLines},
		"byte order mark":  {"\ufeff[p]\n" + keysA, "\ufeff[p]\n" + keptLines},
		"config file":      {"[profile p]\n" + keysA + "region = r\ns3 =\n  aws_access_key_id = x\n[services s]\n", "[profile p]\n" + keptLines + "region = r\ns3 =\n  aws_access_key_id = x\n[services s]\n"},
		"a bad line":       {"word\n[p]\nword\n" + keysA, "word\n[p]\nword\n" + keptLines},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := put(t, filepath.Join(dir, "credentials"), c.in, 0o600)
			backup, err := CommentOut(path, "p", noteKept, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := content(t, path); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if got := content(t, backup); got != c.in {
				t.Errorf("the backup holds\n%s", got)
			}
			if !regexp.MustCompile(`^credentials\.stsbroker-backup-\d{8}T\d{6}Z$`).MatchString(filepath.Base(backup)) || filepath.Dir(backup) != dir {
				t.Errorf("the backup is %s", backup)
			}
			files := Files{Credentials: path}
			if strings.Contains(c.in, "[profile p]") {
				files = Files{Config: path}
			}
			if sdk, err, ok := loadSDK(files, "p"); ok && name != "byte order mark" && (err != nil || sdk.Credentials.HasKeys()) {
				t.Errorf("the SDK reads keys %v, error %v", sdk.Credentials.HasKeys(), err)
			}
			if sdk, _, _ := loadSDK(files, "a"); strings.Contains(c.in, "[b]") && sdk.Credentials.SecretAccessKey != secretKey {
				t.Error("the SDK does not find the keys of another profile any more")
			}
			if _, err := CommentOut(path, "p", noteKept, nil); err == nil || !strings.HasSuffix(err.Error(), ": profile p has no long-term keys there") {
				t.Errorf("once more: %v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
				t.Errorf("files: %v", left)
			}
		})
	}
}

func TestCommentOutRefuses(t *testing.T) {
	const means = ": the lines beside the keys of profile p would come to mean something else without them: write each key = value on a line of its own, without blanks in front"
	for name, c := range map[string]struct{ in, note, want string }{
		"no profile":         {"[q]\n" + keysA, "n", ": profile p has no long-term keys there"},
		"no keys":            {"[p]\naws_session_token = t\n", "n", ": profile p has no long-term keys there"},
		"a value goes on":    {"[p]\nregion = r\n" + keysA + "  more\n", "n", means},
		"a key gets nested":  {"[p]\ns3 =\n" + keysA + "  region = r\n", "n", means},
		"both kinds":         {"[p]\n" + keysA + "[profile p]\n" + keysA, "n", " has keys under [p] and [profile p]: remove those that are not used by hand"},
		"a note of two":      {"[p]\n" + keysA, "n\nregion = x", "the note is not one line of text"},
		"more than can be":   {"[p]\n" + strings.Repeat("#", 1<<20) + keysA, "n", " is larger than 1048576 bytes"},
		"dozens of the same": {"[p]\n" + strings.Repeat("aws_access_key_id = x\n", 101), "n", means},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := put(t, filepath.Join(dir, "credentials"), c.in, 0o600)
			backup, err := CommentOut(path, "p", c.note, nil)
			if err == nil || strings.TrimPrefix(err.Error(), path) != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*")); backup != "" || len(left) != 1 || content(t, path) != c.in {
				t.Errorf("something was changed: %q, %v", backup, left)
			}
			if err != nil && strings.Contains(err.Error(), secretKey) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
	if _, err := CommentOut(filepath.Join(t.TempDir(), "no"), "p", "n", nil); !os.IsNotExist(err) {
		t.Errorf("of no file: %v", err)
	}
}

// What somebody writes between reading and replacing is never lost.
func TestCommentOutOfAChangedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "credentials")
	for name, change := range map[string]func(){
		"other content":                     func() { put(t, path, "[p]\n"+keysA+"[q]\n", 0o600) },
		"replaced by one of the same words": func() { put(t, path+"2", "[p]\n"+keysA, 0o600); _ = os.Rename(path+"2", path) },
		"gone":                              func() { _ = os.Remove(path) },
	} {
		put(t, path, "[p]\n"+keysA, 0o600)
		old, info, err := readWhole(path)
		if err != nil {
			t.Fatal(err)
		}
		change()
		want, _ := os.ReadFile(path)
		if replaced, err := replace(path, old, info, []byte("new")); replaced || err == nil {
			t.Errorf("%s: %v, %v", name, replaced, err)
		}
		if got, _ := os.ReadFile(path); string(got) != string(want) {
			t.Errorf("%s: it holds\n%s", name, got)
		}
	}
}

// Two imports within a second keep two backups.
func TestBackupsAreNotOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "credentials")
	seen := map[string]bool{}
	for _, in := range []string{"[p]\n" + keysA, "[p]\nregion=r\n" + keysA, "[p]\nregion=s\n" + keysA} {
		put(t, path, in, 0o600)
		backup, err := CommentOut(path, "p", "n", nil)
		if err != nil || content(t, backup) != in || seen[backup] {
			t.Errorf("%v: %s", err, backup)
		}
		seen[backup] = true
	}
}

// What an import does to a person's files, and what comes of the profiles.
func TestHeld(t *testing.T) {
	config := "[default]\nregion = eu-west-1\n[profile r]\nrole_arn=r\nsource_profile=default\n[profile m]\nmfa_serial=" + serial + "\nrole_arn=r2\nsource_profile=m\n"
	credentials := "[default]\n" + keysA + "[m]\n" + keysA
	before, _ := load(t, config, credentials)
	dir := t.TempDir()
	f := Files{Config: put(t, filepath.Join(dir, "config"), config, 0o600), Credentials: put(t, filepath.Join(dir, "credentials"), credentials, 0o600)}
	for _, p := range []string{"default", "m"} {
		if _, err := CommentOut(f.Credentials, p, noteKept, nil); err != nil {
			t.Fatal(err)
		}
	}
	short := strings.NewReplacer(f.Config, "C", f.Credentials, "K").Replace
	origin := regexp.MustCompile(`(?m) \S+:\d+ `)
	compare := func(what string, after *Config) {
		t.Helper()
		was, is := strings.Join(texts(before.Profiles), "\n"), strings.Join(texts(after.Profiles), "\n")
		if got, want := origin.ReplaceAllString(is, " - "), origin.ReplaceAllString(was, " - "); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", what, short(got), want)
		}
	}
	after := Load(f, "default", "m")
	compare("keys in custody", after)
	if after.DefaultHasCredentials() {
		t.Error("SDKs would find credentials in the default profile")
	}
	if bare := Load(f); bare.Profiles[0].Session != nil || bare.Profiles[len(bare.Profiles)-1].Unservable == nil {
		t.Errorf("without custody: %s", texts(bare.Profiles))
	}
	put(t, f.Credentials, "[m]\n# nothing\n", 0o600) // the section is gone: the config file's says the region
	compare("a section that is gone", Load(f, "default", "m"))

	for name, c := range map[string]struct {
		config, credentials string
		held                []string
		want                []string
	}{
		"a section in neither file":            {"[profile r]\nrole_arn=r\nsource_profile=k\n", "", []string{"k"}, []string{"k custody session" + noteS, "r C:1 role {ARN:r ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:k Profile: Ambient:}}"}},
		"a header and nothing more":            {"", "[k]\n", []string{"k"}, []string{"k K:1 session" + noteS}},
		"keys stand in the file, too":          {"", "[k]\n" + keysA, []string{"k"}, []string{"k K:1 session note: its long-term keys rest in custody; the aws_access_key_id at K:2 is not used note: its long-term keys rest in custody; the aws_secret_access_key at K:3 is not used" + noteS}},
		"temporary keys stand in the file":     {"", "[k]\n" + keysA + "aws_session_token=t\n", []string{"k"}, []string{"k K:1 session note: its long-term keys rest in custody; the aws_access_key_id at K:2 is not used note: its long-term keys rest in custody; the aws_secret_access_key at K:3 is not used note: its long-term keys rest in custody; the aws_session_token at K:4 is not used" + noteS}},
		"they come before other ways":          {"[profile k]\ncredential_process=c\n", "", []string{"k"}, []string{"k C:1 session note: its long-term keys come before its other ways to get credentials (credential_process), as in the Go SDK; other SDKs may choose differently" + noteS}},
		"a role beside them":                   {"[profile k]\nrole_arn=r\n", "", []string{"k"}, []string{"k C:1 role {ARN:r ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:k Profile: Ambient:}} note: " + noteOwnKeys}},
		"a bad line still counts":              {"[profile k]\nword\n", "", []string{"k"}, []string{"k C:1 unservable: C:2: profile k: the line is not a section header, a key = value or a comment"}},
		"a name that cannot be asked for":      {"", "", []string{"../k"}, []string{"../k custody unservable: custody: profile ../k: the name is not one that can be asked for: it may have up to 128 printable characters, no quotes, and no empty or dotted parts between slashes; rename it"}},
		"a name twice is one":                  {"", "", []string{"k", "k"}, []string{"k custody session" + noteS}},
		"mfa, and its role signs with the key": {"[profile k]\nmfa_serial=" + serial + "\n[profile r]\nrole_arn=r\nsource_profile=k\n", "", []string{"k"}, []string{"k C:1 session " + serial + " note: " + noteMFAKeys, "r C:3 role {ARN:r ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:k Profile: Ambient:}}"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := Files{Config: put(t, filepath.Join(dir, "config"), c.config, 0o600), Credentials: put(t, filepath.Join(dir, "credentials"), c.credentials, 0o600)}
			cfg := Load(f, c.held...)
			got := strings.NewReplacer(f.Config, "C", f.Credentials, "K").Replace(strings.Join(texts(cfg.Profiles), "\n"))
			if want := strings.Join(c.want, "\n"); got != want || len(cfg.Settings) > 0 {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// FuzzCommentOut: whatever the file is, either nothing happens to it, or the profile's
// keys are gone and all the rest is as it was.
func FuzzCommentOut(f *testing.F) {
	for _, s := range seeds {
		f.Add(s[1], "default")
		f.Add(s[0], "a")
	}
	f.Fuzz(func(t *testing.T, in, profile string) {
		out, err := commentOut("F", []byte(in), profile, "note", nil)
		if err != nil {
			return
		}
		was, is := strings.Split(in, "\n"), strings.Split(string(out), "\n")
		if len(was) != len(is) {
			t.Fatalf("%d lines of %d", len(is), len(was))
		}
		changed := 0
		for i := range was {
			if was[i] == is[i] {
				continue
			}
			changed++
			switch strings.TrimSuffix(is[i], "\r") {
			case "# aws_access_key_id: note", "# aws_secret_access_key: note":
			default:
				t.Fatalf("line %d is %q", i+1, is[i])
			}
			if key, _, _ := strings.Cut(strings.ToLower(was[i]), "key"); strings.Trim(key, " \t\v\f\u0085\u00a0") != "aws_access_" && strings.Trim(key, " \t\v\f\u0085\u00a0") != "aws_secret_access_" {
				t.Fatalf("line %d was %q", i+1, was[i])
			}
		}
		if changed == 0 {
			t.Fatal("nothing was changed")
		}
		if _, err := commentOut("F", out, profile, "note", nil); err == nil {
			t.Fatal("keys are left")
		}
	})
}

// What is not in custody is never taken out: it may be the only copy.
func TestCommentOutOfAnotherKey(t *testing.T) {
	kept := func(key, value string) bool { return value == "AKIAIOSFODNN7EXAMPLE" || value == "kept" }
	for name, c := range map[string]struct{ text, want string }{
		"the same":          {"[p]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = kept\n", ""},
		"another id":        {"[p]\naws_access_key_id = AKIAI44QH8DHBEXAMPLE\naws_secret_access_key = kept\n", ":2: the aws_access_key_id of profile p is another one than in custody"},
		"another secret":    {"[p]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = other\n", ":3: the aws_secret_access_key of profile p"},
		"one before it":     {"[p]\naws_access_key_id = AKIAI44QH8DHBEXAMPLE\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = kept\n", ":2: the aws_access_key_id of profile p"},
		"another section":   {"[p]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = kept\n[p]\naws_access_key_id = AKIAI44QH8DHBEXAMPLE\n", ":5: the aws_access_key_id of profile p"},
		"another profile's": {"[p]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = kept\n[q]\naws_access_key_id = AKIAI44QH8DHBEXAMPLE\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "credentials")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			backup, err := CommentOut(path, "p", "n", kept)
			now, readErr := os.ReadFile(path)
			if readErr != nil {
				t.Fatal(readErr)
			}
			switch {
			case c.want == "" && (err != nil || strings.Contains(string(now), "kept")):
				t.Errorf("%v: %s", err, now)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || backup != "" || string(now) != c.text):
				t.Errorf("%q, %v: %s", backup, err, now)
			}
		})
	}
}
