// Package observe turns the broker's events into a log (zap), metrics (Prometheus)
// and, where one is configured, an audit log ([Audit]).
//
// The log may name profiles, key ids and callers; it never holds a secret. A
// label of a metric holds even less: only words out of closed lists (doors,
// actions, error kinds, status codes) and the names of regions. Dashboards are
// copied into tickets and stored for years, and each new label value costs
// memory for as long as the process lives.
//
// Start with [Observer.Observe]: one case for each kind of event.
package observe

import (
	"errors"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/stsbroker/stsbroker/broker"
)

// Observer implements [broker.Observer]. All methods are safe for concurrent use.
type Observer struct {
	log     *zap.Logger
	reg     *prometheus.Registry
	metrics metrics

	mu      sync.Mutex
	failing map[string]failure // by profile; entries go when a mint succeeds
	refused map[broker.Kind]spate

	audit    atomic.Pointer[Audit] // see Watch
	watching sync.Once
}

// spate counts refusals of one kind within a minute: a stranger decides how
// often they come. (zap's own sampler takes half a megabyte for the same.)
type spate struct {
	began time.Time
	count int
}

// loud reports whether one more refusal is worth a line: the first twenty of a
// minute, and then every hundredth.
func (o *Observer) loud(k broker.Kind) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.refused[k]
	if now := time.Now(); now.Sub(s.began) >= time.Minute {
		s = spate{began: now}
	}
	s.count++
	o.refused[k] = s
	return s.count <= 20 || s.count%100 == 20
}

// failure is what is known of a profile whose mints fail.
type failure struct {
	count int
	kind  broker.Kind
	code  string
}

// againAfter is how many failures of one kind pass in silence between two
// lines: with the renewal policy's longest back-off of 60 s, twenty minutes.
const againAfter = 20

// New returns an Observer with a metrics registry of its own. stats is called
// at each scrape.
func New(log *zap.Logger, stats func() broker.Stats) *Observer {
	o := &Observer{
		log:     log,
		reg:     prometheus.NewRegistry(),
		metrics: newMetrics(),
		failing: map[string]failure{},
		refused: map[broker.Kind]spate{},
	}
	o.reg.MustRegister(o.metrics.all()...)
	o.reg.MustRegister(gauges{stats})
	o.metrics.loaded.Set(1) // else there would be no broker
	return o
}

// Build tells which build runs: version is the program's own, the toolchain's is known.
// It is called once.
func (o *Observer) Build(version string) {
	o.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "1; the labels say which build runs.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	}, func() float64 { return 1 }))
}

// Watch tells how the audit log fares, from now on; nil for one that is no more.
func (o *Observer) Watch(a *Audit) {
	if o.audit.Swap(a); a == nil {
		return
	}
	o.watching.Do(func() {
		o.reg.MustRegister(
			prometheus.NewCounterFunc(prometheus.CounterOpts{
				Namespace: namespace, Name: "audit_dropped_total", Help: "Lines of the audit log that were not written, and will not be.",
			}, func() float64 {
				if a := o.audit.Load(); a != nil {
					return float64(a.dropped.Load())
				}
				return 0
			}),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Namespace: namespace, Name: "audit_failing", Help: "Whether the audit log could not be written at the last try (1).",
			}, func() float64 {
				if a := o.audit.Load(); a != nil && a.failing.Load() {
					return 1
				}
				return 0
			}))
	})
}

// Reloaded counts a reload of the configuration; err is why it changed nothing, nil if
// it did.
func (o *Observer) Reloaded(err error) {
	if err != nil {
		o.metrics.reloadFailed.Inc()
		o.metrics.loaded.Set(0)
		return
	}
	o.metrics.reloadOK.Inc()
	o.metrics.loaded.Set(1)
}

// Observe records one event. A served set (the way of every request) costs a
// few atomic additions and no allocation; it is logged at debug only.
func (o *Observer) Observe(e broker.Event) {
	switch e.Kind {
	case broker.EventServed:
		if e.Caller.Door == broker.DoorFile { // it looks more often than anybody is served
			return
		}
		o.metrics.servedLeft.Observe(e.Left.Seconds())
		if e.Stale {
			o.metrics.servedStale.Inc()
		}
		if ce := o.log.Check(zapcore.DebugLevel, "served"); ce != nil {
			writeServed(ce, e)
		}
	case broker.EventMinted:
		o.metrics.mint(e, resultOK)
		o.minted(e)
	case broker.EventMintFailed:
		if k := orUnknown(e.Err).Kind; k != broker.KindLoginNeeded && k != broker.KindLocked { // nobody was called
			o.metrics.mint(e, resultOf(e.Err))
		}
		o.mintFailed(e)
	case broker.EventRefused:
		o.logRefused(e)
	case broker.EventLapsed:
		o.metrics.lapsed.Inc()
		o.log.Debug("lease lapsed: nobody asked lately", profileField(e.Profile))
	case broker.EventLoginSoon:
		o.log.Info("a login will be needed", profileField(e.Profile), zap.Duration("in", e.Left.Round(time.Second)))
	case broker.EventClockStep:
		o.metrics.clockSteps.Inc()
		o.log.Info("the clock jumped (a suspend, or it was set); looking at every lease again", zap.Duration("by", e.Left))
	}
}

// Request counts one answered HTTP request. It does not allocate for the
// status codes that the doors use.
func (o *Observer) Request(door string, status int) {
	if status == http.StatusOK && door == broker.DoorContainer {
		o.metrics.usual.Inc()
		return
	}
	o.metrics.requests.WithLabelValues(doorLabel(door), statusLabel(status)).Inc()
}

// Region notes that the STS of a region does not answer, and why, or that it
// answers again.
func (o *Observer) Region(region string, lame bool, why string) {
	if lame {
		o.metrics.lame.WithLabelValues(regionLabel(region)).Set(1)
		o.log.Warn("STS does not answer in a region; the fallback regions stand in for it", zap.String("region", region), zap.String("error", clip(why)))
		return
	}
	o.metrics.lame.WithLabelValues(regionLabel(region)).Set(0)
	o.log.Info("STS answers again in a region", zap.String("region", region))
}

// Handler serves the metrics in Prometheus' text format. Put it behind the
// guard: it checks nobody.
func (o *Observer) Handler() http.Handler { return metricsHandler(o.reg) }

func (o *Observer) minted(e broker.Event) {
	o.mu.Lock()
	before := o.failing[e.Profile].count
	delete(o.failing, e.Profile)
	o.mu.Unlock()

	fields := append(mintFields(e),
		zap.String("key_id", e.KeyID),
		zap.Uint64("generation", e.Generation),
		zap.Duration("left", e.Left.Round(time.Second)),
		zap.Duration("renewal_in", e.Renewal.Round(time.Second)))
	if e.Note != "" {
		fields = append(fields, zap.String("note", e.Note))
	}
	if before > 0 {
		fields = append(fields, zap.Int("failures_before", before))
	}
	o.log.Info("minted", fields...)
}

// mintFailed logs the first failure of a profile, each change of its nature,
// and then one in [againAfter], as warnings; the repeats between at debug.
func (o *Observer) mintFailed(e broker.Event) {
	err := orUnknown(e.Err)
	o.mu.Lock()
	f := o.failing[e.Profile]
	loud := f.count%againAfter == 0 || f.kind != err.Kind || f.code != err.Code
	f = failure{count: f.count + 1, kind: err.Kind, code: err.Code}
	o.failing[e.Profile] = f
	o.mu.Unlock()

	level := zapcore.DebugLevel
	if loud {
		level = zapcore.WarnLevel
	}
	if ce := o.log.Check(level, "mint failed"); ce != nil {
		fields := append(mintFields(e), zap.Int("failures", f.count))
		ce.Write(append(fields, errorFields(err)...)...)
	}
}

// logRefused warns of what a person has to mend and nothing else tells of.
// What passes by itself, and what the failed mint already told, is for debug.
func (o *Observer) logRefused(e broker.Event) {
	err := orUnknown(e.Err)
	level := zapcore.DebugLevel
	switch err.Kind {
	case broker.KindForbidden, broker.KindUnauthorized, broker.KindConfig, broker.KindLoginNeeded, broker.KindLocked:
		if e.Caller.Door == broker.DoorFile { // it looks again each minute, and nobody was refused
			break
		}
		if !o.loud(err.Kind) {
			return
		}
		level = zapcore.WarnLevel
	}
	if ce := o.log.Check(level, "refused: "+err.Kind.String()); ce != nil {
		fields := append(callerFields(e.Caller), profileField(e.Profile))
		ce.Write(append(fields, errorFields(err)...)...)
	}
}

func writeServed(ce *zapcore.CheckedEntry, e broker.Event) {
	ce.Write(append(callerFields(e.Caller),
		profileField(e.Profile),
		zap.Uint64("generation", e.Generation),
		zap.Duration("left", e.Left.Round(time.Second)),
		zap.Bool("stale", e.Stale))...)
}

func mintFields(e broker.Event) []zap.Field {
	return []zap.Field{
		profileField(e.Profile),
		zap.String("action", e.Action),
		zap.String("region", e.Region),
		zap.Duration("took", e.Took.Round(time.Millisecond)),
	}
}

func callerFields(c broker.Caller) []zap.Field {
	fields := []zap.Field{zap.String("door", c.Door)}
	if c.Remote.IsValid() {
		fields = append(fields, zap.Stringer("remote", c.Remote))
	}
	if uid, known := c.Peer.UID(); known {
		fields = append(fields, zap.Uint32("uid", uid))
	}
	if pid, known := c.Peer.PID(); known {
		fields = append(fields, zap.Int32("pid", pid))
	}
	if c.Token != "" {
		fields = append(fields, zap.String("token", c.Token))
	}
	return fields
}

func errorFields(err *broker.Error) []zap.Field {
	fields := []zap.Field{zap.Stringer("kind", err.Kind), zap.String("error", clip(err.Public))}
	if err.Code != "" {
		fields = append(fields, zap.String("code", clip(err.Code)))
	}
	if err.Cause != nil {
		fields = append(fields, zap.String("cause", clipTo(err.Cause.Error(), mostCause)))
	}
	// The AWS SDK's response errors carry the id that AWS support asks for
	// (aws/transport/http.ResponseError).
	var r interface{ ServiceRequestID() string }
	if errors.As(err.Cause, &r) && r.ServiceRequestID() != "" {
		fields = append(fields, zap.String("request_id", clip(r.ServiceRequestID())))
	}
	return fields
}

// profileField is the name as a terminal may show it: a caller may ask for one
// that holds control characters.
func profileField(name string) zap.Field {
	return zap.String("profile", strings.Map(printableRune, name))
}

func printableRune(r rune) rune {
	if !unicode.IsPrint(r) {
		return '\uFFFD'
	}
	return r
}

// clip bounds text that a server chose.
func clip(s string) string { return clipTo(s, 2048) }

// mostCause leaves room for an encoded authorization message, of up to 10,240
// characters: a part of one cannot be decoded.
const mostCause = 12 << 10

func clipTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func orUnknown(err *broker.Error) *broker.Error {
	if err == nil {
		return &broker.Error{Public: "no reason given"}
	}
	return err
}
