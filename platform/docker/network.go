package docker

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
)

// subnetBits is the size of a namespace's network: 61 addresses, of which a flip needs two or three.
const subnetBits = 26

var errNoAddress = errors.New("no free address in the application network")

// bridge is the namespace's own network. Addresses in it can be fixed because its subnet is chosen, not given by the Engine.
type bridge struct {
	id     string
	name   string
	subnet netip.Prefix
}

// ensureNetwork returns the namespace's network, which is made where it is missing.
func (p *Platform) ensureNetwork(ctx context.Context) (bridge, error) {
	found, err := p.cli.NetworkInspect(ctx, p.names.network(), network.InspectOptions{})
	if cerrdefs.IsNotFound(err) {
		return p.createNetwork(ctx)
	}
	if err != nil {
		return bridge{}, fmt.Errorf("inspect network: %w", err)
	}
	if found.Labels[labelNamespace] != p.names.label || len(found.IPAM.Config) == 0 {
		return bridge{}, fmt.Errorf("network %s was not made by this host manager: remove it (docker network rm %s) or set another docker_namespace", found.Name, found.Name)
	}
	subnet, err := netip.ParsePrefix(found.IPAM.Config[0].Subnet)
	if err != nil {
		return bridge{}, fmt.Errorf("read subnet of network %s: %w", found.Name, err)
	}
	return bridge{id: found.ID, name: found.Name, subnet: subnet}, nil
}

// createNetwork tries the subnets of the pool, beginning at one that depends on the namespace, until one overlaps nothing on this host.
func (p *Platform) createNetwork(ctx context.Context) (bridge, error) {
	taken := hostPrefixes()
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(p.names.label))
	count := 1 << (subnetBits - p.pool.Bits())
	for i := range count {
		subnet := nthSubnet(p.pool, (int(hash.Sum32()%uint32(count))+i)%count)
		if slices.ContainsFunc(taken, subnet.Overlaps) {
			continue
		}
		created, err := p.cli.NetworkCreate(ctx, p.names.network(), network.CreateOptions{
			Driver: "bridge",
			IPAM:   &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet.String()}}},
			Labels: p.names.labels(),
		})
		switch {
		case err == nil:
			return bridge{id: created.ID, name: p.names.network(), subnet: subnet}, nil
		case strings.Contains(err.Error(), "overlaps"): // another network of the Engine has it; there is no code for this
			continue
		default:
			return bridge{}, fmt.Errorf("create network: %w", err)
		}
	}
	return bridge{}, fmt.Errorf("every subnet of %s is in use on this host: set another address pool", p.pool)
}

func nthSubnet(pool netip.Prefix, n int) netip.Prefix {
	a := pool.Addr().As4()
	v := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	v += uint32(n) << (32 - subnetBits)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), subnetBits)
}

// hostPrefixes returns what the host has an interface in or a route to, the default route apart.
func hostPrefixes() []netip.Prefix {
	var out []netip.Prefix
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			out = append(out, p.Masked())
		}
	}
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return out
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if p, ok := routePrefix(strings.Fields(lines.Text())); ok {
			out = append(out, p)
		}
	}
	return out
}

// routePrefix reads a line of /proc/net/route: destination and mask are little-endian hexadecimal.
func routePrefix(words []string) (netip.Prefix, bool) {
	if len(words) < 8 {
		return netip.Prefix{}, false
	}
	dst, errDst := hex.DecodeString(words[1])
	mask, errMask := hex.DecodeString(words[7])
	if errDst != nil || errMask != nil || len(dst) != 4 || len(mask) != 4 {
		return netip.Prefix{}, false
	}
	slices.Reverse(dst)
	slices.Reverse(mask)
	ones, _ := net.IPMask(mask).Size()
	if ones == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(dst)), ones), true
}

// freeAddress returns an address that no container of the namespace has, running or stopped: a stopped one wants its own back.
func (p *Platform) freeAddress(ctx context.Context, b bridge, refused []netip.Addr) (netip.Addr, error) {
	taken, err := p.takenAddresses(ctx, b)
	if err != nil {
		return netip.Addr{}, err
	}
	taken = append(taken, refused...)
	addr := b.subnet.Masked().Addr().Next().Next() // the first is the bridge itself
	for ; b.subnet.Contains(addr.Next()); addr = addr.Next() {
		if !slices.Contains(taken, addr) {
			return addr, nil
		}
	}
	return netip.Addr{}, errNoAddress
}

func (p *Platform) takenAddresses(ctx context.Context, b bridge) ([]netip.Addr, error) {
	list, err := p.cli.ContainerList(ctx, container.ListOptions{All: true, Filters: p.names.ours()})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var taken []netip.Addr
	for _, c := range list {
		if c.NetworkSettings == nil || c.NetworkSettings.Networks[b.name] == nil {
			continue
		}
		if addr, ok := endpointAddress(c.NetworkSettings.Networks[b.name]); ok {
			taken = append(taken, addr)
		}
	}
	return taken, nil
}

// endpointAddress is the address a container has or will have when it starts.
func endpointAddress(e *network.EndpointSettings) (netip.Addr, bool) {
	text := e.IPAddress
	if e.IPAMConfig != nil && e.IPAMConfig.IPv4Address != "" {
		text = e.IPAMConfig.IPv4Address
	}
	addr, err := netip.ParseAddr(text)
	return addr, err == nil
}
