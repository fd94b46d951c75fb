package awssts

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	// probeEvery is how often a region that did not answer is asked whether it
	// does again: one small unsigned call, which counts against no account.
	probeEvery = 15 * time.Second
	// disabledFor is how long a region is passed over for a mint whose account has
	// not activated STS there. Nothing but a signed call can tell, so the next mint
	// after that time is the probe.
	disabledFor = time.Hour
)

// Health is how a region stands that did not answer, or answers again.
type Health struct {
	Region string
	Lame   bool
	Since  time.Time // when that became known
	Why    string    // of a lame one: what happened, in one line
}

// lame holds the sites that did not answer lately. They are asked last.
type lame struct {
	changed func(Health)

	mu    sync.Mutex
	sites map[Site]Health
}

func newLame(changed func(Health)) lame {
	if changed == nil {
		changed = func(Health) {}
	}
	return lame{changed: changed, sites: map[Site]Health{}}
}

func (l *lame) has(at Site) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, is := l.sites[at]
	return is
}

func (l *lame) add(at Site, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.sites[at]; known {
		return
	}
	h := Health{Region: at.Region, Lame: true, Since: time.Now(), Why: why}
	first := !l.inLocked(at.Region)
	l.sites[at] = h
	if first {
		l.changed(h)
	}
}

func (l *lame) heal(at Site) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.sites[at]; !known {
		return
	}
	delete(l.sites, at)
	if !l.inLocked(at.Region) {
		l.changed(Health{Region: at.Region, Since: time.Now()})
	}
}

// inLocked reports whether an endpoint of the region is lame: it may have several.
func (l *lame) inLocked(region string) bool {
	for at := range l.sites {
		if at.Region == region {
			return true
		}
	}
	return false
}

func (l *lame) all() []Site {
	l.mu.Lock()
	defer l.mu.Unlock()
	sites := make([]Site, 0, len(l.sites))
	for at := range l.sites {
		sites = append(sites, at)
	}
	return sites
}

// Health returns the regions that do not answer, by name. It knows of those
// that another region stood in for, so of none without [Options].Fallback.
func (s *STS) Health() []Health {
	s.lame.mu.Lock()
	defer s.lame.mu.Unlock()
	all := make([]Health, 0, len(s.lame.sites))
	for _, h := range s.lame.sites {
		all = append(all, h)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Region < all[j].Region })
	return all
}

// Run probes regions that do not answer, until ctx ends. Without it such a
// region is asked again only when no other answers either.
func (s *STS) Run(ctx context.Context) error {
	if len(s.o.Fallback) == 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		var wg sync.WaitGroup
		for _, at := range s.lame.all() {
			wg.Go(func() {
				if s.probe(ctx, at) {
					s.lame.heal(at)
				}
			})
		}
		wg.Wait()
	}
}

// probe reports whether the region answers as an STS does: it refuses a call
// that nobody signed, by a code of its own.
func (s *STS) probe(ctx context.Context, at Site) bool {
	x, err := s.call(ctx, Call{Action: "GetCallerIdentity"}, at, broker.Material{}, func(ctx context.Context, api *sts.Client, _ func(*sts.Options)) error {
		_, err := api.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		return err
	})
	return err != nil && x.code != "" && x.status < http.StatusInternalServerError
}

// disabled remembers the sites where an account has not activated STS.
type disabled struct {
	mu    sync.Mutex
	sites map[Site]time.Time
}

func (d *disabled) add(at Site) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sites == nil {
		d.sites = map[Site]time.Time{}
	}
	d.sites[at] = time.Now()
}

func (d *disabled) has(at Site) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	since, is := d.sites[at]
	return is && time.Since(since) < disabledFor
}

// route lists the sites to ask, in order. Those that did not answer lately come
// last: when no other answers, they may.
func (s *STS) route(at Site, off *disabled) []Site {
	sites := []Site{at}
	if s.o.Override != nil || at.URL != "" {
		return sites
	}
	e, partition := s.endpoint(at), PartitionOf(at.Region)
	for _, region := range s.o.Fallback {
		f := s.site(Site{Region: region, FIPS: at.FIPS, DualStack: at.DualStack}, "")
		// What a store of its own mints is nothing to AWS, and the other way round. Other
		// endpoints that are configured are AWS's, reached by another way (a VPC's).
		if slices.Contains(sites, f) || region == at.Region || PartitionOf(region) != partition || s.endpoint(f).Compatible != e.Compatible {
			continue
		}
		sites = append(sites, f)
	}
	last := func(at Site) bool { return s.lame.has(at) || off.has(at) }
	return append(slices.DeleteFunc(slices.Clone(sites), last), slices.DeleteFunc(sites, func(at Site) bool { return !last(at) })...)
}

// do makes a call, to the region that is meant or, when that does not answer, to
// those that stand in for it. What a stand-in refuses to the caller is not the
// answer: policies may name regions. off may be nil, for a call whose account
// is not known to be always the same.
func (s *STS) do(ctx context.Context, c Call, at Site, m broker.Material, off *disabled, call send) (*exchange, error) {
	if off == nil {
		off = &disabled{}
	}
	sites := s.route(at, off)
	if len(sites) == 1 {
		return s.call(ctx, c, at, m, call)
	}
	var failed failures
	var x *exchange
	for _, site := range sites {
		var err error
		x, err = s.call(ctx, c, site, m, call)
		if err == nil {
			s.lame.heal(site)
			return x, nil
		}
		e := broker.AsError(err)
		f := failure{Error: e}
		switch {
		case errors.Is(ctx.Err(), context.Canceled): // nobody wants the answer any more
			return x, e
		case ctx.Err() != nil: // it had no time of its own, which is not its fault
			return x, append(failed, failure{e, true}).together()
		case x.code == "RegionDisabledException" || x.code == "RegionDisabled":
			off.add(site)
		case x.unanswered(e):
			f.unanswered = true
			s.lame.add(site, e.Public)
		case site != at && e.Kind == broker.KindDenied && !e.Signer:
		default:
			return x, e
		}
		failed = append(failed, f)
	}
	return x, failed.together()
}

// unanswered reports whether the region gave no answer: it cannot be reached,
// took too long, or failed inside. Throttling is an answer.
func (x *exchange) unanswered(e *broker.Error) bool {
	if e.Kind == broker.KindThrottled || x.sent.IsZero() {
		return false
	}
	return x.status == 0 || x.status >= http.StatusInternalServerError
}

// failure is how one region failed to answer, or failed the caller.
type failure struct {
	*broker.Error
	unanswered bool
}

type failures []failure

// together is the error of several regions. While one of them may yet answer, it
// passes. If all answered, and none granted, the last word counts.
func (all failures) together() *broker.Error {
	last := all[len(all)-1]
	out := *last.Error
	var public []string
	for _, f := range all {
		public = append(public, f.Public)
		if f.unanswered {
			out.Kind, out.Code, out.Own, out.Signer = broker.KindUnavailable, "", false, false
		}
	}
	out.Public = strings.Join(public, "; then ")
	return &out
}
