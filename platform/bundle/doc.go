// Package bundle brings a source bundle onto an instance: Fetcher downloads it into a cache named by digest, Unpack turns the archive into a fresh tree.
//
// It knows nothing of commands, Docker or hooks, and of S3 only the two calls of ObjectGetter.
//
// Invariants:
//   - A path that Fetch or Hold returned holds exactly the bytes whose SHA-256 the Source names; a file under its digest's name is never half written.
//   - Unpack either makes the whole tree or leaves nothing: it works in a temporary folder beside the destination, syncs once and renames once.
//   - Nothing in an archive can make Unpack write, link or read outside that folder, or write through a symbolic link.
//   - Every bound is a setting in Limits and is held while bytes stream, not only against what a header claims.
//
// What is refused comes back as *Refused with a sentence for the operator.
package bundle
