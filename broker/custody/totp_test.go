package custody

import (
	"context"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// seedText is the key of RFC 6238's test vectors, as AWS would show it.
var seedText = base32.StdEncoding.EncodeToString([]byte("12345678901234567890"))

// The vectors of RFC 6238, appendix B, for SHA-1. They have eight digits, of which
// six are the same code.
func TestCodesOfTheRFC(t *testing.T) {
	key, err := parseSeed([]byte(seedText))
	if err != nil {
		t.Fatal(err)
	}
	for seconds, want := range map[int64]string{
		59: "94287082", 1111111109: "07081804", 1111111111: "14050471", 1234567890: "89005924", 2000000000: "69279037", 20000000000: "65353130",
	} {
		var u used
		step, free := u.take(time.Unix(seconds, 0))
		if got := codeOf(key, step); !free || got != want[2:] {
			t.Errorf("at %d the code is %s, want %s", seconds, got, want[2:])
		}
	}
}

func TestParseSeed(t *testing.T) {
	want := hex.EncodeToString([]byte("12345678901234567890"))
	for _, text := range []string{
		seedText, strings.ToLower(seedText), " " + seedText[:4] + " " + seedText[4:8] + "-" + seedText[8:] + "\r\n", seedText + "======", "\t" + seedText,
	} {
		if key, err := parseSeed([]byte(text)); err != nil || hex.EncodeToString([]byte(key.Reveal())) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"", "GEZDGNBV", seedText + "1", seedText[:31] + "0", "otpauth://totp/x?secret=" + seedText, seedText + "AA\x00", strings.Repeat("A", 1000), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQA"} {
		key, err := parseSeed([]byte(text))
		var e *broker.Error
		if !errors.As(err, &e) || e.Kind != broker.KindConfig || !key.IsZero() {
			t.Errorf("%q: %v", text, err)
		} else if text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error holds the seed: %v", err)
		}
	}
}

// Twenty who want a code get one each, and none of them twice, thirty seconds apart.
func TestNoCodeTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(7 * time.Second) // the bubble begins at the start of a step
		key, err := parseSeed([]byte(seedText))
		if err != nil {
			t.Fatal(err)
		}
		var s used
		began := time.Now()
		codes, whens := map[string]bool{}, map[time.Duration]bool{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		const callers = 20
		for range callers {
			wg.Go(func() {
				code, err := s.code(t.Context(), key)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				step := uint64(time.Now().Unix()) / 30
				if want := codeOf(key, step); code.Reveal() != want {
					t.Errorf("the code is not that of its moment: %s, want %s", code.Reveal(), want)
				}
				codes[code.Reveal()] = true
				whens[time.Since(began)] = true
			})
		}
		wg.Wait()
		if len(codes) != callers || !whens[0] || !whens[23*time.Second] || len(whens) != callers || time.Since(began) != 23*time.Second+(callers-2)*codeStep {
			t.Errorf("%d codes of %d callers, at %v", len(codes), callers, whens)
		}
	})
}

func TestCodeThatDoesNotComeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, err := parseSeed([]byte(seedText))
		if err != nil {
			t.Fatal(err)
		}
		var s used
		if _, err := s.code(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = s.code(ctx, key)
		var e *broker.Error
		if !errors.As(err, &e) || !e.Kind.Passes() || !e.Own || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want an error that passes", err)
		}
	})
}

// A clock that is put right by a little gives no code that was given. One that was set
// wrong by an hour and back does not hold up codes for that hour.
func TestCodesWhenTheClockIsSetBack(t *testing.T) {
	var u used
	at := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		after time.Duration
		free  bool
	}{
		{0, true}, {0, false}, {-codeStep, false}, {-3 * codeStep, false}, {codeStep, true},
		{time.Hour, true}, {2 * codeStep, true}, {2 * codeStep, false}, {codeStep, false}, {3 * codeStep, true},
	} {
		if _, free := u.take(at.Add(c.after)); free != c.free {
			t.Fatalf("at %v the code is free: %v, want %v", c.after, free, c.free)
		}
	}
}

func TestSeedFile(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "totp.age"), "sealed", 0o600)
	var source interface { // what awssts.Source and its slower kind ask for
		Read(context.Context) (broker.Secret, error)
		Digest() broker.Digest
		Deadline() time.Duration
	} = SeedFile(path, func(sealed []byte) ([]byte, error) {
		if string(sealed) != "sealed" {
			return nil, errors.New("what is opened is not the file")
		}
		return []byte(seedText + "\n"), nil
	})
	synctest.Test(t, func(t *testing.T) {
		var codes [2]string
		for i := range codes {
			ctx, cancel := context.WithTimeout(t.Context(), source.Deadline())
			code, err := source.Read(ctx)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			codes[i] = code.Reveal()
		}
		if codes[0] == codes[1] || len(codes[0]) != 6 {
			t.Errorf("the codes are %v", codes)
		}
	})
	if source.Digest() != SeedFile(path, nil).Digest() || source.Digest() == SeedFile(path+"2", nil).Digest() {
		t.Error("the digest is not that of the place")
	}

	for name, c := range map[string]struct {
		path   string
		opened []byte
		err    error
		kind   broker.Kind
	}{
		"locked":     {path, nil, broker.Locked(), broker.KindLocked},
		"no seed":    {path, []byte("hunter2"), nil, broker.KindConfig},
		"no file":    {path + "2", nil, nil, broker.KindConfig},
		"too large":  {write(t, path+"3", strings.Repeat("x", 1<<17), 0o600), nil, nil, broker.KindConfig},
		"not opened": {path, nil, &broker.Error{Kind: broker.KindConfig, Public: "another identity"}, broker.KindConfig},
	} {
		_, err := SeedFile(c.path, func([]byte) ([]byte, error) { return c.opened, c.err }).Read(t.Context())
		var e *broker.Error
		if !errors.As(err, &e) || e.Kind != c.kind || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if runtime.GOOS != "windows" { // which has no modes
		open := write(t, path+"4", "sealed", 0o644)
		if _, err := SeedFile(open, func([]byte) ([]byte, error) { return []byte(seedText), nil }).Read(t.Context()); err == nil || !strings.Contains(err.Error(), "has mode 0644: others may reach it") {
			t.Errorf("a file that others may read: %v", err)
		}
	}
}
