package main

import (
	"sync/atomic"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/observe"
)

// audit is the audit log, where there is one; a reload may change it.
type audit struct {
	now    atomic.Pointer[observe.Audit]
	config AuditConfig // of now
	member *member
}

// Observe implements broker.Observer.
func (a *audit) Observe(e broker.Event) {
	if log := a.now.Load(); log != nil {
		log.Observe(e)
	}
}

func (a *audit) gate(e broker.Event) error {
	if log := a.now.Load(); log != nil {
		return log.Gate(e)
	}
	return nil
}

func (a *audit) control(who broker.Caller, call, about string, err error) {
	if log := a.now.Load(); log != nil {
		log.Control(who, call, about, err)
	}
}

// openAudit opens the log that v wants, and reports whether that is another than there is;
// nil for none.
func (v view) openAudit() (log *observe.Audit, changes bool, err error) {
	if want := v.wantedAudit(); v.embedded || want == v.audit.config {
		return nil, false, nil
	} else if want.File != "" {
		log, err = observe.OpenAudit(observe.AuditOptions{File: want.File, Required: want.Required, Name: v.tokens.NameOf, Log: v.log})
	}
	return log, true, err
}

func (s *setup) wantedAudit() AuditConfig {
	want := s.cfg.Audit
	want.Line = 0
	return want
}

// takeAudit makes the log that openAudit opened the one that is written; one that goes on
// may have been rotated.
func (v view) takeAudit(log *observe.Audit, changes bool) error {
	a := &v.app.audit
	if !changes {
		if now := a.now.Load(); now != nil {
			return now.Reopen()
		}
		return nil
	}
	old := a.member
	a.now.Store(log)
	a.config, a.member = v.wantedAudit(), nil
	v.observer.Watch(log)
	if log != nil {
		a.member = v.crew.bearUntil(log.Run, log.Close)
	}
	if old != nil { // who took it a moment ago has a line to write still
		v.crew.later(time.Second, func() { v.complain("audit.file", old.leave()) })
	}
	return nil
}
