package source

// Ignored judges a path by the text of one ignore file in the root, folders above it included, as packing does.
func Ignored(text, path string, isDir bool) bool {
	stack := []rules{parseRules("", []byte(text))}
	for i := range len(path) {
		if path[i] == '/' && ignores(stack, path[:i], true) {
			return true
		}
	}
	return ignores(stack, path, isDir)
}

// PolicyOf reads one .config file.
func PolicyOf(text []byte) (string, bool, error) { return policyOf(text) }
