package main

import (
	"cmp"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/stsbroker/stsbroker/broker/access"
)

// AuditConfig is the log of who got what.
type AuditConfig struct {
	File     string // absolute; "" for none
	Required bool   // nothing is served that cannot be written down
	Line     int    // where File stands; 0 where the document does not say
}

// access reads the rules of who else may have what. Profiles that are not of this
// document are checked by [Config.CheckSources], as sources are.
func (r *configReader) access(to *[]access.Rule, n *yaml.Node, p string) {
	if !r.sequence(n, p) {
		return
	}
	for i, item := range n.Content {
		rule := access.Rule{Line: item.Line}
		at, faults := fmt.Sprintf("%s[%d]", p, i), r.faults
		var listed *yaml.Node
		seen, clean := r.mapping(item, at, fields{
			"uid":   r.ruleUID(&rule.UID),
			"token": r.text(&rule.Token, access.CheckTokenName),
			"profiles": func(n *yaml.Node, p string) {
				listed = n
				r.names(&rule.Profiles)(n, p)
			},
		})
		r.need(seen, clean, item, at, "profiles")
		if seen["uid"] == nil && seen["token"] == nil && clean {
			r.fail(item, at, "for whom? give uid, the number of a user; or token, the name of a token; with both, the token is good in that user's hands alone")
		}
		if r.faults > faults {
			continue
		}
		if same := slices.IndexFunc(*to, func(o access.Rule) bool { return o.Token == rule.Token && equal(o.UID, rule.UID) }); same >= 0 {
			r.fail(item, at, "%s has a rule on line %d already; write all its profiles there", ruledBy(rule), (*to)[same].Line)
			continue
		}
		*to = append(*to, rule)
		r.later = append(r.later, func(w document) {
			for i, name := range rule.Profiles {
				if w.profile[name] == nil {
					w.sources = append(w.sources, ref{listed.Content[i], fmt.Sprintf("%s.profiles[%d]", at, i), name})
				}
			}
		})
	}
	r.later = append(r.later, func(w document) { r.checkTokenFiles(w, n, p) })
}

// checkTokenFiles warns of profiles that a token file is for and that no rule lets it have.
func (r *configReader) checkTokenFiles(w document, n *yaml.Node, p string) {
	for _, f := range w.TokenFiles {
		for _, profile := range f.Profiles {
			if len(w.Access) > 0 && !slices.ContainsFunc(w.Access, func(rule access.Rule) bool {
				return cmp.Or(rule.Token, f.Name) == f.Name && (rule.UID == nil || f.UID == nil || *rule.UID == *f.UID) && slices.Contains(rule.Profiles, profile)
			}) {
				r.warn(n, p, "no rule gives profile %s to the token of token_files.%s (line %d), so it is refused; add: { token: %s, profiles: [%s] }", profile, f.Name, f.Line, f.Name, profile)
			}
		}
	}
}

// ruleUID reads a user that can have a rule. The number is taken as id -u prints it:
// with a zero before it, YAML's versions do not agree which one it is.
func (r *configReader) ruleUID(to **uint32) reads {
	return func(n *yaml.Node, p string) {
		if r.uid(to)(n, p); *to == nil {
			return
		}
		if n.Value[0] == '0' && n.Value != "0" {
			r.fail(n, p, "%s begins with a zero; write it as id -u prints it", n.Value)
		} else if err := access.CheckUID(**to); err != nil {
			r.fail(n, p, "%v", err)
		}
	}
}

// ruledBy is whom a rule is for.
func ruledBy(rule access.Rule) string {
	switch {
	case rule.UID == nil:
		return fmt.Sprintf("token %q", rule.Token)
	case rule.Token == "":
		return fmt.Sprintf("uid %d", *rule.UID)
	}
	return fmt.Sprintf("uid %d with token %q", *rule.UID, rule.Token)
}

func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

func (r *configReader) audit(to *AuditConfig, n *yaml.Node, p string) {
	faults := r.faults
	seen, _ := r.mapping(n, p, fields{
		"file":     r.text(&to.File, optional(checkAbsolute)),
		"required": r.flag(&to.Required),
	})
	if at := seen["file"]; at != nil {
		to.Line = at.Line
	}
	if to.File = clean(to.File); to.Required && to.File == "" && r.faults == faults {
		r.fail(seen["required"], join(p, "required"), "there is no file to write to; give audit.file, or leave required out")
	}
}
