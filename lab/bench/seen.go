package bench

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// given is an address that a Service got.
type given struct {
	addr netip.Addr
	at   time.Time
}

// given addresses, by the names of their Services.
type seen struct {
	mu    sync.Mutex
	names map[string]given
	news  chan struct{}
}

// watch notes when Services get their addresses.
func (b *bench) watch(ctx context.Context) (*seen, func(), error) {
	list, err := b.c.Client().CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("list services: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &seen{names: map[string]given{}, news: make(chan struct{}, 1)}
	go func() {
		version := list.ResourceVersion
		for ctx.Err() == nil { // the API server ends the watch of a slow reader
			w, err := b.c.Client().CoreV1().Services(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: version})
			if err != nil {
				if ctx.Err() == nil {
					b.say("watch services: %v", err)
				}
				return
			}
			version = s.follow(w, version)
			w.Stop()
		}
	}()
	return s, cancel, nil
}

// follow notes what a watch tells until it ends, and returns the last version.
func (s *seen) follow(w watch.Interface, version string) string {
	for e := range w.ResultChan() {
		now := time.Now()
		o, ok := e.Object.(*corev1.Service)
		if !ok {
			return version
		}
		version = o.ResourceVersion
		if len(o.Status.LoadBalancer.Ingress) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(o.Status.LoadBalancer.Ingress[0].IP)
		if err != nil {
			continue
		}
		s.mu.Lock()
		if _, had := s.names[o.Name]; !had {
			s.names[o.Name] = given{addr, now}
		}
		s.mu.Unlock()
		select {
		case s.news <- struct{}{}:
		default:
		}
	}
	return version
}

func (s *seen) await(ctx context.Context, name string) (given, error) {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	for {
		s.mu.Lock()
		g, ok := s.names[name]
		s.mu.Unlock()
		if ok {
			return g, nil
		}
		select {
		case <-ctx.Done():
			return g, fmt.Errorf("wait for the address of %s: %w", name, ctx.Err())
		case <-s.news:
		}
	}
}
