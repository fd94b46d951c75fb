package sealedfile

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// longest is how long any session lives that STS gives out: GetSessionToken's, for an IAM
// user, is 36 hours. What was received before that is over by itself.
const longest = 36 * time.Hour

// graves are when the set of a key was forgotten last. They are for processes that hold it
// in memory, or what it signs for: none puts back what was received until then.
type graves map[broker.Key]time.Time

// grave is one of them, as it is sealed.
type grave struct {
	Digest  []byte    `json:"lease"`
	Subject string    `json:"subject,omitempty"`
	At      time.Time `json:"at"` // by the host's clock
}

// cover reports whether what was received under the key then is forgotten.
func (g graves) cover(k broker.Key, received time.Time) bool {
	at, ok := g[k]
	return ok && !received.After(at)
}

func (g graves) add(others graves) {
	for k, at := range others {
		if at.After(g[k]) {
			g[k] = at
		}
	}
}

// prune drops those that nobody needs any more, and keeps the newest of too many.
func (g graves) prune(now time.Time) {
	for k, at := range g {
		if now.Sub(at) > longest {
			delete(g, k)
		}
	}
	if len(g) <= most {
		return
	}
	oldest := slices.SortedFunc(maps.Keys(g), func(a, b broker.Key) int { return cmp.Or(g[a].Compare(g[b]), cmp.Compare(a.Subject, b.Subject)) })
	for _, k := range oldest[:len(g)-most] {
		delete(g, k)
	}
}
