package main

import (
	"reflect"
	"sync/atomic"

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

// openAudit opens the log that v wants: nil for none, or where the one that is open goes on.
func (v view) openAudit() (*observe.Audit, error) {
	want := v.cfg.Audit
	want.Line = 0
	if v.embedded || want.File == "" || reflect.DeepEqual(want, v.audit.config) {
		return nil, nil
	}
	return observe.OpenAudit(observe.AuditOptions{File: want.File, Required: want.Required, Name: v.tokens.NameOf, Log: v.log})
}

// takeAudit makes the log that openAudit opened the one that is written.
func (v view) takeAudit(log *observe.Audit) error {
	a := &v.app.audit
	want := v.cfg.Audit
	want.Line = 0
	if log == nil && reflect.DeepEqual(want, a.config) {
		if now := a.now.Load(); now != nil {
			return now.Reopen() // it may have been rotated
		}
		return nil
	}
	old := a.member
	a.now.Store(log)
	a.config, a.member = want, nil
	v.observer.Watch(log)
	if log != nil {
		a.member = v.crew.bearUntil(log.Run, log.Close)
	}
	if old != nil {
		return old.leave()
	}
	return nil
}
