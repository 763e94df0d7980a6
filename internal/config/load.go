package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/BurntSushi/toml"
)

// maxFile is the largest configuration file that is read, in bytes: a mistaken path must not fill memory.
const maxFile = 1 << 20

// Load reads file, if it exists, and then every *.toml in file's drop-in directory (file + ".d"), over
// Default. Later values replace earlier ones; runtime handlers are merged by name. Every error names
// the file, and the line and the key where there is one. The result is not checked: see Check.
func Load(file string) (Config, error) {
	c := Default()
	names, err := filepath.Glob(filepath.Join(file+".d", "*.toml"))
	if err != nil {
		return Config{}, fmt.Errorf("read drop-ins of %s: %w", file, err)
	}
	slices.Sort(names)
	for i, name := range append([]string{file}, names...) {
		data, err := read(name)
		if i == 0 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = Decode(name, data, &c)
		}
		if err != nil {
			return Config{}, err
		}
	}
	return c, nil
}

// read refuses files that anybody but root could have written: the configuration names programs that
// run as root.
func read(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read configuration %s: not a regular file", name)
	}
	if st.Size() > maxFile {
		return nil, fmt.Errorf("read configuration %s: larger than %d bytes", name, maxFile)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("read configuration %s: others can write it (mode %04o); run \"chmod go-w %s\"", name, st.Mode().Perm(), name)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("read configuration %s: owned by uid %d, not by root", name, sys.Uid)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", name, err)
	}
	return data, nil
}

// Decode lays the TOML in data over c. An unknown key, a wrong type or bad syntax is an error that
// names file, line and key; c may then be half changed and must be dropped.
func Decode(file string, data []byte, c *Config) error {
	md, err := toml.Decode(string(data), c)
	if err != nil {
		var perr toml.ParseError
		if errors.As(err, &perr) {
			key := ""
			if perr.LastKey != "" {
				key = " key " + perr.LastKey + ":"
			}
			return fmt.Errorf("read configuration %s: line %d:%s %s", file, perr.Position.Line, key, oneLine(perr.Message))
		}
		return fmt.Errorf("read configuration %s: %s", file, oneLine(err.Error()))
	}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		key := unknown[0]
		return fmt.Errorf("read configuration %s: line %d: unknown key %q; \"sallyportd config\" prints the known ones", file, lineOf(string(data), key), key.String())
	}
	return nil
}

// lineOf finds the line (from 1) that defines key; 0 if it is written in a form that this does not
// see. The decoder knows positions only of what it could not parse.
func lineOf(text string, key toml.Key) int {
	var table toml.Key
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		var found toml.Key
		if strings.HasPrefix(line, "[") {
			name, _, _ := strings.Cut(strings.TrimLeft(line, "["), "]")
			table = split(name)
			found = table
		} else if name, _, ok := strings.Cut(line, "="); ok {
			found = append(slices.Clone(table), split(name)...)
		}
		if len(found) > 0 && len(found) <= len(key) && slices.Equal(found, key[:len(found)]) && (len(found) == len(key) || !strings.HasPrefix(line, "[")) {
			return i + 1
		}
	}
	return 0
}

func split(name string) (key toml.Key) {
	for part := range strings.SplitSeq(name, ".") {
		key = append(key, strings.Trim(strings.TrimSpace(part), `"'`))
	}
	return key
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
