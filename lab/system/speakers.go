package system

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/box"
)

// Speaker is the process of a node's speaker in a cluster without kubelets.
func (s *System) Speaker(node string) *box.Process { return s.speakers[node] }

// StartSpeaker lets the speaker of a node run (again), and returns at once.
func (s *System) StartSpeaker(ctx context.Context, node string) error {
	if s.real() {
		return s.taint(ctx, node, nil)
	}
	if err := s.speakerPod(ctx, node); err != nil {
		return fmt.Errorf("start speaker of %s: %w", node, err)
	}
	if _, err := s.kubeconfig(ctx, cmp.Or(s.accounts[node], "speaker"), "speaker-"+node); err != nil {
		return err
	}
	if err := s.memberlistSecret(ctx); err != nil {
		return err
	}
	return s.launch(node)
}

// StopSpeaker tells the speaker of a node to end (SIGTERM), and keeps it away
// until StartSpeaker. It returns when the speaker is told.
func (s *System) StopSpeaker(ctx context.Context, node string) error {
	if s.real() {
		return s.taint(ctx, node, []corev1.Taint{{Key: taintKey, Effect: corev1.TaintEffectNoExecute}})
	}
	p := s.speakers[node]
	if p == nil {
		return fmt.Errorf("stop speaker of %s: none runs", node)
	}
	if err := s.c.Client().CoreV1().Pods(Namespace).Delete(ctx, "speaker-"+node, metav1.DeleteOptions{}); client(err) != nil {
		return fmt.Errorf("stop speaker of %s: %w", node, err)
	}
	return p.Signal(terminate)
}

// launch starts the speaker's process, without asking the API server for anything.
func (s *System) launch(node string) error {
	args := s.commands[node]
	if args == nil {
		args = slices.Concat(s.cfg.Speaker, s.flags)
	}
	addr := s.nodeAddr(node)
	p, err := s.c.Box(node).StartWith(box.Program{
		Log: "speaker", Args: args,
		Env: append(os.Environ(), "KUBECONFIG="+s.kubeconfigFile("speaker-"+node), "METALLB_NAMESPACE="+Namespace, "METALLB_NODE_NAME="+node,
			"METALLB_POD_NAME=speaker-"+node, "METALLB_HOST="+addr, "METALLB_ML_BIND_ADDR="+addr, "METALLB_ML_BIND_PORT=7946",
			"METALLB_ML_LABELS=app=metallb,component=speaker", "METALLB_ML_SECRET_KEY_PATH="+s.secretDir()),
	})
	if err != nil {
		return fmt.Errorf("start speaker of %s: %w", node, err)
	}
	s.speakers[node] = p
	return nil
}

// SetSpeakerFlags adds flags to the command of every speaker that is started from now on
// in a cluster without kubelets, instead of those that were set before.
func (s *System) SetSpeakerFlags(flags ...string) { s.flags = slices.Clone(flags) }

// SetSpeakerCommand has the speaker of a node, when it is started next in a cluster
// without kubelets, be another program, with a command line of its own; none means the
// same as everywhere.
func (s *System) SetSpeakerCommand(node string, argv ...string) {
	if len(argv) == 0 {
		delete(s.commands, node)
		return
	}
	s.commands[node] = slices.Clone(argv)
}

// SetSpeakerAccount has the speaker of a node, when it is started next in a cluster without
// kubelets, have the rights of another ServiceAccount; none means that of all others.
func (s *System) SetSpeakerAccount(node, account string) { s.accounts[node] = account }

// RestartSpeaker restarts a speaker as a kubelet does its container: SIGTERM, and when
// the process has ended and the pause is over, a new one in the same Pod. In a cluster
// without kubelets it needs no API server; with them the Pod is replaced as by Upgrade.
// It returns when the new process runs.
func (s *System) RestartSpeaker(ctx context.Context, node string, pause time.Duration) error {
	if s.real() {
		return s.UpgradeSpeaker(ctx, node, pause)
	}
	p := s.speakers[node]
	if p == nil {
		return fmt.Errorf("restart speaker of %s: none runs", node)
	}
	if err := s.end(ctx, p, syscall.SIGTERM); err != nil {
		return fmt.Errorf("restart speaker of %s: %w", node, err)
	}
	if err := Rest(ctx, pause); err != nil {
		return err
	}
	return s.launch(node)
}

// UpgradeSpeaker replaces a speaker as a rolling update of a DaemonSet does: its Pod is
// deleted, and when the process has ended and the pause is over, another Pod with another
// process takes its place. With kubelets the pause is what they need.
func (s *System) UpgradeSpeaker(ctx context.Context, node string, pause time.Duration) error {
	if s.real() {
		return s.replacePod(ctx, node)
	}
	if err := s.StopSpeaker(ctx, node); err != nil {
		return err
	}
	if err := s.AwaitSpeaker(ctx, node, false); err != nil {
		return err
	}
	if err := Rest(ctx, pause); err != nil {
		return err
	}
	return s.StartSpeaker(ctx, node)
}

// replacePod deletes a speaker's Pod, and waits until another one is ready.
func (s *System) replacePod(ctx context.Context, node string) error {
	pods := s.c.Client().CoreV1().Pods(Namespace)
	opts := metav1.ListOptions{LabelSelector: "app=metallb,component=speaker", FieldSelector: "spec.nodeName=" + node}
	old, err := pods.List(ctx, opts)
	if err != nil {
		return fmt.Errorf("list speakers of %s: %w", node, err)
	}
	for i := range old.Items {
		if err := pods.Delete(ctx, old.Items[i].Name, metav1.DeleteOptions{}); client(err) != nil {
			return fmt.Errorf("delete speaker of %s: %w", node, err)
		}
	}
	return s.await(ctx, "another speaker of "+node, func(ctx context.Context) (bool, error) {
		now, err := pods.List(ctx, opts)
		if err != nil {
			return false, err
		}
		return len(now.Items) == 1 && podReady(&now.Items[0]) &&
			!slices.ContainsFunc(old.Items, func(p corev1.Pod) bool { return p.UID == now.Items[0].UID }), nil
	})
}

// KillSpeaker ends a speaker without warning, in a cluster without kubelets, and waits
// for its end.
func (s *System) KillSpeaker(ctx context.Context, node string) error {
	return s.end(ctx, s.speakers[node], syscall.SIGKILL)
}

// PauseSpeaker stops the process of a speaker in a cluster without kubelets, as a machine
// does that has no time for it: it neither runs nor ends until ResumeSpeaker.
func (s *System) PauseSpeaker(node string) error { return s.speakers[node].Signal(syscall.SIGSTOP) }

// ResumeSpeaker lets it run again.
func (s *System) ResumeSpeaker(node string) error { return s.speakers[node].Signal(syscall.SIGCONT) }

// end sends a signal to a process and waits for its end.
func (s *System) end(ctx context.Context, p *box.Process, signal syscall.Signal) error {
	if err := p.Signal(signal); err != nil {
		return err
	}
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for its end: %w", ctx.Err())
	}
}

// Rest waits for some time, and returns an error if ctx ends meanwhile.
func Rest(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// AwaitSpeaker waits until the speaker of a node has ended (up: false), or is ready.
func (s *System) AwaitSpeaker(ctx context.Context, node string, up bool) error {
	if !s.real() {
		if up {
			return nil // not every load balancer tells: wait for what it announces
		}
		select {
		case <-s.speakers[node].Done():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.await(ctx, fmt.Sprintf("speaker of %s, running: %t", node, up), func(ctx context.Context) (bool, error) {
		pods, err := s.c.Client().CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{
			LabelSelector: "app=metallb,component=speaker", FieldSelector: "spec.nodeName=" + node,
		})
		if err != nil {
			return false, err
		}
		ready := 0
		for i := range pods.Items {
			if podReady(&pods.Items[i]) {
				ready++
			}
		}
		return up == (ready > 0) && (up || len(pods.Items) == 0), nil
	})
}

// taintKey keeps a node's speaker, and nothing that tolerates everything, away.
const taintKey = "lab.barelb/no-speaker"

// taint replaces our taint of a node.
func (s *System) taint(ctx context.Context, node string, ours []corev1.Taint) error {
	return s.await(ctx, "taint of "+node, func(ctx context.Context) (bool, error) {
		n, err := s.c.Client().CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		keep := ours
		for _, t := range n.Spec.Taints {
			if t.Key != taintKey {
				keep = append(keep, t)
			}
		}
		n.Spec.Taints = keep
		_, err = s.c.Client().CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			return false, nil
		}
		return err == nil, err
	})
}

// speakerPod makes the Pod object by which speakers find each other, where no
// kubelet does.
func (s *System) speakerPod(ctx context.Context, node string) error {
	pods := s.c.Client().CoreV1().Pods(Namespace)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "speaker-" + node, Labels: map[string]string{"app": "metallb", "component": "speaker"}},
		Spec: corev1.PodSpec{
			NodeName: node, HostNetwork: true, ServiceAccountName: "speaker",
			Containers:                    []corev1.Container{{Name: "speaker", Image: "none"}},
			TerminationGracePeriodSeconds: new(int64), // no kubelet would confirm its end
		},
	}
	made, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return client(err)
	}
	addr := s.nodeAddr(node)
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue} // no kubelet asks it
	made.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{ready}, PodIP: addr, PodIPs: []corev1.PodIP{{IP: addr}}, HostIP: addr}
	_, err = pods.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return err
}
