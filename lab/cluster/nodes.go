package cluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/box"
)

// createNodes makes the Node objects with their pod ranges, before any kubelet registers: the ranges then fit the address plan.
func (c *Cluster) createNodes(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range c.cfg.Nodes {
		g.Go(func() error {
			node := nodeObject(i + 1)
			if c.cfg.Mode == Real {
				node.Status = corev1.NodeStatus{} // the kubelet's to say
			}
			if _, err := c.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("create node: %w", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// nodeObject is node i as its kubelet would report it. The API server lets who creates a node say that it is Ready.
func nodeObject(i int) *corev1.Node {
	name := NodeName(i)
	v4, v6 := NodeAddrs(i)
	p4, p6 := podPrefixes(i)
	now := metav1.Now()
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux",
		}},
		Spec: corev1.NodeSpec{PodCIDR: p4.String(), PodCIDRs: []string{p4.String(), p6.String()}},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: v4.String()},
				{Type: corev1.NodeInternalIP, Address: v6.String()},
				{Type: corev1.NodeHostName, Address: name},
			},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: kubeletPort}},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "LabNode",
				LastHeartbeatTime: now, LastTransitionTime: now,
			}},
		},
	}
}

// startProxy starts the kube-proxy of node i.
func (c *Cluster) startProxy(i int) error {
	p, err := c.Box(NodeName(i)).Start("kube-proxy", c.bin("kube-proxy"),
		"--kubeconfig", c.pki.path(proxyUser+".kubeconfig"), "--hostname-override", NodeName(i),
		"--proxy-mode", c.cfg.ProxyMode, "--cluster-cidr", podCIDRs,
		"--conntrack-max-per-core", "0", // a limit of the whole machine
		"--oom-score-adj", "0") // the default needs a capability that not every machine gives
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proxies[NodeName(i)] = p
	return nil
}

// StartProxy starts the kube-proxy of a node again, and waits until it has written its rules.
func (c *Cluster) StartProxy(ctx context.Context, node string) error {
	if err := c.startProxy(slices.Index(c.Nodes(), node) + 1); err != nil {
		return err
	}
	return c.waitProxies(ctx)
}

// Proxy is the kube-proxy of a node.
func (c *Cluster) Proxy(node string) *box.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proxies[node]
}

// waitNodes waits until every node is Ready.
func (c *Cluster) waitNodes(ctx context.Context) error {
	return waitFor(ctx, "nodes to be Ready", func() error {
		nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		ready := 0
		for _, n := range nodes.Items {
			for _, cond := range n.Status.Conditions {
				if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if ready < c.cfg.Nodes {
			return fmt.Errorf("%d of %d are", ready, c.cfg.Nodes)
		}
		return nil
	})
}

// waitAccount waits for the service account without which no pod can be created.
func (c *Cluster) waitAccount(ctx context.Context) error {
	if c.cfg.Mode != Real {
		return nil
	}
	return waitFor(ctx, "the default service account", func() error {
		_, err := c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// waitProxies waits until every kube-proxy has written its rules once.
func (c *Cluster) waitProxies(ctx context.Context) error {
	for _, name := range c.Nodes() {
		b := c.Box(name)
		get := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				return dialIn(ctx, b, network, addr)
			},
		}}
		err := waitFor(ctx, "kube-proxy of "+name, func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10256/healthz", nil)
			if err != nil {
				return err
			}
			answer, err := get.Do(req)
			if err != nil {
				return err
			}
			if err := answer.Body.Close(); err != nil || answer.StatusCode != http.StatusOK {
				return fmt.Errorf("health: %s", answer.Status)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
