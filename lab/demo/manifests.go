package demo

import "fmt"

// BGPAdvertisement announces the pool by BGP.
const BGPAdvertisement = `apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata:
  name: bgp
  namespace: metallb-system
spec:
  ipAddressPools:
  - bgp-pool
`

// Peer is the lab's router as a BGPPeer.
func Peer(name, addr string, nodeAS, routerAS uint32, holdTime string) string {
	return fmt.Sprintf(`apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata:
  name: %s
  namespace: metallb-system
spec:
  myASN: %d
  peerASN: %d
  peerAddress: %s
  holdTime: %s
`, name, nodeAS, routerAS, addr, holdTime)
}
