package registry

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/pkg/tlsclientconfig"
	"go.podman.io/image/v5/types"
)

// Bounds of what is read, so that a mistaken path fills neither memory nor the tmpfs.
const (
	maxSetting  = 1 << 20 // bytes of one file
	maxSettings = 4096    // files
)

// Names in a copy of the settings. Each unit is taken over whole or not at all: the configuration, the
// certificates of one host, the credentials of the node, those of one namespace.
const (
	unitConf = "registries.conf" // with registries.conf.d
	dirConf  = "registries.conf.d"
	dirCerts = "certs.d"
	unitAuth = "auth.json"
	dirAuth  = "auth"
)

// settings are one state of the node's files. They are immutable: a copy, since what the operator edits
// can be half written at any moment.
type settings struct {
	sys     *types.SystemContext         // constant
	authDir string                       // constant; of namespaces' credentials; "" for none
	dir     string                       // constant; the copy; "" where the files are read as they lie
	units   map[string]map[string][]byte // constant; unit -> path in the copy -> content
	broken  map[string]error             // constant; units that were broken from the start: nothing stands for them
}

// live are the operator's files as they lie.
func live(o Options) *settings {
	return &settings{sys: systemContext(o.Conf, o.ConfDir, o.CertsDir, o.AuthFile), authDir: o.NamespaceAuthDir}
}

func systemContext(conf, confDir, certs, auth string) *types.SystemContext {
	sys := &types.SystemContext{SystemRegistriesConfPath: conf, SystemRegistriesConfDirPath: confDir, DockerPerHostCertDirPath: certs, AuthFilePath: auth}
	if sys.SystemRegistriesConfPath == "" {
		sys.SystemRegistriesConfPath = os.DevNull
	}
	if sys.SystemRegistriesConfDirPath == "" {
		sys.SystemRegistriesConfDirPath = "/nonexistent"
	}
	return sys
}

// reader collects the operator's files by unit.
type reader struct {
	units  map[string]map[string][]byte
	broken map[string]error
	files  int
}

// readSettings reads what o names. What does not exist is no setting; what cannot be read breaks its unit.
func readSettings(o Options) *reader {
	r := &reader{units: map[string]map[string][]byte{}, broken: map[string]error{}}
	r.file(unitConf, unitConf, o.Conf)
	r.dir(o.ConfDir, func(name string) {
		if strings.HasSuffix(name, ".conf") {
			r.file(unitConf, filepath.Join(dirConf, name), filepath.Join(o.ConfDir, name))
		}
	})
	r.dir(o.CertsDir, func(host string) {
		unit := filepath.Join(dirCerts, host)
		r.dir(filepath.Join(o.CertsDir, host), func(name string) {
			if slices.Contains([]string{".crt", ".cert", ".key"}, filepath.Ext(name)) {
				r.file(unit, filepath.Join(unit, name), filepath.Join(o.CertsDir, host, name))
			}
		})
	})
	r.file(unitAuth, unitAuth, o.AuthFile)
	r.dir(o.NamespaceAuthDir, func(name string) {
		if strings.HasSuffix(name, ".json") {
			unit := filepath.Join(dirAuth, name)
			r.file(unit, unit, filepath.Join(o.NamespaceAuthDir, name))
		}
	})
	return r
}

// dir visits the names in a directory; a file in its place is no directory.
func (r *reader) dir(path string, visit func(name string)) {
	if path == "" {
		return
	}
	names, err := os.ReadDir(path)
	if err != nil {
		return
	}
	for _, n := range names {
		visit(n.Name())
	}
}

func (r *reader) file(unit, as, path string) {
	if path == "" {
		return
	}
	b, err := readSetting(path)
	if errors.Is(err, fs.ErrNotExist) { // or a dangling link, as distributions ship them
		return
	}
	if r.files++; err == nil && r.files > maxSettings {
		err = fmt.Errorf("more than %d files", maxSettings)
	}
	if err != nil {
		r.broken[unit] = fmt.Errorf("read %s: %w", path, err)
	}
	if r.units[unit] == nil {
		r.units[unit] = map[string][]byte{}
	}
	r.units[unit][as] = b
}

func readSetting(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSetting+1))
	if err == nil && len(b) > maxSetting {
		err = fmt.Errorf("more than %d bytes", maxSetting)
	}
	return b, err
}

// sum tells two states apart.
func (r *reader) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, unit := range slices.Sorted(maps.Keys(r.units)) {
		fmt.Fprintf(h, "%q %v\n", unit, r.broken[unit])
		for _, path := range slices.Sorted(maps.Keys(r.units[unit])) {
			fmt.Fprintf(h, "%q %x\n", path, sha256.Sum256(r.units[unit][path]))
		}
	}
	h.Sum(sum[:0])
	return sum
}

// takeOver lays r out in the new directory dir. A unit that is broken is taken from old; without an old
// one, what needs it fails by name. The errors say which.
func (r *reader) takeOver(o Options, dir string, old *settings) (*settings, map[string]error, error) {
	s := &settings{dir: dir, units: map[string]map[string][]byte{}, broken: map[string]error{}, authDir: filepath.Join(dir, dirAuth),
		sys: systemContext(filepath.Join(dir, unitConf), filepath.Join(dir, dirConf), filepath.Join(dir, dirCerts), filepath.Join(dir, unitAuth))}
	broken := map[string]error{}
	for unit, files := range r.units {
		if err := lay(dir, files); err != nil {
			return nil, nil, err
		}
		s.units[unit] = files
	}
	if r.units[unitConf][unitConf] == nil {
		s.sys.SystemRegistriesConfPath = os.DevNull
	}
	for unit := range r.units {
		err := r.broken[unit]
		if err == nil {
			err = s.check(o, unit)
		}
		if err == nil {
			continue
		}
		broken[unit] = err
		if old == nil || old.units[unit] == nil || old.broken[unit] != nil {
			s.broken[unit] = err
			continue
		}
		for path := range s.units[unit] {
			if err := os.Remove(filepath.Join(dir, path)); err != nil {
				return nil, nil, err
			}
		}
		s.units[unit] = old.units[unit]
		if err := lay(dir, s.units[unit]); err != nil {
			return nil, nil, err
		}
		if unit == unitConf && s.units[unit][unitConf] != nil {
			s.sys.SystemRegistriesConfPath = filepath.Join(dir, unitConf)
		} else if unit == unitConf {
			s.sys.SystemRegistriesConfPath = os.DevNull
		}
	}
	return s, broken, nil
}

func lay(dir string, files map[string][]byte) error {
	for path, b := range files {
		at := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(at, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// check reads one unit as its users will.
func (s *settings) check(o Options, unit string) error {
	switch dir, name := filepath.Split(unit); {
	case unit == unitConf:
		if _, err := sysregistriesv2.TryUpdatingCache(s.sys); err != nil {
			at := strings.NewReplacer(filepath.Join(s.dir, dirConf), o.ConfDir, filepath.Join(s.dir, unitConf), o.Conf)
			return fmt.Errorf("read %s: %s", o.Conf, oneLine(at.Replace(err.Error())))
		}
		return nil
	case unit == unitAuth:
		return checkAuth(o.AuthFile, s.units[unit][unit])
	case filepath.Clean(dir) == dirAuth:
		return checkAuth(filepath.Join(o.NamespaceAuthDir, name), s.units[unit][unit])
	default:
		return s.checkCerts(filepath.Join(o.CertsDir, name), unit)
	}
}

func (s *settings) checkCerts(at, unit string) error {
	for path, b := range s.units[unit] {
		if filepath.Ext(path) == ".crt" && !x509.NewCertPool().AppendCertsFromPEM(b) {
			return fmt.Errorf("read %s: no certificate in it", filepath.Join(at, filepath.Base(path)))
		}
	}
	if err := tlsclientconfig.SetupCertificates(filepath.Join(s.dir, unit), &tls.Config{}); err != nil {
		return fmt.Errorf("read %s: %s", at, oneLine(strings.ReplaceAll(err.Error(), filepath.Join(s.dir, unit), at)))
	}
	return nil
}

// checkAuth does not repeat the content: it is secret.
func checkAuth(path string, b []byte) error {
	var doc struct {
		Auths map[string]struct{ Auth string }
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("read %s: not JSON of containers-auth.json(5)", path)
	}
	for host, entry := range doc.Auths {
		if _, err := base64.StdEncoding.DecodeString(entry.Auth); err != nil {
			return fmt.Errorf("read %s: auth of %q is no base64", path, oneLine(host))
		}
	}
	return nil
}
