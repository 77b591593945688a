package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/system"
)

// statuses is how many updates of a status are measured while nothing else goes on.
const statuses = 200

// own is a Service that no load balancer serves: its status is ours to write.
type own struct {
	b   *bench
	svc *corev1.Service
}

func (b *bench) ownService(ctx context.Context) (*own, error) {
	class := "lab.barelb/nobody"
	o := system.Service{Namespace: namespace, Name: "status"}.Object()
	o.Spec.LoadBalancerClass = &class
	o.Labels = map[string]string{noProxy: "none"}
	made, err := b.c.Client().CoreV1().Services(namespace).Create(ctx, o, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create service %s: %w", o.Name, err)
	}
	return &own{b, made}, nil
}

// update writes an address into the status, each time another one, and returns how
// long that took.
func (o *own) update(ctx context.Context, i int) (time.Duration, error) {
	o.svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("192.0.2.%d", i%256)}}
	start := time.Now()
	svc, err := o.b.c.Client().CoreV1().Services(namespace).UpdateStatus(ctx, o.svc, metav1.UpdateOptions{})
	if err != nil {
		return 0, fmt.Errorf("update status of %s: %w", o.svc.Name, err)
	}
	o.svc = svc
	return time.Since(start), nil
}

// statusIdle measures updates of a status while nothing else goes on.
func (b *bench) statusIdle(ctx context.Context) (*own, error) {
	o, err := b.ownService(ctx)
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for i := range statuses {
		d, err := o.update(ctx, i)
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
	b.print("the API server's own: update a Service's status, idle", took)
	return o, nil
}

// during updates the status of o while fn runs, and returns how long each took.
func (o *own) during(ctx context.Context, fn func() error) ([]time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		took []time.Duration
		err  error
	}
	done := make(chan result)
	go func() {
		var r result
		for i := 0; ctx.Err() == nil && r.err == nil; i++ {
			var d time.Duration
			if d, r.err = o.update(ctx, i); r.err == nil {
				r.took = append(r.took, d)
			}
		}
		if ctx.Err() != nil { // the last one was cut off
			r.err = nil
		}
		done <- r
	}()
	err := fn()
	cancel()
	r := <-done
	return r.took, errors.Join(err, r.err)
}
