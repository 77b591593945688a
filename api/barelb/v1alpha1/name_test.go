package v1alpha1_test

import (
	"net/netip"
	"testing"

	"k8s.io/apimachinery/pkg/api/validation"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
)

func TestObjectName(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":         "192.0.2.1",
		"::ffff:192.0.2.1":  "192.0.2.1",
		"2001:db8::1":       "2001-0db8-0000-0000-0000-0000-0000-0001",
		"::":                "0000-0000-0000-0000-0000-0000-0000-0000",
		"fd00:1::192.0.2.1": "fd00-0001-0000-0000-0000-0000-c000-0201",
	} {
		got := v1alpha1.ObjectName(netip.MustParseAddr(addr))
		if got != want {
			t.Errorf("%s: name %q, want %q", addr, got, want)
		}
		if why := validation.NameIsDNSSubdomain(got, false); len(why) > 0 {
			t.Errorf("%s: %q is no name: %v", addr, got, why)
		}
	}
}
