package fetch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Stage writes a delivery into dir, laid out as a policy directory, each place whole or not at all. What
// the delivery does not name is removed, unless it is partial. It must not run beside itself or beside a
// reader of dir. After a crash between two places the rest comes with the next delivery: marks and last
// good bundles, which policy/bundle keeps, do not lie here.
func Stage(dir string, d Delivery) error {
	if err := os.MkdirAll(filepath.Join(dir, "namespaces"), 0o700); err != nil {
		return fmt.Errorf("stage policy: %w", err)
	}
	for _, place := range d.where() {
		if files := d.Places[place]; files != nil {
			if err := replace(dir, place, files); err != nil {
				return fmt.Errorf("stage policy %s: %w", place, err)
			}
		}
	}
	if d.Partial {
		return nil
	}
	var gone []string
	if !d.has("node") {
		gone = append(gone, "node")
	}
	entries, err := os.ReadDir(filepath.Join(dir, "namespaces"))
	if err != nil {
		return fmt.Errorf("stage policy: %w", err)
	}
	for _, e := range entries {
		if at := "namespaces/" + e.Name(); !d.has(at) {
			gone = append(gone, at)
		}
	}
	for _, at := range gone {
		if err := os.RemoveAll(filepath.Join(dir, filepath.FromSlash(at))); err != nil {
			return fmt.Errorf("stage policy: %w", err)
		}
	}
	return nil
}

func (d *Delivery) has(place string) bool {
	_, ok := d.Places[place]
	return ok
}

// replace swaps the directory of a place. The root's files lie beside the others and are written one by
// one, root.json, which the rest leads to, last.
func replace(dir, place string, files map[string][]byte) error {
	if place == "" {
		for _, last := range []bool{false, true} {
			for name, data := range files {
				if last == (name == "root.json") {
					if err := write(dir, name, data); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	at := filepath.Join(dir, filepath.FromSlash(place))
	fresh, old := filepath.Join(dir, ".fresh"), filepath.Join(dir, ".old")
	if err := errors.Join(os.RemoveAll(fresh), os.RemoveAll(old)); err != nil {
		return err
	}
	for name, data := range files {
		if err := write(fresh, name, data); err != nil {
			return err
		}
	}
	if err := os.Rename(at, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, at); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// write writes one file by way of a name that no reader takes.
func write(dir, name string, data []byte) error {
	if !filepath.IsLocal(name) || strings.HasPrefix(filepath.Base(name), ".") {
		return fmt.Errorf("file %q leads outside", name)
	}
	at := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	fresh := filepath.Join(filepath.Dir(at), ".fresh")
	if err := os.WriteFile(fresh, data, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, at)
}
