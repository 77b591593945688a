package bench

import (
	"context"
	"fmt"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// noProxy is the label of Services that kube-proxy has nothing to do with.
const noProxy = "service.kubernetes.io/service-proxy-name"

// restart kills the controller when until Services hold addresses, of which there
// are from already, and starts it again: how long does the next Service wait?
func (b *bench) restart(ctx context.Context, from, until, writers int) error {
	b.say("creating %d more Services, for the restart of the controller", until-from)
	seen, stop, err := b.watch(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := b.each(ctx, from, until, writers, func(ctx context.Context, i int) error { return b.createFor(ctx, i, nobody) }); err != nil {
		return err
	}
	for i := from; i < until; i++ {
		if _, err := seen.await(ctx, name(i)); err != nil {
			return err
		}
	}
	before, err := b.held(ctx)
	if err != nil {
		return err
	}
	b.memory(fmt.Sprintf("%d Services", until))
	b.say("killing the controller and starting it again")
	if err := b.sys.Controller().Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-b.sys.Controller().Done()
	if err := b.sys.StartController(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := b.createFor(ctx, until, nobody); err != nil {
		return err
	}
	got, err := seen.await(ctx, name(until))
	if err != nil {
		return err
	}
	after, err := b.held(ctx)
	if err != nil {
		return err
	}
	moved := 0
	for svc, addr := range before {
		if after[svc] != addr {
			moved++
		}
	}
	_, _ = fmt.Fprintf(b.out, "%-52s %8.1f s; %d of %d addresses have moved\n",
		"controller started → address of a new Service", got.at.Sub(start).Seconds(), moved, len(before))
	return nil
}

// nobody makes a Service one that is neither announced nor proxied.
func nobody(o *corev1.Service) { o.Labels = map[string]string{noProxy: "none"} }

// held returns the addresses of all Services by their names.
func (b *bench) held(ctx context.Context) (map[string]string, error) {
	all, err := b.c.Client().CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	out := map[string]string{}
	for i := range all.Items {
		if in := all.Items[i].Status.LoadBalancer.Ingress; len(in) > 0 {
			out[all.Items[i].Name] = in[0].IP
		}
	}
	return out, nil
}
