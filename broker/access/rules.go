package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
)

// Rule gives callers profiles. With a uid and a token, both must hold; with neither,
// it gives nobody anything.
type Rule struct {
	UID      *uint32  // of the caller, by the kernel's word; nil for anybody's
	Token    string   // the name of the token that is shown; "" for any, and for none
	Profiles []string // by their exact names
	Line     int      // of the document it stands in, for the log; 0 for none
}

// noUID is (uid_t)-1, which stands for no user in every call that takes one (chown(2),
// setresuid(2)); overflowUID is user_namespaces(7)'s.
const (
	noUID       = 1<<32 - 1
	overflowUID = 65534
)

// CheckUID says why a rule cannot name the user, nil if it can.
func CheckUID(uid uint32) error {
	switch uid {
	case 0:
		return errors.New("0 is root, who administers the broker and needs no rule; over TCP it may also be root of some container, who must not have one")
	case overflowUID:
		return fmt.Errorf("%d says nothing: the kernel shows it for every user that has no number here; name the user's own, which id -u prints there", overflowUID)
	case noUID:
		return fmt.Errorf("%d is no user's number", uint32(noUID))
	}
	return nil
}

// CheckTokenName says why a rule cannot name the token, nil if it can. What may be the
// token itself is not repeated.
func CheckTokenName(name string) error {
	switch {
	case IsToken(strings.TrimSpace(name)):
		return errors.New("this is a token itself; write the name that it was created with, and revoke it if others could read it here")
	case isID(name):
		return fmt.Errorf("%q is the id of a token; write the name that it was created with", name)
	}
	return checkName("token", name)
}

// asked is what a rule may want of a caller. The zero uid is nobody's without known.
type asked struct {
	uid   uint32
	known bool
	token string
}

// names is a set.
type names map[string]struct{}

// rules are made for one lookup a request, and never change; nil for none.
type rules struct {
	list []Rule
	gave map[asked]names
	want names // tokens for which a rule also wants a uid; "" for all
}

// newRules leaves out what no caller can match.
func newRules(list []Rule) *rules {
	if len(list) == 0 {
		return nil
	}
	r := &rules{gave: map[asked]names{}, want: names{}}
	for _, rule := range list {
		a := asked{token: rule.Token}
		if rule.UID != nil {
			a.uid, a.known = *rule.UID, true
			rule.UID = &a.uid
		}
		if a == (asked{}) || a.known && CheckUID(a.uid) != nil || len(rule.Profiles) == 0 {
			continue
		}
		if a.known {
			r.want[a.token] = struct{}{}
		}
		if r.gave[a] == nil {
			r.gave[a] = names{}
		}
		for _, p := range rule.Profiles {
			r.gave[a][p] = struct{}{}
		}
		rule.Profiles = slices.Clone(rule.Profiles)
		r.list = append(r.list, rule)
	}
	return r
}

// give reports whether a rule gives the profile to who shows the token of that name,
// or none, and has the uid, if that is known.
func (r *rules) give(who asked, profile string) bool {
	if r == nil {
		return false
	}
	has := func(a asked) bool {
		_, ok := r.gave[a][profile]
		return ok
	}
	return who.known && has(asked{uid: who.uid, known: true}) || who.token != "" && (has(asked{token: who.token}) || who.known && has(who))
}

// admit reports whether the user may come in without a token, for some profile.
func (r *rules) admit(uid uint32) bool {
	return r != nil && r.gave[asked{uid: uid, known: true}] != nil
}

// wantPeer reports whether it matters whose hands a token of that name is in.
func (r *rules) wantPeer(token string) bool {
	if r == nil {
		return false
	}
	_, all := r.want[""]
	_, this := r.want[token]
	return all || this
}

// missing says, for the log, what stands under access of who, and gives too little.
func (r *rules) missing(who asked) string {
	what := "a caller of unknown uid"
	if who.known {
		what = fmt.Sprintf("uid %d", who.uid)
	}
	if who.token != "" {
		what += fmt.Sprintf(" with the token %q", who.token)
	}
	var lines []string
	if r != nil {
		for _, rule := range r.list {
			if (rule.UID == nil || who.known && *rule.UID == who.uid) && (rule.Token == "" || rule.Token == who.token) {
				lines = append(lines, fmt.Sprint(rule.Line))
			}
		}
	}
	if lines == nil {
		return "no rule under access is for " + what
	}
	return "no rule under access gives that profile to " + what + ", whose rules are on line " + strings.Join(lines, " and ")
}

// SetRules puts rules in the place of those there were, from the next request on; with
// none, only the user who runs the broker has the doors without a token, and every valid
// token has what it is for. What a rule cannot say (see [CheckUID]) gives nobody anything.
func (t *Tokens) SetRules(list []Rule) { t.rules.Store(newRules(list)) }

// Administers reports whether the peer of a Unix socket may do all there is to do: the
// user who runs the broker, or root, who could become that user. Rules neither give
// nor take this.
func (t *Tokens) Administers(p broker.Peer) bool {
	uid, known := p.UID()
	return known && (uid == 0 || t.owns(uid))
}

func (t *Tokens) owns(uid uint32) bool { return int64(uid) == int64(t.owner) }

// withheld says why rules do not let a token that is for the profile have it, "" if they
// do. The peer was admitted by the token's grant.
//
// What the user who runs the broker, or root, made for a shell or a child is that user's
// own, as the sockets are. What another user made there lives by the rules that let that
// user in; without any, those tokens are of rules that have gone.
func (t *Tokens) withheld(k *token, p broker.Peer, profile string) string {
	r := t.rules.Load()
	if k.kind == KindEnv || k.kind == KindExec {
		who := asked{uid: k.uid, known: true}
		if k.uid == 0 || k.uid == uint32(t.owner) || r.give(who, profile) {
			return ""
		}
		return fmt.Sprintf("it was made by %s for uid %d, and %s", k.kind, k.uid, r.missing(who))
	}
	if r == nil {
		return ""
	}
	who := asked{token: k.grant.Name}
	if who.uid, who.known = p.UID(); k.grant.BoundUID { // in its user's hands, or in those of root
		who.uid, who.known = k.grant.UID, true
	}
	if r.give(who, profile) {
		return ""
	}
	return r.missing(who)
}
