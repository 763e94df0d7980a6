package nri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/nri/pkg/api"
	nrinet "github.com/containerd/nri/pkg/net"
	"golang.org/x/sys/unix"
)

// nriVersion is the version of the protocol's library, as plugins are told.
const nriVersion = "v0.12.5"

// maxConfig bounds a plugin's configuration file, in bytes: it travels in one message of the protocol.
const maxConfig = 1 << 20

// launched is a program that we started.
type launched struct {
	name string // index-name
	cmd  *exec.Cmd
}

// launchAll starts the programs of the plugin directory that the list names. What cannot be started is
// told and left out: where a plugin must not be missing, it is required.
func (h *Hub) launchAll(ctx context.Context) {
	if h.o.Plugins == "" {
		return
	}
	entries, err := os.ReadDir(h.o.Plugins)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.o.Log.Warn("look for NRI plugins", "err", err)
	}
	for _, e := range entries {
		if _, _, err := api.ParsePluginName(e.Name()); err != nil || !h.allowed(e.Name()) {
			h.o.Log.Warn("leave out NRI plugin: nri.plugins does not name it", "program", filepath.Join(h.o.Plugins, e.Name()))
			continue
		}
		if err := h.launch(ctx, e.Name()); err != nil {
			h.o.Log.Warn("start NRI plugin", "plugin", e.Name(), "err", err)
		}
	}
}

// launch starts one program with its end of a socket pair as descriptor 3, and nothing of our
// environment.
func (h *Hub) launch(ctx context.Context, name string) error {
	program := filepath.Join(h.o.Plugins, name)
	for _, p := range []string{program, h.o.Plugins} {
		if err := rootsOwn(p); err != nil {
			return err
		}
	}
	pair, err := nrinet.NewSocketPair()
	if err != nil {
		return err
	}
	defer pair.PeerClose()
	conn, err := pair.LocalConn()
	if err != nil {
		return err
	}
	idx, base, err := api.ParsePluginName(name)
	if err != nil {
		conn.Close()
		return err
	}
	cmd := exec.Command(program)
	cmd.ExtraFiles = []*os.File{pair.PeerFile()}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", api.PluginNameEnvVar + "=" + base, api.PluginIdxEnvVar + "=" + idx, api.PluginSocketEnvVar + "=3"}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return err
	}
	go h.admit(ctx, conn, launched{name, cmd})
	return nil
}

// rootsOwn refuses a program that others than root could have written: it will run as the daemon does.
func rootsOwn(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return fmt.Errorf("look at %s: %w", file, err)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s can be written by others than root", file)
	}
	return nil
}

// configFor is the configuration of a plugin: the file of its index and name, or of its name alone; ""
// if there is neither.
func (h *Hub) configFor(name string) (string, error) {
	if h.o.Config == "" {
		return "", nil
	}
	_, base, err := api.ParsePluginName(name)
	if err != nil {
		return "", err
	}
	for _, file := range []string{name + ".conf", base + ".conf"} {
		f, err := os.Open(filepath.Join(h.o.Config, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("read configuration of %s: %w", name, err)
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
		if err == nil && len(data) > maxConfig {
			err = fmt.Errorf("more than %d bytes", maxConfig)
		}
		if err != nil {
			return "", fmt.Errorf("read configuration of %s: %w", name, err)
		}
		return string(data), nil
	}
	return "", nil
}
