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

// NameOf returns what a person calls the token with this id, "" for those that have no
// name, and for one that is not known.
func (t *Tokens) NameOf(id string) string {
	if k := t.all()[id]; k != nil {
		return k.grant.Name
	}
	return ""
}
