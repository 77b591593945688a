package failover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// wide is the subnet of many addresses, in which all hosts of the LAN are too.
const wide = "10.77"

// manyPool has them; one node is preferred for all.
const manyPool = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: wide, namespace: metallb-system}
spec: {addresses: [10.77.64.0-10.77.127.255], avoidBuggyIPs: false}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: wide, namespace: metallb-system}
spec:
  ipAddressPools: [wide]
  preferredNodeSelectors:
  - weight: 100
    preference: {matchLabels: {kubernetes.io/hostname: node1}}
`

// noProxy is the label of Services that kube-proxy has nothing to do with.
const noProxy = "service.kubernetes.io/service-proxy-name"

// widen makes n Services with addresses that node1 owns, and waits until all are answered
// for. It can be called again with a larger n.
func (b *bench) widen(ctx context.Context, n int) (netip.Addr, error) {
	first := netip.AddrFrom4([4]byte{10, 77, 64, 0})
	hosts := append(b.c.Nodes(), quiet)
	for i, host := range hosts {
		addr := fmt.Sprintf("%s.0.%d/16", wide, i+1)
		if err := b.c.Box(host).Command(ctx, "ip", "addr", "replace", addr, "dev", "eth0").Run(); err != nil {
			return first, fmt.Errorf("give %s to %s: %w", addr, host, err)
		}
	}
	if err := b.c.ApplyYAML(ctx, manyPool); err != nil {
		return first, err
	}
	have, err := b.c.Client().CoreV1().Services(namespace).List(ctx, metav1.ListOptions{LabelSelector: noProxy})
	if err != nil {
		return first, fmt.Errorf("list services: %w", err)
	}
	b.say("creating %d Services", n-len(have.Items))
	if err := b.create(ctx, len(have.Items), n); err != nil {
		return first, err
	}
	a, err := measure.StartAsk(ctx, b.c.Box(quiet), b.self, measure.AskOpts{First: first, Count: n, Interval: time.Millisecond})
	if err != nil {
		return first, err
	}
	limit, cancel := context.WithTimeout(ctx, 5*patience)
	defer cancel()
	err = a.AwaitAnswers(limit)
	_, serr := a.Stop()
	return first, errors.Join(err, serr)
}

// create creates the Services from to until-1, by several writers.
func (b *bench) create(ctx context.Context, from, until int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	const writers = 8
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := range jobs {
				s := system.Service{Name: fmt.Sprintf("wide-%d", i), Annotations: map[string]string{"metallb.io/address-pool": "wide"}}
				o := s.Object()
				o.Labels = map[string]string{noProxy: "none"}
				err := b.sys.WriteEndpoints(ctx, namespace, s.Name)
				if err == nil {
					_, err = b.c.Client().CoreV1().Services(namespace).Create(ctx, o, metav1.CreateOptions{})
				}
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := from; i < until && ctx.Err() == nil; i++ {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	return context.Cause(ctx)
}

// many cuts the link of the owner of 1,000 addresses: when does the last one answer?
func (b *bench) many(ctx context.Context) error {
	const n, owner = 1000, "node1"
	first, err := b.widen(ctx, n)
	if err != nil {
		return err
	}
	a, err := measure.StartAsk(ctx, b.c.Box(quiet), b.self, measure.AskOpts{First: first, Count: n, Interval: 100 * time.Microsecond, Pending: true})
	if err != nil {
		return err
	}
	k := kind{title: fmt.Sprintf("%s: link of the owner of %d addresses cut", b.name, n)}
	last := first
	for range n - 1 {
		last = last.Next()
	}
	limit, cancel := context.WithTimeout(ctx, patience+time.Duration(b.o.trials)*time.Minute)
	defer cancel()
	if err := a.AwaitAnswers(limit); err != nil {
		return err
	}
	for range b.trials {
		err := errors.Join(a.Mark(k.next()), b.c.Cut(owner), a.AwaitTaken(limit), a.Mark("mended"), b.c.Restore(owner), a.AwaitTaken(limit))
		if err == nil {
			_, err = b.owner(limit, last, owner)
		}
		if err != nil {
			return errors.Join(err, b.c.Restore(owner))
		}
	}
	r, err := a.Stop()
	if err != nil {
		return err
	}
	var all []time.Duration
	var late measure.Millis
	for _, mark := range k.marks {
		m, err := r.After(mark)
		if err != nil {
			return err
		}
		all, late = append(all, m.Taken.Max.Duration()), max(late, m.MaxGap)
	}
	b.t.answer(k.title, "the last address, after the cut", all, late)
	return nil
}

// arp asks for many addresses at a rate that a busy LAN has.
func (b *bench) arp(ctx context.Context) error {
	first, err := b.widen(ctx, b.o.addresses)
	if err != nil {
		return err
	}
	a, err := measure.StartAsk(ctx, b.c.Box(quiet), b.self, measure.AskOpts{First: first, Count: b.o.addresses, Interval: time.Millisecond})
	if err != nil {
		return err
	}
	const long = 30 * time.Second
	limit, cancel := context.WithTimeout(ctx, long+patience)
	defer cancel()
	if err := errors.Join(a.Mark("asking"), a.AwaitRequests(limit, int(long/time.Millisecond)), a.Mark("end")); err != nil {
		return err
	}
	r, err := a.Stop()
	if err != nil {
		return err
	}
	m, err := r.After("asking")
	if err != nil {
		return err
	}
	b.t.rtt(fmt.Sprintf("%s: %d addresses, 1,000 requests/s", b.name, b.o.addresses), m)
	b.say("%d of %d requests were answered", m.Answered, m.Requests)
	return nil
}
