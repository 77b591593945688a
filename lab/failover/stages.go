package failover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// routes creates a Service and deletes it, again and again, and times the stages on the
// way to the router's kernel and back.
func (b *bench) routes(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &witnesses{prefix: netip.MustParsePrefix(routeAddr + "/32"), nodes: len(b.c.Nodes())}
	var err error
	if w.kernel, err = b.watchRoute(ctx, w.prefix.Addr()); err != nil {
		return err
	}
	if w.wire, err = measure.StartWatchBGP(ctx, b.c.Box(cluster.Router1), b.self, measure.BGPWatchOpts{}); err != nil {
		return err
	}
	list, err := b.c.Client().CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	events, err := b.c.Client().CoreV1().Services(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return fmt.Errorf("watch services: %w", err)
	}
	defer events.Stop()
	w.objects = make(chan sight, 1024)
	go look(events, w.objects)

	logs, err := b.speakerLogs()
	if err != nil {
		return err
	}
	var up, down []passage
	for i := range b.trials {
		name := fmt.Sprintf("route-%d", i)
		p, err := b.routeComes(ctx, name, w)
		if err == nil {
			up = append(up, p)
			p, err = b.routeGoes(ctx, name, w)
		}
		if err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
		down = append(down, p)
	}
	addStages(b.t, b.name, w.nodes, up, down)
	_, err = w.kernel.Stop()
	updates, werr := w.wire.Stop()
	if err := errors.Join(err, werr); err != nil {
		return err
	}
	return b.addSent(logs, updates)
}

// speakerLogs returns how long the log of each speaker is.
func (b *bench) speakerLogs() (map[string]int64, error) {
	logs := map[string]int64{}
	for _, node := range b.c.Nodes() {
		info, err := os.Stat(b.sys.Speaker(node).Log())
		if err != nil {
			return nil, fmt.Errorf("log of the speaker of %s: %w", node, err)
		}
		logs[node] = info.Size()
	}
	return logs, nil
}

// sent is what a speaker's log says when routes were sent: only with --log-level=debug.
type sent struct {
	Msg   string    `json:"msg"`
	Heard time.Time `json:"heard"` // when it heard of the change
}

// addSent adds how long it took from when speakers say that they heard of a change to the
// wire, if their logs since some lengths tell.
func (b *bench) addSent(logs map[string]int64, updates []measure.Update) error {
	var took []time.Duration
	for i, node := range b.c.Nodes() {
		all, err := readSent(b.sys.Speaker(node).Log(), logs[node])
		if err != nil {
			return err
		}
		if len(all) == 0 {
			b.say("%s: the speaker of %s does not say when it sent routes: give it --log-level=debug", b.name, node)
			return nil
		}
		v4, v6 := cluster.NodeAddrs(i + 1)
		wire := slices.DeleteFunc(slices.Clone(updates), func(u measure.Update) bool { return u.From != v4 && u.From != v6 })
		if len(wire) != len(all) {
			return fmt.Errorf("the speaker of %s says %d times that it sent routes, of which %d were seen on the wire", node, len(all), len(wire))
		}
		for i, s := range all {
			took = append(took, wire[i].At.Sub(s.Heard))
		}
	}
	b.t.route(b.name+": change heard of by the speaker", "its UPDATE on the wire", took)
	return nil
}

// readSent reads what a log says of routes that were sent, from an offset on.
func readSent(path string, offset int64) ([]sent, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	var all []sent
	for line := range bytes.Lines(text[min(offset, int64(len(text))):]) {
		var s sent
		if json.Unmarshal(line, &s) == nil && s.Msg == "bgp routes sent" {
			all = append(all, s)
		}
	}
	return all, nil
}

func (b *bench) routeComes(ctx context.Context, name string, w *witnesses) (passage, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	o := system.Service{Name: name, Annotations: map[string]string{"metallb.io/address-pool": "route"}}
	if err := b.sys.WriteEndpoints(ctx, namespace, o.Name); err != nil {
		return passage{}, err
	}
	p := passage{began: time.Now()}
	if _, err := b.c.Client().CoreV1().Services(namespace).Create(ctx, o.Object(), metav1.CreateOptions{}); err != nil {
		return p, fmt.Errorf("create: %w", err)
	}
	return p, w.follow(ctx, &p, func(s sight) bool { return s.name == name && s.given },
		func(u measure.Update) bool { return slices.Contains(u.Announced, w.prefix) },
		func(c measure.RouteChange) bool { return c.Usable() > 0 },
		func(c measure.RouteChange) bool { return c.Usable() == w.nodes })
}

func (b *bench) routeGoes(ctx context.Context, name string, w *witnesses) (passage, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p := passage{began: time.Now()}
	if err := b.c.Client().CoreV1().Services(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return p, fmt.Errorf("delete: %w", err)
	}
	return p, w.follow(ctx, &p, func(s sight) bool { return s.name == name && s.gone },
		func(u measure.Update) bool { return slices.Contains(u.Withdrawn, w.prefix) },
		func(c measure.RouteChange) bool { return c.Usable() < w.nodes },
		func(c measure.RouteChange) bool { return !c.Present })
}

// passage is when each stage of one change was reached.
type passage struct {
	began, seen time.Time   // by the client; by a watch of the API server
	wire        []time.Time // the UPDATE of each node, in the order of their coming
	first, all  time.Time   // the router's kernel followed one, and all
}

// witnesses see the stages of a change.
type witnesses struct {
	prefix  netip.Prefix
	nodes   int
	objects chan sight
	wire    *measure.Watch[measure.Update]
	kernel  *measure.Watch[measure.RouteChange]
}

// sight is what a watch of the API server told of a Service.
type sight struct {
	at          time.Time
	name        string
	given, gone bool // it has an address; it is deleted
}

// look notes when each Event of a watch comes.
func look(events watch.Interface, to chan<- sight) {
	defer close(to)
	for e := range events.ResultChan() {
		at := time.Now()
		if o, ok := e.Object.(*corev1.Service); ok {
			to <- sight{at: at, name: o.Name, given: len(o.Status.LoadBalancer.Ingress) > 0, gone: e.Type == watch.Deleted}
		}
	}
}

// follow waits until a change has reached the router's kernel, and notes its stages.
func (w *witnesses) follow(ctx context.Context, p *passage, seen func(sight) bool, update func(measure.Update) bool, first, all func(measure.RouteChange) bool) error {
	for p.seen.IsZero() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the watch: %w", ctx.Err())
		case s, ok := <-w.objects:
			if !ok {
				return errors.New("the watch of Services ended")
			}
			if seen(s) {
				p.seen = s.at
			}
		}
	}
	from := map[netip.Addr]bool{}
	if _, err := w.wire.Await(ctx, func(u measure.Update) bool {
		if update(u) && !from[u.From] {
			from[u.From] = true
			p.wire = append(p.wire, u.At)
		}
		return len(from) == w.nodes
	}); err != nil {
		return err
	}
	_, err := w.kernel.Await(ctx, func(c measure.RouteChange) bool {
		if p.first.IsZero() && first(c) {
			p.first = c.At
		}
		if all(c) {
			p.all = c.At
		}
		return !p.all.IsZero()
	})
	return err
}

// addStages adds rows of changes that came, and went.
func addStages(t *tables, name string, nodes int, up, down []passage) {
	add := func(what, until string, all []passage, lengths func(passage) []time.Duration) {
		var samples []time.Duration
		for _, p := range all {
			samples = append(samples, lengths(p)...)
		}
		t.route(name+": "+what, until, samples)
	}
	one := func(from, to func(passage) time.Time) func(passage) []time.Duration {
		return func(p passage) []time.Duration { return []time.Duration{to(p).Sub(from(p))} }
	}
	began := func(p passage) time.Time { return p.began }
	seen := func(p passage) time.Time { return p.seen }
	told := func(p passage) time.Time { return p.wire[0] }
	last := func(p passage) time.Time { return p.wire[len(p.wire)-1] }
	first := func(p passage) time.Time { return p.first }
	all := func(p passage) time.Time { return p.all }
	each := func(p passage) []time.Duration {
		var d []time.Duration
		for _, at := range p.wire {
			d = append(d, at.Sub(p.seen))
		}
		return d
	}
	add("Service created", "address in its status, seen by a watch", up, one(began, seen))
	add("status seen by a watch", "UPDATE on the wire, of each node", up, each)
	add("status seen by a watch", fmt.Sprintf("UPDATE on the wire, of the last of %d", nodes), up, one(seen, last))
	add("first UPDATE on the wire", "route in the router's kernel", up, one(told, first))
	add("last UPDATE on the wire", fmt.Sprintf("all %d next hops there", nodes), up, one(last, all))
	add("Service created", "route in the router's kernel", up, one(began, first))
	add("Service created", fmt.Sprintf("all %d next hops there", nodes), up, one(began, all))
	add("Service deleted", "deletion seen by a watch", down, one(began, seen))
	add("deletion seen by a watch", "withdrawal on the wire, of each node", down, each)
	add("Service deleted", "no route there", down, one(began, all))
}
