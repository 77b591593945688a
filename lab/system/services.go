package system

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/barelb/barelb/lab/box"
	"github.com/barelb/barelb/lab/measure"
)

const terminate = syscall.SIGTERM

// BackendImage is the image of the backends in clusters with kubelets.
const BackendImage = "docker.io/barelb/lab-backend:dev"

// The ports of Services and of the backends behind them.
const (
	Port     = 80   // TCP: HTTP; UDP: echo
	HoldPort = 8081 // TCP: line echo, for connections that last
	echo     = 8080 // of the backends: HTTP and UDP
)

const app = "web" // the backends' label and the Deployment's name

// Service says what a Service is like.
type Service struct {
	Name        string
	Namespace   string // default "default"
	Annotations map[string]string
	Local       bool // externalTrafficPolicy: Local
	Families    []corev1.IPFamily
	Policy      corev1.IPFamilyPolicy // default SingleStack
	// NodePorts allocates node ports too: the default range has 2,768 of them.
	NodePorts bool
}

func (o *Service) setDefaults() {
	if o.Namespace == "" {
		o.Namespace = metav1.NamespaceDefault
	}
	if o.Policy == "" {
		o.Policy = corev1.IPFamilyPolicySingleStack
	}
	if len(o.Families) == 0 {
		o.Families = []corev1.IPFamily{corev1.IPv4Protocol}
	}
}

// CreateService creates a Service of type LoadBalancer in front of the backends.
func (s *System) CreateService(ctx context.Context, o Service) error {
	o.setDefaults()
	if err := s.WriteEndpoints(ctx, o.Namespace, o.Name); err != nil {
		return err
	}
	if _, err := s.c.Client().CoreV1().Services(o.Namespace).Create(ctx, o.Object(), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create service %s: %w", o.Name, err)
	}
	return nil
}

// Object returns the Service as Kubernetes knows it.
func (o Service) Object() *corev1.Service {
	o.setDefaults()
	policy := corev1.ServiceExternalTrafficPolicyCluster
	if o.Local {
		policy = corev1.ServiceExternalTrafficPolicyLocal
	}
	port := func(name string, proto corev1.Protocol, port, target int32) corev1.ServicePort {
		return corev1.ServicePort{Name: name, Protocol: proto, Port: port, TargetPort: intstr.FromInt32(target)}
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, Annotations: o.Annotations},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": app}, ExternalTrafficPolicy: policy,
			IPFamilies: o.Families, IPFamilyPolicy: &o.Policy, AllocateLoadBalancerNodePorts: &o.NodePorts,
			Ports: []corev1.ServicePort{
				port("http", corev1.ProtocolTCP, Port, echo), port("echo", corev1.ProtocolUDP, Port, echo),
				port("hold", corev1.ProtocolTCP, HoldPort, HoldPort),
			},
		},
	}
}

// WriteEndpoints gives a Service, which need not exist yet, the backends that are
// placed as its endpoints. With kubelets a controller does that.
func (s *System) WriteEndpoints(ctx context.Context, namespace, service string) error {
	if s.real() {
		return nil
	}
	return s.writeSlices(ctx, namespace, service)
}

// DeleteService deletes a Service and waits until it is gone.
func (s *System) DeleteService(ctx context.Context, namespace, name string) error {
	services := s.c.Client().CoreV1().Services(namespace)
	if err := services.Delete(ctx, name, metav1.DeleteOptions{}); client(err) != nil {
		return fmt.Errorf("delete service %s: %w", name, err)
	}
	if !s.real() {
		for _, f := range families {
			_ = s.c.Client().DiscoveryV1().EndpointSlices(namespace).Delete(ctx, sliceName(name, f), metav1.DeleteOptions{})
		}
	}
	return s.await(ctx, "end of service "+name, func(ctx context.Context) (bool, error) {
		_, err := services.Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

// AwaitAddresses waits until a Service has n addresses, and returns them.
func (s *System) AwaitAddresses(ctx context.Context, namespace, name string, n int) ([]netip.Addr, error) {
	var addrs []netip.Addr
	err := s.await(ctx, fmt.Sprintf("%d addresses of service %s", n, name), func(ctx context.Context) (bool, error) {
		svc, err := s.c.Client().CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		addrs = nil
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if a, err := netip.ParseAddr(in.IP); err == nil {
				addrs = append(addrs, a)
			}
		}
		return len(addrs) == n, nil
	})
	return addrs, err
}

// PlaceBackends has exactly one ready backend on each of nodes and none elsewhere.
func (s *System) PlaceBackends(ctx context.Context, nodes ...string) error {
	if s.real() {
		return s.deploy(ctx, nodes)
	}
	for node, pod := range s.pods {
		if slices.Contains(nodes, node) {
			continue
		}
		delete(s.pods, node)
		defer func() { _ = s.c.RemovePod(pod) }() // after its endpoint is gone
	}
	for _, node := range nodes {
		if s.pods[node] != nil {
			continue
		}
		pod, err := s.c.AddPod(ctx, node)
		if err != nil {
			return err
		}
		if _, err := pod.StartWith(box.Program{
			Log: "backend", Args: []string{s.backend, measure.ToolWord, "backend", "--pod", pod.Name(), "--node", node},
		}); err != nil {
			return fmt.Errorf("start backend on %s: %w", node, err)
		}
		s.pods[node] = pod
	}
	all, err := s.c.Client().CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	for i := range all.Items {
		if o := &all.Items[i]; o.Spec.Selector["app"] == app {
			if err := s.WriteEndpoints(ctx, o.Namespace, o.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

var families = []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} //nolint:gochecknoglobals // a constant list

func sliceName(service string, f discoveryv1.AddressType) string {
	return service + map[discoveryv1.AddressType]string{discoveryv1.AddressTypeIPv4: "-v4", discoveryv1.AddressTypeIPv6: "-v6"}[f]
}

// writeSlices writes the endpoints of a Service, where no controller does.
func (s *System) writeSlices(ctx context.Context, namespace, service string) error {
	slicesOf := s.c.Client().DiscoveryV1().EndpointSlices(namespace)
	for _, f := range families {
		o := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: sliceName(service, f), Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: f,
			Ports: []discoveryv1.EndpointPort{
				slicePort("http", corev1.ProtocolTCP, echo), slicePort("echo", corev1.ProtocolUDP, echo), slicePort("hold", corev1.ProtocolTCP, HoldPort),
			},
		}
		for node, pod := range s.pods {
			addr := pod.V4
			if f == discoveryv1.AddressTypeIPv6 {
				addr = pod.V6
			}
			ready := true
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{addr.String()}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
			})
		}
		_, err := slicesOf.Update(ctx, o, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = slicesOf.Create(ctx, o, metav1.CreateOptions{})
		}
		if err != nil {
			return fmt.Errorf("write endpoints of %s: %w", service, err)
		}
	}
	return nil
}

func slicePort(name string, proto corev1.Protocol, port int32) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Protocol: &proto, Port: &port}
}

// deploy makes the Deployment of the backends be exactly on nodes.
func (s *System) deploy(ctx context.Context, nodes []string) error {
	replicas := int32(len(nodes))
	labels := map[string]string{"app": app}
	none := intstr.FromInt32(0)
	surge := intstr.FromInt32(replicas)
	o := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &none, MaxSurge: &surge}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: backendSpec(nodes)},
		},
	}
	deployments := s.c.Client().AppsV1().Deployments(metav1.NamespaceDefault)
	_, err := deployments.Update(ctx, o, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = deployments.Create(ctx, o, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("deploy backends: %w", err)
	}
	return s.await(ctx, "backends", func(ctx context.Context) (bool, error) {
		pods, err := s.c.Client().CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return false, err
		}
		seen := map[string]bool{}
		for i := range pods.Items {
			p := &pods.Items[i]
			if !podReady(p) || p.DeletionTimestamp != nil || !slices.Contains(nodes, p.Spec.NodeName) || seen[p.Spec.NodeName] {
				return false, nil
			}
			seen[p.Spec.NodeName] = true
		}
		return len(seen) == len(nodes), nil
	})
}

// backendSpec is a backend on each of nodes, one to a node, that stays whatever
// becomes of the node's taints.
func backendSpec(nodes []string) corev1.PodSpec {
	one := int64(1)
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: &one,
		Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchFields: nil,
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: nodes,
				}},
			}}},
		}},
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, MatchLabelKeys: []string{"pod-template-hash"},
		}},
		Containers: []corev1.Container{{
			Name: "backend", Image: BackendImage, ImagePullPolicy: corev1.PullIfNotPresent,
			Env: []corev1.EnvVar{
				{Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
				{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
			},
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(echo)}},
				PeriodSeconds: 1,
			},
		}},
	}
}
