// Package system runs what the lab is for inside a cluster: a load balancer, ours
// or another that speaks MetalLB's API, and the Services that it announces.
//
// In a cluster with kubelets it is installed from its own manifest and images. In
// one without, its controller and speakers are processes in the hosts' namespaces,
// with the rights of their ServiceAccounts, and the manifest gives the API and the
// rights.
package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/barelb/barelb/lab/box"
	"github.com/barelb/barelb/lab/cluster"
)

// Namespace is where MetalLB and what is compatible with it live.
const Namespace = "metallb-system"

const (
	poll    = 50 * time.Millisecond
	patient = 2 * time.Minute
)

// Config says what is under test. The zero value of everything but Manifest and
// one of Images and Binary means BareLB's own ways.
type Config struct {
	// Manifest installs it: all of it with kubelets, the API and the rights without.
	Manifest string
	// Controller and Speaker are the commands of clusters without kubelets.
	Controller, Speaker []string
}

// System is a running load balancer.
type System struct {
	c          *cluster.Cluster
	cfg        Config
	controller *box.Process
	speakers   map[string]*box.Process // by node; without kubelets
	commands   map[string][]string     // of speakers that have another command than the rest; without kubelets
	accounts   map[string]string       // of speakers that have another ServiceAccount than the rest; without kubelets
	flags      []string                // added to the command of every speaker that is started; without kubelets
	pods       map[string]*cluster.Pod // backends by node; without kubelets
	backend    string                  // the binary of the backends; without kubelets
}

// Install installs the system and waits until all of it is ready. backend is a
// binary that serves `tool backend`; clusters with kubelets use an image instead.
func Install(ctx context.Context, c *cluster.Cluster, cfg Config, backend string) (*System, error) {
	s := New(c, cfg, backend)
	if err := c.Apply(ctx, cfg.Manifest); err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	if c.Config().Mode == cluster.Real {
		return s, s.rollout(ctx)
	}
	if err := s.StartController(ctx); err != nil {
		return nil, err
	}
	for i := range c.Config().Nodes {
		if err := s.StartSpeaker(ctx, cluster.NodeName(i+1)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// New returns a system of which nothing runs yet, for one that is installed by other means.
func New(c *cluster.Cluster, cfg Config, backend string) *System {
	return &System{c: c, cfg: cfg, speakers: map[string]*box.Process{}, commands: map[string][]string{}, accounts: map[string]string{}, pods: map[string]*cluster.Pod{}, backend: backend}
}

// Cluster is the cluster that the system runs in.
func (s *System) Cluster() *cluster.Cluster { return s.c }

func (s *System) real() bool { return s.c.Config().Mode == cluster.Real }

// rollout waits for the controller and all speakers of a cluster with kubelets.
func (s *System) rollout(ctx context.Context) error {
	for _, what := range []string{"deployment/controller", "daemonset/speaker"} {
		if _, err := s.c.Kubectl(ctx, "-n", Namespace, "rollout", "status", what, "--timeout", patient.String()); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
	return nil
}

// StartController starts the controller of a cluster without kubelets. Like a
// container that is started again, it has the name of the one before.
func (s *System) StartController(ctx context.Context) error {
	p, err := s.StartNamedController(ctx, "controller")
	if err == nil {
		s.controller = p
	}
	return err
}

// StartNamedController starts a controller beside others: name is that of its Pod,
// which has no object, and of its log. flags are added to its command, and must give
// it ports of its own.
func (s *System) StartNamedController(ctx context.Context, name string, flags ...string) (*box.Process, error) {
	kubeconfig, err := s.kubeconfig(ctx, "controller", name)
	if err != nil {
		return nil, err
	}
	p, err := s.c.Box(cluster.Control).StartWith(box.Program{
		Log: name, Args: slices.Concat(s.cfg.Controller, flags),
		Env: []string{"KUBECONFIG=" + kubeconfig, "METALLB_NAMESPACE=" + Namespace, "METALLB_POD_NAME=" + name, "METALLB_ML_SECRET_NAME=memberlist"},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// Controller is the controller's process in a cluster without kubelets.
func (s *System) Controller() *box.Process { return s.controller }

// secretDir is the folder of the key that speakers share.
func (s *System) secretDir() string { return filepath.Join(s.c.Dir(), "memberlist") }

// memberlistSecret fills it with the key that the controller made.
func (s *System) memberlistSecret(ctx context.Context) error {
	dir := s.secretDir()
	return s.await(ctx, "secret of the speakers", func(ctx context.Context) (bool, error) {
		secret, err := s.c.Client().CoreV1().Secrets(Namespace).Get(ctx, "memberlist", metav1.GetOptions{})
		if err != nil {
			return false, nil //nolint:nilerr // it will come
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return false, err
		}
		// At once, for another speaker may be reading it.
		file, next := filepath.Join(dir, "secretkey"), filepath.Join(dir, ".next")
		if err := os.WriteFile(next, secret.Data["secretkey"], 0o600); err != nil {
			return false, err
		}
		return true, os.Rename(next, file)
	})
}

func (s *System) kubeconfigFile(process string) string {
	return filepath.Join(s.c.Dir(), process+".kubeconfig")
}

// kubeconfig writes one with the rights of a ServiceAccount, for use in boxes. Each
// process has a file of its own: another one is not written while it is read.
func (s *System) kubeconfig(ctx context.Context, account, process string) (string, error) {
	file := s.kubeconfigFile(process)
	base, err := clientcmd.LoadFromFile(s.c.InsideKubeconfig())
	if err != nil {
		return "", fmt.Errorf("read kubeconfig: %w", err)
	}
	const day = int64(24 * 60 * 60)
	seconds := day
	var token string
	err = s.await(ctx, "token of "+account, func(ctx context.Context) (bool, error) {
		t, err := s.c.Client().CoreV1().ServiceAccounts(Namespace).CreateToken(ctx, account,
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
		if err != nil {
			return false, err
		}
		token = t.Status.Token
		return true, nil
	})
	if err != nil {
		return "", err
	}
	for name := range base.AuthInfos {
		base.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	}
	if err := clientcmd.WriteToFile(*base, file); err != nil {
		return "", fmt.Errorf("write kubeconfig: %w", err)
	}
	return file, nil
}

// nodeAddr returns a node's IPv4 address as text.
func (s *System) nodeAddr(node string) string {
	i, _ := strconv.Atoi(node[len("node"):])
	v4, _ := cluster.NodeAddrs(i)
	return v4.String()
}

// await polls until done, an error, or the end of patience.
func (s *System) await(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, poll, patient, true, func(ctx context.Context) (bool, error) {
		ok, err := done(ctx)
		last = err
		return ok && err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w", what, errors.Join(err, last))
	}
	return nil
}

// client drops the errors that say that something is as wanted already.
func client(err error) error {
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
