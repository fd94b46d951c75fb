package observe

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	namespace = "stsbroker"
	resultOK  = "ok"
	other     = "other" // every word that is not on a label's list
)

type metrics struct {
	mints       *prometheus.CounterVec
	mintSeconds *prometheus.HistogramVec
	servedLeft  prometheus.Histogram
	servedStale prometheus.Counter
	requests    *prometheus.CounterVec
	usual       prometheus.Counter // the requests that are nearly all: served at the container door
	lapsed      prometheus.Counter
	clockSteps  prometheus.Counter
	lame        *prometheus.GaugeVec
	reloads     *prometheus.CounterVec
	loaded      prometheus.Gauge

	reloadOK, reloadFailed prometheus.Counter // of reloads, there from the start: an alert sees the first increase
}

func newMetrics() metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}
	}
	m := metrics{
		mints: prometheus.NewCounterVec(counter("mints_total",
			"Calls that issue credentials. result is ok or the kind of the error."), []string{"action", "result", "region"}),
		mintSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "mint_seconds", Help: "How long the calls that issue credentials took.",
			// 0.8 s is the container door's patience, 10 s a mint's deadline.
			Buckets: []float64{0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 2, 4, 10, 50},
		}, []string{"action"}),
		servedLeft: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "served_time_left_seconds", Help: "Time left of credentials when they were served.",
			// Marks at which clients ask again (1, 5, 10, 15, 25, 60 minutes) and common lifetimes.
			Buckets: []float64{60, 300, 600, 900, 1500, 1800, 3600, 3900, 7200, 21600, 43200},
		}),
		servedStale: prometheus.NewCounter(counter("served_stale_total",
			"Credentials served that are valid, but whose last renewal failed.")),
		requests: prometheus.NewCounterVec(counter("requests_total",
			"Requests answered, by front door and HTTP status."), []string{"door", "status"}),
		lapsed: prometheus.NewCounter(counter("leases_lapsed_total",
			"Leases that are no longer renewed because nobody asked lately.")),
		clockSteps: prometheus.NewCounter(counter("clock_steps_total",
			"Jumps of the wall clock: suspends, or it was set.")),
		lame: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "sts_region_lame", Help: "Whether STS does not answer in a region that fallback regions stand in for (1), or answers again (0).",
		}, []string{"region"}),
		reloads: prometheus.NewCounterVec(counter("reloads_total",
			"Reloads of the configuration. result is ok, or failed: then the old one goes on."), []string{"result"}),
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "last_reload_success", Help: "Whether the configuration on disk was in effect after the last reload (1), or the one before went on (0).",
		}),
	}
	m.reloadOK, m.reloadFailed = m.reloads.WithLabelValues(resultOK), m.reloads.WithLabelValues("failed")
	m.usual = m.requests.WithLabelValues(broker.DoorContainer, statusLabel(http.StatusOK))
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.mints, m.mintSeconds, m.servedLeft, m.servedStale, m.requests, m.lapsed, m.clockSteps, m.lame, m.reloads, m.loaded}
}

func (m *metrics) mint(e broker.Event, result string) {
	action := actionLabel(e.Action)
	m.mints.WithLabelValues(action, result, regionLabel(e.Region)).Inc()
	m.mintSeconds.WithLabelValues(action).Observe(e.Took.Seconds())
}

// gauges reads the broker's state once for each scrape.
type gauges struct{ stats func() broker.Stats }

// Describe sends nothing on purpose: which gauges there are depends on the
// state (there is no time left to tell of while nothing is held).
func (gauges) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(name, help string, v float64, labels prometheus.Labels) {
		ch <- prometheus.MustNewConstMetric(
			prometheus.NewDesc(namespace+"_"+name, help, nil, labels), prometheus.GaugeValue, v)
	}
	s := g.stats()
	gauge("waiters", "Callers that wait for a mint.", float64(s.Waiters), nil)
	if s.AnyHeld {
		gauge("smallest_time_left_seconds", "Smallest time left of all credentials that are kept fresh.", s.SmallestLeft.Seconds(), nil)
	}
	profiles := map[string]int{}
	for state, n := range s.States {
		profiles[stateLabel(state)] += n
	}
	for state, n := range profiles {
		gauge("profiles", "Profiles by how they stand; those that only feed others left out.", float64(n), prometheus.Labels{"state": state})
	}
	// A bucket is ACCOUNT/REGION. The account stays out of the label; of
	// several accounts in one region the one nearest to its limit counts.
	lowest := map[string]float64{}
	for bucket, level := range s.Budget {
		region := regionLabel(bucket[strings.LastIndexByte(bucket, '/')+1:])
		if have, ok := lowest[region]; !ok || level < have {
			lowest[region] = level
		}
	}
	for region, level := range lowest {
		gauge("budget_calls", "Calls to STS that could start now, by region; of several accounts, the lowest.", level, prometheus.Labels{"region": region})
	}
}

func metricsHandler(reg *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// Label values. Each of these has a small set of results whatever goes in.

var regionShape = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]{2,12}){1,3}-[0-9]{1,2}$`)

func regionLabel(region string) string {
	switch {
	case region == "":
		return "none"
	case len(region) <= 32 && regionShape.MatchString(region):
		return region
	}
	return other
}

func actionLabel(action string) string {
	switch action {
	case "AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "AssumeRoot",
		"GetSessionToken", "GetFederationToken", "GetDelegatedAccessToken", "credential_process",
		"environment", "Ec2InstanceMetadata", "EcsContainer":
		return action
	}
	return other
}

func stateLabel(s broker.State) string {
	switch s {
	case broker.StateUnservable, broker.StateIdle, broker.StateMinting, broker.StateFresh, broker.StateRenewing,
		broker.StateFailing, broker.StateLapsed, broker.StateError, broker.StateLogin:
		return string(s)
	}
	return other
}

func doorLabel(door string) string {
	switch door {
	case broker.DoorContainer, broker.DoorControl, broker.DoorIMDS, broker.DoorSocket, "metrics":
		return door
	}
	return other
}

func resultOf(err *broker.Error) string {
	switch kind := orUnknown(err).Kind; kind {
	case broker.KindUnavailable, broker.KindThrottled, broker.KindTimeout, broker.KindDenied,
		broker.KindConfig, broker.KindLoginNeeded, broker.KindForbidden, broker.KindUnauthorized, broker.KindLocked:
		return kind.String()
	}
	return other
}

func statusLabel(status int) string {
	switch status { // constants for the doors' own, so that counting does not allocate
	case http.StatusOK:
		return "200"
	case http.StatusUnauthorized:
		return "401"
	case http.StatusForbidden:
		return "403"
	case http.StatusServiceUnavailable:
		return "503"
	}
	if status < 100 || status > 599 {
		return other
	}
	return strconv.Itoa(status)
}
