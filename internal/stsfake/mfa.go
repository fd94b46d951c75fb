package stsfake

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"time"
)

// device is a virtual MFA device.
type device struct {
	owner string // ARN
	seed  []byte
	used  map[uint64]bool // windows whose code was given
}

const window = 30 * time.Second

// AddMFA gives a user an MFA device, or replaces the one of that serial: the
// device's ARN, or its number. An empty name is the root user.
func (s *Server) AddMFA(name, serial string, seed []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner := userARN(name)
	if name == "" {
		owner = rootARN(Account)
	}
	s.devices[serial] = &device{owner, seed, map[uint64]bool{}}
}

// Code returns what the device of that serial shows now, on the stand-in's
// clock; "" for none.
func (s *Server) Code(serial string) string {
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.devices[serial]; d != nil {
		return TOTP(d.seed, now)
	}
	return ""
}

// TOTP computes a code of six digits by RFC 6238, with its default parameters:
// SHA-1, 30 seconds.
func TOTP(seed []byte, at time.Time) string { return hotp(seed, windowOf(at)) }

func windowOf(at time.Time) uint64 { return uint64(at.Unix()) / uint64(window/time.Second) }

// hotp is RFC 4226, section 5.3.
func hotp(seed []byte, counter uint64) string {
	h := hmac.New(sha1.New, seed)
	h.Write(binary.BigEndian.AppendUint64(nil, counter))
	sum := h.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:])&0x7fffffff)%1_000_000)
}

// mfa reports whether the call came with a good code. No code at all is no error.
func (q *request) mfa() (bool, error) {
	if err := q.check("SerialNumber", 9, 256, externalChars()); err != nil {
		return false, err
	}
	if err := q.check("TokenCode", 6, 6, digits()); err != nil {
		return false, err
	}
	serial, code := q.form.Get("SerialNumber"), q.form.Get("TokenCode")
	switch {
	case serial == "" && code == "":
		return false, nil
	case serial == "" || code == "":
		return false, denied("MultiFactorAuthentication failed, must provide both MFA serial number and one time pass code. ")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.devices[serial]
	if d == nil || d.owner != q.caller.ARN {
		return false, denied("MultiFactorAuthentication failed, unable to validate MFA code.  Please verify your MFA serial number is valid and associated with this user.")
	}
	if !d.take(code, windowOf(q.now)) {
		return false, denied("MultiFactorAuthentication failed with invalid MFA one time pass code. ")
	}
	return true, nil
}

// take accepts the code of this window, the one before and the one after, each once.
func (d *device) take(code string, now uint64) bool {
	for w := now - 1; w <= now+1; w++ {
		if !d.used[w] && hmac.Equal([]byte(hotp(d.seed, w)), []byte(code)) {
			d.used[w] = true
			return true
		}
	}
	return false
}
