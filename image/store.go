// Package image resolves, pulls, stores and mounts images by digest. Resolve opens one source and reads
// manifest, config and evidence from it; the gate judges these; Pull redeems the admission and copies
// exactly the judged instance from the same source, checks every digest and diff ID itself, and writes a
// verification record of facts and evidence. Lookup gives these back at create, without network, and
// Mount makes a root filesystem from a redeemed admission.
//
// Layers are kept by containers/storage (overlay), each under its chain ID. The registry side is
// image/internal/registry; neither containers/image's copy nor its docker transport is used, so that
// there is one stream, one token and one set of checks, and no second decision about what is copied.
package image

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"sallyport/enforce"
	"sallyport/image/internal/registry"
	"sallyport/image/ref"
	"sallyport/internal/durable"
)

// maxManifest bounds a manifest or index in bytes (distribution spec: registries should accept 4 MiB).
const maxManifest = 4 << 20

// Options of a Store. Paths that are "" mean that the node has no such file; no default path and no
// environment variable of the containers libraries is read.
type Options struct {
	Root    string        // persistent state; made 0700
	RunRoot string        // volatile state, on a tmpfs; made 0700
	Gate    *enforce.Gate // whose admissions and grants count

	RegistriesConf    string // registries.conf(5)
	RegistriesConfDir string // drop-ins of it
	CertsDir          string // <host:port>/ca.crt and the like
	AuthFile          string // the node's own registry credentials
	NamespaceAuthDir  string // <namespace>.json: those of a namespace, asked before the node's

	Local map[string]string // repositories that lie on this node's disk alone: OCI layouts by tag in that directory

	OS, Arch string   // "" means the host's
	Pinned   []string // names that the kubelet must not garbage-collect

	ScrubRate    int64         // bytes a second of stored layers that are hashed in the background; 0: none
	ScrubEvery   time.Duration // from the end of one such pass to the next
	RefreshEvery time.Duration // how often registries are asked for newer evidence; 0: never
	Log          *slog.Logger  // nil: nothing is said

	MaxUnpacked int64 // bytes that the layers of one image may unpack to; 0 means 32 GiB

	ResolveTimeout time.Duration // for manifest, config and evidence together; 0 means 60 s
	MirrorTimeout  time.Duration // of that for one mirror; 0: as long as there is
	StallTimeout   time.Duration // how long a download may bring nothing; 0 means 60 s
}

// Store holds images. It is safe for concurrent use.
type Store struct {
	gate       *enforce.Gate        // constant
	registries *registry.Registries // constant
	storage    storage.Store        // constant; has its own locks
	root       string               // constant
	platform   *types.SystemContext // constant
	pinned     map[string]bool      // constant
	timeout    time.Duration        // constant
	unpacked   int64                // constant; Options.MaxUnpacked
	local      map[string]string    // constant; Options.Local
	key        []byte               // constant; MAC of records
	log        *slog.Logger         // constant

	scrubPace                pace          // constant
	scrubEvery, refreshEvery time.Duration // constant

	state   string // owned by Open and Close: what the file state says while this daemon has the store
	unclean bool   // constant after Open: the machine stopped uncleanly since the store was last in use
	torn    int    // owned by Open: records that such a stop tore

	lock     *os.File           // owned; flock on Root
	index    *index             // has its own lock
	evidence *evidenceCache     // has its own lock
	users    *userFileCache     // has its own lock
	checked  *checked           // has its own lock
	flights  singleflight.Group // pulls by (namespace, name, instance)
	pulls    pullCount          // has its own lock
	recordMu sync.Mutex         // serialises writing and removing records; held over disk
	uses     uses               // has its own lock
	usage    usage              // has its own lock
	moved    moved              // atomic
	rootfs   sync.Map           // container ID -> *sync.Mutex; held over mount and unmount of one container
}

// Open opens or makes the store under o.Root. A second daemon on the same root gets ErrLocked. Records
// that do not verify are left where they are and named by Problems; images and layers that no record
// names any more, for example of a pull that a crash cut short, are removed. After an unclean stop of the
// machine every record is held against what is stored, and what is broken is removed.
func Open(o Options) (*Store, error) {
	if o.Gate == nil {
		return nil, errors.New("open image store: no gate")
	}
	s := &Store{gate: o.Gate, root: o.Root, timeout: o.ResolveTimeout, unpacked: cmp.Or(o.MaxUnpacked, 32<<30), local: o.Local, index: newIndex(),
		evidence: newEvidenceCache(), users: newUserFileCache(), pinned: map[string]bool{},
		log: o.Log, scrubPace: pace(o.ScrubRate), scrubEvery: o.ScrubEvery, refreshEvery: o.RefreshEvery}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.timeout == 0 {
		s.timeout = time.Minute
	}
	s.platform = &types.SystemContext{OSChoice: o.OS, ArchitectureChoice: o.Arch}
	if o.OS == "" {
		s.platform.OSChoice = runtime.GOOS
	}
	if o.Arch == "" {
		s.platform.ArchitectureChoice = runtime.GOARCH
	}
	for _, p := range o.Pinned {
		n, err := ref.Parse(p)
		if err != nil {
			return nil, fmt.Errorf("open image store: pinned image: %w", err)
		}
		s.pinned[n.String()] = true
	}
	var err error
	if s.registries, err = registry.New(registry.Options{Conf: o.RegistriesConf, ConfDir: o.RegistriesConfDir,
		CertsDir: o.CertsDir, AuthFile: o.AuthFile, NamespaceAuthDir: o.NamespaceAuthDir, Copies: filepath.Join(o.RunRoot, "registries"),
		Mirror: o.MirrorTimeout, Stall: o.StallTimeout}); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if err := s.openDisk(o); err != nil {
		s.unlock()
		return nil, fmt.Errorf("open image store %s: %w", o.Root, err)
	}
	return s, nil
}

func (s *Store) openDisk(o Options) error {
	for _, dir := range []string{s.root, s.path("images"), s.path("artifacts"), s.path("tmp"), s.path("containers"), o.RunRoot} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	if err := s.takeState(); err != nil {
		return err
	}
	if err := emptyTmp(s.path("tmp")); err != nil {
		return err
	}
	err := durable.Tidy(s.root)
	for _, dir := range []string{"overlay-layers", "overlay-images", "overlay-containers"} { // the library never does
		err = errors.Join(err, durable.Tidy(s.path("storage", dir)))
	}
	if err != nil {
		return err
	}
	if s.key, err = loadKey(s.path("record.key")); err != nil {
		return err
	}
	if s.checked, err = openChecked(filepath.Join(o.RunRoot, "checked")); err != nil {
		return err
	}
	if s.storage, err = openStorage(s.path("storage"), filepath.Join(o.RunRoot, "storage")); err != nil {
		return err
	}
	if err := s.loadRecords(); err != nil {
		return err
	}
	if err := s.loadUses(); err != nil {
		return err
	}
	if err := s.repair(); err != nil {
		return err
	}
	return s.sweep()
}

// openStorage opens containers/storage with nothing but these options. The library reads the host's
// storage.conf whatever the options are, and fails on a broken one: it is shown an empty file instead.
func openStorage(graph, run string) (storage.Store, error) {
	for name, value := range map[string]string{"CONTAINERS_STORAGE_CONF": os.DevNull, "STORAGE_DRIVER": "", "STORAGE_OPTS": ""} {
		old, was := os.LookupEnv(name)
		os.Setenv(name, value)
		defer func() {
			if was {
				os.Setenv(name, old)
			} else {
				os.Unsetenv(name)
			}
		}()
	}
	st, err := storage.GetStore(storage.StoreOptions{
		GraphRoot: graph, RunRoot: run,
		GraphDriverName: "overlay",
		// nodev holds for every container: its devices come from the runtime's own /dev.
		GraphDriverOptions: []string{"overlay.mountopt=nodev"},
	})
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	return st, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

func (s *Store) takeLock() error {
	f, err := os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		held := make([]byte, 32)
		n, _ := f.Read(held)
		f.Close()
		return fmt.Errorf("%w: process %s holds %s", ErrLocked, strings.TrimSpace(string(held[:n])), s.path("lock"))
	}
	s.lock = f
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func (s *Store) unlock() {
	if s.lock != nil {
		s.lock.Close()
		s.lock = nil
	}
}

// Close gives the root free for another daemon, and notes that nothing was under way: all that a call
// promised was synced before it returned. Mounted root filesystems stay mounted: containers outlive the
// daemon. Closing again does nothing. No call may be under way.
func (s *Store) Close() error {
	if s.lock == nil {
		return nil
	}
	s.storage.Free()
	err := durable.WriteFile(s.path("state"), []byte(stateClean), 0o600)
	s.unlock()
	if err != nil {
		return fmt.Errorf("close image store: %w", err)
	}
	return nil
}

// SettingsProblems are registry settings that are broken now, one line each; what was there before is in force.
func (s *Store) SettingsProblems() []string { return s.registries.Problems() }

// Problems are what Open found and left alone, one line each.
func (s *Store) Problems() []string { return s.index.problems() }

// emptyTmp removes what a crash left, views of layers that were still mounted included.
func emptyTmp(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		path := filepath.Join(dir, n.Name())
		if is, err := mounted(path); err == nil && is {
			if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return fmt.Errorf("unmount %s: %w", path, err)
			}
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
