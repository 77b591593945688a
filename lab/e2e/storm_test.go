package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/barelb/barelb/lab/system"
)

// What one round of a storm is made of.
const (
	stormServices = 500 // creations
	stormWriters  = 4
	stormBefore   = stormServices * 3 / 10 // of the creations come before the pause,
	stormMeantime = stormServices * 6 / 10 // so many until another leads,
	stormUntil    = stormServices * 8 / 10 // and so many until the paused one is back
)

// The pools of a storm. Two change, and are too small for all; the third is there
// between the rounds, so that each Service can have an address.
var (
	stormA    = []string{"198.18.0.0/24"}
	stormHalf = []string{"198.18.0.0/25"}
	stormB    = []string{"198.18.1.0/25"}
	stormWide = []string{"198.18.4.0/22"}
)

// storm is users who write at random.
type storm struct {
	l    *lab
	made atomic.Int64 // Services of this round
	ops  atomic.Int64 // changes of Services and pools
	// led is closed when another controller leads, back when the paused one goes on.
	led, back chan struct{}
}

// TestPausedLeaderGivesNoAddressTwice stops the leader in the middle of a storm of
// writes, as a node does that hangs, and lets it go on when another one has long been
// leading: no address may ever be in the status of two Services that may not share
// it, and at rest the claims must be those of the Services that are there.
func TestPausedLeaderGivesNoAddressTwice(t *testing.T) {
	// Either pause is longer than the lease.
	rounds, pause := 3, 5*time.Second
	if os.Getenv("BARELB_LAB_LONG") != "" {
		rounds, pause = 10, 30*time.Second
	}
	seed := rand.Uint64()
	t.Logf("seed %d, %d rounds, pause %s", seed, rounds, pause)
	l := leaders(t)
	p := l.pair(t)
	l.apply(t, pool("canary", []string{"198.18.8.0/24"}, "autoAssign: false"))
	h := l.follow(t)
	l.undo(t, "remove what the storm has left", l.clear)
	for round := range rounds {
		s := &storm{l: l, led: make(chan struct{}), back: make(chan struct{})}
		s.round(t, p, round, pause, rand.New(rand.NewPCG(seed, uint64(round))))
		l.awaitAudit(t)
		l.awaitSeen(t, h)
		l.wantNoFaults(t, h)
		l.tellOfEvents(t, h, round)
		l.thin(t)
		if t.Failed() {
			t.Fatalf("round %d has failed", round)
		}
	}
	must(t, l.clear(t.Context()))
	eventually(t, "the last claim to go", func() error {
		claims, err := l.claims(t.Context())
		if err == nil && len(claims) > 0 {
			err = fmt.Errorf("%d are left, such as %+v", len(claims), claims[0])
		}
		return err
	})
}

// round is one storm with a pause of the leader in it.
func (s *storm) round(t *testing.T, p *pair, n int, pause time.Duration, rng *rand.Rand) {
	t.Helper()
	must(t, p.restart(t.Context(), ""))
	leader := p.awaitLeader(t, "")
	must(t, s.pool(t.Context(), "storm-a", stormA))
	must(t, s.pool(t.Context(), "storm-b", stormB))
	must(t, s.dropPool(t.Context(), "storm-wide"))
	wait := s.start(t, n, rng)

	eventually(t, "the storm to rise", func() error {
		if made := s.made.Load(); made < stormBefore {
			return fmt.Errorf("%d Services were made", made)
		}
		return nil
	})
	must(t, p.procs[leader].Signal(syscall.SIGSTOP))
	over := time.NewTimer(pause) // what is tested is that it lasts
	defer over.Stop()
	next := p.awaitLeader(t, leader)
	close(s.led)
	canary := fmt.Sprintf("canary-%d", n)
	got := s.l.serve(t, system.Service{Name: canary}, "canary")
	select {
	case <-over.C:
	case <-t.Context().Done():
	}
	must(t, p.procs[leader].Signal(syscall.SIGCONT))
	close(s.back)
	must(t, wait())
	t.Logf("round %d: %s was paused, %s led and gave %s to %s; %d Services, %d changes", n, leader, next, got, canary, s.made.Load(), s.ops.Load())
	must(t, s.pool(t.Context(), "storm-a", stormA))
	must(t, s.pool(t.Context(), "storm-b", stormB))
	must(t, s.pool(t.Context(), "storm-wide", stormWide))
}

// start lets the writers write, and returns what waits for their end.
func (s *storm) start(t *testing.T, round int, rng *rand.Rand) (wait func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	errs := make([]error, stormWriters)
	var wg sync.WaitGroup
	for i := range stormWriters {
		w := &writer{s: s, name: fmt.Sprintf("storm-%d-%d", round, i), rng: rand.New(rand.NewPCG(rng.Uint64(), uint64(i))), first: i == 0}
		wg.Go(func() {
			if errs[i] = w.write(ctx); errs[i] != nil {
				cancel()
			}
		})
	}
	wait = func() error {
		wg.Wait()
		cancel()
		return errors.Join(errs...)
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return wait
}

// writer is a user with Services of its own. The first one edits the pools too.
type writer struct {
	s     *storm
	name  string
	rng   *rand.Rand
	first bool
	n     int // Services that it has made
	mine  []*corev1.Service
}

func (w *writer) write(ctx context.Context) error {
	const share = stormServices / stormWriters
	for w.n < share {
		switch {
		case w.n == stormMeantime/stormWriters && !closed(w.s.led):
			if err := w.busy(ctx, w.s.led); err != nil {
				return err
			}
		case w.n == stormUntil/stormWriters && !closed(w.s.back):
			if err := w.busy(ctx, w.s.back); err != nil {
				return err
			}
		}
		if err := w.create(ctx); err != nil {
			return err
		}
		if w.rng.IntN(2) == 0 {
			if err := w.change(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// busy waits for a moment of the round. The first writer goes on with changes.
func (w *writer) busy(ctx context.Context, until <-chan struct{}) error {
	for w.first && !closed(until) {
		if err := w.change(ctx); err != nil {
			return err
		}
	}
	select {
	case <-until:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *writer) create(ctx context.Context) error {
	o := system.Service{Name: fmt.Sprintf("%s-%d", w.name, w.n), Annotations: map[string]string{}}.Object()
	switch dice := w.rng.IntN(10); {
	case dice < 5: // alone
	case dice < 7:
		o.Annotations[askFor] = w.addr()
	default:
		o.Annotations[shareBy] = w.key()
		o.Spec.Ports = w.port()
		if dice == 9 {
			o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
	}
	if err := w.put(ctx, o); err != nil {
		return err
	}
	w.n++
	w.s.made.Add(1)
	return nil
}

// put creates a Service, which is w's from then on.
func (w *writer) put(ctx context.Context, o *corev1.Service) error {
	made, err := w.s.l.kube.CoreV1().Services(namespace).Create(ctx, o, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create %s: %w", o.Name, err)
	}
	w.mine = append(w.mine, made)
	return nil
}

func (w *writer) addr() string { return fmt.Sprintf("198.18.0.%d", w.rng.IntN(256)) }
func (w *writer) key() string  { return string("abc"[w.rng.IntN(3)]) }

func (w *writer) port() []corev1.ServicePort {
	return []corev1.ServicePort{{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: int32(80 + w.rng.IntN(8))}}
}

// change does what users do to what is there.
func (w *writer) change(ctx context.Context) error {
	w.s.ops.Add(1)
	dice := w.rng.IntN(20)
	if w.first && w.rng.IntN(40) == 0 {
		return w.editPool(ctx)
	}
	if len(w.mine) == 0 {
		return nil
	}
	i := w.rng.IntN(len(w.mine))
	o := w.mine[i]
	switch {
	case dice < 12:
		if err := w.s.l.kube.CoreV1().Services(namespace).Delete(ctx, o.Name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete %s: %w", o.Name, err)
		}
		w.mine = append(w.mine[:i], w.mine[i+1:]...)
		if dice < 6 && !w.first || dice < 11 && w.first { // the first must not run out of them
			return w.put(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: o.Name, Annotations: o.Annotations}, Spec: again(o.Spec)})
		}
		return nil
	case dice < 15:
		return w.patch(ctx, o.Name, map[string]any{"spec": map[string]any{"ports": w.port()}})
	case dice < 17:
		return w.patch(ctx, o.Name, annotations(shareBy, w.key()))
	case dice < 19:
		return w.patch(ctx, o.Name, annotations(askFor, w.addr()))
	default:
		return w.patch(ctx, o.Name, annotations(askFor, nil))
	}
}

// again is a spec without what the API server has filled in.
func again(spec corev1.ServiceSpec) corev1.ServiceSpec {
	spec.ClusterIP, spec.ClusterIPs, spec.HealthCheckNodePort = "", nil, 0
	return spec
}

func annotations(key string, value any) map[string]any {
	return map[string]any{"metadata": map[string]any{"annotations": map[string]any{key: value}}}
}

func (w *writer) patch(ctx context.Context, name string, what map[string]any) error {
	text, err := json.Marshal(what)
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	if _, err := w.s.l.kube.CoreV1().Services(namespace).Patch(ctx, name, types.MergePatchType, text, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("patch %s with %s: %w", name, text, err)
	}
	return nil
}

func (w *writer) editPool(ctx context.Context) error {
	switch w.rng.IntN(4) {
	case 0:
		return w.s.pool(ctx, "storm-a", stormHalf)
	case 1:
		return w.s.pool(ctx, "storm-a", stormA)
	case 2:
		return w.s.dropPool(ctx, "storm-b")
	default:
		return w.s.pool(ctx, "storm-b", stormB)
	}
}

func (s *storm) pool(ctx context.Context, name string, addresses []string) error {
	var o unstructured.Unstructured
	if err := yaml.NewYAMLOrJSONDecoder(strings.NewReader(pool(name, addresses)), 4096).Decode(&o); err != nil {
		return fmt.Errorf("decode pool: %w", err)
	}
	if _, err := s.l.objects("IPAddressPool", system.Namespace).Apply(ctx, name, &o, metav1.ApplyOptions{FieldManager: "e2e", Force: true}); err != nil {
		return fmt.Errorf("write pool %s: %w", name, err)
	}
	return nil
}

func (s *storm) dropPool(ctx context.Context, name string) error {
	if err := gone(s.l.objects("IPAddressPool", system.Namespace).Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
		return fmt.Errorf("delete pool %s: %w", name, err)
	}
	return nil
}

// thin deletes most of the Services that a round has left: the rest meets the next.
func (l *lab) thin(t *testing.T) {
	t.Helper()
	must(t, l.deleteStorm(t.Context(), func(i int) bool { return i%5 != 0 }))
}

// deleteStorm deletes the Services of storms that are chosen by their place in the list.
func (l *lab) deleteStorm(ctx context.Context, chosen func(i int) bool) error {
	services := l.kube.CoreV1().Services(namespace)
	all, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	for i := range all.Items {
		if name := all.Items[i].Name; chosen(i) && (strings.HasPrefix(name, "storm-") || strings.HasPrefix(name, "canary-")) {
			if err := gone(services.Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
				return fmt.Errorf("delete %s: %w", name, err)
			}
		}
	}
	return nil
}

// clear deletes all that storms have made.
func (l *lab) clear(ctx context.Context) error {
	errs := []error{l.deleteStorm(ctx, func(int) bool { return true })}
	s := &storm{l: l}
	for _, name := range []string{"storm-a", "storm-b", "storm-wide"} {
		errs = append(errs, s.dropPool(ctx, name))
	}
	return errors.Join(errs...)
}

// tellOfEvents logs how many Events of allocation tell of what was never seen. An
// Event is recorded when an address is decided on: what the leader has not yet written
// when it is stopped, and what a pool's next edit overtakes, is told of again. That a
// leader that takes over tells nobody of what is written is TestHandOver's matter.
func (l *lab) tellOfEvents(t *testing.T, h *history, round int) {
	t.Helper()
	events, err := l.allocations(t.Context(), fmt.Sprintf("storm-%d-", round))
	must(t, err)
	_, _, gained := h.faultsSoFar()
	surplus, total := 0, 0
	for what, n := range events {
		surplus += max(0, n-gained[what])
		total += n
	}
	t.Logf("round %d: %d Events of allocation, %d of them for what was not seen", round, total, surplus)
	if total == 0 {
		t.Error("nobody was told of an address")
	}
}
