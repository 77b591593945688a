package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// sight is how old an edit of a Service may be that whoever gives addresses has not
// heard of. Decisions that are older must not come true any more.
const sight = 5 * time.Second

// sharing is what decides who may share an address with a Service.
type sharing struct {
	key, backend string
	ports        []string
}

func sharingOf(svc *corev1.Service) sharing {
	s := sharing{key: svc.Annotations[shareBy]}
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		s.backend = fmt.Sprint(svc.Spec.Selector) // fmt prints maps in order
	}
	for _, p := range svc.Spec.Ports {
		s.ports = append(s.ports, fmt.Sprint(p.Protocol, p.Port))
	}
	slices.Sort(s.ports)
	return s
}

func (s sharing) equal(o sharing) bool {
	return s.key == o.key && s.backend == o.backend && slices.Equal(s.ports, o.ports)
}

func (s sharing) with(o sharing) bool {
	return s.key != "" && s.key == o.key && s.backend == o.backend &&
		!slices.ContainsFunc(s.ports, func(p string) bool { return slices.Contains(o.ports, p) })
}

// version is a Service's way to share and until when it was so; zero: it is still.
type version struct {
	sharing
	until time.Time
}

// holder is a Service and the addresses in its status.
type holder struct {
	name  string
	addrs []string
	past  []version // the last is the present one
}

// sharing tells of a holder's ways to share.
func (h *holder) sharing(at time.Time) string {
	var out []string
	for _, v := range h.past {
		text := fmt.Sprintf("key %q, ports %s", v.key, v.ports)
		if v.backend != "" {
			text += ", only to " + v.backend
		}
		if !v.until.IsZero() {
			text += fmt.Sprintf(" until %s ago", at.Sub(v.until).Round(time.Millisecond))
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// history follows all Services and finds every moment in which an address is given
// to two that may not share it. A watch delivers each version of each Service, in
// the order of the writes: nothing stays unseen, however short it is.
type history struct {
	mu     sync.Mutex
	now    map[types.UID]*holder
	seen   int            // events
	gained map[string]int // how often a Service was given its addresses, by gain
	faults []string
}

func newHistory() *history {
	return &history{now: map[types.UID]*holder{}, gained: map[string]int{}}
}

// gain names a Service and what an Event says when it is given addresses.
func gain(uid types.UID, message string) string { return string(uid) + " " + message }

// take takes the next version of a Service, which came at a time. An address that
// is new in a status must be free, or shared by all that have it. What users edit
// afterwards is no fault: a Service loses its address by that, but only later.
func (h *history) take(at time.Time, kind watch.EventType, svc *corev1.Service) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen++
	if kind == watch.Deleted {
		delete(h.now, svc.UID)
		return
	}
	s := h.now[svc.UID]
	if s == nil {
		s = &holder{name: svc.Name}
		h.now[svc.UID] = s
	}
	if is := sharingOf(svc); len(s.past) == 0 {
		s.past = []version{{sharing: is}}
	} else if last := &s.past[len(s.past)-1]; !last.equal(is) {
		last.until = at
		s.past = append(s.past, version{sharing: is})
	}
	had := s.addrs
	s.addrs = addressesOf(svc)
	if len(s.addrs) > 0 && !slices.Equal(had, s.addrs) {
		h.gained[gain(svc.UID, fmt.Sprintf("Assigned IP %q", s.addrs))]++
	}
	for _, a := range s.addrs {
		if slices.Contains(had, a) {
			continue
		}
		for uid, o := range h.now {
			if uid != svc.UID && slices.Contains(o.addrs, a) && !couldShare(at, s, o) {
				h.faults = append(h.faults, fmt.Sprintf("%s was given to %s (resourceVersion %s, %s) while %s had it (%s)",
					a, s.name, svc.ResourceVersion, s.sharing(at), o.name, o.sharing(at)))
			}
		}
	}
}

// couldShare reports whether two Services may share an address, as they are or as
// they were seen a moment ago.
func couldShare(at time.Time, a, b *holder) bool {
	for _, x := range a.past {
		for _, y := range b.past {
			if x.fresh(at) && y.fresh(at) && x.with(y.sharing) {
				return true
			}
		}
	}
	return false
}

func (v version) fresh(at time.Time) bool { return v.until.IsZero() || at.Sub(v.until) < sight }

func addressesOf(svc *corev1.Service) []string {
	var out []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		out = append(out, in.IP)
	}
	return out
}

// faultsSoFar returns what was wrong, how many events were looked at, and how often
// each gain happened.
func (h *history) faultsSoFar() (faults []string, seen int, gained map[string]int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.faults), h.seen, maps.Clone(h.gained)
}

func (h *history) fault(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, text)
}

// follow starts a history of all Services from now on.
func (l *lab) follow(t *testing.T) *history {
	t.Helper()
	h := newHistory()
	all, err := l.kube.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for i := range all.Items {
		h.take(time.Now(), watch.Added, &all.Items[i])
	}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		l.readAll(ctx, h, all.ResourceVersion)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return h
}

// readAll watches from a version on until ctx ends. The API server ends a watch whose
// reader is slow: the next one starts where it ended, and misses nothing.
func (l *lab) readAll(ctx context.Context, h *history, version string) {
	for ctx.Err() == nil {
		w, err := l.kube.CoreV1().Services("").Watch(ctx, metav1.ListOptions{ResourceVersion: version})
		if err != nil {
			if ctx.Err() == nil {
				h.fault(fmt.Sprintf("the watch cannot go on: %v", err))
			}
			return
		}
		for e := range w.ResultChan() {
			svc, ok := e.Object.(*corev1.Service)
			if !ok {
				if err := apierrors.FromObject(e.Object); apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
					h.fault(fmt.Sprintf("the watch has missed something: %v", err))
					w.Stop()
					return
				}
				break
			}
			version = svc.ResourceVersion
			h.take(time.Now(), e.Type, svc)
		}
		w.Stop()
	}
}

// awaitSeen waits until a history knows everything that is written before.
func (l *lab) awaitSeen(t *testing.T, h *history) {
	t.Helper()
	const name = "seen"
	mark := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}}
	made, err := l.kube.CoreV1().Services(namespace).Create(t.Context(), mark, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "the watch to come to "+name, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.now[made.UID] == nil {
			return fmt.Errorf("it has had %d events", h.seen)
		}
		return nil
	})
	must(t, l.kube.CoreV1().Services(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
}

// TestHistory shows what the history takes for a fault, and what not.
func TestHistory(t *testing.T) {
	const x = "192.0.2.1"
	svc := func(name, key string, port int32, addrs ...string) *corev1.Service {
		o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Annotations: map[string]string{shareBy: key}}}
		o.Spec.Ports = []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: port}}
		for _, a := range addrs {
			o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
		}
		return o
	}
	local := svc("b", "k", 81, x)
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	local.Spec.Selector = map[string]string{"app": "web"}
	type step struct {
		after time.Duration
		kind  watch.EventType
		svc   *corev1.Service
	}
	now := func(svc *corev1.Service) step { return step{0, watch.Modified, svc} }
	for _, c := range []struct {
		name  string
		fault bool
		steps []step
	}{
		{"two without a key", true, []step{now(svc("a", "", 80, x)), now(svc("b", "", 81, x))}},
		{"two addresses", false, []step{now(svc("a", "", 80, x)), now(svc("b", "", 81, "192.0.2.2"))}},
		{"two that share", false, []step{now(svc("a", "k", 80, x)), now(svc("b", "k", 81, x))}},
		{"two keys", true, []step{now(svc("a", "k", 80, x)), now(svc("b", "l", 81, x))}},
		{"one port", true, []step{now(svc("a", "k", 80, x)), now(svc("b", "k", 80, x))}},
		{"another backend", true, []step{now(svc("a", "k", 80, x)), now(local)}},
		{"the first is deleted", false, []step{now(svc("a", "", 80, x)), {0, watch.Deleted, svc("a", "", 80, x)}, now(svc("b", "", 81, x))}},
		{"the first has lost it", false, []step{now(svc("a", "", 80, x)), now(svc("a", "", 80)), now(svc("b", "", 81, x))}},
		{"users make sharers clash", false, []step{now(svc("a", "k", 80, x)), now(svc("b", "k", 81, x)), now(svc("b", "k", 80, x))}},
		{"an edit that nobody has seen", false, []step{now(svc("a", "k", 80, x)), now(svc("a", "k", 81, x)), {sight / 2, watch.Modified, svc("b", "k", 81, x)}}},
		{"an edit that everybody has seen", true, []step{now(svc("a", "k", 80, x)), now(svc("a", "k", 81, x)), {2 * sight, watch.Modified, svc("b", "k", 81, x)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHistory()
			at := time.Now()
			for _, s := range c.steps {
				at = at.Add(s.after)
				h.take(at, s.kind, s.svc)
			}
			if faults, _, _ := h.faultsSoFar(); (len(faults) > 0) != c.fault {
				t.Errorf("faults: %q", faults)
			}
		})
	}
}
