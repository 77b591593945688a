package kube

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/barelb/barelb/api/v1beta1"
)

// TestProxyCondition is there while kube-proxy is watched.
func TestProxyCondition(t *testing.T) {
	var o v1beta1.ConfigurationState
	for _, c := range []struct {
		state State
		want  string
	}{
		{State{}, ""},
		{State{ProxyWatched: true}, "True Healthy "},
		{State{ProxyWatched: true, ProxyDown: "it answers 503"}, "False ProxyUnhealthy it answers 503"},
		{State{ProxyWatched: true}, "True Healthy "},
		{State{}, ""},
	} {
		proxyCondition(&o, c.state)
		got := ""
		if x := meta.FindStatusCondition(o.Status.Conditions, v1beta1.ConditionKubeProxyHealthy); x != nil {
			got = string(x.Status) + " " + x.Reason + " " + x.Message
		}
		if got != c.want {
			t.Errorf("%+v: the condition is %q, want %q", c.state, got, c.want)
		}
	}
}
