// Command csi-driver is the local ground's storage: a CSI driver (Container Storage Interface 1.12) whose volumes
// are XFS in sparse files behind loop devices. They have a real size, really grow while they are mounted, and carry
// the parameters of a VolumeAttributesClass. One process serves the controller and every node: the nodes are network
// namespaces of one machine and share its files.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	driverName = "csi.local.freehold.dev"
	zoneKey    = "topology.local.freehold.dev/zone"
	// The one parameter that a VolumeAttributesClass may have.
	iopsKey  = "iops"
	sizeUnit = 1 << 20
	// XFS takes no less.
	smallest = 300 * sizeUnit
	// No disk is larger.
	largest int64 = 1 << 40
)

// One call changes volumes at a time.
var changes sync.Mutex

func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", status.Errorf(codes.Internal, "%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	volumes string
	node    string
	zone    string
}

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "1"}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	service := func(kind csi.PluginCapability_Service_Type) *csi.PluginCapability {
		return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: kind}}}
	}
	online := &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: online}},
	}}, nil
}

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	var all []*csi.ControllerServiceCapability
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
	} {
		rpc := &csi.ControllerServiceCapability_RPC{Type: kind}
		all = append(all, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: rpc}})
	}
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: all}, nil
}

// The file that is the volume. An id is a name that the provisioner made: no path.
func (d *driver) file(id string) (string, error) {
	if id == "" || strings.ContainsAny(id, "/.") {
		return "", status.Errorf(codes.InvalidArgument, "%q is no volume's id", id)
	}
	return filepath.Join(d.volumes, id+".img"), nil
}

func wanted(capacity *csi.CapacityRange) int64 {
	bytes := max(capacity.GetRequiredBytes(), smallest)
	return (bytes + sizeUnit - 1) / sizeUnit * sizeUnit
}

// Makes the file at least so long, and says how long it is.
func enlarge(file string, bytes int64) (int64, error) {
	found, err := os.Stat(file)
	if err != nil {
		return 0, status.Error(codes.NotFound, err.Error())
	}
	if found.Size() >= bytes {
		return found.Size(), nil
	}
	return bytes, os.Truncate(file, bytes)
}

func (d *driver) CreateVolume(_ context.Context, request *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	changes.Lock()
	defer changes.Unlock()
	file, err := d.file(request.Name)
	if err != nil {
		return nil, err
	}
	if err := d.modify(request.Name, request.MutableParameters); err != nil {
		return nil, err
	}
	bytes := wanted(request.CapacityRange)
	if found, err := os.Stat(file); err == nil {
		bytes = found.Size()
	} else {
		part := file + ".part"
		if err := os.WriteFile(part, nil, 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(part, bytes); err != nil {
			return nil, err
		}
		if _, err := run("mkfs.xfs", "-q", "-K", "-m", "reflink=0,rmapbt=0", part); err != nil {
			return nil, err
		}
		if err := os.Rename(part, file); err != nil {
			return nil, err
		}
	}
	volume := &csi.Volume{VolumeId: request.Name, CapacityBytes: bytes}
	if preferred := request.AccessibilityRequirements.GetPreferred(); len(preferred) > 0 {
		volume.AccessibleTopology = preferred[:1]
	}
	return &csi.CreateVolumeResponse{Volume: volume}, nil
}

func (d *driver) DeleteVolume(_ context.Context, request *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	changes.Lock()
	defer changes.Unlock()
	file, err := d.file(request.VolumeId)
	if err != nil {
		return nil, err
	}
	if device, err := loop(file); err != nil || device != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is in use: %s %v", request.VolumeId, device, err)
	}
	for _, path := range []string{file, attributes(file)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (d *driver) ValidateVolumeCapabilities(_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	confirmed := &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: request.VolumeCapabilities}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: confirmed}, nil
}

func (d *driver) ControllerExpandVolume(_ context.Context, request *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	changes.Lock()
	defer changes.Unlock()
	file, err := d.file(request.VolumeId)
	if err != nil {
		return nil, err
	}
	if request.CapacityRange.GetRequiredBytes() > largest {
		return nil, status.Errorf(codes.OutOfRange, "volumes have at most %d bytes", largest)
	}
	bytes, err := enlarge(file, wanted(request.CapacityRange))
	if err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: bytes, NodeExpansionRequired: true}, nil
}

func attributes(file string) string { return strings.TrimSuffix(file, ".img") + ".json" }

func (d *driver) modify(id string, parameters map[string]string) error {
	if len(parameters) == 0 {
		return nil
	}
	for key := range parameters {
		if key != iopsKey {
			return status.Errorf(codes.InvalidArgument, "parameter %s: unknown; volumes have %s", key, iopsKey)
		}
	}
	file, err := d.file(id)
	if err != nil {
		return err
	}
	text, err := json.Marshal(parameters)
	if err != nil {
		return err
	}
	return os.WriteFile(attributes(file), text, 0o600)
}

func (d *driver) ControllerModifyVolume(_ context.Context, request *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	changes.Lock()
	defer changes.Unlock()
	return &csi.ControllerModifyVolumeResponse{}, d.modify(request.VolumeId, request.MutableParameters)
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	var all []*csi.NodeServiceCapability
	for _, kind := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
	} {
		rpc := &csi.NodeServiceCapability_RPC{Type: kind}
		all = append(all, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: rpc}})
	}
	return &csi.NodeGetCapabilitiesResponse{Capabilities: all}, nil
}

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node, AccessibleTopology: &csi.Topology{Segments: map[string]string{zoneKey: d.zone}}}, nil
}

// The loop device of a file; empty when it has none.
func loop(file string) (string, error) {
	out, err := run("losetup", "--noheadings", "--output", "NAME", "--associated", file)
	first, _, _ := strings.Cut(out, "\n")
	return strings.TrimSpace(first), err
}

func mounted(path string) bool {
	return exec.Command("mountpoint", "-q", path).Run() == nil
}

func mount(target string, args ...string) error {
	if mounted(target) {
		return nil
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	_, err := run("mount", append(args, target)...)
	return err
}

func unmount(target string) error {
	if mounted(target) {
		if _, err := run("umount", target); err != nil {
			return err
		}
	}
	return nil
}

func (d *driver) NodeStageVolume(_ context.Context, request *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	changes.Lock()
	defer changes.Unlock()
	file, err := d.file(request.VolumeId)
	if err != nil {
		return nil, err
	}
	if request.VolumeCapability.GetMount() == nil {
		return nil, status.Error(codes.InvalidArgument, "only volumes with a file system")
	}
	device, err := loop(file)
	if err != nil {
		return nil, err
	}
	if device == "" {
		if device, err = run("losetup", "--find", "--show", file); err != nil {
			return nil, err
		}
	}
	return &csi.NodeStageVolumeResponse{}, mount(request.StagingTargetPath, device)
}

func (d *driver) NodeUnstageVolume(_ context.Context, request *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	changes.Lock()
	defer changes.Unlock()
	file, err := d.file(request.VolumeId)
	if err != nil {
		return nil, err
	}
	if err := unmount(request.StagingTargetPath); err != nil {
		return nil, err
	}
	device, err := loop(file)
	if err == nil && device != "" {
		_, err = run("losetup", "--detach", device)
	}
	return &csi.NodeUnstageVolumeResponse{}, err
}

func (d *driver) NodePublishVolume(_ context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	options := "bind"
	if request.Readonly {
		options = "bind,ro"
	}
	return &csi.NodePublishVolumeResponse{}, mount(request.TargetPath, "-o", options, request.StagingTargetPath)
}

func (d *driver) NodeUnpublishVolume(_ context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := unmount(request.TargetPath); err != nil {
		return nil, err
	}
	if err := os.Remove(request.TargetPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (d *driver) NodeExpandVolume(_ context.Context, request *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	changes.Lock()
	defer changes.Unlock()
	file, err := d.file(request.VolumeId)
	if err != nil {
		return nil, err
	}
	found, err := os.Stat(file)
	if err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	device, err := loop(file)
	if err != nil || device == "" {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not staged: %v", request.VolumeId, err)
	}
	if _, err := run("losetup", "--set-capacity", device); err != nil {
		return nil, err
	}
	if _, err := run("xfs_growfs", request.VolumePath); err != nil {
		return nil, err
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: found.Size()}, nil
}

// What a kubelet asks of a plugin whose socket it finds.
type registrar struct {
	registration.UnimplementedRegistrationServer
	endpoint string
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: driverName, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, state *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !state.PluginRegistered {
		log.Printf("the kubelet did not register %s: %s", r.endpoint, state.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}

func serve(socket string, failed chan<- error, register func(*grpc.Server)) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(logged))
	register(server)
	go func() { failed <- server.Serve(listener) }()
	return nil
}

func logged(context context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	answer, err := handler(context, request)
	if err != nil {
		log.Printf("%s: %v", info.FullMethod, err)
	}
	return answer, err
}

type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

func start(volumes, socket string, nodes []string, failed chan<- error) error {
	if err := os.MkdirAll(volumes, 0o750); err != nil {
		return err
	}
	controller := &driver{volumes: volumes}
	err := serve(socket, failed, func(server *grpc.Server) {
		csi.RegisterIdentityServer(server, controller)
		csi.RegisterControllerServer(server, controller)
	})
	if err != nil {
		return err
	}
	for _, text := range nodes {
		parts := strings.SplitN(text, "=", 3)
		if len(parts) != 3 {
			return fmt.Errorf("--node %s: want NAME=ZONE=KUBELET_ROOT", text)
		}
		node := &driver{volumes: volumes, node: parts[0], zone: parts[1]}
		endpoint := filepath.Join(parts[2], "plugins", driverName, "csi.sock")
		err := serve(endpoint, failed, func(server *grpc.Server) {
			csi.RegisterIdentityServer(server, node)
			csi.RegisterNodeServer(server, node)
		})
		if err != nil {
			return err
		}
		registry := filepath.Join(parts[2], "plugins_registry", driverName+"-reg.sock")
		err = serve(registry, failed, func(server *grpc.Server) {
			registration.RegisterRegistrationServer(server, &registrar{endpoint: endpoint})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func main() {
	volumes := flag.String("volumes", "", "folder of the volumes' files")
	socket := flag.String("socket", "", "socket of the controller service")
	var nodes list
	flag.Var(&nodes, "node", "a node: NAME=ZONE=KUBELET_ROOT")
	flag.Parse()
	failed := make(chan error)
	if err := start(*volumes, *socket, nodes, failed); err != nil {
		log.Fatal(err)
	}
	log.Fatal(<-failed)
}
