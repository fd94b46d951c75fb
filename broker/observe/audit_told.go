package observe

import (
	"sync"

	"github.com/stsbroker/stsbroker/broker"
)

// tellingKey is to whom what was served.
type tellingKey struct {
	door, profile, token string
	uid                  int64 // unknownUID where the kernel did not tell
}

const unknownUID = -1

func tellingOf(e broker.Event) tellingKey {
	return tellingKey{door: e.Caller.Door, profile: e.Profile, token: e.Caller.Token, uid: uidOf(e.Caller.Peer)}
}

func uidOf(p broker.Peer) int64 {
	if uid, known := p.UID(); known {
		return int64(uid)
	}
	return unknownUID
}

// telling is the last that was told of a key. A lease that was made anew counts its
// generations from 1, so the key id tells sets apart too.
type telling struct {
	generation uint64
	keyID      string
	line       *auditLine // that callers wait for; nil where nobody has to
}

// told is what there is a line of. It forgets what was not served for the longest,
// which is then told again.
type told struct {
	mu            sync.RWMutex
	recent, older map[tellingKey]telling
}

// mostTold is how many keys are remembered.
const mostTold = 10_000

// has returns what was told, if it was this very set.
func (t *told) has(k tellingKey, e broker.Event) (telling, bool) {
	t.mu.RLock()
	was, ok := t.recent[k]
	old := false
	if !ok {
		was, old = t.older[k]
	}
	t.mu.RUnlock()
	if was.generation != e.Generation || was.keyID != e.KeyID || !ok && !old {
		return telling{}, false
	}
	if old {
		t.note(k, was)
	}
	return was, true
}

// note remembers. The two maps take turns: when one is full, the other's content is
// what nobody asked for since.
func (t *told) note(k tellingKey, new telling) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.recent[k]; !known && len(t.recent) >= mostTold/2 || t.recent == nil {
		t.older, t.recent = t.recent, map[tellingKey]telling{}
	}
	t.recent[k] = new
	delete(t.older, k)
}

// forget takes back what that line would have told.
func (t *told) forget(k tellingKey, line *auditLine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range []map[tellingKey]telling{t.recent, t.older} {
		if m[k].line == line {
			delete(m, k)
		}
	}
}
