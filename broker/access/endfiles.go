package access

import (
	"maps"
	"slices"
)

// EndFiles ends the tokens of all files but those of the names given: the configuration
// has the others no more. It changes nothing while they are locked; what becomes known
// then is what is asked for.
func (t *Tokens) EndFiles(keep []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.whileLocked() != nil {
		return
	}
	m := maps.Clone(t.all())
	maps.DeleteFunc(m, func(_ string, k *token) bool { return k.kind == KindFile && !slices.Contains(keep, k.grant.Name) })
	if len(m) != len(t.all()) {
		t.publish(m)
	}
}
