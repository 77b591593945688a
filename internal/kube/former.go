package kube

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
)

// formerHolders is the form in which a pool's status says what is kept for whom.
func formerHolders(list []ipam.Former) []v1beta1.FormerHolder {
	var out []v1beta1.FormerHolder
	for _, f := range list {
		o := v1beta1.FormerHolder{Namespace: f.Key.Namespace, Name: f.Key.Name, Until: metav1.NewTime(f.Until.Truncate(time.Second))}
		for _, a := range f.Addrs {
			o.Addresses = append(o.Addresses, a.String())
		}
		out = append(out, o)
	}
	return out
}

// FormerHolders returns what the status of all pools says is kept for whom, in the
// order in which it ends.
func (c *Cluster) FormerHolders(ctx context.Context) ([]ipam.Former, error) {
	var pools v1beta1.IPAddressPoolList
	if err := c.cache.List(ctx, &pools); err != nil {
		return nil, fmt.Errorf("list pools: %w", err)
	}
	var out []ipam.Former
	for i := range pools.Items {
		for _, o := range pools.Items[i].Status.FormerHolders {
			f := ipam.Former{Key: lb.Key{Namespace: o.Namespace, Name: o.Name}, Until: o.Until.Time}
			for _, text := range o.Addresses {
				if a, err := netip.ParseAddr(text); err == nil {
					f.Addrs = append(f.Addrs, a.Unmap())
				}
			}
			out = append(out, f)
		}
	}
	slices.SortStableFunc(out, func(a, b ipam.Former) int { return a.Until.Compare(b.Until) })
	return out, nil
}
