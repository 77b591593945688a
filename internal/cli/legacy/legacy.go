// Package legacy reads the configuration of MetalLB before 0.13, which was text in a
// ConfigMap, and makes of it the objects that are its configuration since.
package legacy

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
)

// Objects are what a configuration becomes, in the order of the text.
type Objects struct {
	Pools       []v1beta1.IPAddressPool
	L2          []v1beta1.L2Advertisement
	BGP         []v1beta1.BGPAdvertisement
	Peers       []v1beta2.BGPPeer
	Profiles    []v1beta1.BFDProfile
	Communities []v1beta1.Community
	Secrets     []corev1.Secret // with the passwords of peers
	// Notes say what could not be carried over, or not as it was: one line each.
	Notes []string
}

// Convert makes objects, in namespace, of the text that stood in the key config of the
// ConfigMap. It fails if the text is no YAML mapping; whatever else is wrong becomes a
// note.
func Convert(text, namespace string) (*Objects, error) {
	var top map[string]any
	if err := yaml.Unmarshal([]byte(text), &top); err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	c := &converter{out: &Objects{}, namespace: namespace, names: map[string]map[string]bool{}, valid: map[string]map[string]bool{}}
	s := c.section("", top)
	c.reserve("BFDProfile", top["bfd-profiles"])
	c.reserve("IPAddressPool", top["address-pools"])
	c.communities(s)
	for _, p := range s.list("bfd-profiles") {
		c.profile(p)
	}
	for _, p := range s.list("peers") {
		c.peer(p)
	}
	for _, p := range s.list("address-pools") {
		c.pool(p)
	}
	if s.take("peer-autodiscovery") != nil {
		s.note("peer-autodiscovery", "has no counterpart; write a BGPPeer with nodeSelectors for each router")
	}
	s.rest()
	return c.out, nil
}

type converter struct {
	out       *Objects
	namespace string
	names     map[string]map[string]bool // taken, by kind
	valid     map[string]map[string]bool // as written, by kind: nobody who must be renamed gets them
}

// reserve notes the names in a list of the text that objects can have.
func (c *converter) reserve(kind string, list any) {
	c.names[kind], c.valid[kind] = map[string]bool{}, map[string]bool{}
	all, _ := list.([]any)
	for _, x := range all {
		m, _ := x.(map[string]any)
		if name := scalar(m["name"]); m["name"] != nil && label(name) == name {
			c.valid[kind][name] = true
		}
	}
}

func (c *converter) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: c.namespace}
}

func v1(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1beta1.GroupVersion.String(), Kind: kind}
}

func (c *converter) communities(s *section) {
	all := s.sub("bgp-communities")
	if all == nil {
		return
	}
	var aliases []v1beta1.CommunityAlias
	for _, name := range all.keys() {
		aliases = append(aliases, v1beta1.CommunityAlias{Name: name, Value: all.text(name)})
	}
	if len(aliases) > 0 {
		c.out.Communities = append(c.out.Communities, v1beta1.Community{
			TypeMeta: v1("Community"), ObjectMeta: c.meta("communities"), Spec: v1beta1.CommunitySpec{Communities: aliases},
		})
	}
}

func (c *converter) profile(s *section) {
	was := s.text("name")
	name := c.name("BFDProfile", s, was, "bfd-profile")
	c.out.Profiles = append(c.out.Profiles, v1beta1.BFDProfile{
		TypeMeta: v1("BFDProfile"), ObjectMeta: c.meta(name),
		Spec: v1beta1.BFDProfileSpec{
			ReceiveInterval: s.number32("receive-interval"), TransmitInterval: s.number32("transmit-interval"), DetectMultiplier: s.number32("detect-multiplier"),
			EchoInterval: s.number32("echo-interval"), EchoMode: s.boolean("echo-mode"), PassiveMode: s.boolean("passive-mode"), MinimumTTL: s.number32("minimum-ttl"),
		},
	})
	s.rest()
}

func (c *converter) peer(s *section) {
	name := c.name("BGPPeer", s, fmt.Sprintf("peer%d", len(c.out.Peers)+1), "peer")
	p := v1beta2.BGPPeer{TypeMeta: metav1.TypeMeta{APIVersion: v1beta2.GroupVersion.String(), Kind: "BGPPeer"}, ObjectMeta: c.meta(name)}
	p.Spec = v1beta2.BGPPeerSpec{
		MyASN: uint32(s.number("my-asn", 1<<32-1)), PeerASN: uint32(s.number("peer-asn", 1<<32-1)), PeerAddress: s.text("peer-address"),
		SourceAddress: s.text("source-address"), PeerPort: uint16(s.number("peer-port", 1<<16-1)), RouterID: s.text("router-id"),
		HoldTime: s.duration("hold-time"), KeepaliveTime: s.duration("keepalive-time"), EBGPMultiHop: isTrue(s.boolean("ebgp-multihop")),
		NodeSelectors: s.selectors("node-selectors"),
	}
	if profile := s.text("bfd-profile"); profile != "" {
		p.Spec.BFDProfile = label(profile)
	}
	if password := s.text("password"); password != "" {
		secret := name + "-password"
		p.Spec.PasswordSecret = corev1.SecretReference{Name: secret}
		c.out.Secrets = append(c.out.Secrets, corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: c.meta(secret),
			Type: corev1.SecretTypeBasicAuth, StringData: map[string]string{"password": password},
		})
		s.note("password", "is in Secret %s now, not in the BGPPeer: keep this output where passwords may be", secret)
	}
	s.rest()
	c.out.Peers = append(c.out.Peers, p)
}

func (c *converter) pool(s *section) {
	name := c.name("IPAddressPool", s, s.text("name"), "pool")
	protocol := s.text("protocol")
	pool := v1beta1.IPAddressPool{TypeMeta: v1("IPAddressPool"), ObjectMeta: c.meta(name)}
	pool.Spec = v1beta1.IPAddressPoolSpec{
		Addresses: s.texts("addresses"), AutoAssign: s.boolean("auto-assign"), AvoidBuggyIPs: isTrue(s.boolean("avoid-buggy-ips")),
	}
	pool.Spec.Addresses = append(pool.Spec.Addresses, s.texts("cidr")...) // before 0.3
	c.out.Pools = append(c.out.Pools, pool)
	advertisements := s.list("bgp-advertisements")
	switch protocol {
	case "layer2", "arp":
		c.out.L2 = append(c.out.L2, v1beta1.L2Advertisement{
			TypeMeta: v1("L2Advertisement"), ObjectMeta: c.meta(name), Spec: v1beta1.L2AdvertisementSpec{IPAddressPools: []string{name}},
		})
		if len(advertisements) > 0 {
			s.note("bgp-advertisements", "had no effect with protocol layer2, and is left out")
		}
	case "bgp":
		if len(advertisements) == 0 { // MetalLB's default
			advertisements = []*section{c.section(s.path+".bgp-advertisements[0]", map[string]any{})}
		}
		for i, a := range advertisements {
			c.advertisement(a, name, i)
		}
	default:
		s.note("protocol", "%q is neither layer2 nor bgp: the pool's addresses are announced by nothing", protocol)
	}
	s.rest()
}

func (c *converter) advertisement(s *section, pool string, i int) {
	name := pool
	if i > 0 {
		name = fmt.Sprintf("%s-%d", pool, i+1)
	}
	c.out.BGP = append(c.out.BGP, v1beta1.BGPAdvertisement{
		TypeMeta: v1("BGPAdvertisement"), ObjectMeta: c.meta(name),
		Spec: v1beta1.BGPAdvertisementSpec{
			AggregationLength: s.signed("aggregation-length"), AggregationLengthV6: s.signed("aggregation-length-v6"),
			LocalPref: uint32(s.number("localpref", 1<<32-1)), Communities: s.texts("communities"), IPAddressPools: []string{pool},
		},
	})
	s.rest()
}

// name returns a name that an object of kind can have, for one that was called was.
func (c *converter) name(kind string, s *section, was, without string) string {
	name := label(was)
	if name == "" {
		name = without
	}
	if c.names[kind] == nil {
		c.names[kind] = map[string]bool{}
	}
	base := name
	for i := 2; c.names[kind][name] || name != was && c.valid[kind][name]; i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	c.names[kind][name] = true
	if name != was {
		what := ""
		if kind == "IPAddressPool" {
			what = "; correct the annotation address-pool of Services that name it"
		}
		s.note("name", "%q is no name of an object, or taken: the %s is called %s%s", was, kind, name, what)
	}
	return name
}

// All returns the objects in the order in which they should be applied.
func (o *Objects) All() []any {
	var out []any
	out = append(out, pointers(o.Secrets)...)
	out = append(out, pointers(o.Communities)...)
	out = append(out, pointers(o.Profiles)...)
	out = append(out, pointers(o.Pools)...)
	out = append(out, pointers(o.Peers)...)
	out = append(out, pointers(o.L2)...)
	return slices.Concat(out, pointers(o.BGP))
}

func pointers[T any](list []T) []any {
	var out []any
	for i := range list {
		out = append(out, &list[i])
	}
	return out
}
