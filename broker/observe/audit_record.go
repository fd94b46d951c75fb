package observe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
)

// record is one line. Everything in it is bounded, printable UTF-8 without secrets:
// see [text].
type record struct {
	Time       string     `json:"time"` // RFC 3339, UTC, milliseconds
	Seq        uint64     `json:"seq"`  // counts the lines of one process; see Audit
	Decision   string     `json:"decision"`
	Reason     string     `json:"reason"`
	Kind       string     `json:"kind,omitempty"`    // of a denial
	Call       string     `json:"call,omitempty"`    // of the control socket
	Subject    string     `json:"subject,omitempty"` // of the call
	Profile    string     `json:"profile,omitempty"`
	RoleARN    string     `json:"role_arn,omitempty"`
	AccountID  string     `json:"account_id,omitempty"`
	KeyID      string     `json:"access_key_id,omitempty"`
	Expires    string     `json:"expires,omitempty"` // the real end
	Generation uint64     `json:"generation,omitempty"`
	Door       string     `json:"door,omitempty"`
	Remote     string     `json:"remote,omitempty"`
	Peer       recordPeer `json:"peer,omitzero"`
	TokenID    string     `json:"token_id,omitempty"`
	Token      string     `json:"token,omitempty"` // its name
	Count      int        `json:"count,omitempty"` // how many it stands for; absent for one
}

type recordPeer struct {
	UID   *uint32 `json:"uid,omitempty"`
	PID   int32   `json:"pid,omitempty"`
	Known string  `json:"known"` // by whose word
}

// Decisions.
const (
	decisionAllowed = "allowed"
	decisionDenied  = "denied"
	decisionFailed  = "failed"  // a call of the control socket that was allowed
	decisionDropped = "dropped" // lines, for want of room or disk
)

const tooMany = "more denials of this caller than are told one by one"

func (a *Audit) newRecord(who broker.Caller, decision string) *record {
	r := &record{
		Time: stamp(time.Now()), Decision: decision,
		Door: text(who.Door, 32), Peer: recordPeer{Known: "unknown"}, TokenID: text(who.Token, 64),
	}
	if who.Remote.IsValid() {
		r.Remote = text(who.Remote.String(), 64)
	}
	if uid, known := who.Peer.UID(); known {
		r.Peer.UID, r.Peer.Known = &uid, "kernel: unix socket"
		if who.Remote.IsValid() {
			r.Peer.Known = "kernel: tcp"
		}
		r.Peer.PID, _ = who.Peer.PID()
	}
	if who.Door == broker.DoorFile {
		r.Peer.Known = "the broker itself"
	}
	if who.Token != "" {
		r.Token = text(a.name(who.Token), 2*broker.MaxName)
	}
	return r
}

func (a *Audit) servedRecord(e broker.Event) *record {
	r := a.newRecord(e.Caller, decisionAllowed)
	switch {
	case e.Caller.Token != "":
		r.Reason = "its token is for this profile"
	case e.Caller.Door == broker.DoorFile:
		r.Reason = "the file is configured for this profile"
	default:
		r.Reason = "its user may have this profile"
	}
	r.Profile = text(e.Profile, 2*broker.MaxName)
	r.RoleARN, r.AccountID, r.KeyID = text(e.RoleARN, 2048), text(e.AccountID, 32), text(e.KeyID, 128)
	r.Generation = e.Generation
	if !e.Expires.IsZero() {
		r.Expires = stamp(e.Expires)
	}
	return r
}

func (a *Audit) refusedRecord(e broker.Event) *record {
	r := a.newRecord(e.Caller, decisionDenied)
	err := orUnknown(e.Err)
	r.Kind, r.Reason, r.Profile = err.Kind.String(), text(err.Error(), 512), text(e.Profile, 2*broker.MaxName)
	return r
}

func (a *Audit) controlRecord(who broker.Caller, call, subject string, err error) *record {
	r := a.newRecord(who, decisionAllowed)
	r.Call, r.Subject, r.Reason = text(call, 32), text(subject, 2*broker.MaxName), "done"
	if err == nil {
		return r
	}
	r.Decision, r.Kind, r.Reason = decisionFailed, "failed", text(err.Error(), 512)
	denied := false
	if e, ok := errors.AsType[*broker.Error](err); ok {
		r.Kind, denied = e.Kind.String(), isDenial(e)
	} else if e, ok := errors.AsType[*control.Error](err); ok {
		r.Kind = text(e.Kind, 32)
		denied = r.Kind == broker.KindForbidden.String() || r.Kind == broker.KindUnauthorized.String() || r.Kind == broker.KindLocked.String()
	}
	if denied {
		r.Decision = decisionDenied
	}
	return r
}

func droppedRecord(n int) *record {
	return &record{
		Time: stamp(time.Now()), Decision: decisionDropped, Count: n,
		Reason: fmt.Sprintf("%d lines were not written: the file could not take them in time", n),
	}
}

// ofMany is what a denial has in common with the others of its caller.
func (r *record) ofMany() *record {
	return &record{
		Time: r.Time, Decision: r.Decision, Reason: tooMany, Door: r.Door, Peer: r.Peer, TokenID: r.TokenID, Token: r.Token,
	}
}

// encode returns the line with its end. JSON has no line break within an object that
// is not indented.
func (r *record) encode() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		panic(err) // not for a struct of strings and numbers
	}
	return b.Bytes()
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// tokenStart begins every token of a broker.
const tokenStart = "stsb1_"

// text makes what somebody else chose fit for a line: printable, at most so many bytes
// of valid UTF-8, and without tokens, which are shown in the wrong place at times.
func text(s string, most int) string {
	cut := len(s) > most
	if len(s) > 4*most {
		s = s[:4*most]
	}
	s = hideTokens(strings.Map(printableRune, s))
	if len(s) > most {
		cut = true
		s = strings.ToValidUTF8(s[:most], "")
	}
	if cut {
		s += "…"
	}
	return s
}

// hideTokens replaces what begins as tokens do, up to where a token must end.
func hideTokens(s string) string {
	before, after, found := strings.Cut(s, tokenStart)
	if !found {
		return s
	}
	var b strings.Builder
	for found {
		b.WriteString(before)
		b.WriteString("(a token)")
		after = strings.TrimLeft(after, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
		before, after, found = strings.Cut(after, tokenStart)
	}
	b.WriteString(before)
	return b.String()
}
