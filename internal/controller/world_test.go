package controller_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/controller"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// world is a cluster that prints what the controller does to it. It is all that a
// Controller works with: feed, writers and Events. Its methods may be called only
// while the controller waits for news.
type world struct {
	t    *testing.T
	stop context.CancelFunc
	done chan struct{}

	changed chan struct{}
	ready   chan struct{}

	mu       sync.Mutex
	services map[lb.Key]*lb.Service
	pools    map[string]config.IPAddressPool
	delta    kube.Delta
	claims   map[netip.Addr][]lb.Holder
	onWire   []lb.WireConflict
	opts     controller.Options
	usage    *controller.Usage
	former   []ipam.Former // as the status of pools says
	age      int           // of the world: each pool is younger than those before
	uid      int
	lag      bool // what is written is not seen
	counters map[string]kube.PoolState
	problems []config.Problem
	objects  []config.Status // as told last
	loaded   string
	lines    []string
	under    *controller.Controller
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{
		t: t, changed: make(chan struct{}, 1), services: map[lb.Key]*lb.Service{}, pools: map[string]config.IPAddressPool{},
		delta: newDelta(), claims: map[netip.Addr][]lb.Holder{}, usage: &controller.Usage{},
	}
}

func newDelta() kube.Delta {
	return kube.Delta{Services: map[lb.Key]*lb.Service{}, Claims: map[netip.Addr][]lb.Holder{}}
}

// start starts a controller, or another one in the place of the first, that finds
// the world as it is.
func (w *world) start() {
	w.t.Helper()
	if w.stop != nil {
		w.stop()
		<-w.done
	}
	w.ready, w.done = make(chan struct{}), make(chan struct{})
	w.counters, w.problems = nil, nil
	var ctx context.Context
	ctx, w.stop = context.WithCancel(w.t.Context())
	w.under = controller.New(controller.Deps{
		Log: slog.New(slog.DiscardHandler), Options: w.opts, Feed: w, Status: statusWriter{w}, State: stateWriter{w}, Metrics: w,
		Usage: w.usage, Former: w.former,
	})
	w.say("# start")
	go func() {
		defer close(w.done)
		if err := w.under.Run(ctx); err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}()
	synctest.Wait()
	select {
	case <-w.under.Ready():
		w.t.Error("it is ready before everything was read")
	default:
	}
	close(w.ready)
	synctest.Wait()
	<-w.under.Ready()
}

// step lets the controller see what change does to the world, all at once.
func (w *world) step(title string, change func()) {
	w.say("# %s", title)
	change()
	w.news()
	synctest.Wait()
}

// check compares what was printed since the last check.
func (w *world) check(want string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	got := strings.Join(w.lines, "\n") + "\n"
	w.lines = nil
	want = strings.ReplaceAll(strings.TrimLeft(want, "\n"), "\t", "")
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("wrong transcript (-want +got):\n%s", diff)
	}
	// Whatever happens, no address is held twice by Services that do not share it.
	holders := map[netip.Addr]*lb.Service{}
	for _, key := range slices.SortedFunc(maps.Keys(w.services), lb.Key.Compare) {
		svc := w.services[key]
		for _, a := range svc.Addrs {
			if other := holders[a]; other != nil && (svc.SharingKey == "" || svc.SharingKey != other.SharingKey) && !w.lag {
				w.t.Errorf("%s is held by %s and %s", a, other.Key, key)
			}
			holders[a] = svc
		}
	}
}

func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sayLocked(format, args...)
}

func (w *world) sayLocked(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *world) news() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// touch makes a Service part of the next Delta. The next one is a copy, as from
// an informer.
func (w *world) touch(key lb.Key) {
	w.delta.Services[key] = nil
	if svc := w.services[key]; svc != nil {
		own := *svc
		w.delta.Services[key] = &own
	}
}

func (w *world) touchObjects() {
	w.delta.Objects = &config.Objects{}
	for _, name := range slices.Sorted(maps.Keys(w.pools)) {
		w.delta.Objects.Pools = append(w.delta.Objects.Pools, w.pools[name])
	}
}

// pool creates a pool, or edits it.
func (w *world) pool(name string, addresses ...string) {
	w.age++
	p, had := w.pools[name]
	if !had {
		p.Created = time.Unix(int64(w.age), 0)
	}
	p.Name, p.Addresses, p.AutoAssign = name, addresses, true
	w.pools[name] = p
	w.touchObjects()
}

func (w *world) deletePool(name string) {
	delete(w.pools, name)
	w.touchObjects()
}

type option func(*lb.Service)

func holds(pool string, list ...string) option {
	return func(s *lb.Service) { s.Addrs, s.Pool = addrs(list...), pool }
}
func asks(list ...string) option  { return func(s *lb.Service) { s.Requested = addrs(list...) } }
func asksPool(name string) option { return func(s *lb.Service) { s.RequestedPool = name } }
func shares(key string, port uint16) option {
	return func(s *lb.Service) { s.SharingKey, s.Ports = key, []lb.Port{{Protocol: "TCP", Number: port}} }
}

func clusterIPs(policy lb.FamilyPolicy, list ...string) option {
	return func(s *lb.Service) { s.ClusterIPs, s.FamilyPolicy = addrs(list...), policy }
}

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, s := range list {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}

func key(name string) lb.Key { return lb.Key{Namespace: "default", Name: name} }

// service creates a Service, or edits it.
func (w *world) service(name string, opts ...option) {
	svc := &lb.Service{Key: key(name), ClusterIPs: addrs("10.96.0.1"), FamilyPolicy: lb.SingleStack}
	if old := w.services[svc.Key]; old != nil {
		svc.UID, svc.Addrs, svc.Pool = old.UID, old.Addrs, old.Pool
		svc.Told, svc.ToldNo, svc.ToldAnnounced = old.Told, old.ToldNo, old.ToldAnnounced
	} else {
		w.uid++
		svc.UID = fmt.Sprint(w.uid)
	}
	for _, o := range opts {
		o(svc)
	}
	w.services[svc.Key] = svc
	w.touch(svc.Key)
}

func (w *world) deleteService(name string) {
	delete(w.services, key(name))
	w.touch(key(name))
}

// Changed, Ready and Drain make w a feed.
func (w *world) Changed() <-chan struct{} { return w.changed }

func (w *world) Ready() <-chan struct{} { return w.ready }

func (w *world) Drain() kube.Delta {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.delta
	w.delta = newDelta()
	return d
}

// Rewind makes everything news.
func (w *world) Rewind() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.touchObjects()
	for key := range w.services {
		w.touch(key)
	}
	for a := range w.claims {
		w.delta.Claims[a] = w.claims[a]
	}
	w.delta.Conflicts = slices.Clone(w.onWire)
}

// claim sets who has claimed an address.
func (w *world) claim(a netip.Addr, holders ...lb.Holder) {
	if len(holders) == 0 {
		delete(w.claims, a)
	} else {
		w.claims[a] = holders
	}
	w.delta.Claims[a] = holders
}

// Update does nothing.
func (w *world) Update(error) {}

// Config prints the state of the configuration when it changes.
func (w *world) Config(_ []config.Problem, invalid bool) {
	now := "configuration in force"
	if invalid {
		now = "configuration partly set aside"
	}
	if now != w.loaded {
		w.say("%s", now)
	}
	w.loaded = now
}

type statusWriter struct{ w *world }

// Set writes claims and status as the real writer does, and lets the controller see
// it.
func (s statusWriter) Set(k lb.Key, want kube.ServiceStatus, urgent bool) {
	w := s.w
	svc := w.services[k]
	switch {
	case svc == nil && want.UID == "":
		w.say("%s: mark removed", k.Name)
		return
	case svc == nil, svc.UID != want.UID:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range want.Addrs {
		have := slices.DeleteFunc(slices.Clone(w.claims[a]), func(h lb.Holder) bool { return h.Key == k })
		for _, h := range have {
			if ipam.Clash(a, h, want.Holder) != nil {
				w.sayLocked("%s: claim refused, %s has %s", k.Name, h.Key.Name, a)
				w.delta.Claims[a] = w.claims[a]
				w.news()
				return
			}
		}
		if !w.lag {
			w.claim(a, append(have, want.Holder)...)
		}
	}
	for _, e := range want.Events {
		kind := "Normal"
		if e.Warning {
			kind = "Warning"
		}
		w.sayLocked("%s: %s %s: %s", k.Name, kind, e.Reason, e.Message)
	}
	cond := want.Conditions[0]
	told := cond.Reason + ": " + cond.Message
	same := slices.Equal(svc.Addrs, want.Addrs) && svc.Pool == want.Pool
	if !same {
		if len(want.Addrs) == 0 {
			w.sayLocked("%s: status empty", k.Name)
		} else {
			w.sayLocked("%s: status %s %s", k.Name, strings.Trim(fmt.Sprint(want.Addrs), "[]"), want.Pool)
		}
		if !urgent && !w.lag {
			w.t.Errorf("%s: an address is not urgent", k)
		}
	}
	announced := svc.ToldAnnounced
	if len(want.Conditions) > 1 {
		announced = want.Conditions[1].Told()
	}
	if w.lag || same && svc.Told == told && svc.ToldAnnounced == announced {
		return
	}
	now := *svc
	if svc.ToldAnnounced != announced {
		w.sayLocked("%s: announced: %s", k.Name, announced)
		now.ToldAnnounced = announced
	}
	now.Addrs, now.Pool, now.Told, now.ToldNo = want.Addrs, want.Pool, told, !cond.True
	w.services[k] = &now
	w.touch(k)
	w.news()
}

// Release drops a claim as the real writer does.
func (s statusWriter) Release(_ lb.Key, uid string, a netip.Addr) {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(w.claims[a]), func(h lb.Holder) bool { return h.UID == uid })
	w.claim(a, left...)
	w.news()
}

type stateWriter struct{ w *world }

// Set prints the counters and problems that are new.
func (s stateWriter) Set(now kube.State) {
	w := s.w
	for _, name := range slices.Sorted(maps.Keys(now.Pools)) {
		p, old := now.Pools[name], w.counters[name]
		if p.OnWire != old.OnWire {
			w.say("pool %s: on the wire: %s", name, strings.ReplaceAll(p.OnWire, "\n", " / "))
		}
		if p.HeldBack != old.HeldBack || p.Keep != old.Keep {
			w.say("pool %s: keep %t: %s", name, p.Keep, p.HeldBack)
		}
		if p.Assigned4 != old.Assigned4 || p.Assigned6 != old.Assigned6 || p.Available4 != old.Available4 || p.Available6 != old.Available6 {
			w.say("pool %s: assigned %d+%d, available %d+%d", name, p.Assigned4, p.Assigned6, p.Available4, p.Available6)
		}
	}
	for _, p := range now.Problems {
		if !slices.Contains(w.problems, p) {
			w.say("problem: %s", p)
		}
	}
	w.former = nil
	for _, p := range now.Pools {
		w.former = append(w.former, p.Former...)
	}
	w.counters, w.problems, w.objects = now.Pools, now.Problems, now.Objects
}

// metrics returns the allocator's metrics as text.
func (w *world) metrics() string {
	w.t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(w.usage)
	families, err := reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.Metric {
			fmt.Fprintf(&b, "%s{%s} %v\n", strings.TrimPrefix(f.GetName(), "metallb_allocator_"), m.Label[0].GetValue(), m.GetGauge().GetValue())
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}
