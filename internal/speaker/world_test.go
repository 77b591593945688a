package speaker_test

import (
	"cmp"
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

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/plan"
	"github.com/barelb/barelb/internal/kube"
	"github.com/barelb/barelb/internal/kubeproxy"
	"github.com/barelb/barelb/internal/speaker"
)

// world is all that a Speaker on node1 works with. It prints what is done to it.
// Its methods may be called only while the speaker waits for news.
type world struct {
	t     *testing.T
	under *speaker.Speaker
	stop  context.CancelFunc
	done  chan struct{}
	ended func() // stops what else runs
	reg   *prometheus.Registry

	changed, aliveChanged, ready chan struct{}

	mu       sync.Mutex
	delta    kube.Delta
	objects  config.Objects
	alive    map[string]bool
	view     *liveness.View // instead of alive
	claims   map[netip.Addr][]liveness.Claimant
	former   map[netip.Addr]uint32
	applyErr error // of layer2
	applied  map[string]string
	applies  int
	lines    []string
}

// newWorld starts a speaker. watched says whether speakers watch each other.
func newWorld(t *testing.T, watched bool, change ...func(w *world, d *speaker.Deps)) *world {
	t.Helper()
	w := &world{
		t: t, done: make(chan struct{}), reg: prometheus.NewPedanticRegistry(), alive: map[string]bool{}, applied: map[string]string{},
		changed: make(chan struct{}, 1), aliveChanged: make(chan struct{}, 1), ready: make(chan struct{}), delta: newDelta(),
	}
	deps := speaker.Deps{
		Log: slog.New(slog.DiscardHandler), Options: plan.Options{Node: "node1"}, Feed: w, L2: layer2{w}, BGP: bgp{w},
		State: stateWriter{w}, Events: w, Metrics: w, Announced: speaker.NewAnnounced(w.reg, "node1"),
	}
	if watched {
		deps.Members = members{w}
	}
	for _, f := range change {
		f(w, &deps)
	}
	w.under = speaker.New(deps)
	ctx, cancel := context.WithCancel(t.Context())
	w.stop = cancel
	go func() {
		defer close(w.done)
		if err := w.under.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	synctest.Wait()
	return w
}

func newDelta() kube.Delta {
	return kube.Delta{Services: map[lb.Key]*lb.Service{}, Endpoints: map[lb.Key][]lb.Endpoint{}}
}

// statusWriter prints what the node does for Services.
type statusWriter struct{ w *world }

// Set prints what changed.
func (s statusWriter) Set(changed map[lb.Key]kube.Announcing) {
	s.w.say("status of %d Services", len(changed))
	for _, key := range slices.SortedFunc(maps.Keys(changed), lb.Key.Compare) {
		a := changed[key]
		s.w.say("  %s %s %v: layer2 %t %v, bgp %v", key.Name, a.UID, a.Addrs, a.L2, a.Links, a.Peers)
	}
}

// story runs a test in a bubble.
func story(t *testing.T, watched bool, fn func(w *world), change ...func(w *world, d *speaker.Deps)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, watched, change...)
		fn(w)
		w.stop()
		<-w.done
		if w.ended != nil {
			w.ended()
		}
	})
}

// step lets the speaker see what change does to the world, all at once.
func (w *world) step(title string, change func()) {
	w.say("# %s", title)
	change()
	select {
	case w.changed <- struct{}{}:
	default:
	}
	synctest.Wait()
}

// everythingRead makes the feed ready.
func (w *world) everythingRead() {
	w.say("# everything was read")
	close(w.ready)
	synctest.Wait()
}

func (w *world) check(want string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	got := strings.Join(w.lines, "\n") + "\n"
	w.lines = nil
	want = strings.ReplaceAll(strings.TrimLeft(want, "\n"), "\t", "")
	if diff := gocmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		w.t.Errorf("wrong transcript (-want +got):\n%s", diff)
	}
}

func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

// living says whose speakers live.
func (w *world) living(nodes ...string) {
	w.say("# alive: %s", strings.Join(nodes, " "))
	w.alive = map[string]bool{}
	for _, n := range nodes {
		w.alive[n] = true
	}
	w.aliveChanged <- struct{}{}
	synctest.Wait()
}

func (w *world) nodes(names ...string) {
	w.delta.Nodes = []lb.Node{}
	for i, n := range names {
		w.delta.Nodes = append(w.delta.Nodes, lb.Node{
			Name: n, Labels: map[string]string{"kubernetes.io/hostname": n}, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(101 + i)})},
		})
	}
}

// configure changes the configuration objects.
func (w *world) configure(change func(o *config.Objects)) {
	change(&w.objects)
	next := w.objects
	w.delta.Objects = &next
}

// usual is a configuration with a pool that is advertised in both ways.
func usual(o *config.Objects) {
	*o = config.Objects{
		Pools: []config.IPAddressPool{{Meta: meta("p"), Addresses: []string{"192.0.2.0/24"}, AutoAssign: true}},
		L2:    []config.L2Advertisement{{Meta: meta("l2")}},
		BGP:   []config.BGPAdvertisement{{Meta: meta("bgp"), AggregationLength: 32, AggregationLengthV6: 128}},
		Peers: []config.BGPPeer{{Meta: meta("router"), MyASN: 64512, PeerASN: 64513, PeerAddress: "10.0.0.1", PeerPort: 179}},
	}
}

func meta(name string) config.Meta { return config.Meta{Name: name, Created: time.Unix(1, 0)} }

func key(name string) lb.Key { return lb.Key{Namespace: "default", Name: name} }

// service creates a Service with endpoints on the nodes, or edits it.
func (w *world) service(name, addr string, nodes ...string) {
	svc := &lb.Service{Key: key(name), UID: name, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Pool: "p"}
	if addr != "" {
		svc.Addrs = []netip.Addr{netip.MustParseAddr(addr)}
	}
	w.delta.Services[svc.Key] = svc
	for _, n := range nodes {
		w.delta.Endpoints[svc.Key] = append(w.delta.Endpoints[svc.Key], lb.Endpoint{Node: n, Serving: true})
	}
}

// Changed, Ready and Drain make w a feed.
func (w *world) Changed() <-chan struct{} { return w.changed }

func (w *world) Ready() <-chan struct{} { return w.ready }

func (w *world) Drain() kube.Delta {
	d := w.delta
	w.delta = newDelta()
	return d
}

// ServiceEvent prints an Event.
func (w *world) ServiceEvent(svc *lb.Service, _ bool, reason, message string) {
	w.say("event on %s: %s: %s", svc.Key.Name, reason, message)
}

// AddressClaimed prints an Event.
func (w *world) AddressClaimed(svc *lb.Service, c lb.WireConflict, node func() string) bool {
	who := ""
	if n := node(); n != "" {
		who = ": " + n
	}
	w.say("event on %s: %s is claimed by %s on %s of %s%s", svc.Key.Name, c.Addr, c.MAC, c.Link, c.Node, who)
	return true
}

// Update prints failures.
func (w *world) Update(err error) {
	if err != nil {
		w.say("counted: %v", err)
	}
}

// Config prints whether the configuration is stale.
func (w *world) Config(_ []config.Problem, invalid bool) {
	w.say("configuration stale: %t", invalid)
}

type members struct{ w *world }

// View knows of MetalLB's speakers by alive, or of ours by view.
func (m members) View() *liveness.View {
	if m.w.view != nil {
		return m.w.view
	}
	v := &liveness.View{Nodes: map[string]liveness.Node{}}
	for n := range m.w.alive {
		v.Nodes[n] = liveness.Node{Member: true}
	}
	return v
}

// DrainClaims returns what was claimed since.
func (m members) DrainClaims() map[netip.Addr][]liveness.Claimant {
	now := map[netip.Addr][]liveness.Claimant{}
	maps.Copy(now, m.w.claims)
	m.w.claims = nil
	return now
}

// Former returns what the speaker before this one claimed.
func (m members) Former() map[netip.Addr]uint32 { return m.w.former }

// SetClaims prints what this node claims.
func (m members) SetClaims(changes []liveness.Change) {
	if m.w.view == nil {
		return
	}
	for _, c := range changes {
		if c.Withdrawn {
			m.w.say("claims %s no more", c.Addr)
		} else {
			m.w.say("claims %s, term %d", c.Addr, c.Term)
		}
	}
}

// SetPhase prints the phase when it changes.
func (m members) SetPhase(p liveness.Phase) {
	if m.w.view != nil {
		m.w.apply("phase", phases[p])
	}
}

// SetProxyDown prints whether kube-proxy is down when that changes.
func (m members) SetProxyDown(down bool) {
	m.w.apply("kube-proxy", map[bool]string{true: "not healthy", false: "healthy"}[down])
}

// proxy is the node's kube-proxy.
type proxy struct {
	changed, asked chan struct{}
	state          kubeproxy.State
}

func (p *proxy) State() kubeproxy.State { return p.state }

func (p *proxy) Changed() <-chan struct{} { return p.changed }

func (p *proxy) Asked() <-chan struct{} { return p.asked }

var phases = map[liveness.Phase]string{liveness.Serving: "serving", liveness.Restarting: "restarting", liveness.Leaving: "leaving"}

// Tell prints who is told.
func (m members) Tell(_ context.Context, node string, _ []byte) error {
	m.w.say("told: %s", node)
	return nil
}

func (m members) Changed() <-chan struct{} { return m.w.aliveChanged }

type layer2 struct{ w *world }

// Apply prints what is announced when it changes.
func (l layer2) Apply(_ context.Context, want lb.L2) error {
	var addrs []string
	for _, a := range slices.SortedFunc(maps.Keys(want), netip.Addr.Compare) {
		text := a.String()
		switch {
		case want[a].Role == lb.Yield:
			text += " (yields)"
		case want[a].Role == lb.Caretake:
			text += fmt.Sprintf(" (caretaker, %v)", want[a].MACs)
		case want[a].Tell == lb.TellNever:
			text += " (quietly)"
		case want[a].Tell == lb.TellSlowly:
			text += " (resumes)"
		}
		addrs = append(addrs, text)
	}
	l.w.applies++
	l.w.apply("layer2", strings.Join(addrs, " "))
	return l.w.applyErr
}

type bgp struct{ w *world }

// Apply prints what is advertised when it changes.
func (b bgp) Apply(_ context.Context, want lb.BGP) error {
	var all []string
	for _, s := range want {
		all = append(all, s.Peer.Name+":")
		for _, p := range slices.SortedFunc(maps.Keys(s.Routes), netip.Prefix.Compare) {
			text := p.String()
			if s.Routes[p].Yield {
				text += " (yields)"
			}
			all = append(all, text)
		}
	}
	b.w.apply("bgp", strings.Join(all, " "))
	return nil
}

func (w *world) apply(protocol, now string) {
	if last, had := w.applied[protocol]; had && last == now {
		return
	}
	w.applied[protocol] = now
	w.say("apply %s: %s", protocol, cmp.Or(now, "nothing"))
}

type stateWriter struct{ w *world }

// Set prints the problems.
func (s stateWriter) Set(now kube.State) {
	s.w.say("state: %d problems", len(now.Problems))
	if now.ProxyWatched {
		s.w.say("  kube-proxy: %s", cmp.Or(now.ProxyDown, "healthy"))
	}
	for _, p := range now.Problems {
		s.w.say("  %s", p)
	}
}

// announced returns the series of metallb_speaker_announced.
func (w *world) announced() string {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		if f.GetName() != "metallb_speaker_announced" {
			continue
		}
		for _, m := range f.Metric {
			line := f.GetName()
			for _, l := range m.Label {
				line += " " + l.GetName() + "=" + l.GetValue()
			}
			out = append(out, fmt.Sprintf("%s %v", line, m.GetGauge().GetValue()))
		}
	}
	return strings.Join(out, "\n")
}

// why returns barelb_speaker_services, but what is 0.
func (w *world) why() string {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.Metric {
			if n := m.GetGauge().GetValue(); f.GetName() == "barelb_speaker_services" && n != 0 {
				out = append(out, fmt.Sprintf("%s %s %v", m.Label[0].GetValue(), m.Label[1].GetValue(), n))
			}
		}
	}
	return strings.Join(out, ", ")
}
