package signature

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hostmanager/internal/atomicfile"
)

// maxKeyFile bounds a file of keys, in bytes.
const maxKeyFile = 64 << 10

// Load reads a list as trusted_keys holds it. Each entry is a key ("base64" or "name:base64"), a file of keys, or a folder whose files *.pub are
// read. Errors say which entry is meant.
func Load(entries []string) (Keys, error) {
	var all []Key
	var errs []error
	for _, entry := range entries {
		keys, err := loadEntry(strings.TrimSpace(entry))
		if err != nil {
			errs = append(errs, err)
		}
		all = append(all, keys...)
	}
	return NewKeys(all...), errors.Join(errs...)
}

func loadEntry(entry string) ([]Key, error) {
	key, asKey := ParseKey(entry)
	if asKey == nil {
		return []Key{key}, nil
	}
	if !strings.ContainsRune(entry, '/') && filepath.Ext(entry) == "" { // meant as a key, most likely
		return nil, fmt.Errorf("%.100q: %w", entry, asKey)
	}
	info, err := os.Stat(entry)
	if err != nil {
		return nil, fmt.Errorf("%.100q is neither a key nor a file or folder of keys: %w", entry, err)
	}
	files := []string{entry}
	if info.IsDir() {
		if files, err = filepath.Glob(filepath.Join(entry, "*.pub")); err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("folder %s: no file *.pub in it", entry)
		}
		slices.Sort(files)
	}
	var keys []Key
	for _, file := range files {
		content, err := atomicfile.ReadGivenLimit(file, maxKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		found, err := ParseFile(content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for n := range found { // a file's name is a name
			if base := filepath.Base(file); found[n].Name == "" && len(base) <= maxName && isVisible(base) {
				found[n].Name = strings.TrimSuffix(base, filepath.Ext(base))
			}
		}
		keys = append(keys, found...)
	}
	return keys, nil
}

func isVisible(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
}
