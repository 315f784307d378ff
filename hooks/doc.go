// Package hooks runs hook directories: the executable files on disk and the platform's built-in hooks as one list in name order.
package hooks
