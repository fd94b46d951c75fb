package awsini

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := write("config", "[default]\nregion = r\n")
	f, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if ps := f.Sections[0].Properties; len(ps) != 1 || ps[0].Key != "region" || ps[0].Value != "r" || ps[0].Place() != path+":2" {
		t.Errorf("the properties are %v; want region alone", ps)
	}
	if f.Info == nil || f.Info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Errorf("the file's mode is %v", f.Info.Mode())
	}

	full := write("full", strings.Repeat("#", MaxSize))
	if _, err := Read(full); err != nil {
		t.Errorf("a file of the largest size: %v", err)
	}
	if f, err := Read(os.DevNull); err != nil || len(f.Sections) > 0 {
		t.Errorf("the null device: %v, %v; want an empty file", f, err)
	}
	for name, c := range map[string]struct {
		path string
		want error
	}{
		"missing":   {filepath.Join(dir, "no"), fs.ErrNotExist},
		"folder":    {dir, errNotRegular},
		"too large": {write("large", strings.Repeat("#", MaxSize+1)), errTooLarge},
	} {
		if f, err := Read(c.path); f != nil || !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, f, err, c.want)
		}
	}
}
