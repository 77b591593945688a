package speaker_test

import (
	"testing"
	"testing/synctest"

	core "github.com/barelb/barelb/internal/core/kubeproxy"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/kubeproxy"
	"github.com/barelb/barelb/internal/speaker"
)

// TestKubeProxy: a node whose kube-proxy is not healthy leaves BGP to the others, who
// hear of it first; if all are so, nobody does.
func TestKubeProxy(t *testing.T) {
	px := &proxy{state: kubeproxy.State{State: core.State{Healthy: true}}}
	story(t, true, func(w *world) {
		turns := func(title string, st kubeproxy.State) {
			w.say("# kube-proxy: %s", title)
			px.state = st
			px.changed <- struct{}{}
			synctest.Wait()
		}
		facts := func(node string, down bool) liveness.Node {
			return liveness.Node{Member: true, Facts: &liveness.Facts{Node: node, Phase: liveness.Serving, ProxyDown: down}}
		}
		others := func(title string, down bool) {
			w.say("# %s", title)
			w.view = &liveness.View{Nodes: map[string]liveness.Node{
				"node1": facts("node1", px.state.Doubted), "node2": facts("node2", down), "node3": facts("node3", down),
			}}
			w.aliveChanged <- struct{}{}
			synctest.Wait()
		}
		w.step("there is a Service", func() {
			w.configure(usual)

			w.nodes("node1", "node2", "node3")
			w.service("a", "192.0.2.1", "node1", "node2")
		})
		w.everythingRead()
		w.check(`
		# there is a Service
		# everything was read
		`)
		w.say("# kube-proxy was asked")
		close(px.asked)
		synctest.Wait()
		others("the others are well", false)
		turns("seen", kubeproxy.State{State: core.State{Watched: true, Healthy: true}})
		turns("doubted", kubeproxy.State{State: core.State{Watched: true, Healthy: true, Doubted: true}})
		turns("ill", kubeproxy.State{State: core.State{Watched: true, Doubted: true}, Why: "it answers 503"})
		others("so are the others", true)
		others("they are well again", false)
		turns("well", kubeproxy.State{State: core.State{Watched: true, Healthy: true}})
		w.check(`
		# kube-proxy was asked
		apply kube-proxy: healthy
		apply layer2: nothing
		apply bgp: router: 192.0.2.1/32
		event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
		configuration stale: false
		state: 0 problems
		# the others are well
		apply phase: serving
		# kube-proxy: seen
		configuration stale: false
		state: 0 problems
		  kube-proxy: healthy
		# kube-proxy: doubted
		apply kube-proxy: not healthy
		# kube-proxy: ill
		apply bgp: router:
		configuration stale: false
		state: 0 problems
		  kube-proxy: it answers 503
		# so are the others
		apply bgp: router: 192.0.2.1/32
		event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
		# they are well again
		apply bgp: router:
		# kube-proxy: well
		apply kube-proxy: healthy
		apply bgp: router: 192.0.2.1/32
		event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
		configuration stale: false
		state: 0 problems
		  kube-proxy: healthy
		`)
	}, func(_ *world, d *speaker.Deps) {
		px.changed, px.asked = make(chan struct{}, 1), make(chan struct{})
		d.Proxy = px
	})
}
