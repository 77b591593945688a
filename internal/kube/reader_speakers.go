package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/explain"
)

const (
	metricsPort     = 9120
	metricsPortName = "metricshttps"
	metricsTimeout  = 3 * time.Second
	speakersTimeout = 5 * time.Second
	metricsReaders  = 8 // speakers that are asked at once
)

// ReadSpeakers asks the speakers on some nodes, all if nodes is nil, for their metrics and
// for what they know, and adds the answers to d: by a connection that the API server
// forwards to the speaker's own loopback or, where that is not allowed, through its proxy.
// A speaker that does not answer is noted; if none does, that is a gap.
func (r *Reader) ReadSpeakers(ctx context.Context, d *Dump, nodes []string) {
	ctx, cancel := context.WithTimeout(ctx, speakersTimeout)
	defer cancel()
	var pods []*corev1.Pod
	for i := range d.Pods {
		pod := &d.Pods[i]
		if pod.Namespace == r.namespace && componentOf(pod) == v1beta1.ComponentSpeaker && (nodes == nil || slices.Contains(nodes, pod.Spec.NodeName)) {
			pods = append(pods, pod)
		}
	}
	if len(pods) == 0 {
		d.Gaps = append(d.Gaps, explain.Gap{From: explain.FromSpeakers, Error: "no Pod of a speaker is found there"})
		return
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	ask := func(pod *corev1.Pod, how func(context.Context, *corev1.Pod) (said, error)) {
		ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
		defer cancel()
		s, err := how(ctx, pod)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed = err
			d.Silent[pod.Spec.NodeName] = firstLine(err.Error())
			return
		}
		d.Metrics[pod.Spec.NodeName] = s.metrics
		if s.known != nil {
			d.Known[pod.Spec.NodeName] = s.known
		}
	}
	how := r.forwarded
	forward := r.mayForward(ctx)
	if !forward {
		how = r.proxied
		ask(pods[0], how) // alone: if it fails, the others need not be asked
		if pods = pods[1:]; failed != nil {
			pods = nil
		}
	}
	slots := make(chan struct{}, metricsReaders)
	for _, pod := range pods {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ask(pod, how)
		})
	}
	wg.Wait()
	switch {
	case len(d.Metrics) == 0 && !forward:
		d.Silent = map[string]string{}
		d.Gaps = append(d.Gaps, explain.Gap{From: explain.FromSpeakers, Needs: "create pods/portforward (or get pods/proxy, where metrics ask for no token) in " + r.namespace, Right: true})
	case len(d.Metrics) == 0:
		d.Gaps = append(d.Gaps, explain.Gap{From: explain.FromSpeakers, Error: "no speaker that was asked answers: " + firstLine(failed.Error())})
	case len(d.Known) == 0:
		d.Gaps = append(d.Gaps, explain.Gap{From: explain.FromKnown, Needs: "create pods/portforward in " + r.namespace + ", and speakers of this version"})
	}
}

// proxied reads a speaker's metrics through the API server's proxy to Pods, which passes
// no token on.
func (r *Reader) proxied(ctx context.Context, pod *corev1.Pod) (said, error) {
	text, err := r.core.RESTClient().Get().Namespace(pod.Namespace).Resource("pods").
		Name(fmt.Sprintf("https:%s:%d", pod.Name, portOf(pod))).SubResource("proxy").Suffix("metrics").Do(ctx).Raw()
	return said{metrics: string(text)}, err
}

// portOf returns the port of a speaker's metrics.
func portOf(pod *corev1.Pod) int {
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == metricsPortName {
				return int(p.ContainerPort)
			}
		}
	}
	return metricsPort
}

// mayForward reports whether it is not the API server that forbids it.
func (r *Reader) mayForward(ctx context.Context) bool {
	may := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: r.namespace, Verb: "create", Resource: "pods", Subresource: "portforward"},
	}}
	return r.client.Create(ctx, may) == nil && may.Status.Allowed
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
